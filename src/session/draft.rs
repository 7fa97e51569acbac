//! Drafts: guesses at what comes next, by a smaller model or by anything else that is quicker than the model itself.
//!
//! A draft only guesses; `speculation` verifies. Invariant: a draft that is always wrong costs a text time, and less
//! and less of it, but never a token.

use std::sync::atomic::AtomicBool;

use super::SessionError;
use super::cache::Cache;
use super::continuation::Continuation;
use crate::exec::{Executor, MemoryUse};
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;

/// Guesses the tokens that follow a context.
pub trait Draft: Send {
    /// At most `most` tokens that may follow `context`, if possible as `sampler` would choose them. None where there is
    /// no good guess, or when cancelled.
    ///
    /// # Errors
    /// A draft model's executor that fails.
    fn guess(
        &mut self,
        context: &[u32],
        sampler: &Sampler,
        most: usize,
        cancel: &AtomicBool,
    ) -> Result<Vec<u32>, SessionError>;

    /// What verifying the last guess showed: the text went on with so many of its tokens.
    fn learn(&mut self, guessed: usize, accepted: usize);

    /// The last guess was wrong from its first token on, which showed before any forward was spent on it.
    fn missed(&mut self) {}

    /// What it has allocated where.
    fn memory(&self) -> Vec<MemoryUse> {
        Vec::new()
    }
}

/// Chances in a row that are let pass at most: a text that changes its ways is noticed within so many tokens.
const LONGEST_PAUSE: u32 = 63;

/// How long a kind of guess that was wrong is not made again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Patience {
    /// Chances to let pass after the last guess.
    pause: u32,
    left: u32,
}

impl Patience {
    /// Whether this chance is one to guess.
    pub(super) const fn allows(&mut self) -> bool {
        let allowed = self.left == 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }

    /// A guess that was right at all ends the pauses, each that was wrong doubles them.
    pub(super) fn learn(&mut self, right: bool) {
        self.pause = if right { 0 } else { (2 * self.pause + 1).min(LONGEST_PAUSE) };
        self.left = self.pause;
    }
}

/// A smaller model of the same vocabulary. It draws by the same numbers as the model itself, so that its guesses are
/// right as often as the two distributions agree, at any temperature.
pub struct DraftModel {
    cache: Cache,
    /// Tokens to guess: fewer after a wrong one, more after none.
    length: usize,
    patience: Patience,
}

impl DraftModel {
    /// A draft by this executor, whose KV cache is empty.
    pub fn new(executor: Box<dyn Executor>) -> Self {
        Self { cache: Cache::new(executor), length: usize::MAX, patience: Patience::default() }
    }

    /// Whether token ids mean the same to a model and to its draft, whose embedding has `rows`.
    ///
    /// # Errors
    /// The first token that differs, or a token that the draft has no embedding for.
    pub fn check_vocabulary(model: &Tokenizer, draft: &Tokenizer, rows: usize) -> Result<(), SessionError> {
        let tokens = model.vocab_size();
        if rows < tokens {
            return Err(SessionError::DraftVocabulary(format!("the model has {tokens} tokens, the draft {rows}")));
        }
        for id in 0..tokens as u32 {
            // What only one of them names fills up the embedding of the other.
            if let (Some(ours), Some(theirs)) = (model.piece(id), draft.piece(id))
                && ours != theirs
            {
                let differs = format!("token {id} is {ours:?} to the model and {theirs:?} to the draft");
                return Err(SessionError::DraftVocabulary(differs));
            }
        }
        Ok(())
    }
}

impl Draft for DraftModel {
    fn guess(
        &mut self,
        context: &[u32],
        sampler: &Sampler,
        most: usize,
        cancel: &AtomicBool,
    ) -> Result<Vec<u32>, SessionError> {
        // The last guess need not fit the cache.
        let room = (self.cache.executor().context_length() as usize + 1).saturating_sub(context.len());
        let most = self.length.min(room).min(most);
        if most == 0 || !self.patience.allows() {
            return Ok(Vec::new());
        }
        // What remains of wrong guesses would look like another text.
        self.cache.keep(context);
        let mut text = Continuation::new(&mut self.cache, sampler.twin());
        let mut tokens = context.to_vec();
        for left in (1..=most).rev() {
            match text.next(&tokens, left, cancel) {
                Ok(Some(id)) => tokens.push(id),
                Ok(None) => return Ok(Vec::new()),
                // Logits that nothing can be chosen from are no reason to end another model's text.
                Err(SessionError::Sample(_)) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(tokens.split_off(context.len()))
    }

    fn learn(&mut self, guessed: usize, accepted: usize) {
        self.patience.learn(accepted > 0 || guessed > 1);
        self.length = if accepted == guessed { self.length.saturating_add(2) } else { guessed.max(2) - 1 };
    }

    fn missed(&mut self) {
        self.learn(1, 0);
    }

    fn memory(&self) -> Vec<MemoryUse> {
        let of_draft = |memory: MemoryUse| MemoryUse { place: format!("{} (draft)", memory.place), ..memory };
        self.cache.executor().memory().into_iter().map(of_draft).collect()
    }
}

impl std::fmt::Debug for DraftModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftModel").field("held", &self.cache.held()).field("length", &self.length).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_failures_and_end_with_a_success() {
        let mut patience = Patience::default();
        let mut made = Vec::new();
        for chance in 0..40 {
            if patience.allows() {
                made.push(chance);
                patience.learn(chance == 26);
            }
        }
        assert_eq!(made, [0, 2, 6, 14, 30], "twice as long each time");
        let mut patience = Patience::default();
        (0..20).for_each(|_| patience.learn(false));
        let pause = (0..).take_while(|_| !patience.allows()).count();
        assert_eq!(pause, LONGEST_PAUSE as usize, "but no longer than this");
        patience.learn(true);
        assert!(patience.allows(), "a success ends it");
    }
}
