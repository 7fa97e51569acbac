//! Runs a pipeline of the tokenizers crate on texts of any length, exactly or not at all.
//!
//! An expression gives up after so many steps, which a long text takes, and the crate then treats the rest of the text
//! as one without matches: other words, other tokens, no error. So the steps that use expressions are run here, on the
//! crate's own engine with more steps, and one that gives up all the same is an error. Does not build pipelines and
//! knows no files. Invariant: the ids are the crate's, but for texts on which it would have given up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use fancy_regex::{Regex, RegexBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::tokenizer::pattern::{Invert, Pattern};
use tokenizers::tokenizer::{
    Model, NormalizedString, Normalizer, OffsetType, Offsets, PreTokenizedString, PreTokenizer, Result,
    SplitDelimiterBehavior,
};

use super::TokenizerError;
use super::error::build_error;

/// Steps an expression may go back for one match; the engine's own limit is a million. Where a text of 100 MB has no
/// digit, looking for one takes as many.
const MAX_STEPS: usize = 100_000_000;

/// A normalizer may make a text so many times as long, and [`MIN_GROWTH`] bytes longer.
const MAX_GROWTH: usize = 64;
const MIN_GROWTH: usize = 1 << 16;

/// The expression that `ByteLevel` has of its own (`use_regex`).
const BYTE_LEVEL_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A pipeline, its steps taken apart.
#[derive(Debug)]
pub(super) struct ExactPipeline {
    tokenizer: tokenizers::Tokenizer,
    normalizers: Normalizers,
    cuts: Vec<Cut>,
}

/// A step that cuts a text into words.
#[derive(Debug)]
enum Cut {
    /// As the crate does it: no expression that could give up.
    Crate(PreTokenizerWrapper),
    Split {
        expression: Regex,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    /// The first half of `ByteLevel`.
    ByteLevelWords {
        expression: Regex,
        prefix_space: bool,
    },
}

/// What is done to a text before it is cut.
#[derive(Debug)]
pub(super) struct Normalizers(Vec<Normalize>);

#[derive(Debug)]
enum Normalize {
    /// As the crate does it.
    Crate(NormalizerWrapper),
    Replace {
        expression: Regex,
        content: String,
    },
}

impl ExactPipeline {
    /// Takes the steps of a pipeline apart. Truncation and padding must be off.
    pub(super) fn new(tokenizer: tokenizers::Tokenizer) -> std::result::Result<Self, TokenizerError> {
        let normalizers = Normalizers::new(tokenizer.get_normalizer()).map_err(build_error)?;
        let mut cuts = Vec::new();
        if let Some(step) = tokenizer.get_pre_tokenizer() {
            add_cuts(step, &mut cuts).map_err(build_error)?;
        }
        Ok(Self { tokenizer, normalizers, cuts })
    }

    /// The id of a token as the vocabulary writes it.
    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.tokenizer.token_to_id(piece)
    }

    /// The ids of a text.
    pub(super) fn encode(&self, text: &str) -> std::result::Result<Vec<u32>, TokenizerError> {
        unpanicked(|| self.run(text)).map_err(TokenizerError::Encode)
    }

    fn run(&self, text: &str) -> Result<Vec<u32>> {
        let normalizer = Recording { normalizers: &self.normalizers, error: Mutex::new(None) };
        let mut parts = self.tokenizer.get_added_vocabulary().extract_and_normalize(Some(&normalizer), text);
        if let Some(error) = normalizer.error.into_inner()? {
            return Err(error.into());
        }
        for cut in &self.cuts {
            cut.apply(&mut parts)?;
        }
        self.tokenizer.get_model().tokenize_in_pretokenized(&mut parts, None)?;
        let encoding = parts.into_encoding(None, 0, OffsetType::None)?;
        Ok(self.tokenizer.post_process(encoding, None, false)?.get_ids().to_vec())
    }
}

/// Calls the crate, whose panics become errors: what makes it panic is looked for when a file is read, but not all of
/// it may be known.
pub(super) fn unpanicked<T>(call: impl FnOnce() -> Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(format!("the tokenizers library panicked: {}", said.unwrap_or("it did not say why")))
        }
    }
}

fn add_cuts(step: &PreTokenizerWrapper, cuts: &mut Vec<Cut>) -> Result<()> {
    match step {
        PreTokenizerWrapper::Sequence(steps) => {
            for step in steps.as_ref() {
                add_cuts(step, cuts)?;
            }
        }
        PreTokenizerWrapper::Split(split) => {
            let expression = match &split.pattern {
                SplitPattern::String(text) => literal(text)?,
                SplitPattern::Regex(pattern) => expression(pattern)?,
            };
            cuts.push(Cut::Split { expression, behavior: split.behavior, invert: split.invert });
        }
        PreTokenizerWrapper::ByteLevel(step) if step.use_regex => {
            let prefix_space = step.add_prefix_space;
            cuts.push(Cut::ByteLevelWords { expression: expression(BYTE_LEVEL_WORDS)?, prefix_space });
            cuts.push(Cut::Crate(ByteLevel::new(false, step.trim_offsets, false).into()));
        }
        other => cuts.push(Cut::Crate(other.clone())),
    }
    Ok(())
}

fn expression(pattern: &str) -> Result<Regex> {
    Ok(RegexBuilder::new(pattern).backtrack_limit(MAX_STEPS).build()?)
}

fn literal(text: &str) -> Result<Regex> {
    expression(&fancy_regex::escape(text))
}

impl Cut {
    fn apply(&self, parts: &mut PreTokenizedString) -> Result<()> {
        match self {
            Self::Crate(step) => step.pre_tokenize(parts),
            Self::Split { expression, behavior, invert } => parts.split(|_, part| {
                let expression = Complete(expression);
                if *invert { part.split(Invert(expression), *behavior) } else { part.split(expression, *behavior) }
            }),
            Self::ByteLevelWords { expression, prefix_space } => parts.split(|_, mut part| {
                if *prefix_space && !part.get().starts_with(' ') {
                    part.prepend(" ");
                }
                part.split(Complete(expression), SplitDelimiterBehavior::Isolated)
            }),
        }
    }
}

/// All matches, or an error.
struct Complete<'e>(&'e Regex);

impl Pattern for Complete<'_> {
    fn find_matches(&self, text: &str) -> Result<Vec<(Offsets, bool)>> {
        self.0.find_matches(text).map_err(|error| {
            let len = text.len();
            let pattern: String = self.0.as_str().chars().take(60).collect();
            format!(
                "the tokenizer's expression {pattern:?} gave up on {len} bytes: {error}. Shorten the text (long runs of \
                 spaces above all), or give it as several"
            )
            .into()
        })
    }
}

impl Normalizers {
    /// Takes a normalizer apart; none does nothing.
    pub(super) fn new(normalizer: Option<&NormalizerWrapper>) -> Result<Self> {
        let mut steps = Vec::new();
        if let Some(normalizer) = normalizer {
            add_normalizers(normalizer, &mut steps)?;
        }
        Ok(Self(steps))
    }

    /// Changes a text.
    pub(super) fn apply(&self, text: &mut NormalizedString) -> Result<()> {
        let limit = text.get().len().saturating_mul(MAX_GROWTH).saturating_add(MIN_GROWTH);
        for step in &self.0 {
            match step {
                Normalize::Crate(step) => step.normalize(text)?,
                Normalize::Replace { expression, content } => {
                    text.replace(Replaced { expression, content_len: content.len(), limit }, content)?;
                }
            }
        }
        Ok(())
    }
}

fn add_normalizers(normalizer: &NormalizerWrapper, steps: &mut Vec<Normalize>) -> Result<()> {
    match normalizer {
        NormalizerWrapper::Sequence(sequence) => {
            for step in sequence.as_ref() {
                add_normalizers(step, steps)?;
            }
        }
        NormalizerWrapper::Replace(replace) => {
            // The crate shows the pattern nowhere but here.
            let json = serde_json::to_value(replace)?;
            let text = |kind: &str| json["pattern"][kind].as_str();
            let expression = match (text("String"), text("Regex")) {
                (Some(text), _) => literal(text)?,
                (None, Some(pattern)) => expression(pattern)?,
                (None, None) => return Err(format!("normalizer Replace: unknown pattern {}", json["pattern"]).into()),
            };
            steps.push(Normalize::Replace { expression, content: replace.content.clone() });
        }
        other => steps.push(Normalize::Crate(other.clone())),
    }
    Ok(())
}

/// All matches that are to be replaced, or an error where the text would become too long.
struct Replaced<'e> {
    expression: &'e Regex,
    content_len: usize,
    limit: usize,
}

impl Pattern for Replaced<'_> {
    fn find_matches(&self, text: &str) -> Result<Vec<(Offsets, bool)>> {
        let found = Complete(self.expression).find_matches(text)?;
        let kept = found.iter().map(|&((start, end), is_match)| if is_match { self.content_len } else { end - start });
        let len = kept.fold(0, usize::saturating_add);
        if len > self.limit {
            let limit = self.limit;
            return Err(format!("its normalizer makes {len} bytes of it, expected {limit} at most").into());
        }
        Ok(found)
    }
}

/// The crate drops a normalizer's errors; here the first is kept.
struct Recording<'n> {
    normalizers: &'n Normalizers,
    error: Mutex<Option<String>>,
}

impl Normalizer for Recording<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        let result = self.normalizers.apply(text);
        if let Err(error) = &result {
            self.error.lock().map_err(|error| error.to_string())?.get_or_insert_with(|| error.to_string());
        }
        result
    }
}
