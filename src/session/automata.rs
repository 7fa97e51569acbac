//! Stop sequences followed over a stream: one Knuth-Morris-Pratt automaton each.
//!
//! The items may be bytes of a text or token ids; what to do with a match is the caller's business. A partial match
//! that fails falls back to the longest one that may still succeed, so no match is missed whatever overlaps it.
//! Invariant: [`Automata::partial`] is exactly the longest end of the stream that begins a stop sequence.

/// All stop sequences.
#[derive(Debug, Clone, Default)]
pub(super) struct Automata<T> {
    automata: Vec<Automaton<T>>,
}

/// One stop sequence and how much of it the stream's end matches.
#[derive(Debug, Clone)]
struct Automaton<T> {
    stop: Vec<T>,
    /// `fallback[n]`: longest proper prefix of the stop sequence that is also a suffix of its first `n + 1` items.
    fallback: Vec<usize>,
    matched: usize,
}

impl<T: PartialEq> Automata<T> {
    /// Follows these sequences; empty ones are ignored.
    pub(super) fn new(stops: impl IntoIterator<Item = Vec<T>>) -> Self {
        Self { automata: stops.into_iter().filter(|stop| !stop.is_empty()).map(Automaton::new).collect() }
    }

    /// Takes one item; the length of the stop sequence it completes, of the longest where several complete at once.
    /// After a match the stream is over: the next item begins another one.
    pub(super) fn advance(&mut self, item: &T) -> Option<usize> {
        let mut complete = None;
        for automaton in &mut self.automata {
            if automaton.advance(item) {
                complete = complete.max(Some(automaton.stop.len()));
            }
        }
        if complete.is_some() {
            for automaton in &mut self.automata {
                automaton.matched = 0;
            }
        }
        complete
    }

    /// Items at the stream's end that may be the beginning of a stop sequence.
    pub(super) fn partial(&self) -> usize {
        self.automata.iter().map(|automaton| automaton.matched).max().unwrap_or(0)
    }
}

impl<T: PartialEq> Automaton<T> {
    fn new(stop: Vec<T>) -> Self {
        let mut fallback = vec![0; stop.len()];
        let mut matched = 0;
        for at in 1..stop.len() {
            while matched > 0 && stop[at] != stop[matched] {
                matched = fallback[matched - 1];
            }
            matched += usize::from(stop[at] == stop[matched]);
            fallback[at] = matched;
        }
        Self { stop, fallback, matched: 0 }
    }

    /// Takes one item; true when it completes the stop sequence.
    fn advance(&mut self, item: &T) -> bool {
        while self.matched > 0 && self.stop[self.matched] != *item {
            self.matched = self.fallback[self.matched - 1];
        }
        self.matched += usize::from(self.stop[self.matched] == *item);
        self.matched == self.stop.len()
    }
}
