//! Stop sequences of tokens, matched over ids as the model chooses them.
//!
//! Knows no text: stop strings are in `stop`. Invariant: an id is released once no stop sequence can begin with it,
//! and not before; those of a completed sequence never are.

use super::automata::Automata;

/// What [`StopTokens::push`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ids {
    /// No sequence yet; these ids are certain (there may be none).
    Certain(Vec<u32>),
    /// A sequence of this length is complete; these ids stand before it.
    Stop { before: Vec<u32>, length: usize },
}

/// Follows all stop sequences over a stream of ids.
#[derive(Debug, Clone, Default)]
pub(super) struct StopTokens {
    automata: Automata<u32>,
    /// Ids that may be the beginning of a sequence.
    held: Vec<u32>,
}

impl StopTokens {
    /// A matcher of these sequences; empty ones are ignored.
    pub(super) fn new(stops: impl IntoIterator<Item = Vec<u32>>) -> Self {
        Self { automata: Automata::new(stops), held: Vec::new() }
    }

    /// Takes the next id and returns what is now certain. After [`Ids::Stop`] the stream is over.
    pub(super) fn push(&mut self, id: u32) -> Ids {
        self.held.push(id);
        if let Some(length) = self.automata.advance(&id) {
            // the whole match is still held: it was a partial one until now
            self.held.truncate(self.held.len() - length);
            return Ids::Stop { before: self.finish(), length };
        }
        let kept = self.held.split_off(self.held.len() - self.automata.partial());
        Ids::Certain(std::mem::replace(&mut self.held, kept))
    }

    /// The ids still held back, once no more will come.
    pub(super) fn finish(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a stream released, and the length of the sequence that ended it.
    fn run(stops: &[&[u32]], stream: &[u32]) -> (Vec<u32>, Option<usize>) {
        let mut matcher = StopTokens::new(stops.iter().map(|stop| stop.to_vec()));
        let mut released = Vec::new();
        for &id in stream {
            match matcher.push(id) {
                Ids::Certain(ids) => released.extend(ids),
                Ids::Stop { before, length } => return ([released, before].concat(), Some(length)),
            }
        }
        released.extend(matcher.finish());
        (released, None)
    }

    #[test]
    fn the_end_of_a_stream_is_not_swallowed() {
        assert_eq!(run(&[&[0], &[7, 8, 9]], &[1, 2, 3, 4, 5, 6]), (vec![1, 2, 3, 4, 5, 6], None), "no stop at all");
        assert_eq!(run(&[&[7, 8, 9]], &[1, 7, 8]), (vec![1, 7, 8], None), "an incomplete one");
    }

    #[test]
    fn no_part_of_a_stop_leaks() {
        assert_eq!(run(&[&[0], &[7, 8, 9]], &[1, 2, 7, 8, 9]), (vec![1, 2], Some(3)), "the longer stop");
    }

    #[test]
    fn what_stands_before_a_shorter_stop_is_kept() {
        assert_eq!(run(&[&[0], &[7, 8, 9]], &[1, 0]), (vec![1], Some(1)), "one token before it");
        assert_eq!(run(&[&[0], &[7, 8, 9]], &[0, 1]), (vec![], Some(1)), "the first of all");
        assert_eq!(run(&[&[0], &[7, 8, 9]], &[1, 7, 8, 0]), (vec![1, 7, 8], Some(1)), "within a partial match");
    }

    #[test]
    fn a_failed_match_falls_back_to_one_that_overlaps_it() {
        assert_eq!(run(&[&[1, 2]], &[1, 1, 2, 7]), (vec![1], Some(2)), "1 1 2");
        assert_eq!(run(&[&[1, 2, 1, 3]], &[1, 2, 1, 2, 1, 3]), (vec![1, 2], Some(4)), "a longer overlap");
    }

    #[test]
    fn ids_are_released_as_soon_as_they_are_certain() {
        let mut matcher = StopTokens::new([vec![7, 8, 9]]);
        assert_eq!(matcher.push(1), Ids::Certain(vec![1]), "no beginning");
        assert_eq!(matcher.push(7), Ids::Certain(vec![]), "one");
        assert_eq!(matcher.push(7), Ids::Certain(vec![7]), "the first of two");
        assert_eq!(matcher.push(1), Ids::Certain(vec![7, 1]), "it failed");
    }

    /// The definition, slowly: the ids up to the first place where any sequence ends.
    fn naive(stops: &[Vec<u32>], stream: &[u32]) -> (Vec<u32>, Option<usize>) {
        for end in 0..=stream.len() {
            if let Some(longest) = stops.iter().filter(|stop| stream[..end].ends_with(stop)).map(Vec::len).max() {
                return (stream[..end - longest].to_vec(), Some(longest));
            }
        }
        (stream.to_vec(), None)
    }

    proptest! {
        #[test]
        fn streaming_equals_the_definition(
            stops in prop::collection::vec(prop::collection::vec(0u32..3, 1..5), 1..4),
            stream in prop::collection::vec(0u32..4, 0..24),
        ) {
            let borrowed: Vec<&[u32]> = stops.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(run(&borrowed, &stream), naive(&stops, &stream));
        }
    }
}
