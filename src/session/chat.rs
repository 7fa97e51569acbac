//! A conversation: messages, their template, and the ids the model has really seen.
//!
//! Reads no terminal and prints nothing. Invariant: `seen` pairs the rendered text of the conversation so far with
//! the ids that stand for it, replies as the model generated them: another encoding of the same reply would not be
//! what the model said and would have to be prefilled anew. A turn appends ids to it; where a template rewrites what
//! it rendered before (drops reasoning, trims), the whole conversation is encoded again and the KV cache keeps the
//! longest common beginning. A turn that fails leaves the conversation as it was before.

use std::ops::ControlFlow;

use super::generate::{FinishReason, GenerateParams, Outcome};
use super::{Session, SessionError};
use crate::tokenizer::{ChatTemplate, Message, Special};

/// How messages become one text.
#[derive(Debug)]
pub enum ChatFormat {
    /// By the checkpoint's own template, which also writes BOS where the model wants it.
    Template(Box<ChatTemplate>),
    /// As they are, replies right behind what they answer, other messages on a line of their own: for models
    /// without a template.
    Plain,
}

impl ChatFormat {
    fn render(&self, messages: &[Message]) -> Result<String, SessionError> {
        match self {
            Self::Template(template) => Ok(template.render(messages, true)?),
            Self::Plain => {
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

    /// Whether the tokenizer adds BOS to the first text.
    fn special(&self) -> Special {
        match self {
            Self::Template(_) => Special::None,
            Self::Plain => Special::Add,
        }
    }
}

/// A conversation with a model.
#[derive(Debug)]
pub struct Chat {
    session: Session,
    format: ChatFormat,
    messages: Vec<Message>,
    /// The conversation's text and its ids; `None` before the first reply and after one whose ids are not its text.
    seen: Option<(String, Vec<u32>)>,
    turns: u64,
}

impl Chat {
    /// A conversation that begins with this system message.
    pub fn new(session: Session, format: ChatFormat, system: Option<&str>) -> Self {
        let mut chat = Self { session, format, messages: Vec::new(), seen: None, turns: 0 };
        chat.reset(system);
        chat
    }

    /// Forgets the conversation and begins another with this system message.
    pub fn reset(&mut self, system: Option<&str>) {
        self.messages.clear();
        self.messages.extend(system.map(|text| Message::new("system", text)));
        self.seen = None;
        self.turns = 0;
    }

    /// The system message, where there is one.
    pub fn system(&self) -> Option<&str> {
        self.messages.first().filter(|message| message.role == "system").map(|message| message.content.as_str())
    }

    /// Everything said so far, system message first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The session, to be asked about its context and memory.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Says `text` and streams the reply to `show`, which may break it off. The random stream of `params` is
    /// replaced by the turn's number. A reply that is broken off or cancelled stays in the conversation as far as
    /// it went; if nothing came, neither does the question.
    ///
    /// # Errors
    /// A template that refuses the messages, a conversation beyond the context, or a failing executor.
    pub fn reply(
        &mut self,
        text: &str,
        params: &GenerateParams,
        show: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Outcome, SessionError> {
        self.messages.push(Message::new("user", text));
        let outcome = self.answer(params, show);
        if !matches!(&outcome, Ok(outcome) if !outcome.ids.is_empty() || outcome.finish == FinishReason::EndOfText) {
            self.messages.pop();
        }
        outcome
    }

    fn answer(
        &mut self,
        params: &GenerateParams,
        mut show: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Outcome, SessionError> {
        let rendered = self.format.render(&self.messages)?;
        let prompt = self.encode(&rendered)?;
        let context_length = self.session.context_length();
        if prompt.len() >= context_length as usize {
            return Err(SessionError::ConversationTooLong { tokens: prompt.len(), context_length });
        }
        let params = GenerateParams { stream: self.turns, ..params.clone() };
        let mut stream = self.session.generate(&prompt, &params)?;
        let (mut reply, mut exact) = (String::new(), true);
        for piece in stream.by_ref() {
            let piece = piece?;
            reply.push_str(&piece.text);
            if !piece.text.is_empty() && show(&piece.text).is_break() {
                // text may still be held back whose ids are already in the outcome
                exact = false;
                break;
            }
        }
        let outcome = stream.into_outcome();
        if !outcome.ids.is_empty() || outcome.finish == FinishReason::EndOfText {
            self.messages.push(Message::new("assistant", reply.as_str()));
            self.turns += 1;
            // nor are the tokens of a stop string in the text
            exact &= outcome.finish != FinishReason::StopString;
            self.seen = exact.then(|| (rendered + &reply, [prompt.as_slice(), &outcome.ids].concat()));
        }
        Ok(outcome)
    }

    /// The ids of the rendered conversation: those seen, and new ones for what was added.
    fn encode(&self, rendered: &str) -> Result<Vec<u32>, SessionError> {
        let tokenizer = self.session.tokenizer();
        if let Some((text, ids)) = &self.seen
            && let Some(added) = rendered.strip_prefix(text.as_str())
        {
            return Ok([ids.as_slice(), &tokenizer.encode(added, Special::None)?].concat());
        }
        Ok(tokenizer.encode(rendered, self.format.special())?)
    }
}
