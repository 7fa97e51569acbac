//! A checkpoint written as a GGUF file, its weights quantized: what `wgpt quantize` does.
//!
//! `tensors` says which tensors the file has and where their rows come from, `keys` what its metadata says of the
//! model, `vocabulary` what it says of text. From a GGUF file all three are copied; from a Hugging Face folder they are
//! translated, for the families of [`FAMILIES`]. Nothing is computed here but rows brought into their format.
//!
//! Invariant: a file is left behind only if, read back, it describes the same model and the same tokenizer; what GGUF
//! has no word for is refused, never dropped.

mod keys;
mod same;
mod tensors;
mod vocabulary;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, CheckpointError, GgufTensor, GgufValue, GgufWriter, partial, sweep_partials};
use crate::exec::{ExecError, WeightSource, describe_checkpoint, lower_checkpoint};
use crate::graph::{Quantize, QuantizedFormats};
use crate::session::SessionError;
use crate::tokenizer::TokenizerError;

use tensors::{Planned, Rows};

/// `model_type`s whose Hugging Face folders can be written as GGUF.
pub const FAMILIES: &[&str] = &[
    "llama",
    "mistral",
    "mixtral",
    "gpt_neox",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "falcon",
    "phi",
    "phi3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "stablelm",
    "olmo",
    "olmo2",
    "gpt2",
    "gpt_bigcode",
    "mpt",
];

/// Why a checkpoint can't be written.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// It can't be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It is no model wgpt runs, or its weights can't be quantized.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Its tokenizer can't be read.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Its tokenizer fails.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// GGUF lacks the format.
    #[error("GGUF files have no {0} weights; it can be used at load instead: --quantize {0}")]
    Format(&'static str),
    /// A kind of model, tokenizer or scaling that is not translated.
    #[error("{}: {what} can't be written as GGUF{hint}", .path.display())]
    NotTranslated {
        /// The checkpoint.
        path: PathBuf,
        /// What.
        what: String,
        /// What can be, or what to do, with a leading separator; or nothing.
        hint: String,
    },
    /// The written file would not be the same model.
    #[error("{}: written as GGUF it would be another model: {difference}; nothing was kept", .path.display())]
    Differs {
        /// The checkpoint.
        path: PathBuf,
        /// In what.
        difference: String,
    },
    /// The output is somebody's already.
    #[error("{}: is there already; name another --output", .0.display())]
    Exists(PathBuf),
    /// The output can't be written.
    #[error("{}: cannot write: {source}", .path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// Which weight got which format.
    pub quantized: QuantizedFormats,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Writes a checkpoint as the GGUF file `output`, whole or not at all, and over nothing. `progress` is told of the bytes
/// of all tensors first, then of bytes written.
///
/// # Errors
/// A checkpoint that can't be read or translated, a format that GGUF lacks, or a file that is there already or can't be
/// written.
pub fn to_gguf(
    checkpoint: &Checkpoint,
    quantize: &Quantize,
    output: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, ConvertError> {
    for format in [Some(quantize.format), quantize.head].into_iter().flatten() {
        if format.ggml_type().is_none() {
            return Err(ConvertError::Format(format.name()));
        }
    }
    let unwritten = |source| ConvertError::Write { path: output.into(), source };
    let partial = partial(output).ok_or_else(|| unwritten(ErrorKind::InvalidFilename.into()))?;
    if output.exists() {
        return Err(ConvertError::Exists(output.into()));
    }
    sweep_partials(output);
    // Checks that every tensor is there and has its shape.
    lower_checkpoint(checkpoint, &Default::default())?;
    let spec = describe_checkpoint(checkpoint)?;
    let stored = |name: &str| checkpoint.tensor(name).ok().map(|view| view.format);
    let quantized = quantize.choose(&spec, &stored);
    let from_gguf = checkpoint.gguf_metadata().is_some();
    let planned = if from_gguf {
        tensors::copied(checkpoint, &quantized)?
    } else {
        tensors::translated(checkpoint, &spec, &quantized)?
    };
    let mut pairs = match checkpoint.gguf_metadata() {
        Some(metadata) => metadata.stored().collect(),
        None => {
            let mut pairs = keys::of_model(checkpoint, &spec)?;
            pairs.extend(vocabulary::of_folder(checkpoint, spec.vocab_size())?);
            pairs
        }
    };
    keys::say_how_it_was_made(&mut pairs, quantize.format);
    let written = write(checkpoint, &pairs, &planned, &partial, progress)
        .and_then(|()| if from_gguf { Ok(()) } else { same::check(checkpoint, &spec, &partial) })
        .and_then(|()| {
            let bytes = std::fs::metadata(&partial).map_err(unwritten)?.len();
            std::fs::rename(&partial, output).map_err(unwritten)?;
            Ok(Written { quantized, bytes })
        });
    written.inspect_err(|_| drop(std::fs::remove_file(&partial))).map_err(|error| match error {
        // A user knows the output by the name they gave it.
        ConvertError::Checkpoint(CheckpointError::Io { path, source }) if path == partial => unwritten(source),
        error => error,
    })
}

/// How far [`to_gguf`] is.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// Bytes that tensors will take.
    Total(u64),
    /// Bytes written since the last one.
    Written(u64),
}

fn write(
    checkpoint: &Checkpoint,
    pairs: &[(String, GgufValue)],
    planned: &[Planned],
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ConvertError> {
    let tensors: Vec<GgufTensor> = planned.iter().map(|planned| planned.tensor.clone()).collect();
    progress(Progress::Total(tensors.iter().map(GgufTensor::bytes).sum()));
    let mut file = GgufWriter::create(path, pairs, &tensors)?;
    let source = WeightSource::new(checkpoint);
    for planned in planned {
        let mut put = |bytes: &[u8]| -> Result<(), ConvertError> {
            file.write(bytes)?;
            progress(Progress::Written(bytes.len() as u64));
            Ok(())
        };
        match &planned.rows {
            Rows::Weight(weight) => source.stored(weight, put)?,
            Rows::Vector(vector) => {
                let values = source.vector(vector)?;
                let mut bytes = vec![0; planned.tensor.format.row_bytes(values.len())];
                planned.tensor.format.quantize(&values, &mut bytes);
                put(&bytes)?;
            }
        }
    }
    Ok(file.finish()?)
}
