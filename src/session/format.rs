//! How a conversation becomes text, and what ends a reply in it.
//!
//! Chosen by [`Language::chat_format`](super::Language::chat_format); knows no session. Invariant: a format that
//! refuses the messages is an error in its own words, never another format.

use std::fmt;

use super::SessionError;
use super::style::Style;
use crate::tokenizer::{ChatTemplate, Message, Special, Tokenizer};

/// Tokens that end a turn in formats whose checkpoints name only another EOS, or none. One counts where the
/// template writes it.
const TURN_ENDS: &[&str] = &[
    "<|im_end|>",            // ChatML
    "<|eot_id|>",            // Llama 3
    "<|eom_id|>",            // Llama 3.1
    "<|eot|>",               // Llama 4
    "<end_of_turn>",         // Gemma
    "<|end|>",               // Phi-3
    "<|end_of_turn|>",       // OpenChat
    "<|END_OF_TURN_TOKEN|>", // Command R
    "<|endoftext|>",         // StableLM Zephyr
    "</s>",                  // Zephyr
];

/// What ends a reply, beside the checkpoint's EOS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stops {
    /// Sequences of tokens.
    pub(super) tokens: Vec<Vec<u32>>,
    /// Texts.
    pub(super) texts: Vec<String>,
}

/// How messages become one text. [`fmt::Display`] names it.
#[derive(Debug)]
pub struct ChatFormat {
    kind: Kind,
    stops: Stops,
}

#[derive(Debug)]
enum Kind {
    Template { template: Box<ChatTemplate>, origin: String },
    Style(&'static Style),
    Plain,
}

impl ChatFormat {
    /// By a template, which also writes BOS where the model wants it. `origin` says whose it is.
    pub fn template(template: ChatTemplate, origin: impl Into<String>) -> Self {
        Self { kind: Kind::Template { template: Box::new(template), origin: origin.into() }, stops: Stops::default() }
    }

    /// As they are, replies right behind what they answer, other messages on a line of their own: for models that
    /// were not taught to talk.
    pub fn plain() -> Self {
        Self { kind: Kind::Plain, stops: Stops::default() }
    }

    /// By a style of the table, with its stops.
    pub(super) fn style(style: &'static Style, tokenizer: &Tokenizer) -> Result<Self, SessionError> {
        Ok(Self { kind: Kind::Style(style), stops: style.stops(tokenizer)? })
    }

    /// Ends replies with the well-known tokens that `source`, the template's text, writes.
    pub(super) fn with_turn_ends_of(mut self, source: &str, tokenizer: &Tokenizer) -> Self {
        // where a model has <|return|>, <|end|> is only between its thoughts and its answer
        let channels = tokenizer.id("<|return|>").is_some();
        let written = TURN_ENDS.iter().filter(|text| source.contains(**text) && !(channels && **text == "<|end|>"));
        self.stops.tokens.extend(written.filter_map(|text| tokenizer.id(text)).map(|id| vec![id]));
        self
    }

    /// Whether messages are continued as they are, for want of anything better.
    pub fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::Plain)
    }

    /// Whether the format comes from the table of styles.
    pub fn is_style(&self) -> bool {
        matches!(self.kind, Kind::Style(_))
    }

    /// Checks that a conversation can begin with this system message.
    ///
    /// # Errors
    /// A format without a place for one, with the reason in its own words.
    pub fn check_system(&self, system: &str) -> Result<(), SessionError> {
        let messages = [Message::new("system", system), Message::new("user", "?")];
        let refused = |reason| SessionError::NoSystemMessage { format: self.to_string(), reason };
        match self.render(&messages) {
            Err(SessionError::Tokenizer(error)) => Err(refused(error.to_string())),
            Ok(text) if !text.contains(system.trim()) => Err(refused("it leaves the message out".into())),
            result => result.map(|_| ()),
        }
    }

    pub(super) fn stops(&self) -> &Stops {
        &self.stops
    }

    pub(super) fn render(&self, messages: &[Message]) -> Result<String, SessionError> {
        match &self.kind {
            Kind::Template { template, .. } => Ok(template.render(messages, true)?),
            Kind::Style(style) => style.render(messages),
            Kind::Plain => {
                let mut text = String::new();
                for message in messages {
                    if !text.is_empty() && message.role != "assistant" {
                        text.push('\n');
                    }
                    text.push_str(&message.content);
                }
                Ok(text)
            }
        }
    }

    /// Whether the tokenizer adds BOS to the first text; one that is written out there is never doubled.
    pub(super) fn special(&self) -> Special {
        match &self.kind {
            Kind::Template { .. } => Special::None,
            Kind::Style(_) | Kind::Plain => Special::Add,
        }
    }
}

impl fmt::Display for ChatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Template { origin, .. } => f.write_str(origin),
            Kind::Style(style) => write!(f, "style {}", style.name),
            Kind::Plain => f.write_str("plain text"),
        }
    }
}
