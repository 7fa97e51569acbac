//! Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192), exact: a draft guesses, one forward verifies.
//!
//! A forward of the last token and the guesses behind it gives the logits after each of them, from which tokens are
//! chosen as without guesses: same rule, same draw, same history. As long as the choice is the guess, the next row is
//! that of the next token; the first one that is not is the text's all the same. Who guesses is the draft's matter,
//! when a text ends its stream's. Invariant: no token depends on a guess, and where nothing is guessed, tokens are
//! chosen the plain way, as fast as ever.

use std::sync::atomic::{AtomicBool, Ordering};

use super::SessionError;
use super::continuation::Continuation;
use super::draft::Draft;
use crate::exec::Logits;

/// What became of guesses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Guesses {
    /// Tokens that were guessed and verified.
    pub made: usize,
    /// Of those, tokens that the text really went on with.
    pub accepted: usize,
    /// Forwards of the text, that of its prompt included.
    pub forwards: usize,
}

/// The guesses at one text.
pub(super) struct Speculation<'s> {
    draft: &'s mut dyn Draft,
    /// Guesses of a forward at most.
    most: usize,
    /// What may come next.
    guesses: Vec<u32>,
    /// Whether their beginning has come already, chosen the plain way.
    tried: bool,
    /// The logits of the last token and of the guesses, and the row that the next token is chosen from.
    verified: Option<(Logits, usize)>,
    counts: Guesses,
}

impl<'s> Speculation<'s> {
    pub(super) fn new(draft: &'s mut dyn Draft, most: usize) -> Self {
        Self { draft, most, guesses: Vec::new(), tried: false, verified: None, counts: Guesses::default() }
    }

    pub(super) const fn counts(&self) -> Guesses {
        self.counts
    }

    /// As [`Continuation::next`], and the same token.
    pub(super) fn next(
        &mut self,
        text: &mut Continuation<'_>,
        context: &[u32],
        wanted: usize,
        cancel: &AtomicBool,
    ) -> Result<Option<u32>, SessionError> {
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if self.verified.is_none() && text.cache.holds_all_but_last(context) {
            self.guess(text, context, wanted, cancel)?;
            // A forward that is queued already is computed in any case: its choice is taken first.
            if !self.guesses.is_empty() && text.line.pending() == 0 {
                self.guesses.truncate(self.most);
                let Some(logits) = text.cache.verify(context, &self.guesses, cancel)? else { return Ok(None) };
                self.counts.forwards += 1;
                self.counts.made += self.guesses.len();
                self.verified = Some((logits, 0));
            }
        }
        match self.verified.take() {
            Some((logits, row)) => self.choose(text, context, logits, row).map(Some),
            None => self.go_on(text, context, wanted, cancel),
        }
    }

    /// The next token the plain way. Guesses are held against what is queued already; once one was right, nothing more
    /// is queued, so that the rest can be verified. A guess that is wrong at once has cost nothing then.
    fn go_on(
        &mut self,
        text: &mut Continuation<'_>,
        context: &[u32],
        wanted: usize,
        cancel: &AtomicBool,
    ) -> Result<Option<u32>, SessionError> {
        let wanted = if self.tried && !self.guesses.is_empty() { 1 } else { wanted };
        let id = text.next(context, wanted, cancel)?;
        self.counts.forwards += usize::from(id.is_some());
        self.tried = false;
        if let Some(guess) = self.guesses.first() {
            if id == Some(*guess) {
                self.guesses.remove(0);
                self.tried = true;
            } else {
                self.guesses.clear();
                self.draft.missed();
            }
        }
        Ok(id)
    }

    /// Asks the draft, where there is nothing left of its last guesses.
    fn guess(
        &mut self,
        text: &Continuation<'_>,
        context: &[u32],
        wanted: usize,
        cancel: &AtomicBool,
    ) -> Result<(), SessionError> {
        let executor = text.cache.executor();
        // The forward has to fit the context, and no more tokens are wanted than it gives.
        let room = (executor.context_length() as usize).saturating_sub(context.len()).min(wanted - 1);
        // Those that are held against what is queued come first.
        let queued = match text.line.pending() {
            0 => 0,
            pending => pending + 1,
        };
        let most = (self.most + queued).min(room);
        if self.guesses.is_empty() && most > 0 {
            self.guesses = self.draft.guess(context, &text.sampler, most, cancel)?;
            let known = self.guesses.iter().take_while(|id| (**id as usize) < executor.vocab_size()).count();
            self.guesses.truncate(known.min(most));
        }
        Ok(())
    }

    /// The token that a row of verified logits gives.
    fn choose(
        &mut self,
        text: &mut Continuation<'_>,
        context: &[u32],
        logits: Logits,
        row: usize,
    ) -> Result<u32, SessionError> {
        let values = logits.rows().nth(row).expect("a row for each guess and one more");
        let id = text.sampler.sample(values, context)?;
        if self.guesses.get(row) == Some(&id) {
            text.cache.confirm(id);
            self.counts.accepted += 1;
            self.verified = Some((logits, row + 1));
        } else {
            self.draft.learn(self.guesses.len(), row);
            self.guesses.clear();
            self.tried = false;
        }
        Ok(id)
    }
}
