//! `tokenizer_config.json`: which tokens begin and end a text, whether they are added, and chat templates.
//!
//! Reads only what this room uses; the rest of the file is for Python. Does not decide anything: see
//! [`super::Tokenizer::from_file`]. Invariant: a missing file or key is `None`, a malformed one is an error.

use std::path::Path;

use serde_json::Value;

use super::TokenizerError;

/// The name of the template that is used when none is asked for.
const DEFAULT_TEMPLATE: &str = "default";

/// What `tokenizer_config.json` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// `bos_token`: text of the token that begins a text.
    pub bos_token: Option<String>,
    /// `eos_token`: text of the token that ends a text.
    pub eos_token: Option<String>,
    /// `add_bos_token`; `None` leaves it to `tokenizer.json`.
    pub add_bos_token: Option<bool>,
    /// `add_eos_token`; `None` leaves it to `tokenizer.json`.
    pub add_eos_token: Option<bool>,
    /// `chat_template`, or `chat_template.jinja`.
    pub chat_templates: ChatTemplates,
}

/// Chat templates by name; one alone is called `default`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    templates: Vec<(String, String)>,
}

impl TokenizerConfig {
    /// Reads `tokenizer_config.json` and `chat_template.jinja` in a directory; both may be missing. The
    /// separate template wins, as newer checkpoints keep it there.
    pub fn in_directory(directory: &Path) -> Result<Self, TokenizerError> {
        let path = directory.join("tokenizer_config.json");
        let mut config = match read_if_present(&path)? {
            Some(text) => Self::parse(&text, &path)?,
            None => Self::default(),
        };
        if let Some(source) = read_if_present(&directory.join("chat_template.jinja"))? {
            config.chat_templates.insert(DEFAULT_TEMPLATE, source);
        }
        Ok(config)
    }

    /// Reads the text of a `tokenizer_config.json`; `path` is named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TokenizerError> {
        let malformed = |expected, found| TokenizerError::Malformed { path: path.to_owned(), expected, found };
        let json: Value = serde_json::from_str(text).map_err(|error| malformed("JSON", error.to_string()))?;
        if !json.is_object() {
            return Err(malformed("an object", excerpt(&json)));
        }
        let flag = |key: &str| match &json[key] {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(*flag)),
            other => Err(malformed("true or false for add_bos_token and add_eos_token", excerpt(other))),
        };
        let token = |key: &str| match &json[key] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            // A token with its properties, as the Python side serialises it.
            other => match other["content"].as_str() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(malformed("a text or {\"content\": text} for bos_token and eos_token", excerpt(other))),
            },
        };
        let chat_templates = ChatTemplates::from_json(&json["chat_template"]).ok_or_else(|| {
            malformed("chat_template as a text or a list of {name, template}", excerpt(&json["chat_template"]))
        })?;
        Ok(Self {
            bos_token: token("bos_token")?,
            eos_token: token("eos_token")?,
            add_bos_token: flag("add_bos_token")?,
            add_eos_token: flag("add_eos_token")?,
            chat_templates,
        })
    }
}

impl ChatTemplates {
    /// One template, from `chat_template.jinja` or the GGUF key `tokenizer.chat_template`.
    pub fn single(source: String) -> Self {
        Self { templates: vec![(DEFAULT_TEMPLATE.to_owned(), source)] }
    }

    /// The JSON forms: nothing, a text, or a list of `{name, template}`; `None` if it is something else.
    pub fn from_json(json: &Value) -> Option<Self> {
        let named = |entry: &Value| {
            Some((entry.get("name")?.as_str()?.to_owned(), entry.get("template")?.as_str()?.to_owned()))
        };
        match json {
            Value::Null => Some(Self::default()),
            Value::String(source) => Some(Self::single(source.clone())),
            Value::Array(list) => Some(Self { templates: list.iter().map(named).collect::<Option<_>>()? }),
            _ => None,
        }
    }

    /// Adds a template, or replaces the one of that name.
    pub fn insert(&mut self, name: &str, source: String) {
        self.templates.retain(|(known, _)| known != name);
        self.templates.push((name.to_owned(), source));
    }

    /// The source of the template to use: the one named, or without a name `default`, or the only one there is.
    /// `Ok(None)` if the checkpoint has no templates and none was asked for.
    pub fn select(&self, name: Option<&str>) -> Result<Option<&str>, TokenizerError> {
        let find = |name: &str| self.templates.iter().find(|(known, _)| known == name);
        let found = match (name, self.templates.as_slice()) {
            (Some(name), _) => find(name),
            (None, []) => return Ok(None),
            (None, [only]) => Some(only),
            (None, _) => find(DEFAULT_TEMPLATE),
        };
        match found {
            Some((_, source)) => Ok(Some(source)),
            None => Err(TokenizerError::UnknownTemplate {
                name: name.unwrap_or(DEFAULT_TEMPLATE).to_owned(),
                known: self.names().collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// The names there are, in the file's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|(name, _)| name.as_str())
    }
}

fn read_if_present(path: &Path) -> Result<Option<String>, TokenizerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Read { path: path.to_owned(), source }),
    }
}

/// A value short enough for an error message.
fn excerpt(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TokenizerConfig, TokenizerError> {
        TokenizerConfig::parse(text, Path::new("tokenizer_config.json"))
    }

    #[test]
    fn tokens_are_texts_or_objects() {
        let config =
            parse(r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "add_bos_token": true}"#)
                .expect("both forms are known");
        assert_eq!(config.bos_token.as_deref(), Some("<s>"), "object");
        assert_eq!(config.eos_token.as_deref(), Some("</s>"), "text");
        assert_eq!((config.add_bos_token, config.add_eos_token), (Some(true), None), "one flag is given");
    }

    #[test]
    fn templates_are_selected_by_name() {
        let config =
            parse(r#"{"chat_template": [{"name": "default", "template": "A"}, {"name": "rag", "template": "B"}]}"#)
                .expect("a list of templates");
        let templates = config.chat_templates;
        assert_eq!(templates.select(None).expect("there is a default"), Some("A"), "default");
        assert_eq!(templates.select(Some("rag")).expect("it is listed"), Some("B"), "by name");
        let message = templates.select(Some("tools")).expect_err("not listed").to_string();
        assert!(message.contains("\"tools\"") && message.contains("default, rag"), "{message}");
        assert_eq!(ChatTemplates::default().select(None).expect("none asked for"), None, "none there");
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in ["[]", "{", r#"{"bos_token": 1}"#, r#"{"add_bos_token": "yes"}"#, r#"{"chat_template": [1]}"#] {
            let message = parse(text).expect_err("malformed").to_string();
            assert!(message.starts_with("tokenizer_config.json: expected"), "{text}: {message}");
        }
    }
}
