//! The executor together with the ids its KV cache holds.
//!
//! Computes the logits after a context and knows how much of it need not be computed again; chooses nothing.
//! Invariant: `ids` are the tokens behind the executor's `position`, also after a failed forward.

use std::sync::atomic::AtomicBool;

use crate::exec::{Batch, ExecError, Executor, LogitRows, Logits};

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

    /// Logits after `context`, or `None` when cancelled before they were there.
    pub(super) fn advance(&mut self, context: &[u32], cancel: &AtomicBool) -> Result<Option<Logits>, ExecError> {
        self.ids.truncate(self.reusable(context));
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
}
