//! Flags that say what weights are quantized to, shared by all commands that load a model.
//!
//! Part of `args`, and raw like it: which weight gets which format is decided by `wgpt::graph`.

use std::path::PathBuf;

use clap::Args;
use clap::error::ErrorKind;
use wgpt::gptq::GptqOptions;
use wgpt::graph::Quantize;
use wgpt::quant::{BlockFormat, FORMATS, format_called};

use super::args::CheckpointArgs;
use super::calibration::{CalibrationArgs, NEEDS_TEXT};
use super::placement::PlacementArgs;
use super::usage::Wrong;

/// How weights are quantized while they load.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct QuantizeArgs {
    /// Quantize weights that are not quantized yet while they load: q8_0, q6_k, q5_k, q4_k, q4_0, nf4, nf4-dq and the
    /// other formats (a wrong one lists them); also bnb.nf4, bnb.nf4-dq, bnb.fp4, bnb.fp4-dq, and int8 for q8_0.
    /// The head gets q6_k where that has more bits; rows that are no whole blocks get a format of shorter ones.
    /// gptq.int4 rounds the layers' linears by a --calibration text
    #[arg(long, value_name = "FORMAT", env = "WGPT_QUANTIZE", value_parser = method)]
    pub(super) quantize: Option<Method>,

    /// Format of the head, and of the embedding where the two are one [default: q6_k, or that of --quantize where it
    /// has more bits]
    #[arg(long, value_name = "FORMAT", env = "WGPT_QUANTIZE_HEAD", requires = "quantize", value_parser = format)]
    pub(super) quantize_head: Option<Format>,

    /// Quantize weights that are quantized already too; they lose twice
    #[arg(long, env = "WGPT_REQUANTIZE", requires = "quantize", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) requantize: bool,

    #[command(flatten)]
    pub(super) calibration: CalibrationArgs,
}

/// A checkpoint to be written in another format.
#[derive(Debug, Args)]
pub(super) struct QuantizeCommandArgs {
    #[command(flatten)]
    pub(super) checkpoint: CheckpointArgs,

    /// Format of most weights: one of GGUF's, such as q8_0, q6_k, q5_k, q4_k, q4_0, iq4_xs, or f16, bf16, f32. The head
    /// gets q6_k where that has more bits; rows that are no whole blocks get a format of shorter ones. gptq.int4 rounds
    /// the layers' linears by a --calibration text and writes a folder of safetensors in GPTQ's layout
    #[arg(long, value_name = "FORMAT", env = "WGPT_QUANTIZE", value_parser = method)]
    pub(super) quantize: Method,

    /// Format of the head, and of the embedding where the two are one [default: q6_k, or that of --quantize where it
    /// has more bits]
    #[arg(long, value_name = "FORMAT", env = "WGPT_QUANTIZE_HEAD", value_parser = format)]
    pub(super) quantize_head: Option<Format>,

    /// Quantize weights that are quantized already too; they lose twice
    #[arg(long, env = "WGPT_REQUANTIZE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) requantize: bool,

    #[command(flatten)]
    pub(super) calibration: CalibrationArgs,

    #[command(flatten)]
    pub(super) placement: PlacementArgs,

    /// GGUF file to write; the folder, for gptq.int4. What is there already is not overwritten
    #[arg(long, short, value_name = "PATH")]
    pub(super) output: PathBuf,

    /// No progress or summary on stderr; errors still are
    #[arg(long, short, env = "WGPT_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) quiet: bool,
}

/// A weight format that was typed.
pub(super) type Format = &'static dyn BlockFormat;

/// How to quantize.
#[derive(Debug, Clone, Copy)]
pub(super) enum Method {
    /// Each weight by itself, to a format.
    Format(Format),
    /// GPTQ, to 4 bits.
    Gptq,
}

impl QuantizeArgs {
    /// The format each weight is to be brought to by itself, if any.
    pub(super) fn wanted(&self) -> Option<Quantize> {
        match self.quantize? {
            Method::Format(format) => Some(Quantize { format, head: self.quantize_head, requantize: self.requantize }),
            Method::Gptq => None,
        }
    }

    /// Whether they ask for GPTQ.
    pub(super) const fn is_gptq(&self) -> bool {
        matches!(self.quantize, Some(Method::Gptq))
    }

    /// How GPTQ is to round, where they ask for it.
    pub(super) fn gptq(&self) -> Option<GptqOptions> {
        self.is_gptq().then(|| self.calibration.options(self.requantize))
    }

    /// Refuses flags of one method given with another; `rounds` says whether the weights are needed, not just their sizes.
    pub(super) fn check(&self, rounds: bool) -> Result<(), Wrong> {
        check(self.quantize, self.quantize_head, &self.calibration, rounds)
    }
}

impl QuantizeCommandArgs {
    /// Refuses flags of one method given with another.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        check(Some(self.quantize), self.quantize_head, &self.calibration, true)?;
        self.placement.check()
    }
}

fn check(
    method: Option<Method>,
    head: Option<Format>,
    calibration: &CalibrationArgs,
    rounds: bool,
) -> Result<(), Wrong> {
    if !matches!(method, Some(Method::Gptq)) {
        return calibration.refuse();
    }
    if head.is_some() {
        let why = "--quantize-head: gptq.int4 leaves the head as it is; leave the flag out";
        return Err((ErrorKind::ArgumentConflict, why.into()));
    }
    match calibration.calibration {
        None if rounds => Err((ErrorKind::InvalidValue, NEEDS_TEXT.into())),
        _ => Ok(()),
    }
}

/// The name of GPTQ to 4 bits, as lit-gpt had it.
const GPTQ: &str = "gptq.int4";

/// The method of this name.
pub(super) fn method(text: &str) -> Result<Method, String> {
    if text.eq_ignore_ascii_case(GPTQ) {
        return Ok(Method::Gptq);
    }
    format(text).map(Method::Format).map_err(|error| format!("{error}, {GPTQ}"))
}

/// The format of this name.
pub(super) fn format(text: &str) -> Result<Format, String> {
    format_called(text).ok_or_else(|| {
        let names: Vec<_> = FORMATS.iter().map(|format| format.name()).collect();
        format!("expected one of {}, int8", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn formats_have_the_names_of_ggml_and_of_bitsandbytes() {
        for (typed, name) in [
            ("q4_k", "q4_k"),
            ("Q4_K", "q4_k"),
            ("nf4-dq", "nf4_dq"),
            ("bnb.nf4", "nf4"),
            ("bnb.nf4-dq", "nf4_dq"),
            ("bnb.fp4", "fp4"),
            ("bnb.fp4-dq", "fp4_dq"),
            ("int8", "q8_0"),
            ("bnb.int8", "q8_0"),
            ("llm.int8", "q8_0"),
        ] {
            assert_eq!(format(typed).map(|format| format.name()), Ok(name), "{typed}");
        }
        for unknown in ["bnb.q4_0", "q9_k", "", "bnb."] {
            let error = format(unknown).expect_err("not a format");
            assert!(error.contains("q8_0") && error.contains("nf4_dq"), "{unknown}: {error}");
        }
    }
}
