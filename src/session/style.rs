//! Prompt styles: conversations as text for models that bring no chat template.
//!
//! A style is a few texts around what is said (`styles` holds the table); it reads no files and chooses nothing.
//! Every turn is rendered as the first one is, save for the system message, and the replies stand between them
//! letter by letter. Invariant: what was rendered for a turn is the beginning of what is rendered for the next one,
//! so that the KV cache keeps it; and a text that is said is never looked into for placeholders.

use super::SessionError;
use super::format::Stops;
use super::styles::STYLES;
use crate::tokenizer::{Message, Special, Tokenizer, TokenizerError};

/// How one kind of model is spoken to: `start (lead [system] before prompt after reply between)…`.
#[derive(Debug)]
pub(super) struct Style {
    /// What `--template` calls it.
    pub(super) name: &'static str,
    /// Patterns of checkpoint paths; `*` stands for anything, and anything may surround them.
    pub(super) paths: &'static [&'static str],
    /// Begins the conversation.
    pub(super) start: &'static str,
    /// Begins every turn.
    pub(super) lead: &'static str,
    /// Where the first turn has the system message; `None` where there is no place for one.
    pub(super) system: Option<System>,
    /// Stands before what the user says.
    pub(super) before: &'static str,
    /// Stands behind it; the reply follows.
    pub(super) after: &'static str,
    /// Stands between a reply and the next turn.
    pub(super) between: &'static str,
    /// Sequences of tokens that end a reply, each token by its text.
    pub(super) stop: &'static [&'static [&'static str]],
}

/// The place of a system message.
#[derive(Debug)]
pub(super) struct System {
    /// Stands before it.
    pub(super) before: &'static str,
    /// What is said where the user gives none; `None`: nothing, and nothing around it.
    pub(super) own: Option<&'static str>,
    /// Stands behind it.
    pub(super) after: &'static str,
}

impl Style {
    /// A style of nothing, to be filled in.
    pub(super) const NONE: Self =
        Self { name: "", paths: &[], start: "", lead: "", system: None, before: "", after: "", between: "", stop: &[] };

    /// The style of that name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        STYLES.iter().find(|style| style.name == name)
    }

    /// The style of a checkpoint by its path or its name.
    pub(super) fn of_path(path: &str) -> Option<&'static Self> {
        STYLES.iter().find(|style| style.paths.iter().any(|pattern| matches(pattern, path)))
    }

    /// Every name, in the table's order.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        STYLES.iter().map(|style| style.name)
    }

    /// The text of a conversation, up to where a reply begins.
    pub(super) fn render(&self, messages: &[Message]) -> Result<String, SessionError> {
        let (said, turns) = match messages.split_first() {
            Some((first, rest)) if first.role == "system" => (Some(first.content.as_str()), rest),
            _ => (None, messages),
        };
        let mut text = self.start.to_owned() + self.lead + &self.system(said)?;
        for (index, message) in turns.iter().enumerate() {
            if message.role == "assistant" {
                text.push_str(&message.content);
                continue;
            }
            if index > 0 {
                // models that are stopped at the next turn's beginning have written what stands before it
                text.push_str(&self.between[overlap(&text, self.between)..]);
                text.push_str(self.lead);
            }
            text.extend([self.before, &message.content, self.after]);
        }
        Ok(text)
    }

    fn system(&self, said: Option<&str>) -> Result<String, SessionError> {
        match (&self.system, said) {
            (None, None) => Ok(String::new()),
            (None, Some(_)) => Err(SessionError::NoSystemMessage {
                format: format!("style {}", self.name),
                reason: "it has no place for one".into(),
            }),
            (Some(system), said) => {
                Ok(said.or(system.own).map(|said| [system.before, said, system.after].concat()).unwrap_or_default())
            }
        }
    }

    /// The stop sequences in a tokenizer's ids. Where one of a sequence's texts is no token by itself, the joined
    /// text is looked for instead, however the model cuts it.
    pub(super) fn stops(&self, tokenizer: &Tokenizer) -> Result<Stops, TokenizerError> {
        let mut stops = Stops::default();
        for sequence in self.stop {
            let ids: Result<Option<Vec<u32>>, _> = sequence.iter().map(|text| token(tokenizer, text)).collect();
            match ids? {
                Some(ids) => stops.tokens.push(ids),
                None => stops.texts.push(sequence.concat()),
            }
        }
        Ok(stops)
    }
}

/// The one token that is this text.
fn token(tokenizer: &Tokenizer, text: &str) -> Result<Option<u32>, TokenizerError> {
    if let Some(id) = tokenizer.id(text) {
        return Ok(Some(id));
    }
    // vocabularies may write a text in letters of their own: a line break is `Ċ` in byte-level ones
    let ids = tokenizer.encode(text, Special::None)?;
    Ok(match ids.as_slice() {
        &[id] if tokenizer.decode(&[id], false) == text => Some(id),
        _ => None,
    })
}

/// The length of the longest end of `text` that `next` begins with.
fn overlap(text: &str, next: &str) -> usize {
    (0..=next.len()).rev().find(|&length| next.is_char_boundary(length) && text.ends_with(&next[..length])).unwrap_or(0)
}

/// Whether the parts between the `*` of `pattern` occur in `path`, one behind the other.
fn matches(pattern: &str, path: &str) -> bool {
    let mut rest = path;
    pattern.split('*').all(|part| match rest.split_once(part) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}
