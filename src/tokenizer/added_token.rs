//! Tokens beside a vocabulary: what `added_tokens_decoder`, `added_tokens.json` and the special tokens of a checkpoint
//! say, as one list.
//!
//! Only for checkpoints without `tokenizer.json`, which has a list of its own. Does not find them in text. Invariant: a
//! text is in the list once.

use serde_json::Value;

use super::config::excerpt;
use super::whole_tokens::Edges;

/// A token beside the vocabulary, or a special one of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddedToken {
    /// Its text.
    pub content: String,
    /// Its id; `None` where it is the vocabulary's to say.
    pub id: Option<u32>,
    /// Steers the model, is not part of a reply's text.
    pub special: bool,
    /// Takes the spaces in front of it.
    pub lstrip: bool,
    /// Takes the spaces behind it.
    pub rstrip: bool,
    /// Is only found as a word of its own.
    pub single_word: bool,
}

impl AddedToken {
    /// A text, or an object with `content` and properties.
    pub(super) fn of_json(json: &Value) -> Option<Self> {
        let flag = |key: &str| json.get(key).and_then(Value::as_bool).unwrap_or(false);
        let content = json.as_str().or_else(|| json.get("content")?.as_str())?.to_owned();
        Some(Self {
            content,
            id: None,
            special: flag("special"),
            lstrip: flag("lstrip"),
            rstrip: flag("rstrip"),
            single_word: flag("single_word"),
        })
    }

    /// Its flags at both ends.
    pub(super) fn edges(&self) -> Edges {
        Edges { left: self.lstrip, right: self.rstrip, alone: self.single_word }
    }
}

/// `added_tokens_decoder`: ids to tokens.
pub(super) fn read_decoder(tokens: &mut Vec<AddedToken>, json: &Value) -> Result<(), String> {
    for (id, value) in entries(json)? {
        let token = id.parse().ok().and_then(|id| Some(AddedToken { id: Some(id), ..AddedToken::of_json(value)? }));
        let token = token.ok_or_else(|| format!("{id}: {}", excerpt(value)))?;
        tokens.retain(|known| known.content != token.content);
        tokens.push(token);
    }
    Ok(())
}

/// `added_tokens.json`: texts to ids; what is known already stays as it is.
pub(super) fn read_ids(tokens: &mut Vec<AddedToken>, json: &Value) -> Result<(), String> {
    for (text, value) in entries(json)? {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| format!("{text:?}: {}", excerpt(value)))?;
        match tokens.iter_mut().find(|known| known.content == *text) {
            Some(known) => known.id = known.id.or(Some(id)),
            None => tokens.push(AddedToken { content: text.clone(), id: Some(id), ..AddedToken::default() }),
        }
    }
    Ok(())
}

/// Marks a token as special, and adds it where it is not listed.
pub(super) fn merge_special(tokens: &mut Vec<AddedToken>, token: AddedToken) {
    match tokens.iter_mut().find(|known| known.content == token.content) {
        Some(known) => known.special = true,
        None => tokens.push(AddedToken { special: true, ..token }),
    }
}

fn entries(json: &Value) -> Result<impl Iterator<Item = (&String, &Value)>, String> {
    match json {
        Value::Null => Ok(None.into_iter().flatten()),
        Value::Object(entries) => Ok(Some(entries).into_iter().flatten()),
        other => Err(excerpt(other)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_source_adds_to_one_list() {
        let mut tokens = Vec::new();
        let decoder = json!({"7": {"content": "<x>", "special": false, "rstrip": true}, "8": {"content": "<y>"}});
        read_decoder(&mut tokens, &decoder).expect("the decoder is sound");
        read_ids(&mut tokens, &json!({"<x>": 9, "<z>": 10})).expect("the ids are sound");
        merge_special(&mut tokens, AddedToken::of_json(&json!("<y>")).expect("a text"));
        merge_special(&mut tokens, AddedToken::of_json(&json!({"content": "<s>", "lstrip": true})).expect("an object"));
        let found: Vec<_> = tokens.iter().map(|token| (token.content.as_str(), token.id, token.special)).collect();
        let expected = [("<x>", Some(7), false), ("<y>", Some(8), true), ("<z>", Some(10), false), ("<s>", None, true)];
        assert_eq!(found, expected, "each once, the first word counts");
        assert!(tokens[0].rstrip && tokens[3].lstrip, "with their properties");
    }

    #[test]
    fn other_shapes_are_refused() {
        assert!(read_decoder(&mut Vec::new(), &json!({"x": {"content": "a"}})).is_err(), "x is no id");
        assert!(read_decoder(&mut Vec::new(), &json!({"1": 2})).is_err(), "2 is no token");
        assert!(read_ids(&mut Vec::new(), &json!({"a": -1})).is_err(), "-1 is no id");
        assert!(read_ids(&mut Vec::new(), &json!([1])).is_err(), "no object");
    }
}
