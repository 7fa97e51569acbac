//! SentencePiece BPE (`tokenizer.ggml.model` = `llama`): neighbours that form a token are joined, the token with
//! the highest score first, the leftmost first among equals; what is no token in the end is written as bytes.
//!
//! Own code, because a list of pairs with ranks (what the tokenizers crate knows) cannot say "the leftmost of two
//! different pairs that give the same token". Does not split text into words: there are none, spaces are `▁`.
//! Invariant: the ids decode to the text, up to the space put in front.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::TokenizerError;
use super::pieces::{SPACE_MARKER, byte_token};
use super::vocabulary::{Checked, TokenType};
use super::whole_tokens::{Part, WholeTokens};

/// The encoding half of a SentencePiece BPE tokenizer.
#[derive(Debug)]
pub(super) struct ScoreMerges {
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    /// Ids of `<0x00>` to `<0xFF>`.
    bytes: Box<[Option<u32>; 256]>,
    unk: Option<u32>,
    whole: WholeTokens,
    add_space_prefix: bool,
    /// Bytes of the longest token: longer candidates need no look-up.
    longest: usize,
}

/// A run of the text that is one symbol so far; empty once joined to its left neighbour.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
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

impl ScoreMerges {
    pub(super) fn new(checked: Checked, add_space_prefix: bool) -> Result<Self, TokenizerError> {
        let whole = WholeTokens::new(checked.parsed_whole().map(|(id, text, _)| (id, text)));
        let Checked { vocabulary, types, ids } = checked;
        let count = vocabulary.tokens.len();
        if vocabulary.scores.len() != count {
            return Err(TokenizerError::Length { key: "scores", expected: count, found: vocabulary.scores.len() });
        }
        let mut bytes = Box::new([None; 256]);
        for (id, (text, kind)) in (0u32..).zip(vocabulary.tokens.iter().zip(&types)) {
            if let Some(byte) = byte_token(text).filter(|_| *kind == TokenType::Byte) {
                bytes[usize::from(byte)] = Some(id);
            }
        }
        let longest = vocabulary.tokens.iter().map(String::len).max().unwrap_or(0);
        Ok(Self { ids, scores: vocabulary.scores, bytes, unk: vocabulary.unk, whole, add_space_prefix, longest })
    }

    /// The id of a token's text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Ids of a text; a space is put in front of what starts the text or follows a special token.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut output = Vec::new();
        let mut at_start = true;
        for part in self.whole.split(text) {
            match part {
                Part::Token(id) => {
                    output.push(id);
                    at_start = true;
                }
                Part::Text(text) => {
                    let prefix = if self.add_space_prefix && at_start { "▁" } else { "" };
                    let marked = text.replace(' ', SPACE_MARKER.encode_utf8(&mut [0; 4]));
                    self.merge(&format!("{prefix}{marked}"), &mut output)?;
                    at_start = false;
                }
            }
        }
        Ok(output)
    }

    fn merge(&self, text: &str, output: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut symbols = characters(text);
        let mut queue: BinaryHeap<Candidate> =
            (1..symbols.len()).filter_map(|right| self.candidate(text, &symbols, right - 1, right)).collect();
        while let Some(Candidate { left, right, len, .. }) = queue.pop() {
            let (first, second) = (symbols[left], symbols[right]);
            let stale = first.start == first.end || second.start == second.end || second.end - first.start != len;
            if stale {
                continue;
            }
            symbols[left] = Symbol { end: second.end, next: second.next, ..first };
            symbols[right].end = second.start;
            if let Some(next) = second.next {
                symbols[next].previous = Some(left);
                queue.extend(self.candidate(text, &symbols, left, next));
            }
            if let Some(previous) = first.previous {
                queue.extend(self.candidate(text, &symbols, previous, left));
            }
        }
        symbols.iter().filter(|symbol| symbol.start != symbol.end).try_for_each(|symbol| {
            let piece = &text[symbol.start..symbol.end];
            self.push_symbol(piece, output)
        })
    }

    /// The two symbols as a candidate, if they are a token together.
    fn candidate(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Candidate> {
        let joined = symbols[left].start..symbols[right].end;
        let len = joined.len();
        let id = if len <= self.longest {
            self.id(&text[joined])?
        } else {
            return None;
        };
        Some(Candidate { score: self.scores[id as usize], left, right, len })
    }

    /// A final symbol: its token, or its bytes, or the unknown token.
    fn push_symbol(&self, piece: &str, output: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if let Some(id) = self.id(piece) {
            output.push(id);
            return Ok(());
        }
        // Either all bytes have tokens or none is used: half a character would decode to nonsense.
        let bytes: Option<Vec<u32>> = piece.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        match (bytes, self.unk) {
            (Some(bytes), _) => output.extend(bytes),
            (None, Some(unk)) => output.push(unk),
            (None, None) => {
                return Err(TokenizerError::NoToken(piece.chars().next().unwrap_or_default()));
            }
        }
        Ok(())
    }
}

/// Every character a symbol, linked to its neighbours.
fn characters(text: &str) -> Vec<Symbol> {
    let count = text.chars().count();
    text.char_indices()
        .enumerate()
        .map(|(index, (start, character))| Symbol {
            start,
            end: start + character.len_utf8(),
            previous: index.checked_sub(1),
            next: (index + 1 < count).then_some(index + 1),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Vocabulary;

    /// Tokens `<unk>`, `<s>`, the 256 bytes, then `tokens` with falling scores.
    fn tokenizer(tokens: &[(&str, f32)], add_space_prefix: bool) -> ScoreMerges {
        let mut vocabulary = Vocabulary { model: "llama".into(), ..Vocabulary::default() };
        let mut add = |text: String, kind: i32, score: f32| {
            vocabulary.tokens.push(text);
            vocabulary.token_types.push(kind);
            vocabulary.scores.push(score);
        };
        add("<unk>".into(), 2, 0.0);
        add("<s>".into(), 3, 0.0);
        for byte in 0..=255 {
            add(format!("<0x{byte:02X}>"), 6, 0.0);
        }
        for &(text, score) in tokens {
            add(text.into(), 1, score);
        }
        ScoreMerges::new(vocabulary.check().expect("the vocabulary is sound"), add_space_prefix)
            .expect("and has scores")
    }

    fn texts(tokenizer: &ScoreMerges, text: &str) -> Vec<String> {
        let ids = tokenizer.encode(text).expect("there are byte tokens for everything");
        let name = |id| tokenizer.ids.iter().find(|&(_, &found)| found == id).map(|(text, _)| text.clone());
        ids.into_iter().filter_map(name).collect()
    }

    #[test]
    fn the_highest_score_is_joined_first() {
        let tokenizer = tokenizer(&[("a", -9.0), ("b", -9.0), ("c", -9.0), ("ab", -2.0), ("bc", -1.0)], false);
        assert_eq!(texts(&tokenizer, "abc"), ["a", "bc"], "bc beats ab");
    }

    #[test]
    fn equal_scores_are_joined_from_the_left() {
        let tokenizer = tokenizer(&[("a", -9.0), ("aa", -1.0)], false);
        assert_eq!(texts(&tokenizer, "aaa"), ["aa", "a"], "leftmost first");
    }

    #[test]
    fn a_space_is_put_in_front_of_the_text_and_after_special_tokens() {
        let tokenizer = tokenizer(&[("▁", -9.0), ("a", -9.0), ("▁a", -1.0)], true);
        assert_eq!(texts(&tokenizer, "a a<s>a"), ["▁a", "▁a", "<s>", "▁a"], "three words");
    }

    #[test]
    fn characters_without_a_token_become_bytes() {
        let tokenizer = tokenizer(&[("a", -9.0)], false);
        assert_eq!(texts(&tokenizer, "aé"), ["a", "<0xC3>", "<0xA9>"], "two bytes");
    }

    #[test]
    fn a_vocabulary_without_scores_is_refused() {
        let vocabulary = Vocabulary { tokens: vec!["a".into()], ..Vocabulary::default() };
        let error = ScoreMerges::new(vocabulary.check().expect("sound"), true).expect_err("no scores");
        assert!(error.to_string().contains("scores has 0 entries, expected 1"), "{error}");
    }
}
