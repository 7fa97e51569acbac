//! A conversation: messages, their template, and the ids the model has really seen.
//!
//! Reads no terminal and prints nothing. Invariant: `seen` pairs the rendered text of the conversation so far with
//! the ids that stand for it, replies as the model generated them: another encoding of the same reply would not be
//! what the model said and would have to be prefilled anew. A turn appends ids to it; where a template rewrites what
//! it rendered before (drops reasoning, trims), the whole conversation is encoded again and the KV cache keeps the
//! longest common beginning. A turn that fails leaves the conversation as it was before.

use std::ops::ControlFlow;

use super::generate::{FinishReason, GenerateParams, Outcome};
use super::{ChatFormat, Session, SessionError};
use crate::tokenizer::{Message, Special, Tokenizer, TokenizerError};

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

    /// How messages become text.
    pub fn format(&self) -> &ChatFormat {
        &self.format
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
        if !outcome.as_ref().is_ok_and(is_reply) {
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
        let mut params = GenerateParams { stream: self.turns, ..params.clone() };
        params.stop.extend_from_slice(&self.format.stops().texts);
        params.stop_tokens.extend_from_slice(&self.format.stops().tokens);
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
        if is_reply(&outcome) {
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
            return Ok([ids.as_slice(), &encode_behind_text(tokenizer, added)?].concat());
        }
        Ok(tokenizer.encode(rendered, self.format.special())?)
    }
}

/// Whether something was answered, be it nothing: a reply that was cut off before it began is none.
fn is_reply(outcome: &Outcome) -> bool {
    !outcome.ids.is_empty() || matches!(outcome.finish, FinishReason::EndOfText | FinishReason::StopTokens)
}

/// The ids of a text that goes on behind another one. Tokenizers that put a space in front of every text must not do
/// so in the middle of a conversation, so the text is encoded behind a letter, whose ids are taken off again; unless
/// the two have grown together, which a text that begins with a mark or a line break does not.
pub(super) fn encode_behind_text(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TokenizerError> {
    const LETTER: &str = "a";
    let letter = tokenizer.encode(LETTER, Special::None)?;
    let both = tokenizer.encode(&[LETTER, text].concat(), Special::None)?;
    match both.strip_prefix(letter.as_slice()) {
        Some(ids) => Ok(ids.to_vec()),
        None => tokenizer.encode(text, Special::None),
    }
}
