//! The encoding half of a SentencePiece tokenizer, from a GGUF vocabulary or a `tokenizer.model`: whole tokens are cut
//! out, the rest is normalized and cut into pieces by scores, and what has no piece becomes bytes.
//!
//! Does not read files. Invariant: the ids decode to the normalized text, up to the space put in front, unless the
//! vocabulary lacks tokens for it.

use std::collections::HashMap;

use super::TokenizerError;
use super::normalizer::Normalizer;
use super::pieces::byte_token;
use super::score_merges::ScoreMerges;
use super::unigram::Unigram;
use super::vocabulary::{Checked, TokenType};
use super::whole_tokens::{Part, WholeTokens};

/// Where a space is put in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Nowhere.
    Nowhere,
    /// Where the text begins with text.
    TextStart,
    /// There, and behind every whole token.
    EveryPart,
}

/// How a text without whole tokens is cut.
#[derive(Debug)]
pub(super) enum Algorithm {
    Merges(ScoreMerges),
    Unigram(Unigram),
}

/// Turns text into ids.
#[derive(Debug)]
pub(super) struct SentencePiece {
    ids: HashMap<String, u32>,
    whole: WholeTokens,
    prefix: Prefix,
    normalizer: Normalizer,
    algorithm: Algorithm,
    /// Ids of `<0x00>` to `<0xFF>`.
    bytes: Box<[Option<u32>; 256]>,
    unk: Option<u32>,
}

impl SentencePiece {
    pub(super) fn new(
        checked: &Checked,
        algorithm: Algorithm,
        normalizer: Normalizer,
        whole: WholeTokens,
        prefix: Prefix,
    ) -> Self {
        let Checked { vocabulary, types, ids } = checked;
        let mut bytes = Box::new([None; 256]);
        for (id, (text, kind)) in (0u32..).zip(vocabulary.tokens.iter().zip(types)) {
            if let Some(byte) = byte_token(text).filter(|_| *kind == TokenType::Byte) {
                bytes[usize::from(byte)] = Some(id);
            }
        }
        Self { ids: ids.clone(), whole, prefix, normalizer, algorithm, bytes, unk: vocabulary.unk }
    }

    /// Names a token that is beside the vocabulary.
    pub(super) fn add(&mut self, text: &str, id: u32) {
        self.ids.insert(text.to_owned(), id);
    }

    /// The id of a token's text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Ids of a text.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut output = Vec::new();
        for (index, part) in self.whole.split(text).into_iter().enumerate() {
            match part {
                Part::Token(id) => output.push(id),
                Part::Text(text) => {
                    // Two texts never follow each other, so a later one stands behind a token.
                    let prefix = match self.prefix {
                        Prefix::Nowhere => false,
                        Prefix::TextStart => index == 0,
                        Prefix::EveryPart => true,
                    };
                    self.encode_part(&self.normalizer.normalize(text, prefix), &mut output)?;
                }
            }
        }
        Ok(output)
    }

    fn encode_part(&self, text: &str, output: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let cuts = match &self.algorithm {
            Algorithm::Merges(merges) => merges.cut(text),
            Algorithm::Unigram(unigram) => unigram.cut(text),
        };
        let mut after_unknown = false;
        for (range, id) in cuts {
            let unknown = match id {
                Some(id) => {
                    output.push(id);
                    false
                }
                None => self.push_unknown(&text[range], after_unknown, output)?,
            };
            after_unknown = unknown;
        }
        Ok(())
    }

    /// A character without a token: its bytes, or the unknown token, one for a whole run. Returns whether it is that.
    fn push_unknown(&self, piece: &str, after_unknown: bool, output: &mut Vec<u32>) -> Result<bool, TokenizerError> {
        // Either all bytes have tokens or none is used: half a character would decode to nonsense.
        let bytes: Option<Vec<u32>> = piece.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        match (bytes, self.unk) {
            (Some(bytes), _) => {
                output.extend(bytes);
                return Ok(false);
            }
            (None, Some(unk)) if !after_unknown => output.push(unk),
            (None, Some(_)) => {}
            (None, None) => return Err(TokenizerError::NoToken(piece.chars().next().unwrap_or_default())),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Vocabulary;

    /// Tokens `<unk>`, `<s>`, the 256 bytes where asked for, then `tokens`.
    fn tokenizer(tokens: &[&str], bytes: bool, prefix: Prefix) -> SentencePiece {
        let mut vocabulary = Vocabulary { model: "llama".into(), unk: Some(0), ..Vocabulary::default() };
        let mut add = |text: String, kind: i32| {
            vocabulary.scores.push(-(vocabulary.tokens.len() as f32));
            vocabulary.tokens.push(text);
            vocabulary.token_types.push(kind);
        };
        add("<unk>".into(), 2);
        add("<s>".into(), 3);
        for byte in 0..=255u8 {
            if bytes {
                add(format!("<0x{byte:02X}>"), 6);
            }
        }
        for &text in tokens {
            add(text.into(), 1);
        }
        let checked = vocabulary.check().expect("the vocabulary is sound");
        let algorithm = Algorithm::Merges(ScoreMerges::new(&checked, WholeTokens::default()));
        let whole = WholeTokens::new([(1, "<s>")].into_iter());
        SentencePiece::new(&checked, algorithm, Normalizer::default(), whole, prefix)
    }

    fn texts(tokenizer: &SentencePiece, text: &str) -> Vec<String> {
        let ids = tokenizer.encode(text).expect("there is an unknown token");
        let name = |id| tokenizer.ids.iter().find(|&(_, &found)| found == id).map(|(text, _)| text.clone());
        ids.into_iter().filter_map(name).collect()
    }

    #[test]
    fn a_space_is_put_in_front_where_asked() {
        let texts = |prefix, text| texts(&tokenizer(&["▁", "a", "▁a"], true, prefix), text);
        assert_eq!(texts(Prefix::EveryPart, "a a<s>a"), ["▁a", "▁a", "<s>", "▁a"], "after special tokens too");
        assert_eq!(texts(Prefix::TextStart, "a a<s>a"), ["▁a", "▁a", "<s>", "a"], "at the start of the text");
        assert_eq!(texts(Prefix::TextStart, "<s>a"), ["<s>", "a"], "the text does not start with text");
        assert_eq!(texts(Prefix::Nowhere, "a a"), ["a", "▁a"], "not at all");
    }

    #[test]
    fn characters_without_a_token_become_bytes_or_one_unknown() {
        assert_eq!(texts(&tokenizer(&["a"], true, Prefix::Nowhere), "aé"), ["a", "<0xC3>", "<0xA9>"], "two bytes");
        let without = tokenizer(&["a"], false, Prefix::Nowhere);
        assert_eq!(texts(&without, "éüaé"), ["<unk>", "a", "<unk>"], "a run is one unknown");
        let nothing = SentencePiece { unk: None, ..without };
        assert!(matches!(nothing.encode("é"), Err(TokenizerError::NoToken('é'))), "no token at all");
    }
}
