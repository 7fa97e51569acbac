//! As much of a `tokenizer.json` as must be checked before the tokenizers crate sees it.
//!
//! The crate panics on some files, or never comes back from reading them; here such a file is told by what is wrong with
//! it. Everything else about a file is left to the crate. Invariant: a check refuses only what the crate cannot use.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::tokenizer::NormalizedString;

use super::charsmap::Charsmap;
use super::exact::{Normalizers, unpanicked};

#[derive(Deserialize)]
pub(super) struct Outline {
    model: Option<OutlineModel>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    added_tokens: Vec<OutlineToken>,
}

#[derive(Deserialize)]
struct OutlineModel {
    #[serde(default)]
    vocab: Value,
    #[serde(default)]
    merges: Vec<OutlineMerge>,
    continuing_subword_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OutlineMerge {
    Pair(String, String),
    Text(String),
}

#[derive(Deserialize)]
struct OutlineToken {
    #[serde(default)]
    content: String,
    #[serde(default)]
    normalized: bool,
}

impl Outline {
    /// What is wrong with the file.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(model) = &self.model {
            model.check()?;
        }
        for step in steps(&self.pre_tokenizer, "pretokenizers") {
            if step["length"].as_u64() == Some(0) {
                return Err("a pre_tokenizer FixedLength of length 0: words have a character at least".to_owned());
            }
        }
        for step in steps(&self.normalizer, "normalizers") {
            if let Some(charsmap) = step["precompiled_charsmap"].as_str() {
                Charsmap::parse(&base64(charsmap))
                    .and_then(|charsmap| charsmap.check())
                    .map_err(|problem| format!("a normalizer Precompiled: {problem}"))?;
            }
            if step["pattern"]["Regex"] == "" || step["pattern"]["String"] == "" {
                return Err("a normalizer Replace of nothing: its pattern is empty".to_owned());
            }
        }
        self.check_added_tokens()
    }

    /// The crate normalizes added tokens while it reads the file.
    fn check_added_tokens(&self) -> Result<(), String> {
        if self.normalizer.is_null() {
            return Ok(());
        }
        unpanicked(|| {
            let normalizers = Normalizers::new(Some(&NormalizerWrapper::deserialize(&self.normalizer)?))?;
            for (index, token) in self.added_tokens.iter().enumerate().filter(|(_, token)| token.normalized) {
                let mut text = NormalizedString::from(token.content.as_str());
                normalizers.apply(&mut text).map_err(|error| format!("added_tokens[{index}]: {error}"))?;
            }
            Ok(())
        })
    }
}

impl OutlineModel {
    /// The crate joins the halves of a merge in a buffer as long as the longest token, without the second's prefix.
    fn check(&self) -> Result<(), String> {
        let vocab = self.vocab.as_object().into_iter().flat_map(|vocab| vocab.keys());
        let longest = vocab.map(String::len).max().unwrap_or(0);
        let prefix = self.continuing_subword_prefix.as_deref().unwrap_or_default();
        for (index, merge) in self.merges.iter().enumerate() {
            let halves = match merge {
                OutlineMerge::Pair(left, right) => Some((left.as_str(), right.as_str())),
                OutlineMerge::Text(text) => text.split_once(' '),
            };
            // What is no pair the crate refuses by itself.
            let Some((left, right)) = halves else { continue };
            let Some(rest) = right.get(prefix.len()..) else {
                return Err(format!(
                    "model.merges[{index}] is \"{left} {right}\", whose second half is too short for \
                     continuing_subword_prefix {prefix:?}"
                ));
            };
            if left.len() + rest.len() > longest {
                return Err(format!(
                    "model.merges[{index}] is \"{left} {right}\", longer than every token of model.vocab"
                ));
            }
        }
        Ok(())
    }
}

/// A step and what it holds under `key`, all the way down.
fn steps<'v>(step: &'v Value, key: &str) -> Vec<&'v Value> {
    let inner = step[key].as_array().into_iter().flatten().flat_map(|step| steps(step, key));
    std::iter::once(step).chain(inner).collect()
}

/// The bytes that a text stands for. What is no such text is refused by the crate, and reads as anything here.
fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    let whole = |four: &[u8]| {
        let bits = (0..4).fold(0u32, |bits, index| bits << 6 | u32::from(four.get(index).copied().unwrap_or(0)));
        let [_, bytes @ ..] = bits.to_be_bytes();
        bytes.into_iter().take(four.len() * 6 / 8)
    };
    digits.chunks(4).flat_map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in
            [("", &b""[..]), ("TQ==", b"M"), ("TWE=", b"Ma"), ("TWFu", b"Man"), ("//79+w==", &[255, 254, 253, 251])]
        {
            assert_eq!(base64(text), bytes, "{text}");
        }
    }

    #[test]
    fn merges_may_leave_a_prefix_out() {
        let check = |prefix: &str| {
            let json = serde_json::json!({"model": {"vocab": {"a": 0, "##b": 1, "ab": 2}, "merges": ["a ##b"],
                "continuing_subword_prefix": prefix}});
            serde_json::from_value::<Outline>(json).expect("an outline").check()
        };
        assert_eq!(check("##"), Ok(()), "ab is as long as a token");
        assert!(check("####").is_err_and(|problem| problem.contains("too short")), "nothing is left of ##b");
    }
}
