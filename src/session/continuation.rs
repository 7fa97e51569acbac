//! The next token of one text, the plain way: a forward and a choice for each.
//!
//! After a prompt the choice is made here; from then on where the logits are, as far as it depends on nothing else, with
//! forwards queued ahead. Invariant: the tokens are those of the sampler and the logits after each context, whoever
//! asks: a text, or a draft of it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::SessionError;
use super::cache::Cache;
use crate::exec::{Chosen, Line};
use crate::sampler::Sampler;

/// What goes on with one text.
pub(super) struct Continuation<'s> {
    pub(super) cache: &'s mut Cache,
    pub(super) sampler: Sampler,
    /// Forwards on their way.
    pub(super) line: Line,
}

impl<'s> Continuation<'s> {
    pub(super) fn new(cache: &'s mut Cache, sampler: Sampler) -> Self {
        Self { cache, sampler, line: Line::default() }
    }

    /// The token after `context`, or `None` when cancelled. `wanted` are to follow at most, this one included.
    pub(super) fn next(
        &mut self,
        context: &[u32],
        wanted: usize,
        cancel: &AtomicBool,
    ) -> Result<Option<u32>, SessionError> {
        if !self.sampler.needs_no_history() || !self.cache.holds_all_but_last(context) {
            let logits = self.cache.advance(context, cancel)?;
            let choice = logits.map(|logits| self.sampler.sample(logits.last(), context));
            return Ok(choice.transpose()?);
        }
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Self { cache, sampler, line } = self;
        match cache.follow(line, context, wanted, &|ahead| sampler.rule(ahead), cancel)? {
            Some(Chosen::Token(id)) => {
                sampler.accept();
                Ok(Some(id))
            }
            Some(Chosen::Failed(error)) => Err(error.into()),
            Some(Chosen::Undecided) => unreachable!("a line leaves no choice open"),
            None => Ok(None),
        }
    }
}
