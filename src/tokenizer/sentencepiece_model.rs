//! `tokenizer.model`: a SentencePiece model as its trainer wrote it, a protocol buffer.
//!
//! Reads the fields that decide what a text becomes and refuses, by name, settings that would change it in ways not
//! known here; how the model was trained is skipped. Does not build a tokenizer. Invariant: what is returned has both
//! of the specifications that follow the pieces in the file, so a file that was cut short is noticed.

use std::path::Path;

use super::TokenizerError;
use super::charsmap::Charsmap;
use super::protobuf::{Field, Message};
use super::vocabulary::Vocabulary;

/// What the file says.
#[derive(Debug)]
pub(super) struct SentencePieceModel {
    /// Pieces, types, scores and ids, in the form GGUF has them too.
    pub(super) vocabulary: Vocabulary,
    /// Cut by the best sum of scores instead of by merges.
    pub(super) unigram: bool,
    /// `add_dummy_prefix`.
    pub(super) add_space_prefix: bool,
    /// `remove_extra_whitespaces`.
    pub(super) remove_extra_whitespaces: bool,
    /// `precompiled_charsmap`.
    pub(super) charsmap: Charsmap,
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<SentencePieceModel, TokenizerError> {
    let bytes = std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })?;
    let model = if is_tiktoken(&bytes) { Err("a tiktoken vocabulary".into()) } else { parse(&bytes) };
    model.map_err(|found| TokenizerError::Malformed {
        path: path.to_owned(),
        expected: "a SentencePiece model of kind unigram or BPE",
        found,
    })
}

/// Some checkpoints call a list of lines `dGhl 1820` tokenizer.model.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let (base64, id) = line.split_at(line.iter().position(|&byte| byte == b' ').unwrap_or(line.len()));
    let is_base64 = base64.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
    is_base64 && id.len() > 1 && id[1..].iter().all(u8::is_ascii_digit)
}

fn parse(bytes: &[u8]) -> Result<SentencePieceModel, String> {
    let mut vocabulary = Vocabulary { model: "llama".into(), ..Vocabulary::default() };
    let (mut trainer, mut normalizer) = (None, None);
    for field in Message::new(bytes) {
        match field? {
            (1, Field::Bytes(piece)) => add_piece(&mut vocabulary, piece)?,
            (2, Field::Bytes(spec)) => trainer = Some(Trainer::parse(spec)?),
            (3, Field::Bytes(spec)) => normalizer = Some(NormalizerSpec::parse(spec)?),
            (5, Field::Bytes(spec)) => refuse_denormalizer(spec)?,
            (1..=5, field) => return Err(format!("a part of the model is {field:?}, not a message")),
            _ => {}
        }
    }
    let missing = |what| format!("no {what} behind the pieces: the file is cut short, or something else");
    let trainer = trainer.ok_or_else(|| missing("trainer_spec"))?;
    let normalizer = normalizer.ok_or_else(|| missing("normalizer_spec"))?;
    // A model without the token has an id all the same: -1, or one that another piece has.
    let count = vocabulary.tokens.len();
    let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < count);
    vocabulary.bos = id(trainer.bos);
    vocabulary.eos = id(trainer.eos);
    vocabulary.pad = id(trainer.pad);
    vocabulary.unk = vocabulary.token_types.iter().position(|&kind| kind == UNKNOWN).map(|id| id as u32);
    let unigram = match trainer.model_type {
        1 => true,
        2 => false,
        3 => return Err("trainer_spec.model_type is WORD".into()),
        4 => return Err("trainer_spec.model_type is CHAR".into()),
        other => return Err(format!("trainer_spec.model_type is {other}")),
    };
    Ok(SentencePieceModel {
        vocabulary,
        unigram,
        add_space_prefix: normalizer.add_dummy_prefix,
        remove_extra_whitespaces: normalizer.remove_extra_whitespaces,
        charsmap: Charsmap::parse(normalizer.charsmap)?,
    })
}

/// The type of the unknown token, here as in GGUF.
const UNKNOWN: i32 = 2;

fn add_piece(vocabulary: &mut Vocabulary, message: Message<'_>) -> Result<(), String> {
    let index = vocabulary.tokens.len();
    let (mut text, mut score, mut kind) = ("", 0.0, 1);
    for field in message {
        match field? {
            (1, Field::Bytes(bytes)) => text = utf8(&format!("piece {index}"), bytes)?,
            (2, Field::Fixed32(bits)) => score = f32::from_bits(bits),
            (3, Field::Varint(value)) => kind = int(value),
            (1..=3, field) => return Err(format!("piece {index} has a field {field:?}, which is of another type")),
            _ => {}
        }
    }
    if text.is_empty() {
        return Err(format!("piece {index} is empty"));
    }
    if !(1..=6).contains(&kind) {
        return Err(format!("piece {index} ({text:?}) is of type {kind}, but types go from 1 to 6"));
    }
    vocabulary.tokens.push(text.to_owned());
    vocabulary.scores.push(score);
    vocabulary.token_types.push(kind);
    Ok(())
}

/// Part of `trainer_spec`.
struct Trainer {
    model_type: i32,
    bos: i32,
    eos: i32,
    pad: i32,
}

impl Trainer {
    fn parse(message: Message<'_>) -> Result<Self, String> {
        let mut spec = Self { model_type: 1, bos: 1, eos: 2, pad: -1 };
        for field in message {
            match field? {
                (3, Field::Varint(value)) => spec.model_type = int(value),
                (24, Field::Varint(1..)) => return Err("trainer_spec.treat_whitespace_as_suffix is set".into()),
                (41, Field::Varint(value)) => spec.bos = int(value),
                (42, Field::Varint(value)) => spec.eos = int(value),
                (43, Field::Varint(value)) => spec.pad = int(value),
                (number @ (3 | 24 | 41..=43), field) => {
                    return Err(format!("trainer_spec field {number} is {field:?}, not an integer"));
                }
                _ => {}
            }
        }
        Ok(spec)
    }
}

/// Part of `normalizer_spec`.
struct NormalizerSpec<'b> {
    charsmap: &'b [u8],
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
}

impl<'b> NormalizerSpec<'b> {
    fn parse(message: Message<'b>) -> Result<Self, String> {
        let mut spec = Self { charsmap: &[], add_dummy_prefix: true, remove_extra_whitespaces: true };
        for field in message {
            match field? {
                (2, Field::Bytes(map)) => spec.charsmap = map.bytes(),
                (3, Field::Varint(flag)) => spec.add_dummy_prefix = flag != 0,
                (4, Field::Varint(flag)) => spec.remove_extra_whitespaces = flag != 0,
                (5, Field::Varint(0)) => return Err("normalizer_spec.escape_whitespaces is off".into()),
                (5, Field::Varint(_)) => {}
                (number @ 2..=5, field) => {
                    return Err(format!("normalizer_spec field {number} is {field:?}, which is of another type"));
                }
                _ => {}
            }
        }
        Ok(spec)
    }
}

/// Decoded text is not mapped back here.
fn refuse_denormalizer(message: Message<'_>) -> Result<(), String> {
    for field in message {
        if let (2, Field::Bytes(map)) = field?
            && !map.bytes().is_empty()
        {
            return Err("denormalizer_spec has a character map".into());
        }
    }
    Ok(())
}

fn utf8<'b>(what: &str, message: Message<'b>) -> Result<&'b str, String> {
    std::str::from_utf8(message.bytes()).map_err(|error| format!("{what}: {error}"))
}

/// Integers are written as 64 bits, negative ones too.
fn int(value: u64) -> i32 {
    value as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of bytes; lengths below 128.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn model(trainer: &[u8], normalizer: &[u8]) -> Vec<u8> {
        let unk = [bytes(1, b"<unk>"), vec![0x18, 2]].concat();
        let a = [bytes(1, b"a"), vec![0x15, 0, 0, 0x80, 0xBF]].concat();
        [bytes(1, &unk), bytes(1, &a), bytes(2, trainer), bytes(3, normalizer)].concat()
    }

    #[test]
    fn fields_that_are_not_there_have_their_defaults() {
        let model = parse(&model(&[], &[])).expect("the model is sound");
        assert!(model.unigram && model.add_space_prefix && model.remove_extra_whitespaces, "as the schema has it");
        let Vocabulary { tokens, scores, token_types, unk, bos, eos, .. } = model.vocabulary;
        assert_eq!((tokens, scores), (vec!["<unk>".into(), "a".into()], vec![0.0, -1.0]), "pieces");
        assert_eq!((token_types, unk, bos, eos), (vec![2, 1], Some(0), Some(1), None), "ids within the vocabulary");
    }

    #[test]
    fn settings_that_would_change_the_text_are_refused_by_name() {
        for (trainer, normalizer, problem) in [
            (&[0x18, 4][..], &[][..], "model_type is CHAR"),
            (&[0xC0, 0x01, 1], &[], "treat_whitespace_as_suffix"),
            (&[], &[0x28, 0], "escape_whitespaces"),
            (&[], &[0x12, 1, 0], "precompiled_charsmap"),
            (&[0x1A, 0], &[], "trainer_spec field 3"),
        ] {
            let message = parse(&model(trainer, normalizer)).expect_err("not known here");
            assert!(message.contains(problem), "{message}");
        }
        let denormalizer = bytes(5, &bytes(2, b"x"));
        let message = parse(&[model(&[], &[]), denormalizer].concat()).expect_err("a map for decoding");
        assert!(message.contains("denormalizer_spec"), "{message}");
    }

    #[test]
    fn another_format_of_the_same_name_is_named() {
        assert!(is_tiktoken(b"IQ== 0\nIg== 1\n") && !is_tiktoken(&model(&[], &[])), "lines or a message");
    }

    #[test]
    fn a_file_that_ends_early_is_no_model() {
        let whole = model(&[0x18, 2], &[]);
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{end} bytes of {}", whole.len());
        }
    }
}
