//! `tokenizer_config.json` and what older checkpoints keep beside it (`special_tokens_map.json`, `added_tokens.json`):
//! which tokens begin and end a text, whether they are added, tokens beside the vocabulary, and chat templates.
//!
//! Reads only what this room uses; the rest of the files is for Python. Does not decide anything: see
//! [`super::Tokenizer::from_file`]. Invariant: a missing file or key is `None`, a malformed one is an error.

use std::path::Path;

use serde_json::Value;

use super::TokenizerError;
use super::added_token::{self, AddedToken};

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
    /// `chat_template`, and the files beside `tokenizer_config.json` that hold templates.
    pub chat_templates: ChatTemplates,
    /// `tokenizer_class`: the Python class, without the `Fast` some end in. Only needed without `tokenizer.json`.
    pub tokenizer_class: Option<String>,
    /// `legacy`: `false` puts a space only in front of the whole text, not behind special tokens.
    pub legacy: Option<bool>,
    /// `add_prefix_space`
    pub add_prefix_space: Option<bool>,
    /// `added_tokens_decoder` and `added_tokens.json`, and what any of the files calls special.
    pub added_tokens: Vec<AddedToken>,
}

/// Chat templates by name; one alone is called `default`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    templates: Vec<(String, String)>,
}

impl TokenizerConfig {
    /// Reads `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` in a directory, and the files in
    /// which checkpoints keep templates by themselves; all may be missing. `tokenizer_config.json` wins over the older
    /// files, the newer ones over it: `chat_template.jinja` and `additional_chat_templates/NAME.jinja` replace what it
    /// calls the same, and `chat_template.json`, a processor's copy, counts only where it has no template.
    pub fn in_directory(directory: &Path) -> Result<Self, TokenizerError> {
        let path = directory.join("tokenizer_config.json");
        let mut config = match read_if_present(&path)? {
            Some(text) => Self::parse(&text, &path)?,
            None => Self::default(),
        };
        let path = directory.join("added_tokens.json");
        if let Some(text) = read_if_present(&path)? {
            added_token::read_ids(&mut config.added_tokens, &parse_object(&text, &path)?)
                .map_err(|found| malformed(&path, "{text: id}", found))?;
        }
        let path = directory.join("special_tokens_map.json");
        if let Some(text) = read_if_present(&path)? {
            config.add_special_tokens(&parse_object(&text, &path)?, &path)?;
        }
        let templates = &mut config.chat_templates;
        let path = directory.join("chat_template.json");
        if let (true, Some(text)) = (templates.templates.is_empty(), read_if_present(&path)?) {
            *templates = Self::parse(&text, &path)?.chat_templates;
        }
        if let Some(source) = read_if_present(&directory.join("chat_template.jinja"))? {
            templates.insert(DEFAULT_TEMPLATE, source);
        }
        for (name, source) in additional_templates(&directory.join("additional_chat_templates"))? {
            templates.insert(&name, source);
        }
        Ok(config)
    }

    /// Reads the text of a `tokenizer_config.json`; `path` is named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TokenizerError> {
        let json = parse_object(text, path)?;
        let flag = |key: &str| match &json[key] {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(*flag)),
            other => Err(malformed(path, "true or false for flags", format!("{key}: {}", excerpt(other)))),
        };
        let chat_templates = ChatTemplates::from_json(&json["chat_template"]).ok_or_else(|| {
            malformed(
                path,
                "chat_template as a text, a list of {name, template} or {name: template}",
                excerpt(&json["chat_template"]),
            )
        })?;
        let class = json["tokenizer_class"].as_str();
        let mut config = Self {
            add_bos_token: flag("add_bos_token")?,
            add_eos_token: flag("add_eos_token")?,
            chat_templates,
            tokenizer_class: class.map(|class| class.strip_suffix("Fast").unwrap_or(class).to_owned()),
            legacy: flag("legacy")?,
            add_prefix_space: flag("add_prefix_space")?,
            ..Self::default()
        };
        added_token::read_decoder(&mut config.added_tokens, &json["added_tokens_decoder"])
            .map_err(|found| malformed(path, "added_tokens_decoder as {id: {content, special}}", found))?;
        config.add_special_tokens(&json, path)?;
        Ok(config)
    }

    /// BOS and EOS where they are not known yet, and everything the file calls special.
    fn add_special_tokens(&mut self, json: &Value, path: &Path) -> Result<(), TokenizerError> {
        let token = |key: &str| match &json[key] {
            Value::Null => Ok(None),
            value => AddedToken::of_json(value).map(Some).ok_or_else(|| {
                let expected = "a text or {\"content\": text} for bos_token and eos_token";
                malformed(path, expected, format!("{key}: {}", excerpt(value)))
            }),
        };
        let (bos, eos) = (token("bos_token")?, token("eos_token")?);
        let content = |token: &Option<AddedToken>| token.as_ref().map(|token| token.content.clone());
        self.bos_token = self.bos_token.take().or_else(|| content(&bos));
        self.eos_token = self.eos_token.take().or_else(|| content(&eos));
        let listed = json["additional_special_tokens"].as_array().into_iter().flatten();
        let others = [&json["unk_token"], &json["pad_token"]].into_iter().chain(listed).filter_map(AddedToken::of_json);
        for token in [bos, eos].into_iter().flatten().chain(others) {
            added_token::merge_special(&mut self.added_tokens, token);
        }
        Ok(())
    }
}

impl ChatTemplates {
    /// One template.
    pub fn single(source: String) -> Self {
        Self { templates: vec![(DEFAULT_TEMPLATE.to_owned(), source)] }
    }

    /// The JSON forms: nothing, a text, a list of `{name, template}`, or an object of texts by name; `None` if it is
    /// something else.
    pub fn from_json(json: &Value) -> Option<Self> {
        let named = |entry: &Value| {
            Some((entry.get("name")?.as_str()?.to_owned(), entry.get("template")?.as_str()?.to_owned()))
        };
        match json {
            Value::Null => Some(Self::default()),
            Value::String(source) => Some(Self::single(source.clone())),
            Value::Object(named) => {
                let source = |(name, source): (&String, &Value)| Some((name.clone(), source.as_str()?.to_owned()));
                Some(Self { templates: named.iter().map(source).collect::<Option<_>>()? })
            }
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

/// The `.jinja` files of a folder by their names, sorted; a missing folder has none.
fn additional_templates(folder: &Path) -> Result<Vec<(String, String)>, TokenizerError> {
    let unreadable = |source| TokenizerError::Read { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut templates = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|_| path.extension().is_some_and(|extension| extension == "jinja"))
            && let Some(source) = read_if_present(&path)?
        {
            templates.push((name.to_owned(), source));
        }
    }
    templates.sort();
    Ok(templates)
}

fn read_if_present(path: &Path) -> Result<Option<String>, TokenizerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Read { path: path.to_owned(), source }),
    }
}

fn malformed(path: &Path, expected: &'static str, found: String) -> TokenizerError {
    TokenizerError::Malformed { path: path.to_owned(), expected, found }
}

fn parse_object(text: &str, path: &Path) -> Result<Value, TokenizerError> {
    let json: Value = serde_json::from_str(text).map_err(|error| malformed(path, "JSON", error.to_string()))?;
    if json.is_object() { Ok(json) } else { Err(malformed(path, "an object", excerpt(&json))) }
}

/// A value short enough for an error message.
pub(super) fn excerpt(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> TokenizerConfig {
        let folder = tempfile::tempdir().expect("a scratch folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        TokenizerConfig::in_directory(folder.path()).expect("well-formed files")
    }

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
        let by_name = parse(r#"{"chat_template": {"default": "A", "rag": "B"}}"#).expect("an object of templates");
        assert_eq!(by_name.chat_templates, templates, "the other form");
        assert_eq!(ChatTemplates::default().select(None).expect("none asked for"), None, "none there");
    }

    #[test]
    fn templates_are_found_in_every_file_that_may_hold_them() {
        let config = ("tokenizer_config.json", r#"{"chat_template": "config"}"#);
        let json = ("chat_template.json", r#"{"chat_template": "json"}"#);
        let jinja = ("chat_template.jinja", "jinja");
        let rag = ("additional_chat_templates/rag.jinja", "rag");
        let select = |files: &[(&str, &str)]| {
            let templates = directory(files).chat_templates;
            templates.select(None).expect("one by default").map(str::to_owned)
        };
        assert_eq!(select(&[json]).as_deref(), Some("json"), "a processor's copy");
        assert_eq!(select(&[json, config]).as_deref(), Some("config"), "before it the tokenizer's own");
        assert_eq!(select(&[json, config, jinja]).as_deref(), Some("jinja"), "before both the newer file");
        let several = directory(&[config, rag, ("additional_chat_templates/notes.txt", "no template")]).chat_templates;
        assert_eq!(several.select(None).expect("a default"), Some("config"), "default");
        assert_eq!(several.select(Some("rag")).expect("it is there"), Some("rag"), "by the file's name");
        assert_eq!(several.names().collect::<Vec<_>>(), ["default", "rag"], "templates only");
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in ["[]", "{", r#"{"bos_token": 1}"#, r#"{"add_bos_token": "yes"}"#, r#"{"chat_template": [1]}"#] {
            let message = parse(text).expect_err("malformed").to_string();
            assert!(message.starts_with("tokenizer_config.json: expected"), "{text}: {message}");
        }
    }
}
