//! A checkpoint's rows, packed: gathered, checked, quantized where their weight has another format than the file, and
//! repacked.
//!
//! Decides neither where rows go nor how many are packed at once. Invariant: what is read of a file that was cut short
//! is an error that names it.

use std::ops::Range;

use super::ExecError;
use super::packed::{PackedRows, PackedSource, Scratch, room};
use crate::checkpoint::{Checkpoint, TensorView};
use crate::graph::{Weight, WeightId};
use crate::model::{Part, WeightSpec};
use crate::quant::{BlockFormat, PackedLayout};

/// A checkpoint's weights, packed as they are read.
#[derive(Debug)]
pub(super) struct CheckpointWeights {
    checkpoint: Checkpoint,
    weights: Vec<Weight>,
}

impl CheckpointWeights {
    pub(super) fn new(checkpoint: &Checkpoint, weights: &[Weight]) -> Self {
        Self { checkpoint: checkpoint.clone(), weights: weights.to_vec() }
    }

    /// Whether reading rows of a weight is more than reading a file.
    pub(super) fn is_packed(&self, weight: WeightId) -> Result<bool, ExecError> {
        let weight = &self.weights[weight.0];
        let layout = weight.format.layout(weight.rows(), weight.cols());
        Ok(!is_verbatim(weight, &matrices(&self.checkpoint, weight)?, &layout.row_bytes))
    }

    /// Whether reading rows of a weight quantizes them.
    pub(super) fn is_quantized(&self, weight: WeightId) -> Result<bool, ExecError> {
        let weight = &self.weights[weight.0];
        let matrices = matrices(&self.checkpoint, weight)?;
        let other = |(_, view): &(Part, TensorView<'_>)| view.format.name() != weight.format.name();
        Ok(weight.format.block_len() > 1 && matrices.iter().flat_map(|matrix| &matrix.parts).any(other))
    }
}

impl PackedSource for CheckpointWeights {
    fn read(
        &self,
        rows: &PackedRows,
        scratch: &mut Scratch,
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), ExecError> {
        let weight = &self.weights[rows.weight.0];
        let matrices = matrices(&self.checkpoint, weight)?;
        if is_verbatim(weight, &matrices, &rows.slice.1.row_bytes) {
            take(0, read_verbatim(weight, &matrices, &rows.rows, scratch)?);
            return Ok(());
        }
        let layout = pack(weight, &matrices, rows.rows.clone(), scratch)?;
        for (region, row_bytes) in layout.row_bytes.iter().enumerate() {
            take(region, &layout.region(&scratch.packed, region)[..rows.rows.len() * row_bytes]);
        }
        Ok(())
    }

    fn read_ahead(&self, rows: &PackedRows) {
        let weight = &self.weights[rows.weight.0];
        // What is wrong with a tensor will be said when it is read.
        let Ok(matrices) = matrices(&self.checkpoint, weight) else { return };
        for Matrix { parts, .. } in
            matrices.iter().filter(|matrix| !matrix.parts.iter().any(|(part, _)| part.transposed))
        {
            overlaps(parts, &rows.rows).for_each(|(of_tensor, view, _)| view.will_need(of_tensor));
        }
    }
}

/// One of a weight's matrices: the parts that its rows are.
pub(super) struct Matrix<'c> {
    cols: usize,
    parts: Vec<(Part, TensorView<'c>)>,
}
/// The weight's matrices.
pub(super) fn matrices<'c>(checkpoint: &'c Checkpoint, weight: &Weight) -> Result<Vec<Matrix<'c>>, ExecError> {
    let matrix = |spec: &WeightSpec| {
        let parts = spec.parts.iter().map(|part| {
            let view = checkpoint.tensor(&part.tensor)?;
            let ordered = if weight.ordered { view.ordered() } else { None };
            Ok((part.clone(), ordered.map_or(view, |(ordered, _)| ordered)))
        });
        Ok(Matrix { cols: spec.cols, parts: parts.collect::<Result<_, ExecError>>()? })
    };
    weight.specs.iter().map(matrix).collect()
}

/// The parts that some rows of a weight lie in: rows of the tensor, the tensor, and which rows of the weight they are.
fn overlaps<'p, 'c>(
    parts: &'p [(Part, TensorView<'c>)],
    rows: &'p Range<usize>,
) -> impl Iterator<Item = (Range<usize>, &'p TensorView<'c>, Range<usize>)> {
    // The parts' rows are numbered one after the other.
    let mut end = 0;
    let overlap = move |(part, view): &'p (Part, TensorView<'c>)| {
        let first = end;
        end += part.rows.len();
        let taken = rows.start.max(first)..rows.end.min(end);
        let start = part.rows.start + taken.start.saturating_sub(first);
        (taken.start < taken.end).then(|| (start..start + taken.len(), view, taken))
    };
    parts.iter().filter_map(overlap)
}

/// Whether packed rows are the file's own bytes, or those of several matrices side by side.
fn is_verbatim(weight: &Weight, matrices: &[Matrix<'_>], row_bytes: &[usize]) -> bool {
    let same = |(part, view): &(Part, TensorView<'_>)| {
        view.format.name() == weight.format.name() && !view.is_composed() && !part.transposed
    };
    let plain = weight.format.block_len() == 1 && row_bytes == [weight.format.row_bytes(weight.cols())];
    plain && matrices.iter().flat_map(|matrix| &matrix.parts).all(same)
}

/// Reads rows that are the file's own bytes; those of several matrices are put side by side.
fn read_verbatim<'s>(
    weight: &Weight,
    matrices: &[Matrix<'_>],
    rows: &Range<usize>,
    scratch: &'s mut Scratch,
) -> Result<&'s [u8], ExecError> {
    let row_bytes = weight.format.row_bytes(weight.cols());
    let Scratch { stored, packed } = scratch;
    let joined = room(packed, rows.len() * row_bytes);
    let mut start = 0;
    for Matrix { cols, parts } in matrices {
        let width = weight.format.row_bytes(*cols);
        for (of_tensor, view, taken) in overlaps(parts, rows) {
            let at = taken.start - rows.start..taken.end - rows.start;
            if width == row_bytes {
                view.read_rows(of_tensor, &mut joined[at.start * row_bytes..at.end * row_bytes])?;
                continue;
            }
            let stored = room(stored, taken.len() * width);
            view.read_rows(of_tensor, stored)?;
            for (row, stored) in at.zip(stored.chunks_exact(width)) {
                joined[row * row_bytes + start..][..width].copy_from_slice(stored);
            }
        }
        start += width;
    }
    Ok(joined)
}

/// Packs rows into `scratch.packed`; the result is their own layout.
fn pack(
    weight: &Weight,
    matrices: &[Matrix<'_>],
    rows: Range<usize>,
    scratch: &mut Scratch,
) -> Result<PackedLayout, ExecError> {
    let layout = weight.format.layout(rows.len(), weight.cols());
    let Scratch { stored, packed } = scratch;
    packed.clear();
    packed.resize(layout.bytes as usize, 0);
    each_row(weight, matrices, rows, stored, |row, bytes| weight.format.repack_row(bytes, &layout, row, packed))?;
    Ok(layout)
}

/// Hands each of some rows, counted from the first of them, in the weight's own stored form to `take`; `stored` is
/// memory to read into.
pub(super) fn each_row(
    weight: &Weight,
    matrices: &[Matrix<'_>],
    rows: Range<usize>,
    stored: &mut Vec<u8>,
    mut take: impl FnMut(usize, &[u8]),
) -> Result<(), ExecError> {
    let format = weight.format;
    if let [matrix] = matrices {
        return each_matrix_row(format, matrix, rows, stored, take);
    }
    // Blocks lie along the row: a row of matrices side by side is one's blocks, then the next one's.
    let row_bytes = format.row_bytes(weight.cols());
    let mut joined = vec![0; rows.len() * row_bytes];
    let mut start = 0;
    for matrix in matrices {
        let width = format.row_bytes(matrix.cols);
        let place = |row: usize, stored: &[u8]| joined[row * row_bytes + start..][..width].copy_from_slice(stored);
        each_matrix_row(format, matrix, rows.clone(), stored, place)?;
        start += width;
    }
    joined.chunks_exact(row_bytes).enumerate().for_each(|(row, stored)| take(row, stored));
    Ok(())
}

/// As [`each_row`], of one matrix.
fn each_matrix_row(
    format: &'static dyn BlockFormat,
    Matrix { cols, parts }: &Matrix<'_>,
    rows: Range<usize>,
    stored: &mut Vec<u8>,
    mut take: impl FnMut(usize, &[u8]),
) -> Result<(), ExecError> {
    let mut convert = Converter::new(format, *cols);
    // The parts' rows are numbered one after the other; walk those inside the range.
    let mut part_start = 0;
    for (part, view) in parts {
        let part_rows = part_start..part_start + part.rows.len();
        let from = rows.start.max(part_rows.start);
        let to = rows.end.min(part_rows.end);
        let row_bytes = view.format.row_bytes(*cols).max(1);
        let wanted = |row: usize| part.rows.start + row - part_rows.start;
        if from < to {
            let stored = room(stored, (to - from) * row_bytes);
            // Composed rows are outputs already, which such a matrix has as columns.
            if part.transposed && !view.is_composed() {
                let mut columns = vec![0; stored.len()];
                view.read_columns(wanted(from)..wanted(to), &mut columns)?;
                let bytes = view.format.block_bytes();
                let all = stored.chunks_exact_mut(row_bytes).enumerate();
                all.for_each(|(at, stored)| column(&columns, (to - from, bytes), at, stored));
            } else {
                view.read_rows(wanted(from)..wanted(to), stored)?;
            }
            for (row, stored) in (from..to).zip(stored.chunks_exact(row_bytes)) {
                check_scales(view, wanted(row), stored)?;
                take(row - rows.start, convert.row(view, wanted(row), stored)?);
            }
        }
        part_start = part_rows.end;
    }
    Ok(())
}

/// Brings rows into the format of their weight.
struct Converter {
    format: &'static dyn BlockFormat,
    values: Vec<f32>,
    stored: Vec<u8>,
}

impl Converter {
    fn new(format: &'static dyn BlockFormat, cols: usize) -> Self {
        Self { format, values: vec![0.0; cols], stored: vec![0; format.row_bytes(cols)] }
    }

    /// A stored row of a tensor, quantized anew where its format is another one.
    fn row<'r>(&'r mut self, view: &TensorView<'_>, row: usize, stored: &'r [u8]) -> Result<&'r [u8], ExecError> {
        if view.format.name() == self.format.name() {
            return Ok(stored);
        }
        view.format.dequantize(stored, &mut self.values);
        let refuse = |reason: String| {
            let (file, tensor) = (view.file.display().to_string(), view.name.into());
            ExecError::NotQuantizable { file, tensor, row, reason, format: self.format.name() }
        };
        if let Some(column) = self.values.iter().position(|value| !value.is_finite()) {
            return Err(refuse(format!("weight {column} is {}", self.values[column])));
        }
        self.format.quantize(&self.values, &mut self.stored);
        if self.format.bad_block(&self.stored).is_some() {
            let largest = self.values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            return Err(refuse(format!("its largest weight, {largest:e}, is beyond the format's scales")));
        }
        Ok(&self.stored)
    }
}

/// A scale that is no number would make every logit NaN: the row it is in says more.
fn check_scales(view: &TensorView<'_>, row: usize, stored: &[u8]) -> Result<(), ExecError> {
    // Floats are taken as they are, but not those that quantized linears become.
    let made = view.is_composed() && view.format.name() == "f16";
    let not_finite = |bytes: &[u8; 2]| !half::f16::from_le_bytes(*bytes).is_finite();
    let float = || if made { stored.as_chunks().0.iter().position(not_finite) } else { None };
    let Some(block) = view.format.bad_block(stored).or_else(float) else { return Ok(()) };
    let first = block * view.format.block_len();
    Err(ExecError::Scale {
        file: view.file.display().to_string(),
        tensor: view.name.into(),
        row,
        weights: first..first + view.format.block_len(),
        format: view.format.name(),
    })
}

/// A row of a tensor that is stored transposed: one of `count` columns, gathered. Only formats without blocks come so,
/// which [`check_tensors`](super::check_tensors) makes sure of.
fn column(columns: &[u8], (count, bytes): (usize, usize), column: usize, stored: &mut [u8]) {
    for (row, stored) in columns.chunks_exact(count * bytes).zip(stored.chunks_exact_mut(bytes)) {
        stored.copy_from_slice(&row[column * bytes..(column + 1) * bytes]);
    }
}
