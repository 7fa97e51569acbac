//! What SentencePiece does to a text before it cuts it: map characters, drop extra spaces, put a space in front, write
//! spaces as `▁`.
//!
//! Does not cut. Invariant: the result holds no space.

use super::charsmap::Charsmap;
use super::pieces::SPACE_MARKER;
use super::whole_tokens::WholeTokens;

/// The steps a vocabulary asks for.
#[derive(Debug, Default)]
pub(super) struct Normalizer {
    /// Replaces characters.
    pub(super) charsmap: Charsmap,
    /// User-defined tokens: taken as they are.
    pub(super) kept: WholeTokens,
    /// No spaces at the ends, and only one between words.
    pub(super) remove_extra_whitespaces: bool,
}

impl Normalizer {
    /// The text as pieces are looked for in it; `prefix` puts a space in front of one that is not empty.
    pub(super) fn normalize(&self, text: &str, prefix: bool) -> String {
        let mut rest = text;
        let mut output = String::with_capacity(text.len() + text.len() / 2);
        let mut after_space = self.remove_extra_whitespaces;
        while self.remove_extra_whitespaces && !rest.is_empty() {
            let (piece, len) = self.next(rest);
            if piece != " " {
                break;
            }
            rest = &rest[len..];
        }
        if prefix && !rest.is_empty() {
            output.push(SPACE_MARKER);
        }
        while !rest.is_empty() {
            let (piece, len) = self.next(rest);
            let piece = if after_space { piece.trim_start_matches(' ') } else { piece };
            output.extend(piece.chars().map(|character| if character == ' ' { SPACE_MARKER } else { character }));
            if !piece.is_empty() {
                after_space = self.remove_extra_whitespaces && piece.ends_with(' ');
            }
            rest = &rest[len..];
        }
        if self.remove_extra_whitespaces {
            output.truncate(output.trim_end_matches(SPACE_MARKER).len());
        }
        output
    }

    /// What the start of a text becomes, and its length. `text` is not empty.
    fn next<'t>(&'t self, text: &'t str) -> (&'t str, usize) {
        if let Some(len) = self.kept.len_at_start(text) {
            return (&text[..len], len);
        }
        self.charsmap.replacement(text).unwrap_or_else(|| {
            let len = text.chars().next().map_or(0, char::len_utf8);
            (&text[..len], len)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_become_markers_and_one_is_put_in_front() {
        let normalizer = Normalizer::default();
        assert_eq!(normalizer.normalize(" a  b ", true), "▁▁a▁▁b▁", "every space is kept");
        assert_eq!(normalizer.normalize("a", false), "a", "no prefix");
        assert_eq!(normalizer.normalize("", true), "", "nothing to put it in front of");
    }

    #[test]
    fn extra_spaces_go_where_asked() {
        let kept = WholeTokens::new([(1, "<x>")].into_iter());
        let normalizer = Normalizer { remove_extra_whitespaces: true, kept, ..Normalizer::default() };
        assert_eq!(normalizer.normalize("  a  b <x>  c  ", true), "▁a▁b▁<x>▁c", "one each");
        assert_eq!(normalizer.normalize("   ", true), "", "nothing but spaces");
    }
}
