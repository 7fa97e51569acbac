//! Tokens that are looked for in a text before anything else is done to it: control and user-defined ones.
//!
//! Of several that match, the leftmost is taken, and of those the longest. Does not look at how the rest becomes
//! tokens. Invariant: the parts, joined, are the text.

/// Finds whole tokens in text.
#[derive(Debug, Default)]
pub(super) struct WholeTokens {
    /// By first byte, longest first.
    by_first_byte: Vec<Vec<(Box<str>, u32)>>,
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
    pub(super) fn new<'t>(tokens: impl Iterator<Item = (u32, &'t str)>) -> Self {
        let mut by_first_byte = vec![Vec::new(); 256];
        for (id, text) in tokens {
            if let Some(&first) = text.as_bytes().first() {
                by_first_byte[usize::from(first)].push((text.into(), id));
            }
        }
        for tokens in &mut by_first_byte {
            tokens.sort_by_key(|(text, _): &(Box<str>, u32)| std::cmp::Reverse(text.len()));
        }
        Self { by_first_byte }
    }

    /// The text in order, cut at whole tokens; no empty parts.
    pub(super) fn split<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            let candidates = &self.by_first_byte[usize::from(text.as_bytes()[at])];
            // Tokens start at character boundaries, so their first byte is never inside a character.
            let Some((token, id)) = candidates.iter().find(|(token, _)| text[at..].starts_with(&**token)) else {
                at += 1;
                continue;
            };
            if start < at {
                parts.push(Part::Text(&text[start..at]));
            }
            parts.push(Part::Token(*id));
            at += token.len();
            start = at;
        }
        if start < text.len() {
            parts.push(Part::Text(&text[start..]));
        }
        parts
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
    }
}
