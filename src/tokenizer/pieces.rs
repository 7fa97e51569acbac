//! What each token id is as text: the decoding half of a tokenizer, worked out once when it is built.
//!
//! `tokenizer.json` describes decoding as steps over whole lists of tokens; here the steps become one byte
//! string a token and a rule for the start of the text, which is what streaming needs. Steps that cannot be
//! written so are refused. Does not keep state between tokens: that is [`super::Decoder`].

use serde_json::Value;

use super::byte_level;
use super::vocabulary::{Checked, TokenType};

/// SentencePiece's stand-in for a space.
pub(super) const SPACE_MARKER: char = '▁';

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// As the vocabulary writes it (`Ġthe`).
    pub(super) text: Box<str>,
    /// What it adds to a text, not necessarily whole characters.
    pub(super) bytes: Box<[u8]>,
    /// Left out where special tokens are skipped.
    pub(super) special: bool,
}

/// How the start of a text differs from its middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// It does not.
    Plain,
    /// Up to `count` leading bytes `byte` are dropped: the space that encoding put in front.
    Strip {
        /// An ASCII character.
        byte: u8,
        /// At most so many.
        count: usize,
    },
    /// The first token loses every such character.
    DropMarker(char),
    /// Tokens are words: every one but the first gets a space in front.
    Spaced,
}

/// All tokens, by id.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: Vec<Option<Piece>>,
    start: Start,
}

impl Pieces {
    /// Pieces of ids from 0; `None` for ids without a token.
    pub(super) fn new(pieces: Vec<Option<Piece>>, start: Start) -> Self {
        Self { pieces, start }
    }

    /// Pieces of a GGUF vocabulary of byte-level BPE.
    pub(super) fn of_byte_level(checked: &Checked) -> Self {
        Self::of_vocabulary(checked, Start::Plain, |text, kind| match kind {
            TokenType::UserDefined => text.as_bytes().to_vec(),
            _ => byte_level::bytes(text),
        })
    }

    /// Pieces of a vocabulary with `▁` for spaces and tokens for bytes.
    pub(super) fn of_sentencepiece(checked: &Checked, start: Start) -> Self {
        Self::of_vocabulary(checked, start, |text, kind| match byte_token(text) {
            Some(byte) if kind == TokenType::Byte => vec![byte],
            _ => text.replace(SPACE_MARKER, " ").into_bytes(),
        })
    }

    fn of_vocabulary(checked: &Checked, start: Start, bytes: impl Fn(&str, TokenType) -> Vec<u8>) -> Self {
        let piece = |(text, &kind): (&String, &TokenType)| {
            let bytes = match kind {
                TokenType::Unused => Vec::new(),
                TokenType::Unknown | TokenType::Control => text.clone().into_bytes(),
                TokenType::Normal | TokenType::UserDefined | TokenType::Byte => bytes(text, kind),
            };
            Some(Piece { text: text.as_str().into(), bytes: bytes.into(), special: kind.is_special() })
        };
        Self::new(checked.vocabulary.tokens.iter().zip(&checked.types).map(piece).collect(), start)
    }

    /// A token beside the vocabulary, or instead of one of its: its text is what it says. One of the vocabulary's own
    /// keeps what it decodes to (`▁▁` is two spaces).
    pub(super) fn add(&mut self, id: u32, text: &str, special: bool) {
        let index = id as usize;
        if self.pieces.len() <= index {
            self.pieces.resize(index + 1, None);
        }
        match &mut self.pieces[index] {
            Some(piece) if *piece.text == *text => piece.special = special,
            piece => *piece = Some(Piece { text: text.into(), bytes: text.as_bytes().into(), special }),
        }
    }

    /// The token of that id, if there is one.
    pub(super) fn get(&self, id: u32) -> Option<&Piece> {
        self.pieces.get(id as usize)?.as_ref()
    }

    /// One more than the largest id.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// How a text starts.
    pub(super) fn start(&self) -> Start {
        self.start
    }
}

/// The byte that `<0x0A>` stands for.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = hex.len() == 2 && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_byte.then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

/// A decoder may make a token so many times as long, and [`MIN_GROWTH`] bytes longer.
const MAX_GROWTH: usize = 16;
const MIN_GROWTH: usize = 1024;

/// What `tokenizer.json`'s decoder does to one token, and to the start of the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    byte_level: bool,
    byte_fallback: bool,
    replace: Vec<(String, String)>,
    /// How a text starts.
    pub(super) start: Start,
}

impl Rule {
    /// Reads the `decoder` of a `tokenizer.json`; `None` if its steps do not come down to a rule for single tokens.
    pub(super) fn from_json(decoder: &Value) -> Option<Self> {
        let mut rule = Self { byte_level: false, byte_fallback: false, replace: Vec::new(), start: Start::Plain };
        if decoder.is_null() {
            rule.start = Start::Spaced;
            return Some(rule);
        }
        let one = std::slice::from_ref(decoder);
        let steps = match decoder.get("type")?.as_str()? {
            "Sequence" => decoder.get("decoders")?.as_array()?,
            _ => one,
        };
        let mut fused = false;
        for step in steps {
            rule.add(step, &mut fused)?;
        }
        Some(rule)
    }

    /// One step; `fused` once the tokens have been joined.
    fn add(&mut self, step: &Value, fused: &mut bool) -> Option<()> {
        match step.get("type")?.as_str()? {
            "Fuse" => *fused = true,
            "Strip" => {
                let content = step.get("content")?.as_str()?;
                let count = usize::try_from(step.get("start")?.as_u64()?).ok()?;
                let from_end = step.get("stop")?.as_u64()?;
                let &[byte] = content.as_bytes() else {
                    return None;
                };
                // Before Fuse it would strip every token; the end of a stream is not known in time.
                if !*fused || from_end != 0 || self.start != Start::Plain {
                    return None;
                }
                self.start = Start::Strip { byte, count };
            }
            _ if *fused => return None,
            "ByteLevel" => self.byte_level = true,
            "ByteFallback" => self.byte_fallback = true,
            "Replace" => {
                let from = step.get("pattern")?.get("String")?.as_str()?;
                self.replace.push((from.to_owned(), step.get("content")?.as_str()?.to_owned()));
            }
            "Metaspace" => {
                let marker = step.get("replacement")?.as_str()?.chars().next()?;
                self.replace.push((marker.to_string(), " ".to_owned()));
                if step.get("prepend_scheme")?.as_str()? != "never" {
                    self.start = Start::DropMarker(marker);
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The bytes a token adds to a text. Replacements that make it much longer are refused: a few of them double its
    /// length often enough to fill any memory.
    pub(super) fn bytes(&self, token: &str) -> Result<Vec<u8>, String> {
        let limit = token.len().saturating_mul(MAX_GROWTH).saturating_add(MIN_GROWTH);
        let mut text = token.to_owned();
        for (from, to) in &self.replace {
            let found = text.matches(from).count();
            let len = (text.len() - found * from.len()).saturating_add(found.saturating_mul(to.len()));
            if len > limit {
                return Err(format!("Replace of {from:?} makes {len} bytes of {token:?}, expected {limit} at most"));
            }
            text = text.replace(from, to);
        }
        Ok(match byte_token(&text) {
            Some(byte) if self.byte_fallback => vec![byte],
            _ if self.byte_level => byte_level::bytes(&text),
            _ => text.into_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn byte_tokens() {
        assert_eq!(byte_token("<0x0A>"), Some(10), "newline");
        assert_eq!(byte_token("<0x+A>"), None, "a sign is no digit");
        assert_eq!(byte_token("<0xé>"), None, "two bytes, one character");
    }

    #[test]
    fn llama_decoder_becomes_a_rule() {
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        let rule = Rule::from_json(&decoder).expect("Llama's decoder is known");
        assert_eq!(rule.start, Start::Strip { byte: b' ', count: 1 }, "one leading space goes");
        assert_eq!(rule.bytes("▁a▁"), Ok(b" a ".to_vec()), "markers are spaces");
        assert_eq!(rule.bytes("<0xE4>"), Ok(vec![0xE4]), "byte fallback");
    }

    #[test]
    fn a_decoder_that_needs_the_end_of_the_text_is_refused() {
        for decoder in [
            json!({"type": "BPEDecoder", "suffix": "</w>"}),
            json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 0, "stop": 1}]}),
            json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
            json!({"no type": 1}),
        ] {
            assert_eq!(Rule::from_json(&decoder), None, "{decoder}");
        }
    }
}
