//! Linears quantized by other libraries: GPTQ, AWQ, bitsandbytes and FP8 in safetensors.
//!
//! Such a linear is several tensors (codes, scales, zero points, …) in the library's own order. Here they become one,
//! `<linear>.weight` of shape (out, in) in a block format, whose rows are put together when they are read: nothing is
//! converted up front, and no more than the rows asked for is in memory. `quantization_config` says how to read them;
//! whatever it says that is not built is refused by name. This room decides nothing by guesses: every shape is
//! compared with what the config claims.
//!
//! What becomes what: 4-bit GPTQ and AWQ codes `q4_0` where every zero point is the middle one, else `u4_g128` or
//! `u4_g32`; 8-bit ones `q8_0` or `u8_g32`; FP8 `f8_e4m3_g128` or `f8_e4m3_g32`, all exact. GPTQ groups whose columns
//! are not neighbours (act-order) are read so in two ways: as `f16` in the order of the inputs, each weight rounded
//! once, and exactly, with the columns sorted by group ([`Ordered`]), for whoever can sort activations likewise.
//! bitsandbytes' 4-bit codes that no format here has become `f16`, as their own library computes them.
//!
//! [`GptqLinear`] is the other way round: a linear that this process quantized, in GPTQ's layout.

mod bitsandbytes;
mod fp8;
mod gptq_linear;
mod grouped;
mod parts;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::mmap::MappedFile;
use super::view::{Encoding, TensorEntry};
use super::{CheckpointError, Config};
use crate::quant::BlockFormat;
pub use gptq_linear::{GptqCodes, GptqLinear, PlannedGptq};
use parts::Parts;

/// A linear whose rows are put together when they are read.
pub(super) trait Composed: Debug + Send + Sync {
    /// What its rows are blocks of.
    fn format(&self) -> &'static dyn BlockFormat;

    /// Writes the stored bytes of some rows, which are as long as these rows take. What they are made of is read from its
    /// file, not through the mapping, many rows at once in few calls.
    ///
    /// # Errors
    /// A file that can't be read, or is not as long as it was.
    fn write_rows(&self, rows: Range<usize>, stored: &mut [u8]) -> Result<(), CheckpointError>;

    /// The same linear in fewer bits, its columns in another order.
    fn ordered(&self) -> Option<&Ordered> {
        None
    }
}

/// A linear's rows with their columns in an order of their own.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) rows: Arc<dyn Composed>,
    /// The input of each column.
    pub(super) order: Arc<[u32]>,
}

/// A composed linear's shape and rows, and the tensor that the file's bytes are counted by.
struct Linear {
    shape: [usize; 2],
    rows: Arc<dyn Composed>,
    codes: TensorEntry,
}

/// The key of a Hugging Face config.
const KEY: &str = "quantization_config";

/// Every method there is code for, as errors list them.
const METHODS: &str = "gptq, awq, bitsandbytes (4 bits), fp8, fbgemm_fp8, compressed-tensors (float-quantized)";

/// Files that said the same before configs had such a section, and whose they are.
pub(super) const OLDER: [(&str, &str); 2] = [("quantize_config.json", "gptq"), ("quant_config.json", "awq")];

/// Replaces the tensors of quantized linears by one each, if the config says that there are any. `older` is one of
/// the [`OLDER`] files with its method, which counts where the config says nothing.
pub(super) fn compose(
    tensors: &mut BTreeMap<String, TensorEntry>,
    files: &[PathBuf],
    mappings: &[Arc<MappedFile>],
    config: &Config,
    older: Option<(Config, &'static str)>,
) -> Result<(), CheckpointError> {
    let mut parts = Parts::new(tensors, files, mappings);
    let (section, named) = match (config.section(KEY)?, older) {
        (Some(section), _) => (section, None),
        (None, Some((older, method))) if !parts.stems(".qweight").is_empty() => (older, Some(method)),
        _ => return Ok(()),
    };
    match named.map_or_else(|| method(&section), Ok)? {
        "gptq" => grouped::compose(&mut parts, grouped::Settings::gptq(&section)?),
        "awq" => grouped::compose(&mut parts, grouped::Settings::awq(&section)?),
        "bitsandbytes" => {
            bitsandbytes::check(&section)?;
            bitsandbytes::compose(&mut parts)
        }
        "fp8" | "fbgemm_fp8" => fp8::compose(&mut parts, &fp8::Settings::fp8(&section)?),
        "compressed-tensors" => fp8::compose(&mut parts, &fp8::Settings::compressed_tensors(&section)?),
        other => Err(unsupported(&section, "quant_method", other, METHODS)),
    }?;
    // What stands in the config is looked at with the family's keys.
    match section.unread().first() {
        Some(key) if named.is_some() => Err(unsupported(&section, key, "set", "nothing by that name")),
        _ => Ok(()),
    }
}

fn method(section: &Config) -> Result<&str, CheckpointError> {
    // bitsandbytes' first configs name no method.
    let bitsandbytes = section.bool_or("load_in_4bit", false)? || section.bool_or("load_in_8bit", false)?;
    match section.opt_str("quant_method")? {
        None if bitsandbytes => Ok("bitsandbytes"),
        _ => section.str("quant_method"),
    }
}

/// A value that is understood and not built.
fn unsupported(section: &Config, key: &str, value: impl ToString, supported: &str) -> CheckpointError {
    CheckpointError::UnsupportedValue {
        file: section.file().into(),
        key: section.full_name(key),
        value: value.to_string(),
        supported: supported.into(),
    }
}

impl Linear {
    fn entry(self, name: String) -> TensorEntry {
        TensorEntry { name, encoding: Encoding::Composed(self.rows), shape: self.shape.to_vec(), ..self.codes }
    }
}
