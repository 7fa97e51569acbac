//! The executor together with the ids its KV cache holds.
//!
//! Computes the logits after a context, or the token after it, and knows how much of it need not be computed again.
//! Invariant: `ids` are the first tokens behind the executor's `position`, also after a failed forward. What the
//! executor holds beyond them was computed ahead of a text that ended; it is never counted on.

use std::sync::atomic::AtomicBool;

use crate::exec::{Batch, Chosen, ExecError, Executor, Line, LogitRows, Logits};
use crate::sampler::Rule;

/// An executor and what it remembers.
pub(super) struct Cache {
    executor: Box<dyn Executor>,
    ids: Vec<u32>,
}

impl Cache {
    /// Takes an executor that holds nothing of use.
    pub(super) fn new(executor: Box<dyn Executor>) -> Self {
        Self { executor, ids: Vec::new() }
    }

    /// The executor, to be asked about itself.
    pub(super) fn executor(&self) -> &dyn Executor {
        self.executor.as_ref()
    }

    /// Tokens remembered.
    pub(super) fn held(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of this context whose logits a forward need not compute again. The last one is always computed, since
    /// its logits are wanted.
    pub(super) fn reusable(&self, context: &[u32]) -> usize {
        let common = self.ids.iter().zip(context).take_while(|(held, wanted)| held == wanted).count();
        common.min(context.len().saturating_sub(1))
    }

    /// Forgets what is not this context's.
    pub(super) fn keep(&mut self, context: &[u32]) {
        self.ids.truncate(self.reusable(context));
    }

    /// Logits after `context`, or `None` when cancelled before they were there.
    pub(super) fn advance(&mut self, context: &[u32], cancel: &AtomicBool) -> Result<Option<Logits>, ExecError> {
        self.keep(context);
        // The whole prompt at once: an executor of several adapters keeps all of them busy as long as there is more of
        // it, and looks at the flag between chunks.
        let tokens = &context[self.ids.len()..];
        if tokens.is_empty() {
            return Ok(None);
        }
        let batch = Batch { tokens, position: self.ids.len() as u32, logits: LogitRows::Last };
        let forward = self.executor.forward_unless(&batch, cancel);
        // A forward that failed may have forgotten what lies beyond its position, and added nothing.
        let keep = self.executor.position() as usize;
        let logits = forward.inspect_err(|_| self.ids.truncate(keep))?;
        if logits.is_some() {
            self.ids.extend_from_slice(tokens);
        }
        Ok(logits)
    }

    /// Logits `(1 + guesses, vocab_size)` after `context`, of which only the last token is not held yet, and after each of
    /// the guesses behind it. They are held only once they are confirmed. `None` when cancelled.
    pub(super) fn verify(
        &mut self,
        context: &[u32],
        guesses: &[u32],
        cancel: &AtomicBool,
    ) -> Result<Option<Logits>, ExecError> {
        let position = self.ids.len();
        let tokens = [&context[position..], guesses].concat();
        let batch = Batch { tokens: &tokens, position: position as u32, logits: LogitRows::All };
        let forward = self.executor.forward_unless(&batch, cancel);
        match &forward {
            Ok(Some(_)) => self.ids.extend_from_slice(&context[position..]),
            // As after any forward that failed.
            _ => self.ids.truncate(self.executor.position() as usize),
        }
        forward
    }

    /// The next guess of the last [`Self::verify`] was right: the executor holds it already.
    pub(super) fn confirm(&mut self, guess: u32) {
        self.ids.push(guess);
    }

    /// Whether all of this context but its last token is held, and nothing else.
    pub(super) fn holds_all_but_last(&self, context: &[u32]) -> bool {
        self.ids.len() + 1 == context.len() && self.reusable(context) == self.ids.len()
    }

    /// Chooses the token after `context`, of which only the last one is not held yet; `line` is this text's.
    /// `wanted` tokens are to follow at most. Nothing when cancelled before it was there.
    pub(super) fn follow(
        &mut self,
        line: &mut Line,
        context: &[u32],
        wanted: usize,
        rule: &dyn Fn(u64) -> Rule,
        cancel: &AtomicBool,
    ) -> Result<Option<Chosen>, ExecError> {
        let position = self.ids.len();
        let last = (context[position], position as u32);
        let chosen = line.next(self.executor.as_mut(), last, wanted, rule, cancel);
        match &chosen {
            Ok(Some(_)) => self.ids.push(context[position]),
            // As after any forward that failed.
            _ => self.ids.truncate(self.executor.position() as usize),
        }
        chosen
    }
}
