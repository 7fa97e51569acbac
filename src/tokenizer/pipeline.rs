//! The tokenizers crate's pipelines: read from `tokenizer.json`, or built for a GGUF vocabulary.
//!
//! Only their encoding half is used; truncation and padding, which some files carry from training, are switched
//! off. Does not decode. Invariant: what reaches the crate has been checked for the inputs it panics on.

use std::path::Path;

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior};

use super::TokenizerError;
use super::error::build_error;
use super::pieces::{Piece, Pieces, Rule};
use super::pre_tokenizer::PreTokenizer;
use super::vocabulary::Checked;

/// Ids above this are not a vocabulary, and a table by id would fill the memory.
const MAX_ID: u32 = 1 << 24;

/// Reads a `tokenizer.json`.
pub(super) fn read(path: &Path) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let bytes = std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })?;
    let malformed = |found: String| TokenizerError::Malformed {
        path: path.to_owned(),
        expected: "a Hugging Face tokenizer",
        found,
    };
    let outline: Outline = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    outline.check().map_err(malformed)?;
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| malformed(error.to_string()))?;
    tokenizer.with_truncation(None).map_err(build_error)?.with_padding(None);
    Ok(tokenizer)
}

/// As much of a `tokenizer.json` as must be checked before the crate sees it: it joins the halves of a merge in
/// a buffer as long as the longest token.
#[derive(Deserialize)]
struct Outline {
    model: Option<OutlineModel>,
}

#[derive(Deserialize)]
struct OutlineModel {
    #[serde(default)]
    vocab: serde_json::Value,
    #[serde(default)]
    merges: Vec<OutlineMerge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OutlineMerge {
    Pair(String, String),
    Text(String),
}

impl Outline {
    fn check(&self) -> Result<(), String> {
        let Some(OutlineModel { vocab, merges }) = &self.model else {
            return Ok(());
        };
        let longest = vocab.as_object().into_iter().flat_map(|vocab| vocab.keys()).map(String::len).max().unwrap_or(0);
        for (index, merge) in merges.iter().enumerate() {
            let (len, text) = match merge {
                OutlineMerge::Pair(left, right) => (left.len() + right.len(), format!("{left} {right}")),
                OutlineMerge::Text(text) => (text.len().saturating_sub(1), text.clone()),
            };
            if len > longest {
                return Err(format!("model.merges[{index}] is {text:?}, longer than every token of model.vocab"));
            }
        }
        Ok(())
    }
}

/// The decoding half of a `tokenizer.json`.
pub(super) fn pieces(tokenizer: &tokenizers::Tokenizer, path: &Path) -> Result<Pieces, TokenizerError> {
    let decoder = serde_json::to_value(tokenizer.get_decoder()).map_err(|error| build_error(Box::new(error)))?;
    let rule = Rule::from_json(&decoder)
        .ok_or_else(|| TokenizerError::UnsupportedDecoder { path: path.to_owned(), decoder: decoder.to_string() })?;
    let mut tokens = tokenizer.get_vocab(true);
    let added = tokenizer.get_added_vocabulary();
    let largest = tokens.values().copied().max().ok_or(TokenizerError::Empty)?;
    if largest > MAX_ID {
        let found = format!("token id {largest}");
        return Err(TokenizerError::Malformed { path: path.to_owned(), expected: "ids counted from 0", found });
    }
    let mut pieces = vec![None; largest as usize + 1];
    for (text, id) in tokens.drain() {
        // Some added tokens decode from a normalised form of their text.
        let written = added.simple_id_to_token(id).unwrap_or_else(|| text.clone());
        let special = added.is_special_token(&text);
        pieces[id as usize] = Some(Piece { bytes: rule.bytes(&written).into(), text: text.into(), special });
    }
    Ok(Pieces::new(pieces, rule.start))
}

/// Byte-level BPE for a GGUF vocabulary.
pub(super) fn byte_level(checked: &Checked, words: &PreTokenizer) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let merges = merges(checked)?;
    let vocabulary: Vocab = checked.ids.iter().map(|(text, &id)| (text.clone(), id)).collect();
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(words.ignore_merges)
        .build()
        .map_err(build_error)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(split(words)?));
    let whole = checked
        .parsed_whole()
        .map(|(_, text, kind)| AddedToken::from(text.to_owned(), kind.is_special()).normalized(false));
    tokenizer.add_tokens(whole.collect::<Vec<_>>()).map_err(build_error)?;
    Ok(tokenizer)
}

/// The words' expressions one after the other, then bytes as characters.
fn split(words: &PreTokenizer) -> Result<Sequence, TokenizerError> {
    let mut steps = Vec::new();
    for &pattern in words.patterns {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let step = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(build_error)?;
        steps.push(PreTokenizerWrapper::Split(step));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)));
    Ok(Sequence::new(steps))
}

/// Merges as pairs; each half and the whole must be tokens, or encoding would produce what has no id.
fn merges(checked: &Checked) -> Result<Vec<(String, String)>, TokenizerError> {
    let pair = |(index, merge): (usize, &String)| {
        let wrong = |problem| TokenizerError::Merge { index, merge: merge.clone(), problem };
        // From the second character on: a token may itself begin with a space.
        let cut = merge.char_indices().skip(1).find(|&(_, character)| character == ' ');
        let (at, _) = cut.ok_or_else(|| wrong("expected two tokens with a space between".to_owned()))?;
        let (left, right) = (&merge[..at], &merge[at + 1..]);
        for token in [left, right, &format!("{left}{right}")] {
            if !checked.ids.contains_key(token) {
                return Err(wrong(format!("{token:?} is not in tokenizer.ggml.tokens")));
            }
        }
        Ok((left.to_owned(), right.to_owned()))
    };
    checked.vocabulary.merges.iter().enumerate().map(pair).collect()
}
