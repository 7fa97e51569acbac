//! Token ids to text, one id at a time, in whole characters.
//!
//! A character may be spread over tokens, so bytes wait until they are a character or can no longer become one;
//! then they are U+FFFD, by the same rule as [`String::from_utf8_lossy`]. Does not look for stop strings.
//! Invariant: everything that [`Decoder::push`] and [`Decoder::finish`] return, joined, is
//! [`Tokenizer::decode`](super::Tokenizer::decode) of all ids; the cost of a token does not grow with the text.

use std::sync::Arc;

use super::pieces::{Piece, Pieces, Start};

/// Decodes a stream of ids. Owns what it needs, so it can live beside the tokenizer.
#[derive(Debug, Clone)]
pub struct Decoder {
    pieces: Arc<Pieces>,
    skip_special: bool,
    /// What the start of the text still asks for; [`Start::Plain`] once it is past.
    start: Start,
    /// Whether a token was decoded, even one without text.
    started: bool,
    /// Bytes of a character that is not whole yet.
    pending: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(pieces: Arc<Pieces>, skip_special: bool) -> Self {
        let start = pieces.start();
        Self { pieces, skip_special, start, started: false, pending: Vec::new() }
    }

    /// Takes the ids of a prompt, so that what follows continues it exactly: its last bytes may be half a
    /// character, and only the start of the whole text is special. Returns the prompt's text so far.
    pub fn prime(&mut self, prompt: &[u32]) -> String {
        prompt.iter().filter_map(|&id| self.push(id)).collect()
    }

    /// Takes one id; returns the characters it completes. An id the tokenizer does not know (models have more
    /// rows than their vocabulary has tokens) yields nothing.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let pieces = Arc::clone(&self.pieces);
        let piece = pieces.get(id).filter(|piece| !(self.skip_special && piece.special))?;
        self.append(piece);
        self.started = true;
        let text = self.take_characters();
        (!text.is_empty()).then_some(text)
    }

    /// The end of the text: what is still half a character becomes U+FFFD. Afterwards the decoder is as new.
    pub fn finish(&mut self) -> Option<String> {
        let cut = !self.pending.is_empty();
        *self = Self::new(Arc::clone(&self.pieces), self.skip_special);
        cut.then(|| char::REPLACEMENT_CHARACTER.to_string())
    }

    fn append(&mut self, piece: &Piece) {
        match &mut self.start {
            Start::Plain => self.pending.extend_from_slice(&piece.bytes),
            Start::Spaced => {
                if self.started {
                    self.pending.push(b' ');
                }
                self.pending.extend_from_slice(&piece.bytes);
            }
            &mut Start::DropMarker(marker) => {
                // The marker and a real space have the same bytes, so the first token starts from its text.
                let text = piece.text.replace(marker, "");
                let bytes = if text.len() == piece.text.len() { &*piece.bytes } else { text.as_bytes() };
                self.pending.extend_from_slice(bytes);
                self.start = Start::Plain;
            }
            Start::Strip { byte, count } => {
                let leading = piece.bytes.iter().take_while(|&found| found == byte).count().min(*count);
                *count -= leading;
                let rest = &piece.bytes[leading..];
                if !rest.is_empty() || *count == 0 {
                    self.start = Start::Plain;
                }
                self.pending.extend_from_slice(rest);
            }
        }
    }

    /// Removes all whole characters, and bytes that can no longer become one, from `pending`.
    fn take_characters(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    // Lossless: the bytes were just found valid.
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    if let Some(invalid) = error.error_len() {
                        text.push(char::REPLACEMENT_CHARACTER);
                        rest = &rest[invalid..];
                        continue;
                    }
                }
            }
            break;
        }
        let kept = rest.len();
        self.pending.drain(..self.pending.len() - kept);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoder(pieces: &[&[u8]], start: Start) -> Decoder {
        let piece = |bytes: &&[u8]| {
            Some(Piece {
                text: String::from_utf8_lossy(bytes).into(),
                bytes: (*bytes).into(),
                special: *bytes == b"<s>",
            })
        };
        Decoder::new(Arc::new(Pieces::new(pieces.iter().map(piece).collect(), start)), true)
    }

    fn stream(decoder: &mut Decoder, ids: &[u32]) -> String {
        let mut text: String = ids.iter().filter_map(|&id| decoder.push(id)).collect();
        text.extend(decoder.finish());
        text
    }

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let mut decoder = decoder(&[b"\xE4", b"\xBD", b"\xA0!"], Start::Plain);
        assert_eq!(decoder.push(0), None, "one of three bytes");
        assert_eq!(decoder.push(1), None, "two of three bytes");
        assert_eq!(decoder.push(2).as_deref(), Some("你!"), "whole");
        assert_eq!(decoder.finish(), None, "nothing left");
    }

    #[test]
    fn broken_bytes_become_one_replacement_once_they_cannot_be_a_character() {
        let mut decoder = decoder(&[b"\xE4", b"\xBD", b"a"], Start::Plain);
        assert_eq!(decoder.push(0), None, "may still become a character");
        assert_eq!(decoder.push(0).as_deref(), Some("\u{FFFD}"), "the first one cannot any more");
        assert_eq!(decoder.push(1), None, "two of three bytes");
        assert_eq!(decoder.push(2).as_deref(), Some("\u{FFFD}a"), "one replacement for the broken sequence");
        assert_eq!(decoder.push(0), None, "again");
        assert_eq!(decoder.finish().as_deref(), Some("\u{FFFD}"), "the text ends inside a character");
    }

    #[test]
    fn unknown_ids_and_special_tokens_yield_nothing() {
        let mut decoder = decoder(&[b"<s>", b" a"], Start::Strip { byte: b' ', count: 1 });
        assert_eq!(decoder.push(0), None, "special");
        assert_eq!(decoder.push(99_999), None, "a padded row");
        assert_eq!(decoder.push(1).as_deref(), Some("a"), "still the start of the text");
        assert_eq!(decoder.push(1).as_deref(), Some(" a"), "past the start");
    }

    #[test]
    fn a_primed_decoder_continues_the_prompt() {
        let mut decoder = decoder(&[b" a", b"\xC3", b"\xA9"], Start::Strip { byte: b' ', count: 1 });
        assert_eq!(decoder.prime(&[0, 1]), "a", "the prompt ends inside a character");
        assert_eq!(decoder.push(2).as_deref(), Some("é"), "which the first new token completes");
        assert_eq!(decoder.push(0).as_deref(), Some(" a"), "the space is kept: this is not the start");
    }

    #[test]
    fn words_are_joined_by_spaces() {
        let mut decoder = decoder(&[b"a", b"b"], Start::Spaced);
        assert_eq!(stream(&mut decoder, &[0, 1, 1]), "a b b", "a vocabulary of words");
    }

    proptest! {
        #[test]
        fn pushes_joined_are_the_lossy_text_of_all_bytes(
            pieces in prop::collection::vec(prop::collection::vec(prop_oneof![0x20u8..0x7F, 0x80u8..=0xFF], 0..4), 1..12),
            ids in prop::collection::vec(0u32..14, 0..40),
        ) {
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let all: Vec<u8> = ids.iter().filter_map(|&id| pieces.get(id as usize)).flatten().copied().collect();
            let mut decoder = decoder(&slices, Start::Plain);
            prop_assert_eq!(stream(&mut decoder, &ids), String::from_utf8_lossy(&all));
        }

        #[test]
        fn the_prompt_and_its_continuation_are_the_text_of_both(
            ids in prop::collection::vec(0u32..5, 0..20), cut in 0usize..20,
        ) {
            let mut whole = decoder(&[b" ", b" \xC3", b"\xA9", b"x", b"<s>"], Start::Strip { byte: b' ', count: 1 });
            let (prompt, reply) = ids.split_at(cut.min(ids.len()));
            let mut primed = whole.clone();
            let text = primed.prime(prompt) + &stream(&mut primed, reply);
            prop_assert_eq!(text, stream(&mut whole, &ids));
        }
    }
}
