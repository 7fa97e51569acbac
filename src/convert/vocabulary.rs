//! What the GGUF file's metadata says of text: `tokenizer.json` in the keys `tokenizer.ggml.*`.
//!
//! Two kinds of tokenizer have a form in GGUF that llama.cpp reads: byte-level BPE with one of the named
//! pre-tokenizers, and SentencePiece's BPE, whose scores are the order of its tokens. Everything else is refused; what
//! is taken is compared by `same` afterwards.

use std::path::Path;

use serde_json::Value;

use super::ConvertError;
use crate::checkpoint::{Checkpoint, GgufValue};
use crate::session::Language;
use crate::tokenizer::{Special, TokenizerConfig};

/// GGUF's numbers of token types.
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// Llama 3's words, and with digits one by one Qwen 2's.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// llama.cpp's names of pre-tokenizers, by the steps they are made of, and whether whole words go before merges.
const PRE_TOKENIZERS: &[(&str, &[&str], bool)] = &[
    ("gpt-2", &["words"], false),
    ("smollm", &["digit", "words"], false),
    ("falcon", &["punctuation", "words", "digits", "[0-9][0-9][0-9]"], false),
    ("llama-bpe", &[LLAMA3, "bytes"], true),
    ("dbrx", &[LLAMA3, "bytes"], false),
    ("qwen2", &[QWEN2, "bytes"], false),
];

/// The keys of the tokenizer in the checkpoint's folder, for an embedding of `rows` rows.
pub(super) fn of_folder(checkpoint: &Checkpoint, rows: usize) -> Result<Vec<(String, GgufValue)>, ConvertError> {
    let refused = |what: &str| ConvertError::NotTranslated {
        path: checkpoint.path().into(),
        what: what.into(),
        hint: "; byte-level BPE with a known pre-tokenizer and SentencePiece's BPE can, in a tokenizer.json".into(),
    };
    let file = checkpoint.companion("tokenizer.json").ok_or_else(|| refused("a folder without tokenizer.json"))?;
    let language = Language::of(checkpoint)?;
    let text = std::fs::read(&file).map_err(|source| ConvertError::Write { path: file.clone(), source })?;
    let json: Value = serde_json::from_slice(&text).map_err(|_| refused("this tokenizer.json"))?;
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(refused(&format!("a tokenizer of the kind {}", model["type"])));
    }
    let byte_level = model["byte_fallback"] != true;
    let (tokens, types) =
        tokens(&json, rows, byte_level).ok_or_else(|| refused("a tokenizer with more tokens than the embedding"))?;
    let count = tokens.len();
    let mut pairs = Vec::new();
    let mut put = |key: &str, value: GgufValue| pairs.push((format!("tokenizer.{key}"), value));
    put("ggml.tokens", GgufValue::Strings(tokens));
    put("ggml.token_type", GgufValue::I32s(types));
    if byte_level {
        let pre = pre_tokenizer(&json).ok_or_else(|| refused("a tokenizer with this pre-tokenizer or normalizer"))?;
        let merges = merges(model).ok_or_else(|| refused("a tokenizer without merges"))?;
        put("ggml.model", GgufValue::String("gpt2".into()));
        put("ggml.pre", GgufValue::String(pre.into()));
        put("ggml.merges", GgufValue::Strings(merges));
    } else {
        put("ggml.model", GgufValue::String("llama".into()));
        put("ggml.pre", GgufValue::String("default".into()));
        // Earlier tokens were merged earlier.
        put("ggml.scores", GgufValue::F32s((0..count).map(|id| -(id as f32)).collect()));
        put("ggml.add_space_prefix", GgufValue::Bool(adds_space(&json)));
        if let Some(id) = model["unk_token"].as_str().and_then(|unknown| language.tokenizer.id(unknown)) {
            put("ggml.unknown_token_id", GgufValue::U32(id));
        }
    }
    let tokenizer = &language.tokenizer;
    let ends = tokenizer.encode("", Special::Add)?;
    for (key, flag, id) in [("bos", ends.first(), tokenizer.bos()), ("eos", ends.last(), tokenizer.eos())] {
        let Some(id) = id else { continue };
        // Where one token is both, only the one in front was added.
        let added = flag == Some(&id) && (key == "bos" || ends.len() > 1);
        put(&format!("ggml.{key}_token_id"), GgufValue::U32(id));
        put(&format!("ggml.add_{key}_token"), GgufValue::Bool(added));
    }
    for (key, id) in more_ends(checkpoint, &language, rows)? {
        put(&format!("ggml.{key}_token_id"), GgufValue::U32(id));
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    if let Ok(Some(template)) = TokenizerConfig::in_directory(folder)?.chat_templates.select(None) {
        put("chat_template", GgufValue::String(template.into()));
    }
    Ok(pairs)
}

/// The ids that end a text of a model with `rows` rows of logits: one beyond them is never produced.
pub(super) fn ends_within(language: &Language, rows: usize) -> Vec<u32> {
    language.end_ids.iter().copied().filter(|id| (*id as usize) < rows).collect()
}

/// Those beside EOS, each with a word of GGUF's: readers stop at all of them alike.
fn more_ends(
    checkpoint: &Checkpoint,
    language: &Language,
    rows: usize,
) -> Result<impl Iterator<Item = (&'static str, u32)>, ConvertError> {
    const WORDS: [&str; 2] = ["eot", "eom"];
    let mut ends = ends_within(language, rows);
    ends.retain(|id| language.tokenizer.eos() != Some(*id));
    if ends.len() > WORDS.len() {
        let eos = if language.tokenizer.eos().is_some() { " beside EOS" } else { "" };
        return Err(ConvertError::NotTranslated {
            path: checkpoint.path().into(),
            what: format!("a model whose texts end with any of the tokens {ends:?}{eos}"),
            hint: format!(
                "; there are words for {} of these: leave no more in eos_token_id of generation_config.json, or of \
                 config.json where that says nothing",
                WORDS.len()
            ),
        });
    }
    Ok(WORDS.into_iter().zip(ends))
}

/// Text and type of every id, padded to the rows of the embedding.
fn tokens(json: &Value, rows: usize, byte_level: bool) -> Option<(Vec<String>, Vec<i32>)> {
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![kind::UNUSED; rows];
    let unknown = json["model"]["unk_token"].as_str();
    let is_byte = |text: &str| !byte_level && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
    let mut set = |id: &Value, text: &str, kind: i32| {
        let id = usize::try_from(id.as_u64()?).ok()?;
        *tokens.get_mut(id)? = text.to_owned();
        *types.get_mut(id)? = kind;
        Some(())
    };
    for (text, id) in json["model"]["vocab"].as_object()? {
        set(id, text, if is_byte(text) { kind::BYTE } else { kind::NORMAL })?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let text = added["content"].as_str()?;
        let kind = match added["special"].as_bool() {
            _ if !byte_level && Some(text) == unknown => kind::UNKNOWN,
            Some(true) => kind::CONTROL,
            _ => kind::USER_DEFINED,
        };
        set(&added["id"], text, kind)?;
    }
    Some((tokens, types))
}

/// Pairs with a space between, as older files have them.
fn merges(model: &Value) -> Option<Vec<String>> {
    let merge = |merge: &Value| match merge {
        Value::String(pair) => Some(pair.clone()),
        Value::Array(pair) => Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    };
    model["merges"].as_array()?.iter().map(merge).collect()
}

/// llama.cpp's name of the pre-tokenizer, where it has one and text is not changed before.
fn pre_tokenizer(json: &Value) -> Option<&'static str> {
    // llama.cpp composes no characters; text that is typed is composed already.
    if !json["normalizer"].is_null() && json["normalizer"]["type"] != "NFC" {
        return None;
    }
    let whole = &json["pre_tokenizer"];
    let steps: Option<Vec<&str>> = match whole["pretokenizers"].as_array() {
        Some(steps) => steps.iter().map(step).collect(),
        None => step(whole).map(|step| vec![step]),
    };
    let steps = steps?;
    let words_first = json["model"]["ignore_merges"] == true;
    let known = PRE_TOKENIZERS.iter().find(|(_, known, first)| *known == steps && *first == words_first);
    known.map(|(name, ..)| *name)
}

/// One step in a word; a regular expression as it is.
fn step(step: &Value) -> Option<&str> {
    match step["type"].as_str()? {
        "ByteLevel" if step["add_prefix_space"] == true => None,
        "ByteLevel" => Some(if step["use_regex"] == false { "bytes" } else { "words" }),
        "Digits" => Some(if step["individual_digits"] == true { "digit" } else { "digits" }),
        "Punctuation" => (step["behavior"] == "Contiguous").then_some("punctuation"),
        "Split" if step["behavior"] == "Isolated" && step["invert"] != true => step["pattern"]["Regex"].as_str(),
        _ => None,
    }
}

/// Whether SentencePiece puts a space in front of a text.
fn adds_space(json: &Value) -> bool {
    let normalizers = json["normalizer"]["normalizers"].as_array();
    let prepends = normalizers.into_iter().flatten().chain([&json["normalizer"]]).any(|one| one["type"] == "Prepend");
    let metaspace = &json["pre_tokenizer"];
    let scheme = metaspace["type"] == "Metaspace"
        && (metaspace["add_prefix_space"] == true
            || metaspace["prepend_scheme"].as_str().is_some_and(|scheme| scheme != "never"));
    prepends || scheme
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokenizer(pre_tokenizer: Value, ignore_merges: bool) -> Value {
        json!({ "normalizer": null, "pre_tokenizer": pre_tokenizer, "model": { "ignore_merges": ignore_merges } })
    }

    #[test]
    fn published_pre_tokenizers_have_their_names() {
        let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": use_regex});
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let digits = |each: bool| json!({"type": "Digits", "individual_digits": each});
        let punctuation = json!({"type": "Punctuation", "behavior": "Contiguous"});
        let sequence = |steps: &[Value]| json!({"type": "Sequence", "pretokenizers": steps});
        let of = |pre: Value, ignore_merges| pre_tokenizer(&tokenizer(pre, ignore_merges));
        assert_eq!(of(bytes(true), false), Some("gpt-2"), "GPT-2, GPT-NeoX");
        assert_eq!(of(sequence(&[digits(true), bytes(true)]), false), Some("smollm"), "SmolLM");
        let falcon = [punctuation, bytes(true), digits(false), split("[0-9][0-9][0-9]")];
        assert_eq!(of(sequence(&falcon), false), Some("falcon"), "Falcon");
        assert_eq!(of(sequence(&[split(LLAMA3), bytes(false)]), true), Some("llama-bpe"), "Llama 3");
        assert_eq!(of(sequence(&[split(QWEN2), bytes(false)]), false), Some("qwen2"), "Qwen 2");
        assert_eq!(of(sequence(&[split("x+"), bytes(false)]), false), None, "an unknown expression");
        assert_eq!(of(bytes(true), true), None, "whole words before merges");
        let spaced = json!({"type": "ByteLevel", "add_prefix_space": true});
        assert_eq!(of(spaced, false), None, "a space in front");
    }

    #[test]
    fn ids_without_a_token_are_unused_and_others_have_their_type() {
        let json = json!({
            "model": {"vocab": {"<unk>": 0, "<0x0A>": 1, "a": 2}, "unk_token": "<unk>"},
            "added_tokens": [
                {"id": 0, "content": "<unk>", "special": true},
                {"id": 3, "content": "<s>", "special": true},
                {"id": 4, "content": "  ", "special": false},
            ],
        });
        let (texts, types) = tokens(&json, 6, false).expect("they fit");
        assert_eq!(texts, ["<unk>", "<0x0A>", "a", "<s>", "  ", "[PAD5]"], "by id");
        assert_eq!(types, [2, 6, 1, 3, 4, 5], "unknown, byte, normal, control, user defined, unused");
        assert_eq!(tokens(&json, 4, false), None, "more ids than rows");
    }
}
