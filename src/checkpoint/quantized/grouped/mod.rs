//! GPTQ and AWQ: codes of 4 or 8 bits with an f16 scale and a zero point for every group of inputs of an output.
//!
//! Both keep `qweight`, `qzeros` and `scales` with the inputs down and the outputs across, the transpose of a weight.
//! GPTQ packs neighbouring inputs of an output into a word and adds `g_idx`, each input's group; AWQ packs eight
//! outputs of an input, in an order of its own. A weight is `(code - zero) * scale`.
//!
//! GPTQ's first layout stores zero points less one, subtracted from the whole word: where one is 0, the next lends it
//! a bit. Here the ones are added to the word again, as GPTQModel does; kernels that add them to each code find 16 for
//! such a 0. `gptq_v2` stores zero points as they are, AWQ too.

mod rows;
mod settings;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rows::{Contents, target};
pub(super) use settings::Settings;
use settings::{Order, in_every_code};

use super::parts::{Floats, Part, Parts, Words};
use super::{Composed, GptqLinear, Linear, Ordered, PlannedGptq};
use crate::checkpoint::CheckpointError;
use crate::quant::{BlockFormat, F16};

/// Puts every linear together.
pub(super) fn compose(parts: &mut Parts<'_>, settings: Settings) -> Result<(), CheckpointError> {
    for stem in parts.stems(".qweight") {
        let linear = linear(parts, settings, &stem)?;
        parts.put(format!("{stem}.weight"), linear)?;
    }
    Ok(())
}

fn linear(parts: &mut Parts<'_>, settings: Settings, stem: &str) -> Result<Linear, CheckpointError> {
    let Some(codes) = parts.take(&format!("{stem}.qweight")) else { unreachable!("its name was on the list") };
    let (zeros, scales) =
        (parts.need(&format!("{stem}.qzeros"), &codes)?, parts.need(&format!("{stem}.scales"), &codes)?);
    let &[down, across] = codes.shape() else {
        return Err(codes.bad(format!("expected two dimensions, found {:?}", codes.shape())));
    };
    let per_word = settings.per_word();
    let sizes = match settings.order {
        Order::Gptq => down.checked_mul(per_word).zip(Some(across)),
        Order::Awq => Some(down).zip(across.checked_mul(per_word)),
    };
    let (cols, rows) = sizes.ok_or_else(|| codes.bad(format!("shape {:?} is too large", codes.shape())))?;
    if cols == 0 || !cols.is_multiple_of(32) || rows == 0 || !rows.is_multiple_of(per_word) {
        return Err(codes
            .bad(format!("{cols} inputs by {rows} outputs: inputs must be a multiple of 32, outputs of {per_word}")));
    }
    let group_size = settings.group_size.unwrap_or(cols);
    let groups = cols.div_ceil(group_size);
    let why = format!("{rows} outputs, {groups} groups of {group_size} inputs, {} bits", settings.bits);
    let zeros = zeros.words([groups, rows / per_word], &why)?;
    let scales = scales.floats(&[&[groups, rows]], &why)?;
    let act_order = match parts.take(&format!("{stem}.g_idx")) {
        Some(index) => act_order(index, cols, group_size, groups)?,
        None => None,
    };
    let entry = codes.entry.clone();
    let codes = codes.words([down, across], "as it is")?;
    let parts = Contents { rows, cols, group_size, codes, zeros, scales };
    Ok(Linear { shape: [rows, cols], rows: parts.compose(settings, act_order), codes: entry })
}

/// The rows of a linear that was quantized in this process.
pub(super) fn in_memory(linear: &GptqLinear) -> Arc<dyn Composed> {
    let settings = Settings {
        order: Order::Gptq,
        bits: 4,
        group_size: linear.group_size,
        zero_offset: in_every_code(GptqLinear::ZERO_OFFSET, 4),
    };
    let group_size = linear.group_size.unwrap_or(linear.cols);
    let contents = Contents {
        rows: linear.rows,
        cols: linear.cols,
        group_size,
        codes: Words::owned(Arc::clone(&linear.qweight)),
        zeros: Words::owned(Arc::clone(&linear.qzeros)),
        scales: Floats::halves(Arc::clone(&linear.scales)),
    };
    contents.compose(settings, scattered(&linear.g_idx, group_size))
}

/// A linear that is yet to be quantized: what its rows will be, and none of them.
#[derive(Debug)]
struct Planned {
    file: PathBuf,
    tensor: String,
    format: &'static dyn BlockFormat,
    ordered: Option<Ordered>,
}

/// What [`in_memory`] will make of a linear whose zero points are not all the same; with `act_order` its groups will be of
/// inputs in some order that is another one for every input.
pub(super) fn planned(
    file: &Path,
    linear: &PlannedGptq<'_>,
    group_size: Option<usize>,
    act_order: bool,
) -> Arc<dyn Composed> {
    let PlannedGptq { tensor, cols, input, .. } = *linear;
    let settings = Settings { order: Order::Gptq, bits: 4, group_size, zero_offset: 0 };
    let group_size = group_size.unwrap_or(cols);
    let format: &'static dyn BlockFormat = target(settings, cols, group_size, false);
    let planned = |format, ordered| Planned { file: file.into(), tensor: tensor.into(), format, ordered };
    if !act_order || group_size >= cols {
        return Arc::new(planned(format, None));
    }
    let order = (0..cols).map(|at| ((input + cols - at) % cols) as u32).collect();
    let ordered = Ordered { rows: Arc::new(planned(format, None)), order };
    Arc::new(planned(&F16, Some(ordered)))
}

impl Composed for Planned {
    fn format(&self) -> &'static dyn BlockFormat {
        self.format
    }

    fn ordered(&self) -> Option<&Ordered> {
        self.ordered.as_ref()
    }

    fn write_rows(&self, _: Range<usize>, _: &mut [u8]) -> Result<(), CheckpointError> {
        let reason = "is only planned to be quantized: there are no rows to read yet".to_owned();
        Err(CheckpointError::BadTensor { file: self.file.clone(), tensor: self.tensor.clone(), reason })
    }
}

/// The inputs' groups, unless those are neighbours, as without an index.
fn act_order(index: Part, cols: usize, group_size: usize, groups: usize) -> Result<Option<Vec<u32>>, CheckpointError> {
    index.expect(&["I32", "U32"])?;
    index.expect_shape(&[&[cols]], "a group for each input")?;
    let group_of = words(&index.bytes);
    if let Some(input) = group_of.iter().position(|group| *group as usize >= groups) {
        let group = group_of[input] as i32;
        return Err(index.bad(format!("input {input} is in group {group}, expected 0 to {}", groups - 1)));
    }
    Ok(scattered(&index.bytes, group_size))
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// The inputs' groups, where they are not what they would be without an index.
fn scattered(index: &[u8], group_size: usize) -> Option<Vec<u32>> {
    let group_of = words(index);
    let neighbours = group_of.iter().enumerate().all(|(input, group)| input / group_size == *group as usize);
    (!neighbours).then_some(group_of)
}
