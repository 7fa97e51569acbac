//! Special tokens put around a text: BOS in front, EOS behind, as the checkpoint asks.
//!
//! `tokenizer.json` says it in its post-processor, `tokenizer_config.json` and GGUF with a flag; a flag wins.
//! Does not look at the text's meaning. Invariant: never a second BOS in front of a text that brings its own
//! (chat templates and prompt styles often do), nor a second EOS.

use tokenizers::tokenizer::{Encoding, Token};

use super::TokenizerError;
use super::error::build_error;

/// What is put around a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Affixes {
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

impl Affixes {
    /// What the post-processor of a `tokenizer.json` puts around a text: it is shown one token that no
    /// vocabulary has, and whatever stands around that one afterwards is the answer.
    pub(super) fn of_pipeline(tokenizer: &tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        const TEXT: u32 = u32::MAX;
        let text = Encoding::from_tokens(vec![Token::new(TEXT, String::new(), (0, 0))], 0);
        let around = tokenizer.post_process(text, None, true).map_err(build_error)?;
        let mut parts = around.get_ids().splitn(2, |&id| id == TEXT);
        let prefix = parts.next().unwrap_or_default().to_vec();
        Ok(Self { prefix, suffix: parts.next().unwrap_or_default().to_vec() })
    }

    /// The first token put in front: BOS, where nothing else says what BOS is.
    pub(super) fn first(&self) -> Option<u32> {
        self.prefix.first().copied()
    }

    /// Obeys `add_bos_token`.
    pub(super) fn set_bos(&mut self, add: bool, bos: Option<u32>) -> Result<(), TokenizerError> {
        if !add {
            self.prefix.retain(|&id| Some(id) != bos);
        } else {
            let bos = bos.ok_or(TokenizerError::MissingId { flag: "add_bos_token", token: "BOS" })?;
            if !self.prefix.contains(&bos) {
                self.prefix.insert(0, bos);
            }
        }
        Ok(())
    }

    /// Obeys `add_eos_token`.
    pub(super) fn set_eos(&mut self, add: bool, eos: Option<u32>) -> Result<(), TokenizerError> {
        if !add {
            self.suffix.retain(|&id| Some(id) != eos);
        } else {
            let eos = eos.ok_or(TokenizerError::MissingId { flag: "add_eos_token", token: "EOS" })?;
            if !self.suffix.contains(&eos) {
                self.suffix.push(eos);
            }
        }
        Ok(())
    }

    /// Puts the tokens around a text's ids, except those the text already has there.
    pub(super) fn apply(&self, ids: Vec<u32>) -> Vec<u32> {
        let prefix = if ids.starts_with(&self.prefix) { &[] } else { self.prefix.as_slice() };
        let suffix = if ids.ends_with(&self.suffix) { &[] } else { self.suffix.as_slice() };
        if prefix.is_empty() && suffix.is_empty() {
            return ids;
        }
        [prefix, &ids, suffix].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_its_own_bos_gets_no_second_one() {
        let mut affixes = Affixes::default();
        affixes.set_bos(true, Some(1)).expect("BOS is known");
        assert_eq!(affixes.apply(vec![5, 6]), [1, 5, 6], "added");
        assert_eq!(affixes.apply(vec![1, 5, 6]), [1, 5, 6], "already there");
        assert_eq!(affixes.apply(vec![]), [1], "an empty text still starts with BOS");
    }

    #[test]
    fn flags_win_over_the_post_processor() {
        let mut affixes = Affixes { prefix: vec![1], suffix: vec![] };
        affixes.set_bos(true, Some(1)).expect("BOS is known");
        affixes.set_eos(true, Some(2)).expect("EOS is known");
        assert_eq!(affixes.apply(vec![5]), [1, 5, 2], "one of each");
        affixes.set_bos(false, Some(1)).expect("nothing to add");
        assert_eq!(affixes.apply(vec![5]), [5, 2], "BOS is switched off");
        assert!(affixes.set_bos(true, None).is_err(), "BOS is wanted, but unknown");
    }
}
