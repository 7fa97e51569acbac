//! What a checkpoint says about text: its tokenizer, the format it is talked to in, the ids that end a text.
//!
//! Finds the words in the checkpoint's files and hands them to the rooms that understand them; does not tokenize or
//! render itself. Invariant: what the checkpoint says but cannot be honoured is an error, never another tokenizer or
//! another format.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::style::Style;
use super::{ChatFormat, SessionError};
use crate::checkpoint::{Checkpoint, CheckpointError, GgufMetadata};
use crate::tokenizer::{ChatTemplate, ChatTemplates, Tokenizer, TokenizerConfig, TokenizerError, Vocabulary};

/// A checkpoint's tokenizer and what belongs to it.
#[derive(Debug)]
pub struct Language {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Ids that end a text: every EOS the checkpoint names, sorted.
    pub end_ids: Vec<u32>,
    chat_templates: ChatTemplates,
    /// What the checkpoint is called: its path, and GGUF's `general.name`.
    names: Vec<String>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl Language {
    /// Reads the tokenizer: a GGUF file's vocabulary, or from beside the weights the first that is there of
    /// `tokenizer.json`, `tokenizer.model` (SentencePiece), and `vocab.json` with `merges.txt`.
    ///
    /// # Errors
    /// No tokenizer, one that is malformed, or one of an unknown kind.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, SessionError> {
        let mut language = Self::read(checkpoint)?;
        language.names = names(checkpoint)?;
        Ok(language)
    }

    fn read(checkpoint: &Checkpoint) -> Result<Self, SessionError> {
        let missing = || SessionError::NoTokenizer { checkpoint: checkpoint.path().to_owned() };
        let in_gguf = match checkpoint.gguf_metadata().map(Self::of_gguf).transpose() {
            // a kind we do not have may have come with the original
            Err(SessionError::Tokenizer(
                error @ (TokenizerError::UnknownModel { .. } | TokenizerError::UnknownPreTokenizer { .. }),
            )) => return Self::of_companions(checkpoint)?.ok_or(SessionError::Tokenizer(error)),
            result => result?.flatten(),
        };
        match in_gguf {
            Some(language) => Ok(language),
            None => Self::of_companions(checkpoint)?.ok_or_else(missing),
        }
    }

    /// The template to chat with, parsed; `None` where the checkpoint has none.
    ///
    /// # Errors
    /// A template that does not parse, or several of which none is the default.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, SessionError> {
        self.chat_templates.select(None)?.map(|source| self.parse(source)).transpose()
    }

    /// The names of the checkpoint's templates.
    pub fn chat_templates(&self) -> impl Iterator<Item = &str> {
        self.chat_templates.names()
    }

    /// The format to talk in: `wanted` by the name of one of the checkpoint's templates, of a style, `plain`, or a
    /// Jinja file; else the checkpoint's default template, or the style that its name calls for, or plain text.
    ///
    /// # Errors
    /// A name that is none of these, a template that does not parse, or several of which none is the default.
    pub fn chat_format(&self, wanted: Option<&str>) -> Result<ChatFormat, SessionError> {
        let Some(wanted) = wanted else { return self.default_format() };
        if self.chat_templates.names().any(|name| name == wanted)
            && let Some(source) = self.chat_templates.select(Some(wanted))?
        {
            return self.template_format(source, format!("the checkpoint's template {wanted:?}"));
        }
        match (Style::named(wanted), Path::new(wanted)) {
            (Some(style), _) => ChatFormat::style(style, &self.tokenizer),
            (None, _) if wanted == PLAIN => Ok(ChatFormat::plain()),
            (None, file) if file.is_file() || file.extension().is_some_and(|extension| extension == "jinja") => {
                let unreadable =
                    |error| SessionError::Companion { file: file.to_owned(), problem: format!("cannot read: {error}") };
                self.template_format(&std::fs::read_to_string(file).map_err(unreadable)?, wanted.to_owned())
            }
            _ => {
                let templates: Vec<&str> = self.chat_templates.names().collect();
                let templates = if templates.is_empty() { "none".to_owned() } else { templates.join(", ") };
                let styles = Style::names().chain([PLAIN]).collect::<Vec<_>>().join(", ");
                Err(SessionError::UnknownFormat { name: wanted.to_owned(), templates, styles })
            }
        }
    }

    fn default_format(&self) -> Result<ChatFormat, SessionError> {
        if let Some(source) = self.chat_templates.select(None)? {
            return self.template_format(source, "the checkpoint's template".to_owned());
        }
        match self.names.iter().find_map(|name| Style::of_path(name)) {
            Some(style) => ChatFormat::style(style, &self.tokenizer),
            None => Ok(ChatFormat::plain()),
        }
    }

    fn template_format(&self, source: &str, origin: String) -> Result<ChatFormat, SessionError> {
        Ok(ChatFormat::template(self.parse(source)?, origin).with_turn_ends_of(source, &self.tokenizer))
    }

    fn parse(&self, source: &str) -> Result<ChatTemplate, SessionError> {
        Ok(ChatTemplate::new(source, self.bos_token.as_deref(), self.eos_token.as_deref())?)
    }

    /// The tokenizer from files beside the weights; `None` if there are none.
    fn of_companions(checkpoint: &Checkpoint) -> Result<Option<Self>, SessionError> {
        let file = |name| checkpoint.companion(name);
        let read = |file: &Path, read: &dyn Fn(&TokenizerConfig) -> Result<Tokenizer, TokenizerError>| {
            let folder = file.parent().unwrap_or(Path::new(""));
            let config = TokenizerConfig::in_directory(folder)?;
            let tokenizer = read(&config)?;
            Self::with_config(folder, tokenizer, config).map(Some)
        };
        if let Some(file) = file("tokenizer.json") {
            return read(&file, &|config| Tokenizer::from_file(&file, config));
        }
        if let Some(file) = file("tokenizer.model") {
            return read(&file, &|config| Tokenizer::from_sentencepiece(&file, config));
        }
        match (file("vocab.json"), file("merges.txt")) {
            (Some(vocab), Some(merges)) => read(&vocab, &|config| Tokenizer::from_vocab_files(&vocab, &merges, config)),
            _ => Ok(None),
        }
    }

    fn with_config(folder: &Path, tokenizer: Tokenizer, config: TokenizerConfig) -> Result<Self, SessionError> {
        // transformers stops where generation_config.json says, and where it is silent, where config.json says
        let mut end_ids = end_ids_of_file(&folder.join("generation_config.json"))?;
        if end_ids.is_empty() {
            end_ids = end_ids_of_file(&folder.join("config.json"))?;
        }
        let TokenizerConfig { bos_token, eos_token, chat_templates, .. } = config;
        let (end_ids, names) = (with_tokenizer_s(end_ids, &tokenizer), Vec::new());
        Ok(Self { tokenizer, end_ids, chat_templates, names, bos_token, eos_token })
    }

    /// The vocabulary of a GGUF file; `None` if it has none.
    fn of_gguf(metadata: &GgufMetadata) -> Result<Option<Self>, SessionError> {
        let Some(vocabulary) = vocabulary(metadata)? else { return Ok(None) };
        let tokenizer = Tokenizer::from_vocabulary(vocabulary)?;
        let chat_templates = gguf_templates(metadata)?;
        let piece = |id: Option<u32>| id.and_then(|id| tokenizer.piece(id));
        let (bos_token, eos_token) = (piece(tokenizer.bos()), piece(tokenizer.eos()));
        let end_ids = with_tokenizer_s(Vec::new(), &tokenizer);
        Ok(Some(Self { tokenizer, end_ids, chat_templates, names: Vec::new(), bos_token, eos_token }))
    }
}

/// The name under which [`Language::chat_format`] knows no format at all.
const PLAIN: &str = "plain";

/// What a style may be recognised by. The path is made absolute, since `.` says nothing.
fn names(checkpoint: &Checkpoint) -> Result<Vec<String>, SessionError> {
    let path = checkpoint.path();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = checkpoint.gguf_metadata().map(|metadata| metadata.str("general.name")).transpose()?.flatten();
    Ok([Some(path.display().to_string().replace('\\', "/")), name.map(str::to_owned)].into_iter().flatten().collect())
}

/// `tokenizer.chat_template`, and the named ones in `tokenizer.chat_template.NAME`.
fn gguf_templates(metadata: &GgufMetadata) -> Result<ChatTemplates, CheckpointError> {
    const KEY: &str = "tokenizer.chat_template";
    let mut templates = metadata.str(KEY)?.map(|text| ChatTemplates::single(text.to_owned())).unwrap_or_default();
    for key in metadata.keys() {
        if let Some(name) = key.strip_prefix(KEY).and_then(|rest| rest.strip_prefix('.'))
            && let Some(source) = metadata.str(key)?
        {
            templates.insert(name, source.to_owned());
        }
    }
    Ok(templates)
}

/// The tokenizer's own EOS counts too: fine-tuned models name the end of a turn there and keep the base model's EOS
/// in the config.
fn with_tokenizer_s(mut end_ids: Vec<u32>, tokenizer: &Tokenizer) -> Vec<u32> {
    end_ids.extend(tokenizer.eos());
    end_ids.extend(tokenizer.eot());
    end_ids.extend(tokenizer.eom());
    end_ids.sort_unstable();
    end_ids.dedup();
    end_ids
}

/// `eos_token_id` of a JSON file: a number, a list of numbers, or nothing. A missing file says nothing.
fn end_ids_of_file(path: &Path) -> Result<Vec<u32>, SessionError> {
    let problem = |problem: String| SessionError::Companion { file: PathBuf::from(path), problem };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(problem(format!("cannot read: {error}"))),
    };
    let json: Value = serde_json::from_str(&text).map_err(|error| problem(error.to_string()))?;
    end_ids(&json["eos_token_id"]).ok_or_else(|| {
        problem(format!("eos_token_id: expected a token id or a list of them, found {}", json["eos_token_id"]))
    })
}

fn end_ids(value: &Value) -> Option<Vec<u32>> {
    match value {
        Value::Null => Some(Vec::new()),
        // some configs write -1 for none
        Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => Some(Vec::new()),
        Value::Number(number) => Some(vec![u32::try_from(number.as_u64()?).ok()?]),
        Value::Array(list) => Some(list.iter().map(end_ids).collect::<Option<Vec<_>>>()?.concat()),
        _ => None,
    }
}

/// The keys `tokenizer.ggml.*`; `None` where the file has no vocabulary.
fn vocabulary(metadata: &GgufMetadata) -> Result<Option<Vocabulary>, SessionError> {
    let strings = |key: &str| -> Result<Option<Vec<String>>, CheckpointError> {
        Ok(metadata.strings(key)?.map(|list| list.into_iter().map(str::to_owned).collect()))
    };
    let model = metadata.str("tokenizer.ggml.model")?;
    // a file may say in words that it has no vocabulary
    let Some(model) = model.filter(|model| !["no_vocab", "none"].contains(model)) else { return Ok(None) };
    let Some(tokens) = strings("tokenizer.ggml.tokens")? else { return Ok(None) };
    Ok(Some(Vocabulary {
        model: model.to_owned(),
        pre: pre_tokenizer(metadata)?,
        tokens,
        token_types: metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_default(),
        merges: strings("tokenizer.ggml.merges")?.unwrap_or_default(),
        scores: metadata.f32s("tokenizer.ggml.scores")?.unwrap_or_default(),
        bos: metadata.u32("tokenizer.ggml.bos_token_id")?,
        eos: metadata.u32("tokenizer.ggml.eos_token_id")?,
        eot: metadata.u32("tokenizer.ggml.eot_token_id")?,
        eom: metadata.u32("tokenizer.ggml.eom_token_id")?,
        unk: metadata.u32("tokenizer.ggml.unknown_token_id")?,
        pad: metadata.u32("tokenizer.ggml.padding_token_id")?,
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
        remove_extra_whitespaces: metadata.bool("tokenizer.ggml.remove_extra_whitespaces")?,
        charsmap: bytes(metadata, "tokenizer.ggml.precompiled_charsmap")?,
        strip_right: is_phi3(metadata)?,
    }))
}

/// An array of bytes, which some converters write as signed ones; nothing where it is absent.
fn bytes(metadata: &GgufMetadata, key: &str) -> Result<Vec<u8>, CheckpointError> {
    Ok(metadata.i32s(key)?.unwrap_or_default().into_iter().map(|byte| byte as u8).collect())
}

/// Whether this is Phi-3, whose special tokens take the spaces behind them; only the model's name says so.
fn is_phi3(metadata: &GgufMetadata) -> Result<bool, CheckpointError> {
    let name = metadata.str("general.name")?.unwrap_or_default().to_lowercase();
    Ok(name.contains("phi-3") || name.contains("phi3"))
}

/// The pre-tokenizer's name. GPT-NeoX files from before the key existed mean GPT-2's, as their published tokenizers do.
fn pre_tokenizer(metadata: &GgufMetadata) -> Result<Option<String>, CheckpointError> {
    let named = metadata.str("tokenizer.ggml.pre")?;
    let neox = metadata.str("general.architecture")? == Some("gptneox");
    Ok(named.or(neox.then_some("gpt-2")).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn eos_ids_come_as_a_number_a_list_or_not_at_all() {
        assert_eq!(end_ids(&json!(7)), Some(vec![7]), "a number");
        assert_eq!(end_ids(&json!([1, 2])), Some(vec![1, 2]), "a list");
        assert_eq!(end_ids(&json!(null)), Some(vec![]), "absent");
        assert_eq!(end_ids(&json!(-1)), Some(vec![]), "none, as some write it");
        assert_eq!(end_ids(&json!("</s>")), None, "a text is no id");
        assert_eq!(end_ids(&json!([1, "x"])), None, "nor in a list");
    }
}
