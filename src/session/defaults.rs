//! What a checkpoint says about choosing tokens: `generation_config.json`, or GGUF's `general.sampling.*`.
//!
//! Reads and checks; who obeys it is the caller's choice. Invariant: a value that is handed out is in its range, and
//! one that is not is an error that names file and key.

use super::SessionError;
use crate::checkpoint::{Checkpoint, CheckpointError, Config, GgufMetadata, RowConventions};

/// The file's name.
const FILE: &str = "generation_config.json";

/// Sampling as the checkpoint's authors recommend it; `None` is what they do not mention.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingDefaults {
    /// `temperature`; 0 where `do_sample` is false.
    pub temperature: Option<f32>,
    /// `top_k`
    pub top_k: Option<usize>,
    /// `top_p`
    pub top_p: Option<f32>,
    /// `min_p`
    pub min_p: Option<f32>,
    /// `repetition_penalty`
    pub repetition_penalty: Option<f32>,
    /// `max_new_tokens`
    pub max_new_tokens: Option<usize>,
}

impl SamplingDefaults {
    /// Reads `generation_config.json` beside the weights; a GGUF file that carries such values goes before it.
    ///
    /// # Errors
    /// A file that is not JSON, a value of another type or out of range.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, SessionError> {
        let own = checkpoint.gguf_metadata().map(Self::of_gguf).transpose()?.unwrap_or_default();
        match checkpoint.companion(FILE) {
            Some(path) if own == Self::default() => {
                let problem = |error: std::io::Error| format!("cannot read: {error}");
                let json = std::fs::read(&path)
                    .map_err(|error| SessionError::Companion { file: path.clone(), problem: problem(error) })?;
                Ok(Self::of_config(&Config::parse(path.display().to_string(), &json, RowConventions::default())?)?)
            }
            _ => Ok(own),
        }
    }

    fn of_config(config: &Config) -> Result<Self, CheckpointError> {
        let checked = |key, range| Range::check(range, config.opt_f32(key)?, config.file(), key);
        let greedy = config.opt_bool("do_sample")? == Some(false);
        let temperature = checked("temperature", Range::AtLeastZero)?;
        let to_usize = |value: Option<u32>| value.map(|value| value as usize);
        Ok(Self {
            temperature: if greedy { Some(0.0) } else { temperature },
            top_k: to_usize(config.opt_u32("top_k")?),
            top_p: checked("top_p", Range::Share)?,
            min_p: checked("min_p", Range::Share)?,
            repetition_penalty: checked("repetition_penalty", Range::Positive)?,
            max_new_tokens: to_usize(at_least_one(config, "max_new_tokens")?),
        })
    }

    fn of_gguf(metadata: &GgufMetadata) -> Result<Self, CheckpointError> {
        let file = metadata.file().display().to_string();
        let checked = |key, range| Range::check(range, metadata.f32(key)?, &file, key);
        Ok(Self {
            temperature: checked("general.sampling.temp", Range::AtLeastZero)?,
            // llama.cpp takes every number below one for "all"
            top_k: metadata.i32("general.sampling.top_k")?.map(|k| usize::try_from(k).unwrap_or(0)),
            top_p: checked("general.sampling.top_p", Range::Share)?,
            min_p: checked("general.sampling.min_p", Range::Share)?,
            repetition_penalty: checked("general.sampling.penalty_repeat", Range::Positive)?,
            max_new_tokens: None,
        })
    }
}

fn at_least_one(config: &Config, key: &str) -> Result<Option<u32>, CheckpointError> {
    match config.opt_u32(key)? {
        Some(0) => Err(CheckpointError::WrongType {
            file: config.file().to_owned(),
            key: key.to_owned(),
            expected: "an integer of 1 or more",
            found: "0".into(),
        }),
        value => Ok(value),
    }
}

/// What a number may be.
#[derive(Debug, Clone, Copy)]
enum Range {
    AtLeastZero,
    Share,
    Positive,
}

impl Range {
    fn check(self, value: Option<f32>, file: &str, key: &str) -> Result<Option<f32>, CheckpointError> {
        let Some(number) = value else { return Ok(None) };
        let (allowed, expected) = match self {
            Self::AtLeastZero => (number >= 0.0, "a number of 0 or more"),
            Self::Share => ((0.0..=1.0).contains(&number), "a number from 0 to 1"),
            Self::Positive => (number > 0.0, "a number greater than 0"),
        };
        if allowed && number.is_finite() {
            return Ok(value);
        }
        Err(CheckpointError::WrongType {
            file: file.to_owned(),
            key: key.to_owned(),
            expected,
            found: number.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<SamplingDefaults, CheckpointError> {
        SamplingDefaults::of_config(&Config::parse(FILE, json.as_bytes(), RowConventions::default())?)
    }

    #[test]
    fn what_the_file_says_is_taken_and_what_it_does_not_say_is_not_made_up() {
        let all = r#"{"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0, "repetition_penalty": 1.05,
                      "max_new_tokens": 99, "do_sample": true, "eos_token_id": [1, 2], "bos_token_id": 0}"#;
        let expected = SamplingDefaults {
            temperature: Some(0.6),
            top_k: Some(20),
            top_p: Some(0.95),
            min_p: Some(0.0),
            repetition_penalty: Some(1.05),
            max_new_tokens: Some(99),
        };
        assert_eq!(read(all).expect("all in range"), expected, "all");
        assert_eq!(read(r#"{"top_p": null}"#).expect("nothing"), SamplingDefaults::default(), "nothing");
    }

    #[test]
    fn without_sampling_the_most_probable_token_is_taken() {
        let greedy = read(r#"{"do_sample": false, "temperature": 0.7}"#).expect("valid");
        assert_eq!(greedy.temperature, Some(0.0), "whatever the temperature");
    }

    #[test]
    fn values_out_of_range_are_named_with_their_file() {
        let bad = [
            (r#"{"temperature": -0.1}"#, "temperature", "0 or more"),
            (r#"{"do_sample": false, "temperature": -1}"#, "temperature", "0 or more"),
            (r#"{"top_p": 1.5}"#, "top_p", "from 0 to 1"),
            (r#"{"min_p": -1}"#, "min_p", "from 0 to 1"),
            (r#"{"top_k": -1}"#, "top_k", "-1"),
            (r#"{"top_k": 2.5}"#, "top_k", "2.5"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty", "greater than 0"),
            (r#"{"temperature": "hot"}"#, "temperature", "hot"),
            (r#"{"do_sample": 1}"#, "do_sample", "true or false"),
            (r#"{"max_new_tokens": -5}"#, "max_new_tokens", "-5"),
            (r#"{"max_new_tokens": 0}"#, "max_new_tokens", "1 or more"),
        ];
        for (json, key, part) in bad {
            let message = read(json).expect_err("out of range").to_string();
            assert!(message.starts_with(FILE) && message.contains(key) && message.contains(part), "{json}: {message}");
        }
    }
}
