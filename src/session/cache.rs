//! The executor together with the ids its KV cache holds.
//!
//! Computes the logits after a context and knows how much of it need not be computed again; chooses nothing.
//! Invariant: `ids` are the tokens behind the executor's `position`, also after a failed forward.

use std::sync::atomic::AtomicBool;

use crate::exec::{Batch, ExecError, Executor, LogitRows, Logits};

/// Tokens between two looks at the cancel flag. A long prompt can be cancelled within one such stretch; each costs
/// one unneeded row of logits, well under a percent of its work.
const CANCEL_STRIDE: usize = 512;

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
        let mut logits = None;
        self.ids.truncate(self.reusable(context));
        for stretch in context[self.ids.len()..].chunks(CANCEL_STRIDE) {
            let position = self.ids.len() as u32;
            let batch = Batch { tokens: stretch, position, logits: LogitRows::Last };
            let forward = self.executor.forward_unless(&batch, cancel);
            // A forward that failed may have forgotten what lies beyond its position, and added nothing.
            let keep = self.executor.position() as usize;
            let Some(computed) = forward.inspect_err(|_| self.ids.truncate(keep))? else { return Ok(None) };
            logits = Some(computed);
            self.ids.extend_from_slice(stretch);
        }
        Ok(logits)
    }
}
