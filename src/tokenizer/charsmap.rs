//! SentencePiece's character map: what stands for a character before a text is cut into pieces (NFKC and the like).
//!
//! The map in a `tokenizer.model` is a double-array trie from the bytes to be replaced to an offset into texts that
//! end in zero bytes. Does not handle spaces. Invariant: no trie, however broken, is followed out of its array, and
//! every replacement is text.

/// A parsed map.
#[derive(Debug, Default)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

/// Whether a state has a value.
fn has_value(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

/// The byte that leads to a state; no byte for a unit that is a value.
fn label(unit: u32) -> u32 {
    unit & 0x8000_00FF
}

/// Where a state's children lie, relative to it.
fn offset(unit: u32) -> u32 {
    unit >> 10 << (unit >> 6 & 8)
}

impl Charsmap {
    /// Reads `precompiled_charsmap`; no bytes are no map.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let cut = |problem: &str| format!("precompiled_charsmap: {problem}");
        let (size, rest) = bytes.split_first_chunk().ok_or_else(|| cut("shorter than its header"))?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, texts) = rest.split_at_checked(size).ok_or_else(|| cut("the trie is longer than the map"))?;
        let texts = std::str::from_utf8(texts).map_err(|error| cut(&format!("the replacements: {error}")))?;
        let units: Vec<u32> =
            trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
        if units.is_empty() || !size.is_multiple_of(4) {
            return Err(cut(&format!("a trie of {size} bytes")));
        }
        Ok(Self { units, texts: texts.to_owned() })
    }

    /// Whether every state that some text leads to lies in the array, and every value in the replacements. Here that is
    /// looked at on the way, but the tokenizers crate does not look.
    pub(super) fn check(&self) -> Result<(), String> {
        let root = self.units.first().map(|&unit| offset(unit)).ok_or("precompiled_charsmap: no trie")?;
        let mut seen = vec![false; self.units.len()];
        let mut states = vec![root];
        while let Some(state) = states.pop() {
            // Any byte may follow, and its unit is read before its label tells that no such byte was meant.
            if state as usize | 0xFF >= seen.len() {
                return Err(format!("precompiled_charsmap: a state at {state} of {}", seen.len()));
            }
            if std::mem::replace(&mut seen[state as usize], true) {
                continue;
            }
            for byte in 1..=255 {
                let unit = self.units[(state ^ byte) as usize];
                if label(unit) != byte {
                    continue;
                }
                let next = state ^ byte ^ offset(unit);
                states.push(next);
                let value = self.units.get(next as usize).map(|value| (value & 0x7FFF_FFFF) as usize);
                if has_value(unit) && !value.is_some_and(|value| self.texts.is_char_boundary(value)) {
                    return Err(format!("precompiled_charsmap: the value of the state at {next} is no replacement"));
                }
            }
        }
        Ok(())
    }

    /// What stands for the start of `text`, and how many bytes of it that replaces; the longest match counts.
    pub(super) fn replacement<'m>(&'m self, text: &str) -> Option<(&'m str, usize)> {
        let mut found = None;
        let mut node = offset(*self.units.first()?);
        for (index, byte) in text.bytes().enumerate() {
            node ^= u32::from(byte);
            let Some(&unit) = self.units.get(node as usize).filter(|&&unit| label(unit) == u32::from(byte)) else {
                break;
            };
            node ^= offset(unit);
            if has_value(unit) && text.is_char_boundary(index + 1) {
                let value = *self.units.get(node as usize)? & 0x7FFF_FFFF;
                let rest = self.texts.get(value as usize..)?;
                found = Some((rest.split('\0').next().unwrap_or_default(), index + 1));
            }
        }
        found
    }
}

/// A map of one rule, `a` to `bc`, laid out by hand: the root's children begin at 256.
#[cfg(test)]
pub(super) fn one_rule() -> Vec<u8> {
    let mut units = vec![0u32; 512];
    units[0] = 1 << 18;
    let state = 256 ^ usize::from(b'a');
    // The value lies two units on, where no label can be.
    units[state] = u32::from(b'a') | 1 << 8 | 2 << 10;
    units[state ^ 2] = 1 | 1 << 31;
    let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend(b"\0bc\0");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rule_replaces_the_start_of_a_text() {
        let map = Charsmap::parse(&one_rule()).expect("the map is sound");
        assert_eq!(map.replacement("ab"), Some(("bc", 1)), "a becomes bc");
        assert_eq!(map.replacement("ba"), None, "only at the start");
        assert_eq!(Charsmap::parse(&[]).expect("no map").replacement("a"), None, "without a map nothing changes");
    }

    #[test]
    fn maps_that_lead_out_of_their_array_are_told() {
        let check = |bytes: &[u8]| Charsmap::parse(bytes).expect("it can be read").check();
        assert_eq!(check(&one_rule()), Ok(()), "every unit is there");
        let one_unit = [&[4, 0, 0, 0][..], &(1u32 << 18).to_le_bytes()].concat();
        assert!(check(&one_unit).is_err_and(|problem| problem.contains("a state at 256 of 1")), "one unit");
        let mut beyond = one_rule();
        let state = 4 + 4 * (256 ^ usize::from(b'a') ^ 2);
        beyond[state] = 200;
        assert!(check(&beyond).is_err_and(|problem| problem.contains("no replacement")), "a value of 200");
        assert!(Charsmap::default().check().is_err(), "no map");
    }

    #[test]
    fn broken_maps_are_refused() {
        for bytes in [&[1u8][..], &[0, 0, 0, 0], &[255, 255, 255, 255, 0], &[4, 0, 0, 0, 0, 0, 0, 0, 0xFF]] {
            assert!(Charsmap::parse(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_trie_leads_out_of_its_array(words in prop::collection::vec(any::<u32>(), 1..64), text: String) {
            let mut bytes = (words.len() as u32 * 4).to_le_bytes().to_vec();
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            bytes.extend("x\0é\0".as_bytes());
            let map = Charsmap::parse(&bytes).expect("any words are a trie");
            let _ = map.check();
            if let Some((_, len)) = map.replacement(&text) {
                prop_assert!(text.is_char_boundary(len));
            }
        }
    }
}
