//! Flags that say what weights are quantized to, shared by all commands that load a model.
//!
//! Part of `args`, and raw like it: which weight gets which format is decided by `wgpt::graph`.

use std::path::PathBuf;

use clap::Args;
use wgpt::graph::Quantize;
use wgpt::quant::{BlockFormat, FORMATS, format_called};

use super::args::CheckpointArgs;

/// How weights are quantized while they load.
#[derive(Debug, Clone, Args)]
pub(super) struct QuantizeArgs {
    /// Quantize weights that are not quantized yet while they load: q8_0, q6_k, q5_k, q4_k, q4_0, nf4, nf4-dq and the
    /// other formats (a wrong one lists them); also bnb.nf4, bnb.nf4-dq, bnb.fp4, bnb.fp4-dq, and int8 for q8_0.
    /// The head gets q6_k where that has more bits; rows that are no whole blocks get a format of shorter ones
    #[arg(long, value_name = "FORMAT", env = "WGPT_QUANTIZE", value_parser = format)]
    pub(super) quantize: Option<Format>,

    /// Format of the head, and of the embedding where the two are one [default: q6_k, or that of --quantize where it
    /// has more bits]
    #[arg(long, value_name = "FORMAT", env = "WGPT_QUANTIZE_HEAD", requires = "quantize", value_parser = format)]
    pub(super) quantize_head: Option<Format>,

    /// Quantize weights that are quantized already too; they lose twice
    #[arg(long, env = "WGPT_REQUANTIZE", requires = "quantize", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) requantize: bool,
}

/// A checkpoint to be written in another format.
#[derive(Debug, Args)]
pub(super) struct QuantizeCommandArgs {
    #[command(flatten)]
    pub(super) checkpoint: CheckpointArgs,

    /// Format of most weights: one of GGUF's, such as q8_0, q6_k, q5_k, q4_k, q4_0, iq4_xs, or f16, bf16, f32. The head
    /// gets q6_k where that has more bits; rows that are no whole blocks get a format of shorter ones
    #[arg(long, value_name = "FORMAT", env = "WGPT_QUANTIZE", value_parser = format)]
    pub(super) quantize: Format,

    /// Format of the head, and of the embedding where the two are one [default: q6_k, or that of --quantize where it
    /// has more bits]
    #[arg(long, value_name = "FORMAT", env = "WGPT_QUANTIZE_HEAD", value_parser = format)]
    pub(super) quantize_head: Option<Format>,

    /// Quantize weights that are quantized already too; they lose twice
    #[arg(long, env = "WGPT_REQUANTIZE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) requantize: bool,

    /// GGUF file to write
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: PathBuf,

    /// No progress or summary on stderr; errors still are
    #[arg(long, short, env = "WGPT_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) quiet: bool,
}

/// A weight format that was typed.
pub(super) type Format = &'static dyn BlockFormat;

impl QuantizeArgs {
    /// What they ask for, if anything.
    pub(super) fn wanted(&self) -> Option<Quantize> {
        self.quantize.map(|format| Quantize { format, head: self.quantize_head, requantize: self.requantize })
    }
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
