//! SentencePiece BPE: neighbours that form a token are joined, the token with the highest score first, the leftmost
//! first among equals.
//!
//! Own code, because a list of pairs with ranks (what the tokenizers crate knows) cannot say "the leftmost of two
//! different pairs that give the same token". Does not split text into words: there are none, spaces are `▁`; nor does
//! it know what becomes of a character without a token. Invariant: the cuts cover the text.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::vocabulary::{Checked, TokenType};
use super::whole_tokens::{Part, WholeTokens};

/// Tokens with their scores.
#[derive(Debug)]
pub(super) struct ScoreMerges {
    tokens: HashMap<String, Token>,
    /// Never joined with anything.
    frozen: WholeTokens,
    /// Bytes of the longest token: longer candidates need no look-up.
    longest: usize,
}

#[derive(Debug, Clone, Copy)]
struct Token {
    id: u32,
    score: f32,
    /// A step towards longer tokens that is taken apart again where it is left over.
    unused: bool,
}

/// A run of the text that is one symbol so far; empty once joined to its left neighbour.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
    frozen: bool,
}

/// Two neighbours that would be a token.
#[derive(Debug)]
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both; another length later means that one of them has changed.
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

/// Where joined symbols of unused tokens had their seam: text to bytes of its left half.
type Seams<'t> = HashMap<&'t str, usize>;

impl ScoreMerges {
    /// `checked` has a score for each token; user-defined tokens in `frozen` keep to themselves.
    pub(super) fn new(checked: &Checked, frozen: WholeTokens) -> Self {
        let Checked { vocabulary, types, .. } = checked;
        let mut tokens = HashMap::with_capacity(types.len());
        for (id, ((text, kind), &score)) in (0u32..).zip(vocabulary.tokens.iter().zip(types).zip(&vocabulary.scores)) {
            if matches!(kind, TokenType::Normal | TokenType::UserDefined | TokenType::Unused) {
                tokens.insert(text.clone(), Token { id, score, unused: *kind == TokenType::Unused });
            }
        }
        let longest = tokens.keys().map(String::len).max().unwrap_or(0);
        Self { tokens, frozen, longest }
    }

    /// The text cut into tokens; `None` for a character without one.
    pub(super) fn cut(&self, text: &str) -> Vec<(Range<usize>, Option<u32>)> {
        let mut seams = Seams::new();
        let mut symbols = self.symbols(text);
        let mut queue: BinaryHeap<Candidate> = (1..symbols.len())
            .filter_map(|right| self.candidate(text, &symbols, right - 1, right, &mut seams))
            .collect();
        while let Some(Candidate { left, right, len, .. }) = queue.pop() {
            let (first, second) = (symbols[left], symbols[right]);
            let stale = first.start == first.end || second.start == second.end || second.end - first.start != len;
            if stale {
                continue;
            }
            symbols[left] = Symbol { end: second.end, next: second.next, ..first };
            symbols[right].end = second.start;
            if let Some(previous) = first.previous {
                queue.extend(self.candidate(text, &symbols, previous, left, &mut seams));
            }
            if let Some(next) = second.next {
                symbols[next].previous = Some(left);
                queue.extend(self.candidate(text, &symbols, left, next, &mut seams));
            }
        }
        let mut cuts = Vec::new();
        for symbol in symbols.iter().filter(|symbol| symbol.start != symbol.end) {
            self.push(text, symbol.start..symbol.end, &seams, &mut cuts);
        }
        cuts
    }

    /// Every character a symbol, and every frozen token, linked to their neighbours.
    fn symbols(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut push = |start: usize, len: usize, frozen: bool| {
            let index = symbols.len();
            let symbol =
                Symbol { start, end: start + len, previous: index.checked_sub(1), next: Some(index + 1), frozen };
            symbols.push(symbol);
            start + len
        };
        let mut at = 0;
        for part in self.frozen.split(text) {
            match part {
                Part::Text(part) => at = part.chars().fold(at, |at, character| push(at, character.len_utf8(), false)),
                Part::Token(_) => at = push(at, self.frozen.len_at_start(&text[at..]).unwrap_or(0), true),
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        symbols
    }

    /// The two symbols as a candidate, if they are a token together.
    fn candidate<'t>(
        &self,
        text: &'t str,
        symbols: &[Symbol],
        left: usize,
        right: usize,
        seams: &mut Seams<'t>,
    ) -> Option<Candidate> {
        if symbols[left].frozen || symbols[right].frozen {
            return None;
        }
        let joined = symbols[left].start..symbols[right].end;
        let len = joined.len();
        if len > self.longest {
            return None;
        }
        let joined = &text[joined];
        let token = self.tokens.get(joined)?;
        if token.unused {
            seams.insert(joined, symbols[right].start - symbols[left].start);
        }
        Some(Candidate { score: token.score, left, right, len })
    }

    /// A final symbol: its token, or if that is unused, its halves.
    fn push(&self, text: &str, whole: Range<usize>, seams: &Seams<'_>, cuts: &mut Vec<(Range<usize>, Option<u32>)>) {
        let mut left_over = vec![whole];
        while let Some(Range { start, end }) = left_over.pop() {
            let token = self.tokens.get(&text[start..end]);
            match seams.get(&text[start..end]) {
                Some(&seam) if token.is_some_and(|token| token.unused) => {
                    left_over.extend([start + seam..end, start..start + seam]);
                }
                _ => cuts.push((start..end, token.map(|token| token.id))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Vocabulary;

    /// Texts of the tokens a text is cut into; `?` where there is none.
    fn cut(tokens: &[(&str, i32, f32)], frozen: &[&str], text: &str) -> Vec<String> {
        let vocabulary = Vocabulary {
            tokens: tokens.iter().map(|(text, ..)| (*text).to_owned()).collect(),
            token_types: tokens.iter().map(|&(_, kind, _)| kind).collect(),
            scores: tokens.iter().map(|&(.., score)| score).collect(),
            ..Vocabulary::default()
        };
        let frozen = WholeTokens::new((0..).zip(frozen.iter().copied()));
        let merges = ScoreMerges::new(&vocabulary.check().expect("the vocabulary is sound"), frozen);
        let name = |(_, id): (Range<usize>, Option<u32>)| id.map_or("?", |id| tokens[id as usize].0).to_owned();
        merges.cut(text).into_iter().map(name).collect()
    }

    #[test]
    fn the_highest_score_is_joined_first() {
        let tokens = [("a", 1, -9.0), ("b", 1, -9.0), ("c", 1, -9.0), ("ab", 1, -2.0), ("bc", 1, -1.0)];
        assert_eq!(cut(&tokens, &[], "abcd"), ["a", "bc", "?"], "bc beats ab, d is no token");
    }

    #[test]
    fn equal_scores_are_joined_from_the_left() {
        assert_eq!(cut(&[("a", 1, -9.0), ("aa", 1, -1.0)], &[], "aaa"), ["aa", "a"], "leftmost first");
    }

    #[test]
    fn frozen_tokens_join_with_nothing() {
        let tokens = [("a", 1, -9.0), ("aa", 1, -1.0), ("<x>", 4, 0.0), ("a<x>", 1, 0.0)];
        assert_eq!(cut(&tokens, &["<x>"], "a<x>aa"), ["a", "<x>", "aa"], "as it is");
    }

    #[test]
    fn unused_tokens_are_steps_only() {
        let tokens = [("a", 1, -9.0), ("b", 1, -9.0), ("c", 1, -9.0), ("ab", 5, -1.0), ("abc", 1, -2.0)];
        assert_eq!(cut(&tokens, &[], "abcab"), ["abc", "a", "b"], "ab leads to abc, but is none itself");
    }

    #[test]
    fn control_and_byte_tokens_are_not_text() {
        let tokens = [("<", 1, -9.0), ("s", 1, -9.0), ("<s", 3, 0.0)];
        assert_eq!(cut(&tokens, &[], "<s"), ["<", "s"], "what looks like a control token is not joined");
    }
}
