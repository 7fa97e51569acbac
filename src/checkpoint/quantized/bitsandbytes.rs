//! bitsandbytes' 4-bit weights (nf4, fp4): nibbles that index a table of sixteen values, times the largest magnitude
//! of their block.
//!
//! The nibbles of a weight follow each other without regard to rows, the first of two in the upper half of a byte.
//! `absmax` is each block's f32, or a byte that indexes a table of 256 values, times a f32 of its own block, plus an
//! offset (double quantization), which is put together here. Rows are nf4 or fp4, exactly; where blocks do not end with
//! the rows, or the table in the file is another one, they are f16, each weight rounded once.

use std::ops::Range;
use std::sync::Arc;

use super::parts::{Bytes, Floats, Part, Parts};
use super::{Composed, Linear, unsupported};
use crate::checkpoint::{CheckpointError, Config};
use crate::quant::{BlockFormat, F16, FP4, Float, NF4, NormalFloat, Table};

/// Keys of what the tensors say themselves, or of the dtype to compute in.
const HARMLESS: &[&str] = &[
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
    "llm_int8_skip_modules",
    "llm_int8_threshold",
    "_load_in_4bit",
    "_load_in_8bit",
];

/// Between the weight's name and the kind of quantization, in the name of the tensor that describes it.
const STATE: &str = ".quant_state.bitsandbytes__";

/// Refuses what is not 4 bits.
pub(super) fn check(section: &Config) -> Result<(), CheckpointError> {
    section.ignore(HARMLESS);
    if section.bool_or("load_in_8bit", false)? {
        return Err(unsupported(section, "load_in_8bit", true, "load_in_4bit"));
    }
    // Whole bytes otherwise: other storage types hold the same bytes as floats of nonsense.
    match section.str_or("bnb_4bit_quant_storage", "uint8")? {
        "uint8" => Ok(()),
        other => Err(unsupported(section, "bnb_4bit_quant_storage", other, "uint8")),
    }
}

/// What the describing tensor holds: JSON.
#[derive(Debug, serde::Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

/// Puts every linear together.
pub(super) fn compose(parts: &mut Parts<'_>) -> Result<(), CheckpointError> {
    for stem in parts.stems(".weight.absmax") {
        let name = format!("{stem}.weight");
        let state_names = parts.starting_with(&format!("{name}{STATE}"));
        let Some(state) = state_names.first().and_then(|name| parts.take(name)) else {
            let absmax = parts.take(&format!("{name}.absmax"));
            let bad = |part: Part| part.bad(format!("\"{name}{STATE}nf4\" is missing, which belongs to it"));
            return absmax.map_or(Ok(()), |part| Err(bad(part)));
        };
        let linear = linear(parts, &name, &state)?;
        parts.put(name, linear)?;
    }
    Ok(())
}

fn linear(parts: &mut Parts<'_>, name: &str, described: &Part) -> Result<Linear, CheckpointError> {
    let state: State = serde_json::from_slice(&described.bytes)
        .map_err(|error| described.bad(format!("does not describe a quantization: {error}")))?;
    if !["nf4", "fp4"].contains(&state.quant_type.as_str()) {
        return Err(described.bad(format!("quant_type \"{}\" is not supported; supported: nf4, fp4", state.quant_type)));
    }
    let &[rows, cols] = &state.shape[..] else {
        return Err(described.bad(format!("expected a shape of two dimensions, found {:?}", state.shape)));
    };
    let weights = rows.checked_mul(cols).filter(|count| *count > 0 && state.blocksize > 0);
    let Some(weights) = weights else {
        return Err(described.bad(format!("shape {:?} in blocks of {}", state.shape, state.blocksize)));
    };
    let codes = parts.need(name, described)?;
    codes.expect(&["U8"])?;
    codes.expect_shape(&[&[weights.div_ceil(2), 1], &[1, weights.div_ceil(2)]], "two weights a byte")?;
    let table = parts.need(&format!("{name}.quant_map"), &codes)?.floats(&[&[16]], "a value for each code")?;
    let blocks = weights.div_ceil(state.blocksize);
    let absmax = parts.need(&format!("{name}.absmax"), &codes)?;
    let scales = if absmax.entry.encoding.dtype() == "U8" {
        let (Some(size), Some(offset)) = (state.nested_blocksize.filter(|size| *size > 0), state.nested_offset) else {
            return Err(described.bad("nested_blocksize and nested_offset are missing, absmax is quantized".into()));
        };
        absmax.expect_shape(&[&[blocks]], "one for each block")?;
        let table = parts.need(&format!("{name}.nested_quant_map"), &codes)?;
        let nested = parts.need(&format!("{name}.nested_absmax"), &codes)?;
        let nested = nested.floats(&[&[blocks.div_ceil(size)]], "one for each block of absmax")?;
        let table = table.floats(&[&[256]], "a value for each byte")?;
        let table = (0..256).map(|code| table.at(code)).collect();
        Scales::Nested { codes: absmax.bytes, table, absmax: nested, size, offset }
    } else {
        Scales::Plain(absmax.floats(&[&[blocks]], "one for each block")?)
    };
    let table = std::array::from_fn(|code| table.at(code));
    let format: &dyn BlockFormat = match table {
        _ if state.blocksize != NF4.block_len() || !cols.is_multiple_of(state.blocksize) => &F16,
        NormalFloat::VALUES => &NF4,
        Float::VALUES => &FP4,
        _ => &F16,
    };
    let linear = FourBit { cols, block: state.blocksize, codes: codes.bytes.clone(), table, scales, format };
    Ok(Linear { shape: [rows, cols], rows: Arc::new(linear), codes: codes.entry })
}

/// A linear of 4-bit table indices.
#[derive(Debug)]
struct FourBit {
    cols: usize,
    /// Weights of a block.
    block: usize,
    codes: Bytes,
    table: [f32; 16],
    scales: Scales,
    format: &'static dyn BlockFormat,
}

/// The blocks' largest magnitudes.
#[derive(Debug)]
enum Scales {
    Plain(Floats),
    /// Quantized themselves, `size` a block.
    Nested {
        codes: Bytes,
        table: Vec<f32>,
        absmax: Floats,
        size: usize,
        offset: f32,
    },
}

impl Scales {
    /// Those of some blocks.
    fn some(&self, blocks: Range<usize>) -> Result<Vec<f32>, CheckpointError> {
        match self {
            Self::Plain(absmax) => absmax.some(blocks),
            Self::Nested { codes, table, absmax, size, offset } => {
                let (first, end) = (blocks.start / size, blocks.end.div_ceil(*size));
                let absmax = absmax.some(first..end)?;
                let scale =
                    |(block, code): (usize, u8)| table[usize::from(code)] * absmax[block / size - first] + offset;
                Ok(blocks.clone().zip(codes.part(blocks)?).map(scale).collect())
            }
        }
    }
}

impl Composed for FourBit {
    fn format(&self) -> &'static dyn BlockFormat {
        self.format
    }

    fn write_rows(&self, rows: Range<usize>, stored: &mut [u8]) -> Result<(), CheckpointError> {
        let weights = rows.start * self.cols..rows.end * self.cols;
        let (first_byte, first_block) = (weights.start / 2, weights.start / self.block);
        let read = Read {
            of: self,
            first_byte,
            codes: self.codes.part(first_byte..weights.end.div_ceil(2))?,
            first_block,
            scales: self.scales.some(first_block..weights.end.div_ceil(self.block))?,
        };
        let row_bytes = self.format.row_bytes(self.cols);
        for (row, stored) in rows.zip(stored.chunks_exact_mut(row_bytes)) {
            let first = row * self.cols;
            if self.format.block_len() == 1 {
                read.write_floats(first, stored);
            } else {
                read.write_blocks(first, stored);
            }
        }
        Ok(())
    }
}

/// What some rows are made of: neither blocks nor bytes need begin with a row.
struct Read<'a> {
    of: &'a FourBit,
    first_byte: usize,
    codes: Vec<u8>,
    first_block: usize,
    scales: Vec<f32>,
}

impl Read<'_> {
    /// A row that starts with weight `first`, as blocks: absmax, then the nibbles as they are.
    fn write_blocks(&self, first: usize, stored: &mut [u8]) {
        let FourBit { block: len, format, .. } = self.of;
        for (index, block) in stored.chunks_exact_mut(format.block_bytes()).enumerate() {
            let first = first + index * len;
            let (absmax, nibbles) = block.split_at_mut(size_of::<f32>());
            absmax.copy_from_slice(&self.scale(first).to_le_bytes());
            nibbles.copy_from_slice(&self.codes[first / 2 - self.first_byte..][..len / 2]);
        }
    }

    /// A row that starts with weight `first`, in f16.
    fn write_floats(&self, first: usize, stored: &mut [u8]) {
        let weight = |at: usize| self.of.table[usize::from(self.code(at))] * self.scale(at);
        let weights: Vec<f32> = (first..first + self.of.cols).map(weight).collect();
        F16.quantize(&weights, stored);
    }

    fn scale(&self, weight: usize) -> f32 {
        self.scales[weight / self.of.block - self.first_block]
    }

    fn code(&self, weight: usize) -> u8 {
        let byte = self.codes[weight / 2 - self.first_byte];
        if weight.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
    }
}
