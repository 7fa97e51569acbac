//! The tokenizers crate's pipelines: read from `tokenizer.json`, or built for a vocabulary with merges.
//!
//! Only their encoding half is used; truncation and padding, which some files carry from training, are switched
//! off. Does not decode. Invariant: what reaches the crate has been checked for the inputs it panics on.

use std::path::Path;

use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior};

use super::TokenizerError;
use super::error::build_error;
use super::exact::unpanicked;
use super::outline::Outline;
use super::pieces::{Piece, Pieces, Rule, SPACE_MARKER};
use super::pre_tokenizer::PreTokenizer;
use super::vocabulary::{Checked, TokenType, max_id};

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
    let mut tokenizer = unpanicked(|| tokenizers::Tokenizer::from_bytes(&bytes)).map_err(malformed)?;
    tokenizer.with_truncation(None).map_err(build_error)?.with_padding(None);
    Ok(tokenizer)
}

/// The decoding half of a `tokenizer.json`.
pub(super) fn pieces(tokenizer: &tokenizers::Tokenizer, path: &Path) -> Result<Pieces, TokenizerError> {
    let decoder = serde_json::to_value(tokenizer.get_decoder()).map_err(|error| build_error(Box::new(error)))?;
    let rule = Rule::from_json(&decoder)
        .ok_or_else(|| TokenizerError::UnsupportedDecoder { path: path.to_owned(), decoder: decoder.to_string() })?;
    let mut tokens = tokenizer.get_vocab(true);
    let added = tokenizer.get_added_vocabulary();
    let largest = tokens.values().copied().max().ok_or(TokenizerError::Empty)?;
    if largest > max_id(tokens.len()) {
        let found = format!("token id {largest} in a vocabulary of {} tokens", tokens.len());
        return Err(TokenizerError::Malformed { path: path.to_owned(), expected: "ids counted from 0", found });
    }
    let mut pieces = vec![None; largest as usize + 1];
    for (text, id) in tokens.drain() {
        // Some added tokens decode from a normalised form of their text.
        let written = added.simple_id_to_token(id).unwrap_or_else(|| text.clone());
        let special = added.is_special_token(&text);
        let bytes = rule.bytes(&written).map_err(|found| TokenizerError::Malformed {
            path: path.to_owned(),
            expected: "a decoder that makes tokens little longer",
            found,
        })?;
        pieces[id as usize] = Some(Piece { bytes: bytes.into(), text: text.into(), special });
    }
    Ok(Pieces::new(pieces, rule.start))
}

/// What is done to a text besides cutting it into words.
#[derive(Debug, Default)]
pub(super) struct ByteLevelOptions<'a> {
    /// Characters are composed (NFC) first.
    pub(super) compose: bool,
    /// A space is put in front of the text.
    pub(super) prefix_space: bool,
    /// Properties of whole tokens, where they have any.
    pub(super) added: &'a [super::AddedToken],
}

/// Byte-level BPE.
pub(super) fn byte_level(
    checked: &Checked,
    words: &PreTokenizer,
    options: &ByteLevelOptions<'_>,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let model = bpe(checked)?.ignore_merges(words.ignore_merges).build().map_err(build_error)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    if options.compose {
        tokenizer.with_normalizer(Some(NFC)).map_err(build_error)?;
    }
    tokenizer.with_pre_tokenizer(Some(split(words, options.prefix_space)?));
    add_whole_tokens(&mut tokenizer, checked, options.added)?;
    Ok(tokenizer)
}

/// BPE over the text itself, spaces written `▁`, with tokens for the bytes of what has none.
pub(super) fn plain_text(checked: &Checked) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let unk = checked.vocabulary.unk.map(|id| checked.vocabulary.tokens[id as usize].clone());
    let mut builder = bpe(checked)?.byte_fallback(true).fuse_unk(true);
    if let Some(unk) = unk {
        builder = builder.unk_token(unk);
    }
    let mut tokenizer = tokenizers::Tokenizer::new(builder.build().map_err(build_error)?);
    let spaces = Replace::new(" ", SPACE_MARKER.to_string()).map_err(build_error)?;
    tokenizer.with_normalizer(Some(spaces)).map_err(build_error)?;
    add_whole_tokens(&mut tokenizer, checked, &[])?;
    Ok(tokenizer)
}

fn bpe(checked: &Checked) -> Result<BpeBuilder, TokenizerError> {
    let merges = merges(checked)?;
    let mut types = checked.vocabulary.tokens.iter().zip(&checked.types);
    let mut longer = types.by_ref().filter(|(text, kind)| **kind == TokenType::Normal && text.chars().nth(1).is_some());
    if merges.is_empty() && longer.next().is_some() {
        return Err(TokenizerError::NoMerges);
    }
    let vocabulary: Vocab = checked.ids.iter().map(|(text, &id)| (text.clone(), id)).collect();
    Ok(BPE::builder().vocab_and_merges(vocabulary, merges))
}

fn add_whole_tokens(
    tokenizer: &mut tokenizers::Tokenizer,
    checked: &Checked,
    added: &[super::AddedToken],
) -> Result<(), TokenizerError> {
    let whole = checked.parsed_whole().map(|(_, text, kind)| {
        let token = AddedToken::from(text.to_owned(), kind.is_special()).normalized(false);
        match added.iter().find(|added| added.content == text) {
            Some(added) => token.lstrip(added.lstrip).rstrip(added.rstrip).single_word(added.single_word),
            None => token,
        }
    });
    tokenizer.add_tokens(whole.collect::<Vec<_>>()).map_err(build_error)?;
    Ok(())
}

/// The words' expressions one after the other, then bytes as characters. The crate puts the space in front of whatever
/// reaches the last step, words too, so that GPT-2's expression, which that step knows, is left to it.
fn split(words: &PreTokenizer, prefix_space: bool) -> Result<Sequence, TokenizerError> {
    let inside = prefix_space && words.is_gpt2();
    let mut steps = Vec::new();
    for &pattern in words.patterns.iter().filter(|_| !inside) {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let step = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(build_error)?;
        steps.push(PreTokenizerWrapper::Split(step));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(prefix_space, false, inside)));
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
                return Err(wrong(format!("{token:?} is not in the vocabulary")));
            }
        }
        Ok((left.to_owned(), right.to_owned()))
    };
    checked.vocabulary.merges.iter().enumerate().map(pair).collect()
}
