//! `vocab.json` and `merges.txt`: byte-level BPE as GPT-2 was published.
//!
//! Reads the two files into a [`Vocabulary`]; what they do not hold (how text is cut into words, whether characters are
//! composed) is in the table of Python classes below, from the classes' own code. Does not build a tokenizer.
//! Invariant: a class that is not in the table is an error.

use std::path::Path;

use serde_json::Value;

use super::vocabulary::max_id;
use super::{TokenizerConfig, TokenizerError, Vocabulary};

/// What a Python class does.
#[derive(Debug)]
pub(super) struct Class {
    names: &'static [&'static str],
    /// `model_type` of models whose class it is, for folders that do not name one.
    model_types: &'static [&'static str],
    /// The name that GGUF files have for how it cuts words.
    pub(super) pre_tokenizer: &'static str,
    /// Composes characters (NFC) first.
    pub(super) compose: bool,
    /// BOS where no file names it.
    bos: Option<&'static str>,
    /// EOS where no file names it.
    eos: &'static str,
}

const END_OF_TEXT: &str = "<|endoftext|>";

const CLASSES: &[Class] = &[
    Class {
        names: &["GPT2Tokenizer", "CodeGenTokenizer"],
        model_types: &["gpt2", "gpt_neo", "gptj", "gpt_bigcode", "codegen", "starcoder2", "opt", "phi"],
        pre_tokenizer: "gpt-2",
        compose: false,
        bos: Some(END_OF_TEXT),
        eos: END_OF_TEXT,
    },
    Class {
        names: &["GPTNeoXTokenizer"],
        model_types: &["gpt_neox", "mpt", "olmo", "olmoe"],
        pre_tokenizer: "gpt-2",
        compose: true,
        bos: Some(END_OF_TEXT),
        eos: END_OF_TEXT,
    },
    Class {
        names: &["Qwen2Tokenizer"],
        model_types: &["qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"],
        pre_tokenizer: "qwen2",
        compose: true,
        bos: None,
        eos: END_OF_TEXT,
    },
    Class {
        names: &["Qwen3_5Tokenizer"],
        model_types: &["qwen3_5", "qwen3_5_moe"],
        pre_tokenizer: "qwen35",
        compose: true,
        bos: None,
        eos: END_OF_TEXT,
    },
];

/// The class that `config` names, or else `config.json` beside `file`, directly or by its `model_type`.
pub(super) fn class(file: &Path, config: &TokenizerConfig) -> Result<&'static Class, TokenizerError> {
    let model = std::fs::read_to_string(file.with_file_name("config.json")).unwrap_or_default();
    let model: Value = serde_json::from_str(&model).unwrap_or_default();
    let named = config.tokenizer_class.as_deref().or(model["tokenizer_class"].as_str());
    let class = match (named, model["model_type"].as_str()) {
        (Some(name), _) => {
            let name = name.strip_suffix("Fast").unwrap_or(name);
            CLASSES.iter().find(|class| class.names.contains(&name))
        }
        (None, Some(model)) => CLASSES.iter().find(|class| class.model_types.contains(&model)),
        (None, None) => None,
    };
    class.ok_or_else(|| TokenizerError::UnknownClass {
        path: file.to_owned(),
        class: named.unwrap_or("not given").to_owned(),
        known: CLASSES.iter().flat_map(|class| class.names).copied().collect::<Vec<_>>().join(", "),
    })
}

/// Reads both files.
pub(super) fn read(
    vocab: &Path,
    merges: &Path,
    class: &Class,
    config: &TokenizerConfig,
) -> Result<Vocabulary, TokenizerError> {
    let malformed = |found: String| TokenizerError::Malformed { path: vocab.to_owned(), expected: "{text: id}", found };
    let json: Value = serde_json::from_str(&text(vocab)?).map_err(|error| malformed(error.to_string()))?;
    let entries = json.as_object().ok_or_else(|| malformed("no object".into()))?;
    let count = entries.len() + config.added_tokens.len();
    let mut vocabulary = Vocabulary { model: "gpt2".into(), ..Vocabulary::default() };
    for (text, id) in entries {
        let id =
            id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| malformed(format!("{text:?}: {id}")))?;
        set(&mut vocabulary, count, (id, text, NORMAL)).map_err(malformed)?;
    }
    for token in &config.added_tokens {
        // A special token that has no id anywhere is not one of this checkpoint.
        let id = token.id.or_else(|| u32::try_from(entries.get(&token.content)?.as_u64()?).ok());
        let Some(id) = id else { continue };
        let kind = if token.special { CONTROL } else { USER_DEFINED };
        set(&mut vocabulary, count, (id, &token.content, kind)).map_err(malformed)?;
    }
    let id = |text: &str| vocabulary.tokens.iter().position(|token| token == text).map(|id| id as u32);
    let (bos, eos) = (class.bos.and_then(id), id(class.eos));
    vocabulary.bos = bos.filter(|_| config.bos_token.is_none());
    vocabulary.eos = eos.filter(|_| config.eos_token.is_none());
    vocabulary.merges = text(merges)?
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty())
        .map(str::to_owned)
        .collect();
    Ok(vocabulary)
}

/// GGUF's numbers for kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Gives an id of a vocabulary of `count` tokens its text. Ids that are skipped stay without text and unused.
fn set(vocabulary: &mut Vocabulary, count: usize, (id, text, kind): (u32, &str, i32)) -> Result<(), String> {
    if id > max_id(count) {
        return Err(format!("{text:?} has id {id}, but there are {count} tokens, and ids are counted from 0"));
    }
    let index = id as usize;
    if vocabulary.tokens.len() <= index {
        vocabulary.tokens.resize(index + 1, String::new());
        vocabulary.token_types.resize(index + 1, UNUSED);
    }
    if kind == NORMAL && !vocabulary.tokens[index].is_empty() {
        return Err(format!("{text:?} and {:?} both have id {id}", vocabulary.tokens[index]));
    }
    vocabulary.tokens[index] = text.to_owned();
    vocabulary.token_types[index] = kind;
    Ok(())
}

fn text(path: &Path) -> Result<String, TokenizerError> {
    std::fs::read_to_string(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })
}
