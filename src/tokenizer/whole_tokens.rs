//! Tokens that are looked for in a text before anything else is done to it: control, user-defined and added ones.
//!
//! Of several that match, the leftmost is taken, and of those the longest. Some take the spaces beside them along, some
//! only count as words of their own. Does not look at how the rest becomes tokens. Invariant: the parts, joined, are
//! the text, but for the spaces that tokens took.

/// Finds whole tokens in text.
#[derive(Debug, Clone, Default)]
pub(super) struct WholeTokens {
    /// By first byte, longest first.
    by_first_byte: Vec<Vec<Whole>>,
}

#[derive(Debug, Clone)]
struct Whole {
    text: Box<str>,
    id: u32,
    edges: Edges,
}

/// What a token does at its ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Edges {
    /// Takes the spaces in front (`lstrip`).
    pub(super) left: bool,
    /// Takes the spaces behind (`rstrip`).
    pub(super) right: bool,
    /// Is no token where a letter, digit or `_` touches it (`single_word`).
    pub(super) alone: bool,
}

/// A stretch of text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    /// To be encoded.
    Text(&'t str),
    /// Is this token.
    Token(u32),
}

impl WholeTokens {
    /// Tokens that are nothing but themselves.
    pub(super) fn new<'t>(tokens: impl Iterator<Item = (u32, &'t str)>) -> Self {
        Self::with_edges(tokens.map(|(id, text)| (id, text, Edges::default())))
    }

    pub(super) fn with_edges<'t>(tokens: impl Iterator<Item = (u32, &'t str, Edges)>) -> Self {
        let mut by_first_byte = vec![Vec::new(); 256];
        for (id, text, edges) in tokens {
            if let Some(&first) = text.as_bytes().first() {
                by_first_byte[usize::from(first)].push(Whole { text: text.into(), id, edges });
            }
        }
        for tokens in &mut by_first_byte {
            tokens.sort_by_key(|whole: &Whole| std::cmp::Reverse(whole.text.len()));
        }
        Self { by_first_byte }
    }

    /// The text in order, cut at whole tokens; no empty parts.
    pub(super) fn split<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            let Some(whole) = self.find(text, at) else {
                at += 1;
                continue;
            };
            let before = &text[start..at];
            let before = if whole.edges.left { before.trim_end() } else { before };
            if !before.is_empty() {
                parts.push(Part::Text(before));
            }
            parts.push(Part::Token(whole.id));
            at += whole.text.len();
            if whole.edges.right {
                at = text.len() - text[at..].trim_start().len();
            }
            start = at;
        }
        if start < text.len() {
            parts.push(Part::Text(&text[start..]));
        }
        parts
    }

    /// The length of the token a text starts with.
    pub(super) fn len_at_start(&self, text: &str) -> Option<usize> {
        self.find(text, 0).map(|whole| whole.text.len())
    }

    fn find(&self, text: &str, at: usize) -> Option<&Whole> {
        // Tokens start at character boundaries, so their first byte is never inside a character.
        let candidates = self.by_first_byte.get(usize::from(*text.as_bytes().get(at)?))?;
        candidates.iter().find(|whole| {
            let Some(after) = text[at..].strip_prefix(&*whole.text) else { return false };
            let touches = |side: Option<char>| side.is_some_and(|side| side.is_alphanumeric() || side == '_');
            !(whole.edges.alone && (touches(text[..at].chars().next_back()) || touches(after.chars().next())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_the_leftmost_is_taken() {
        let tokens = WholeTokens::new([(1, "<s>"), (2, "<s><s>"), (3, "é")].into_iter());
        assert_eq!(
            tokens.split("a<s><s><s>日é<s"),
            [Part::Text("a"), Part::Token(2), Part::Token(1), Part::Text("日"), Part::Token(3), Part::Text("<s")],
            "parts in order"
        );
        assert_eq!(tokens.split(""), [], "nothing");
        assert_eq!(WholeTokens::default().split("a"), [Part::Text("a")], "no tokens");
    }

    #[test]
    fn edges_take_spaces_or_keep_words_whole() {
        let left = Edges { left: true, ..Edges::default() };
        let right = Edges { right: true, ..Edges::default() };
        let alone = Edges { alone: true, ..Edges::default() };
        let tokens = WholeTokens::with_edges([(1, "<l>", left), (2, "<r>", right), (3, "is", alone)].into_iter());
        assert_eq!(tokens.split("a \n<l> b"), [Part::Text("a"), Part::Token(1), Part::Text(" b")], "in front");
        assert_eq!(tokens.split("a <r>\n b"), [Part::Text("a "), Part::Token(2), Part::Text("b")], "behind");
        assert_eq!(tokens.split(" <l> <r> "), [Part::Token(1), Part::Text(" "), Part::Token(2)], "no empty parts");
        assert_eq!(tokens.split("this is"), [Part::Text("this "), Part::Token(3)], "not within a word");
    }
}
