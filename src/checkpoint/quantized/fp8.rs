//! FP8 (e4m3): bytes that are floats already, row after row, with scales for the tensor, each row, or squares of
//! weights (128 by 128 in DeepSeek's and Qwen's checkpoints).
//!
//! `weight_scale`, and `weight_scale_inv` too, is what a stored number is multiplied by. Scales of activations are left
//! out: wgpt's activations are not quantized.

use std::ops::Range;
use std::sync::Arc;

use super::parts::{Bytes, Floats, Part, Parts};
use super::{Composed, Linear, unsupported};
use crate::checkpoint::{CheckpointError, Config};
use crate::quant::{BlockFormat, F8E4M3};

/// What `quantization_config` says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Rows and columns that share a scale.
    square: Option<(usize, usize)>,
}

/// Keys about activations, and about what is left alone, which the tensors say themselves.
const HARMLESS: &[&str] = &[
    "activation_scale_ub",
    "activation_scheme",
    "dequantize",
    "global_compression_ratio",
    "ignore",
    "ignored_layers",
    "kv_cache_scheme",
    "modules_to_not_convert",
    "quantization_status",
    "scale_fmt",
    "sparsity_config",
    "transform_config",
    "version",
];

/// Ends of the names of activations' and caches' scales.
const ACTIVATION_SCALES: [&str; 5] = [".input_scale", ".output_scale", ".q_scale", ".k_scale", ".v_scale"];

impl Settings {
    pub(super) fn fp8(section: &Config) -> Result<Self, CheckpointError> {
        section.ignore(HARMLESS);
        match section.str_or("fmt", "e4m3")? {
            "e4m3" | "float8_e4m3fn" => {}
            other => return Err(unsupported(section, "fmt", other, "e4m3")),
        }
        Ok(Self { square: square(section, "weight_block_size")? })
    }

    /// The libraries' common form: one group of settings, whose weights must be 8-bit floats.
    pub(super) fn compressed_tensors(section: &Config) -> Result<Self, CheckpointError> {
        section.ignore(HARMLESS);
        match section.str_or("format", "float-quantized")? {
            "float-quantized" => {}
            other => return Err(unsupported(section, "format", other, "float-quantized")),
        }
        let groups = section.section("config_groups")?;
        let Some(group) = groups.as_ref().map(|groups| groups.section("group_0")).transpose()?.flatten() else {
            return Err(unsupported(section, "config_groups", "without group_0", "one group, group_0"));
        };
        if groups.is_some_and(|groups| groups.has("group_1")) {
            return Err(unsupported(section, "config_groups", "several groups", "one group, group_0"));
        }
        group.ignore(&["format", "input_activations", "output_activations", "targets"]);
        let Some(weights) = group.section("weights")? else {
            return Err(unsupported(section, "config_groups.group_0.weights", "missing", "8-bit floats"));
        };
        weights.ignore(&["actorder", "dynamic", "group_size", "observer", "observer_kwargs", "symmetric"]);
        let (kind, bits) = (weights.str("type")?, weights.u32("num_bits")?);
        if (kind, bits) != ("float", 8) {
            let found = format!("{bits}-bit {kind}");
            return Err(unsupported(section, "config_groups.group_0.weights", found, "8-bit float"));
        }
        match weights.str_or("strategy", "tensor")? {
            "tensor" | "channel" => Ok(Self { square: None }),
            "block" => Ok(Self { square: square(&weights, "block_structure")? }),
            other => Err(unsupported(&weights, "strategy", other, "tensor, channel, block")),
        }
    }
}

/// Rows and columns of the weights that share a scale, if the section says so.
fn square(section: &Config, key: &str) -> Result<Option<(usize, usize)>, CheckpointError> {
    match section.u32s(key)?.as_deref() {
        None => Ok(None),
        Some(&[rows, cols]) if rows > 0 && cols > 0 && cols.is_multiple_of(32) => {
            Ok(Some((rows as usize, cols as usize)))
        }
        Some(other) => Err(unsupported(section, key, format!("{other:?}"), "[rows, a multiple of 32]")),
    }
}

/// Puts every linear together.
pub(super) fn compose(parts: &mut Parts<'_>, settings: &Settings) -> Result<(), CheckpointError> {
    for stem in parts.stems(".weight") {
        let name = format!("{stem}.weight");
        if !parts.is(&name, "F8_E4M3") {
            continue;
        }
        let Some(codes) = parts.take(&name) else { unreachable!("its name was on the list") };
        let scales = match parts.take(&format!("{name}_scale_inv")) {
            Some(scales) => scales,
            None => parts.need(&format!("{name}_scale"), &codes)?,
        };
        let linear = linear(codes, scales, settings)?;
        parts.put(name, linear)?;
    }
    for suffix in ACTIVATION_SCALES {
        parts.stems(suffix).iter().for_each(|stem| drop(parts.take(&format!("{stem}{suffix}"))));
    }
    Ok(())
}

fn linear(codes: Part, scales: Part, settings: &Settings) -> Result<Linear, CheckpointError> {
    let &[rows, cols] = codes.shape() else {
        return Err(codes.bad(format!("expected two dimensions, found {:?}", codes.shape())));
    };
    if cols == 0 || !cols.is_multiple_of(32) {
        return Err(codes.bad(format!("rows of {cols} weights are not whole groups of 32, which wgpt's FP8 needs")));
    }
    let (square, scales) = match settings.square {
        Some((high, wide)) => {
            let why = format!("a scale for every {high} by {wide} weights of {rows} by {cols}");
            ((high, wide), scales.floats(&[&[rows.div_ceil(high), cols.div_ceil(wide)]], &why)?)
        }
        None if scales.shape().iter().product::<usize>() == 1 => {
            ((rows.max(1), cols), scales.floats(&[&[], &[1], &[1, 1]], "one scale")?)
        }
        None => ((1, cols), scales.floats(&[&[rows], &[rows, 1]], "one scale, or one for each row")?),
    };
    let long = cols.is_multiple_of(128) && square.1.is_multiple_of(128);
    let linear = Fp8 { cols, square, codes: codes.bytes.clone(), scales, long };
    Ok(Linear { shape: [rows, cols], rows: Arc::new(linear), codes: codes.entry })
}

/// An FP8 linear.
#[derive(Debug)]
struct Fp8 {
    cols: usize,
    /// Rows and columns that share a scale.
    square: (usize, usize),
    codes: Bytes,
    scales: Floats,
    /// Whether blocks are of 128 weights, not 32.
    long: bool,
}

impl Composed for Fp8 {
    fn format(&self) -> &'static dyn BlockFormat {
        if self.long { &F8E4M3::<128> } else { &F8E4M3::<32> }
    }

    fn write_rows(&self, rows: Range<usize>, stored: &mut [u8]) -> Result<(), CheckpointError> {
        let row_bytes = self.format().row_bytes(self.cols);
        let (high, across) = (self.square.0, self.cols.div_ceil(self.square.1));
        let squares = rows.start / high..rows.end.div_ceil(high);
        let codes = self.codes.part(rows.start * self.cols..rows.end * self.cols)?;
        let scales = self.scales.some(squares.start * across..squares.end * across)?;
        let of_rows = codes.chunks_exact(self.cols).zip(stored.chunks_exact_mut(row_bytes));
        for (row, (codes, stored)) in rows.zip(of_rows) {
            let scales = &scales[(row / high - squares.start) * across..][..across];
            if self.long {
                self.write_row::<128>(scales, codes, stored);
            } else {
                self.write_row::<32>(scales, codes, stored);
            }
        }
        Ok(())
    }
}

impl Fp8 {
    fn write_row<const LEN: usize>(&self, scales: &[f32], codes: &[u8], stored: &mut [u8]) {
        let blocks = codes.chunks_exact(LEN).zip(stored.chunks_exact_mut(F8E4M3::<LEN>.block_bytes()));
        for (index, (codes, block)) in blocks.enumerate() {
            F8E4M3::<LEN>::write(codes, scales[index * LEN / self.square.1], block);
        }
    }
}
