//! Prompt lookup: a text often goes on as it did where its last tokens stood before.
//!
//! Needs no second model and no time to speak of; good for texts that repeat their prompt, as summaries, answers about
//! a document and edits of code do (Saxena 2023, "Prompt Lookup Decoding"). Invariant: every n-gram of the context is
//! known by its latest place that has a token behind it.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use super::SessionError;
use super::draft::{Draft, Patience};
use crate::sampler::Sampler;

/// Tokens of the longest n-gram that is looked up; shorter ones follow where it is new.
const LONGEST: usize = 3;

/// Guesses that the last few tokens are followed by what followed them before.
#[derive(Debug, Default)]
pub struct PromptLookup {
    /// The context as far as its n-grams are known.
    seen: Vec<u32>,
    /// The place behind an n-gram, of 1 to [`LONGEST`] tokens.
    behind: [HashMap<[u32; LONGEST], usize>; LONGEST],
    /// By the n-gram's length: a longer one is right more often.
    patience: [Patience; LONGEST],
    /// Length of the n-gram that the last guess was made by.
    length: usize,
}

impl PromptLookup {
    /// Adds the n-grams of a context; what is left of another one is forgotten.
    fn read(&mut self, context: &[u32]) {
        if !context.starts_with(&self.seen) {
            self.seen.clear();
            self.behind.iter_mut().for_each(HashMap::clear);
        }
        for place in self.seen.len()..context.len() {
            for length in 1..=LONGEST.min(place) {
                self.behind[length - 1].insert(gram(&context[place - length..place]), place);
            }
        }
        self.seen.extend_from_slice(&context[self.seen.len()..]);
    }
}

/// An n-gram of up to [`LONGEST`] tokens as a key among those of its length.
fn gram(tokens: &[u32]) -> [u32; LONGEST] {
    let mut gram = [0; LONGEST];
    gram[..tokens.len()].copy_from_slice(tokens);
    gram
}

impl Draft for PromptLookup {
    fn guess(
        &mut self,
        context: &[u32],
        _sampler: &Sampler,
        most: usize,
        _cancel: &AtomicBool,
    ) -> Result<Vec<u32>, SessionError> {
        self.read(context);
        let found = (1..=LONGEST.min(context.len())).rev().find_map(|length| {
            let place = self.behind[length - 1].get(&gram(&context[context.len() - length..]))?;
            Some((length, *place))
        });
        let Some((length, place)) = found.filter(|(length, _)| self.patience[length - 1].allows()) else {
            return Ok(Vec::new());
        };
        self.length = length;
        // What has begun to repeat itself is taken to go on with that.
        Ok(context[place..].iter().cycle().take(most).copied().collect())
    }

    fn learn(&mut self, _guessed: usize, accepted: usize) {
        self.patience[self.length - 1].learn(accepted > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::SamplingParams;

    fn guess(lookup: &mut PromptLookup, context: &[u32], most: usize) -> Vec<u32> {
        let sampler = Sampler::new(SamplingParams::greedy(), 0).expect("valid parameters");
        lookup.guess(context, &sampler, most, &AtomicBool::new(false)).expect("nothing can fail")
    }

    #[test]
    fn the_longest_match_counts_and_of_those_the_latest() {
        let mut lookup = PromptLookup::default();
        assert_eq!(guess(&mut lookup, &[1, 2, 3, 4], 3), Vec::<u32>::new(), "all new");
        assert_eq!(guess(&mut lookup, &[1, 2, 3, 4, 2], 3), [3, 4, 2], "one token");
        let context = [7, 1, 2, 9, 8, 8, 5, 2, 6, 6, 1, 2];
        assert_eq!(guess(&mut lookup, &context, 2), [9, 8], "two, although one stood later");
        let context = [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3];
        assert_eq!(guess(&mut lookup, &context, 2), [5, 1], "the later of two");
        assert_eq!(guess(&mut lookup, &[1], 2), Vec::<u32>::new(), "nothing before it");
    }

    #[test]
    fn a_repetition_goes_on() {
        let mut lookup = PromptLookup::default();
        assert_eq!(guess(&mut lookup, &[5, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1], "two tokens again and again");
        assert_eq!(guess(&mut lookup, &[3, 3], 3), [3, 3, 3], "one token");
    }

    #[test]
    fn a_context_that_grows_and_one_that_is_another_are_the_same_to_it() {
        let text: Vec<u32> = (0..200).map(|at| (at * at + at / 7) % 11).collect();
        let mut grown = PromptLookup::default();
        for end in 1..text.len() {
            let expected = guess(&mut PromptLookup::default(), &text[..end], 4);
            assert_eq!(guess(&mut grown, &text[..end], 4), expected, "after {end} tokens");
        }
        let other: Vec<u32> = text.iter().rev().copied().collect();
        assert_eq!(guess(&mut grown, &other, 4), guess(&mut PromptLookup::default(), &other, 4), "another text");
    }

    #[test]
    fn what_keeps_failing_is_tried_less_and_less() {
        let mut lookup = PromptLookup::default();
        let mut made = 0;
        let mut context = vec![0];
        for other in 1..200 {
            // Token 0 again and again, each time followed by something new.
            context.extend([other, 0]);
            if !guess(&mut lookup, &context, 4).is_empty() {
                lookup.learn(4, 0);
                made += 1;
            }
        }
        assert!((5..10).contains(&made), "{made} guesses in 199 chances");
    }
}
