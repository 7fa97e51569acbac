//! Stop strings, matched over decoded text as it arrives.
//!
//! Knows text only: end-of-sequence ids are the session's business, and a stop string is found however the
//! tokenizer cuts it. Invariant: released text never contains any part of a stop string that was completed, and text
//! is held back only while it may be the beginning of one.

use super::automata::Automata;

/// What [`StopMatcher::push`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matched {
    /// No stop string yet; this text is certain and may be shown (it may be empty).
    Text(String),
    /// A stop string is complete; this is the text before it. Where several complete at once, the longest counts.
    Stop(String),
}

/// Follows all stop strings over a stream of text.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    automata: Automata<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

impl StopMatcher {
    /// A matcher of these strings; empty ones are ignored.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        Self { automata: Automata::new(stops.into_iter().map(String::into_bytes)), held: String::new() }
    }

    /// Takes the next piece of text and returns what is now certain. After [`Matched::Stop`] the text is over: what
    /// is pushed next begins another one.
    pub fn push(&mut self, piece: &str) -> Matched {
        let fresh = self.held.len();
        self.held.push_str(piece);
        for (at, byte) in piece.bytes().enumerate() {
            if let Some(complete) = self.automata.advance(&byte) {
                // every byte of the match is still held: it was part of a partial match until now
                self.held.truncate(fresh + at + 1 - complete);
                return Matched::Stop(std::mem::take(&mut self.held));
            }
        }
        // both texts are whole characters, so a common stretch that ends with one begins with one
        let kept = self.held.split_off(self.held.len() - self.automata.partial());
        Matched::Text(std::mem::replace(&mut self.held, kept))
    }

    /// The text still held back, once no more will come.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a stream released, piece by piece, and whether it stopped.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()));
        let mut released = Vec::new();
        for piece in pieces {
            match matcher.push(piece) {
                Matched::Text(text) => released.push(text),
                Matched::Stop(text) => {
                    released.push(text);
                    return (released, true);
                }
            }
        }
        released.push(matcher.finish());
        (released, false)
    }

    fn text(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let (released, stopped) = run(stops, pieces);
        (released.concat(), stopped)
    }

    #[test]
    fn nothing_of_a_stop_leaks() {
        assert_eq!(text(&["<|user|>"], &["Hi", "<|", "us", "er|>", "x"]), ("Hi".into(), true), "in pieces");
        assert_eq!(text(&["END"], &["fine END."]), ("fine ".into(), true), "within one piece");
        assert_eq!(text(&["a"], &["a"]), (String::new(), true), "nothing before it");
    }

    #[test]
    fn a_failed_partial_match_is_released() {
        assert_eq!(text(&["abc"], &["ab", "d", "ab"]), ("abdab".into(), false), "all of it");
        let (released, _) = run(&["abc"], &["xab", "d"]);
        assert_eq!(released, ["x", "abd", ""], "as soon as it has failed");
    }

    #[test]
    fn a_failed_match_falls_back_to_one_that_overlaps_it() {
        assert_eq!(text(&["12"], &["1", "1", "2", "7"]), ("1".into(), true), "1 1 2");
        assert_eq!(text(&["ababc"], &["ababababc!"]), ("abab".into(), true), "several overlaps");
        assert_eq!(text(&["aab"], &["aaaa", "b"]), ("aa".into(), true), "runs");
    }

    #[test]
    fn of_several_stops_the_first_to_complete_counts() {
        assert_eq!(text(&["bc", "abcd"], &["xabcd"]), ("xa".into(), true), "the shorter completes first");
        assert_eq!(text(&["c", "abc"], &["xabc"]), ("x".into(), true), "at once: the longer");
    }

    #[test]
    fn characters_stay_whole() {
        let (released, stopped) = run(&["é"], &["è", "ê€"]);
        assert_eq!((released.concat(), stopped), ("èê€".into(), false), "shared first bytes are no partial match");
        assert_eq!(text(&["🙂!"], &["🙂", "🙂!"]), ("🙂".into(), true), "four bytes");
    }

    #[test]
    fn no_stops_hold_nothing_back() {
        assert_eq!(run(&[""], &["a", "b"]).0, ["a", "b", ""], "an empty stop string is none");
    }

    /// The definition, slowly: the text up to the first place where any stop string ends.
    fn naive(stops: &[String], text: &str) -> (String, bool) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let longest = stops.iter().filter(|stop| text[..end].ends_with(*stop)).map(String::len).max();
            if let Some(longest) = longest {
                return (text[..end - longest].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    /// The longest end of the text that begins a stop string.
    fn naive_held(stops: &[String], text: &str) -> usize {
        let begins = |at: &usize| stops.iter().any(|stop| stop.starts_with(&text[*at..]));
        (0..=text.len()).filter(|&at| text.is_char_boundary(at)).find(begins).map_or(0, |at| text.len() - at)
    }

    proptest! {
        #[test]
        fn streaming_equals_the_definition(
            stops in prop::collection::vec("[abé]{1,5}", 1..4),
            pieces in prop::collection::vec("[abéx]{0,4}", 0..12),
        ) {
            let mut matcher = StopMatcher::new(stops.clone());
            let (mut seen, mut released, mut stopped) = (String::new(), String::new(), false);
            for piece in &pieces {
                seen.push_str(piece);
                match matcher.push(piece) {
                    Matched::Text(text) => {
                        released.push_str(&text);
                        let held = seen.len() - released.len();
                        prop_assert_eq!(held, naive_held(&stops, &seen), "held back no more than needed");
                    }
                    Matched::Stop(text) => {
                        released.push_str(&text);
                        stopped = true;
                        break;
                    }
                }
            }
            released.push_str(&matcher.finish());
            prop_assert_eq!((released, stopped), naive(&stops, &pieces.concat()));
        }
    }
}
