//! Flags of GPTQ, and the calibration text they name as windows of tokens.
//!
//! Raw like `args`, but for reading the text.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use clap::error::ErrorKind;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::describe_checkpoint;
use wgpt::gptq::{GptqOptions, windows};
use wgpt::session::Language;
use wgpt::tokenizer::Special;

use super::usage::Wrong;

/// Why there is no GPTQ without a text.
pub(super) const NEEDS_TEXT: &str = "--quantize gptq.int4 needs --calibration FILE: a text of what the model is to read \
                                     and write, some 10 000 tokens and more";

/// How `gptq.int4` rounds.
#[derive(Debug, Clone, Args)]
pub(super) struct CalibrationArgs {
    /// Text that the weights of --quantize gptq.int4 are rounded for, UTF-8: some 10 000 tokens and more of what the
    /// model is to read and write, of which at most 256 windows of 512 tokens are used
    #[arg(long, value_name = "FILE", env = "WGPT_CALIBRATION")]
    pub(super) calibration: Option<PathBuf>,

    /// Inputs that share a scale in gptq.int4: 128, 64, 32, or -1 for all of an output's; where a size does not divide
    /// all rows, the next smaller one is used
    #[arg(long, value_name = "N", env = "WGPT_GROUP_SIZE", default_value = "128", value_parser = group_size, allow_negative_numbers = true)]
    pub(super) group_size: GroupSize,

    /// Let gptq.int4 round the columns with the largest inputs first: better with large groups; groups are then of
    /// columns that are not neighbours
    #[arg(long, env = "WGPT_ACT_ORDER", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) act_order: bool,
}

impl Default for CalibrationArgs {
    fn default() -> Self {
        Self { calibration: None, group_size: GroupSize(Some(128)), act_order: false }
    }
}

/// A group size that was typed; none for whole rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupSize(pub(super) Option<usize>);

fn group_size(text: &str) -> Result<GroupSize, String> {
    match text {
        "-1" => Ok(GroupSize(None)),
        "128" | "64" | "32" => Ok(GroupSize(text.parse().ok())),
        _ => Err("expected 128, 64, 32 or -1".into()),
    }
}

impl CalibrationArgs {
    /// Options of GPTQ.
    pub(super) fn options(&self, requantize: bool) -> GptqOptions {
        GptqOptions { group_size: self.group_size.0, act_order: self.act_order, requantize, ..GptqOptions::default() }
    }

    /// Refuses flags that only mean something to `gptq.int4`.
    pub(super) fn refuse(&self) -> Result<(), Wrong> {
        let flag = match self {
            Self { calibration: Some(_), .. } => "--calibration",
            Self { act_order: true, .. } => "--act-order",
            Self { group_size, .. } if *group_size != GroupSize(Some(128)) => "--group-size",
            _ => return Ok(()),
        };
        let why = format!("{flag} is about gptq.int4: give --quantize gptq.int4, or leave it out");
        Err((ErrorKind::MissingRequiredArgument, why))
    }

    /// The text in windows of tokens, each beginning with BOS where the tokenizer begins texts so.
    pub(super) fn texts(&self, checkpoint: &Checkpoint) -> Result<Vec<Vec<u32>>> {
        let file = self.calibration.as_ref().context(NEEDS_TEXT)?;
        let bytes = std::fs::read(file).with_context(|| format!("{}: cannot read", file.display()))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            anyhow::anyhow!("{}: not a UTF-8 text: byte {at} begins no character", file.display())
        })?;
        let tokenizer = Language::of(checkpoint)?.tokenizer;
        let tokens = tokenizer.encode(&text, Special::Add)?;
        let starts = tokenizer.encode("", Special::Add)?;
        let bos = tokenizer.bos().filter(|bos| starts.first() == Some(bos));
        let limit = describe_checkpoint(checkpoint)?.max_position_embeddings;
        let windows = windows(&tokens, limit).with_context(|| file.display().to_string())?;
        let mut texts: Vec<Vec<u32>> = windows.into_iter().map(<[u32]>::to_vec).collect();
        if let Some(bos) = bos {
            texts.iter_mut().for_each(|text| text[0] = bos);
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_sizes_are_those_of_the_layout() {
        assert_eq!(group_size("64"), Ok(GroupSize(Some(64))), "a size");
        assert_eq!(group_size("-1"), Ok(GroupSize(None)), "whole rows");
        for wrong in ["0", "48", "-2", "256", "", "x"] {
            assert!(group_size(wrong).is_err(), "{wrong}");
        }
    }
}
