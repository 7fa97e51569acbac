//! A vocabulary as GGUF metadata gives it: plain data, checked before anything is built from it.
//!
//! Does not read files: callers copy the values of the keys `tokenizer.ggml.*` here. Invariant of
//! [`Vocabulary::check`]: afterwards every list has one entry a token, texts are unique and not empty, and
//! every id is in range.

use std::collections::HashMap;

use super::TokenizerError;

/// The largest id a vocabulary of so many tokens may have. Some skip ids; but a table by id must not be out of all
/// proportion to what is in it.
pub(super) fn max_id(tokens: usize) -> u32 {
    const MOST: u32 = 1 << 24;
    let sparse = tokens.saturating_mul(4).saturating_add(1 << 16);
    u32::try_from(sparse).map_or(MOST, |id| id.min(MOST))
}

/// Values of the GGUF keys `tokenizer.ggml.*`; a field's documentation is its key.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// `model`: the algorithm, `gpt2`, `llama` or `gemma4`.
    pub model: String,
    /// `pre`: the pre-tokenizer's name.
    pub pre: Option<String>,
    /// `tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `token_type`: a [`TokenType`] each; empty means all normal.
    pub token_types: Vec<i32>,
    /// `merges`: pairs with a space between, best first (`gpt2`, `gemma4`).
    pub merges: Vec<String>,
    /// `scores`: one a token, highest is merged first (`llama`).
    pub scores: Vec<f32>,
    /// `bos_token_id`
    pub bos: Option<u32>,
    /// `eos_token_id`
    pub eos: Option<u32>,
    /// `eot_token_id`: ends a turn, where that is not EOS.
    pub eot: Option<u32>,
    /// `eom_token_id`: ends a message that a tool is to answer.
    pub eom: Option<u32>,
    /// `unknown_token_id`
    pub unk: Option<u32>,
    /// `padding_token_id`
    pub pad: Option<u32>,
    /// `add_bos_token`
    pub add_bos: Option<bool>,
    /// `add_eos_token`
    pub add_eos: Option<bool>,
    /// `add_space_prefix` (`llama`)
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces` (`llama`)
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap`: what stands for some characters (`llama`).
    pub charsmap: Vec<u8>,
    /// Whether whole tokens take the spaces behind them, but for BOS, unknown and `<|endoftext|>`. GGUF has no key for
    /// it; Phi-3's do (`llama`).
    pub strip_right: bool,
}

/// What a token is, in GGUF's numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// 1 (and what is not listed): text.
    Normal,
    /// 2: stands for what has no token.
    Unknown,
    /// 3: steers the model (`<|im_end|>`), not part of a reply's text.
    Control,
    /// 4: text that is always one token, looked for before anything is split.
    UserDefined,
    /// 5: a row of padding, never produced and without text.
    Unused,
    /// 6: one byte, written `<0x0A>`.
    Byte,
}

impl TokenType {
    fn from_ggml(number: i32) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// Left out where special tokens are skipped.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control)
    }

    /// Found in text before it is split.
    pub(super) fn is_parsed_whole(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// A vocabulary that passed [`Vocabulary::check`].
#[derive(Debug)]
pub(super) struct Checked {
    /// The data; `tokens` without empty texts.
    pub(super) vocabulary: Vocabulary,
    /// One a token.
    pub(super) types: Vec<TokenType>,
    /// Text to id.
    pub(super) ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// Checks every list against the number of tokens, names empty tokens, resolves types.
    pub(super) fn check(mut self) -> Result<Checked, TokenizerError> {
        let count = self.tokens.len();
        if count == 0 {
            return Err(TokenizerError::Empty);
        }
        let lengths = [("token_type", self.token_types.len()), ("scores", self.scores.len())];
        for (key, found) in lengths {
            if found != 0 && found != count {
                return Err(TokenizerError::Length { key, expected: count, found });
            }
        }
        self.check_ids()?;
        let mut ids = HashMap::with_capacity(count);
        for (id, token) in (0u32..).zip(&mut self.tokens) {
            if token.is_empty() {
                // llama.cpp's name for it; an empty text would match everywhere.
                *token = format!("[EMPTY_{id}]");
            }
            if let Some(first) = ids.insert(token.clone(), id) {
                return Err(TokenizerError::DuplicateToken { text: token.clone(), first, second: id });
            }
        }
        let types = self.types();
        Ok(Checked { vocabulary: self, types, ids })
    }

    fn check_ids(&self) -> Result<(), TokenizerError> {
        let ids = [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("eot_token_id", self.eot),
            ("eom_token_id", self.eom),
            ("unknown_token_id", self.unk),
            ("padding_token_id", self.pad),
        ];
        let vocab_size = self.tokens.len();
        for (key, id) in ids {
            if let Some(id) = id.filter(|&id| id as usize >= vocab_size) {
                return Err(TokenizerError::IdOutOfRange { key, id, vocab_size });
            }
        }
        Ok(())
    }

    /// Types of all tokens. What the file calls BOS, EOS or an end is a control token whatever its type
    /// says: some converters left those at `normal`, and a reply would show them.
    fn types(&self) -> Vec<TokenType> {
        let mut types: Vec<TokenType> = self.token_types.iter().map(|&number| TokenType::from_ggml(number)).collect();
        types.resize(self.tokens.len(), TokenType::Normal);
        for id in [self.bos, self.eos, self.eot, self.eom].into_iter().flatten() {
            if types[id as usize] == TokenType::Normal {
                types[id as usize] = TokenType::Control;
            }
        }
        types
    }
}

impl Checked {
    /// Tokens looked for in text before it is split, with their ids.
    pub(super) fn parsed_whole(&self) -> impl Iterator<Item = (u32, &str, TokenType)> {
        (0u32..)
            .zip(self.vocabulary.tokens.iter().zip(&self.types))
            .filter(|(_, (_, kind))| kind.is_parsed_whole())
            .map(|(id, (text, &kind))| (id, text.as_str(), kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(tokens: &[&str]) -> Vocabulary {
        Vocabulary {
            model: "gpt2".into(),
            tokens: tokens.iter().map(|&t| t.to_owned()).collect(),
            ..Vocabulary::default()
        }
    }

    #[test]
    fn a_short_list_is_named() {
        let vocabulary = Vocabulary { token_types: vec![1], ..words(&["a", "b"]) };
        let message = vocabulary.check().expect_err("one type for two tokens").to_string();
        assert!(message.contains("token_type has 1 entries, expected 2"), "{message}");
    }

    #[test]
    fn a_duplicate_is_named_with_both_ids() {
        let message = words(&["a", "b", "a"]).check().expect_err("a twice").to_string();
        assert!(message.contains("\"a\" is both token 0 and token 2"), "{message}");
    }

    #[test]
    fn an_id_beyond_the_vocabulary_is_refused() {
        let vocabulary = Vocabulary { eos: Some(7), ..words(&["a"]) };
        let message = vocabulary.check().expect_err("7 of 1").to_string();
        assert!(message.contains("eos_token_id is 7"), "{message}");
    }

    #[test]
    fn empty_tokens_get_a_name_and_declared_ends_are_control() {
        let vocabulary = Vocabulary { eos: Some(1), ..words(&["", "<end>"]) };
        let checked = vocabulary.check().expect("an empty token is no error");
        assert_eq!(checked.ids.get("[EMPTY_0]"), Some(&0), "named by id");
        assert_eq!(checked.types[1], TokenType::Control, "EOS is control");
    }
}
