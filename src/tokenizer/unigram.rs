//! SentencePiece's unigram model: of all ways to cut a text into tokens, the one with the highest sum of scores.
//!
//! Viterbi's algorithm over the characters of the text, one pass. Sums are f32, as SentencePiece 0.2.3 has them:
//! where two cuts tie, rounding decides. Does not normalize or fall back to bytes. Invariant: the cuts cover the text.

use std::collections::HashMap;
use std::ops::Range;

use super::vocabulary::{Checked, TokenType};

/// An unknown character costs this much more than the worst token.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The vocabulary as a trie.
#[derive(Debug)]
pub(super) struct Unigram {
    /// From a node by a byte to a node; node 0 is the root.
    next: HashMap<(u32, u8), u32>,
    /// Token at a node.
    tokens: Vec<Option<u32>>,
    scores: Vec<Score>,
    unknown: f32,
    best: f32,
}

/// What taking a token is worth.
#[derive(Debug, Clone, Copy)]
enum Score {
    Of(f32),
    /// User-defined tokens win against any cut of the same text.
    UserDefined,
}

/// The best way to the end of some bytes of the text.
#[derive(Debug, Clone, Copy)]
struct Best {
    /// Where its last token starts; `None` until there is a way.
    start: Option<usize>,
    token: Option<u32>,
    score: f32,
}

impl Unigram {
    /// `checked` has a score for each token.
    pub(super) fn new(checked: &Checked) -> Self {
        let Checked { vocabulary, types, .. } = checked;
        let scores = &vocabulary.scores;
        let normal =
            || types.iter().zip(scores).filter(|(kind, _)| **kind == TokenType::Normal).map(|(_, &score)| score);
        let mut unigram = Self {
            next: HashMap::new(),
            tokens: vec![None],
            scores: Vec::with_capacity(scores.len()),
            unknown: normal().fold(f32::MAX, f32::min) - UNKNOWN_PENALTY,
            best: normal().fold(f32::MIN_POSITIVE, f32::max),
        };
        for (id, ((text, kind), &score)) in (0u32..).zip(vocabulary.tokens.iter().zip(types).zip(scores)) {
            unigram.scores.push(if *kind == TokenType::UserDefined { Score::UserDefined } else { Score::Of(score) });
            if matches!(kind, TokenType::Normal | TokenType::UserDefined) {
                unigram.insert(text, id);
            }
        }
        unigram
    }

    fn insert(&mut self, text: &str, id: u32) {
        let mut node = 0;
        for byte in text.bytes() {
            let fresh = self.tokens.len() as u32;
            node = *self.next.entry((node, byte)).or_insert(fresh);
            if node == fresh {
                self.tokens.push(None);
            }
        }
        self.tokens[node as usize] = Some(id);
    }

    /// The best cut of a text; `None` for a character without a token.
    pub(super) fn cut(&self, text: &str) -> Vec<(Range<usize>, Option<u32>)> {
        let mut ways = vec![Best { start: None, token: None, score: 0.0 }; text.len() + 1];
        for (start, character) in text.char_indices() {
            let so_far = ways[start].score;
            let after = start + character.len_utf8();
            let mut alone = false;
            let mut node = 0;
            for (end, byte) in (start + 1..).zip(text[start..].bytes()) {
                let Some(&found) = self.next.get(&(node, byte)) else { break };
                node = found;
                let Some(id) = self.tokens[node as usize] else { continue };
                let score = match self.scores[id as usize] {
                    Score::Of(score) => score,
                    Score::UserDefined => (end - start) as f32 * self.best - 0.1,
                };
                ways[end].offer(start, Some(id), score + so_far);
                alone |= end == after;
            }
            if !alone {
                ways[after].offer(start, None, self.unknown + so_far);
            }
        }
        let mut cuts = Vec::new();
        let mut end = text.len();
        while let Some(start) = ways[end].start {
            cuts.push((start..end, ways[end].token));
            end = start;
        }
        cuts.reverse();
        cuts
    }
}

impl Best {
    fn offer(&mut self, start: usize, token: Option<u32>, score: f32) {
        if self.start.is_none() || score > self.score {
            *self = Self { start: Some(start), token, score };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Vocabulary;

    #[test]
    fn the_highest_sum_wins_over_the_longest_token() {
        let tokens =
            [("<unk>", 2, 0.0), ("a", 1, -1.0), ("b", 1, -1.5), ("ab", 1, -3.0), ("bc", 1, -1.0), ("<x>", 4, 0.0)];
        let vocabulary = Vocabulary {
            model: "llama".into(),
            tokens: tokens.iter().map(|(text, ..)| (*text).to_owned()).collect(),
            token_types: tokens.iter().map(|&(_, kind, _)| kind).collect(),
            scores: tokens.iter().map(|&(.., score)| score).collect(),
            ..Vocabulary::default()
        };
        let unigram = Unigram::new(&vocabulary.check().expect("the vocabulary is sound"));
        let cut = |text| unigram.cut(text).into_iter().map(|(_, id)| id).collect::<Vec<_>>();
        assert_eq!(cut("ab"), [Some(1), Some(2)], "-2.5 beats -3");
        assert_eq!(cut("abc"), [Some(1), Some(4)], "-2 beats everything");
        assert_eq!(cut("a日<x>"), [Some(1), None, Some(5)], "unknown, then user-defined");
        assert_eq!(cut(""), [], "nothing");
    }
}
