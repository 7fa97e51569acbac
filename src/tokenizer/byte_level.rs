//! GPT-2's alphabet: every byte as one printable character, so that merges can be written as text.
//!
//! Printable Latin-1 stands for itself; the other 68 bytes, in order, are U+0100 and up (a space is `Ġ`).
//! Does not split text into words. Invariant: `byte(character(b)) == Some(b)`.

use std::sync::LazyLock;

/// First character that stands for a byte without a printable form of its own.
const FIRST_STAND_IN: u32 = 0x100;

/// Characters from 0 to U+0143 to bytes: the alphabet ends there.
static BYTES: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut table = [None; 0x144];
    let mut stand_in = FIRST_STAND_IN as usize;
    for byte in 0..=u8::MAX {
        let at = if is_printable(byte) {
            usize::from(byte)
        } else {
            stand_in += 1;
            stand_in - 1
        };
        table[at] = Some(byte);
    }
    table
});

/// Bytes that the alphabet writes as themselves: printable Latin-1, no space and no soft hyphen.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The byte a character stands for.
pub(super) fn byte(character: char) -> Option<u8> {
    BYTES.get(character as usize).copied().flatten()
}

/// A token's bytes; one with any character outside the alphabet is its own text, as the original decoder has it.
pub(super) fn bytes(token: &str) -> Vec<u8> {
    token.chars().map(byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_holds_every_byte_once() {
        let mut seen = [0; 256];
        for character in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = byte(character) {
                seen[usize::from(byte)] += 1;
            }
        }
        assert_eq!(seen, [1; 256], "each byte has exactly one character");
    }

    #[test]
    fn known_characters() {
        assert_eq!(bytes("ĠtheĊ"), b" the\n", "space and newline");
        assert_eq!(bytes("ä½ł"), "你".as_bytes(), "three bytes of one character");
        assert_eq!(bytes("日Ġ"), "日Ġ".as_bytes(), "outside the alphabet: the text itself");
    }
}
