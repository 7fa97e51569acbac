//! From the checkpoint to weights: matrices packed in bounded pieces, vectors as f32, and whether they are all there and
//! of the shapes that the model says.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::ExecError;
use super::checkpoint_weights::{CheckpointWeights, Matrix, each_row, matrices, pack};
use super::packed::{PackedSource, Scratch};
use crate::checkpoint::{Checkpoint, TensorView};
use crate::graph::{Graph, Vector, Weight};
use crate::model::{ModelSpec, Part, VectorSpec, rope_table};
use crate::quant::PackedLayout;

/// Bytes packed at a time by each thread.
const PIECE_BYTES: usize = 4 << 20;

/// A piece of packed rows.
struct Piece {
    /// Rows of the weight it holds.
    rows: Range<usize>,
    /// The piece's own layout: one region after the other for these rows only.
    layout: PackedLayout,
    /// Packed bytes.
    bytes: Vec<u8>,
}

/// Reads a graph's weights out of a checkpoint.
#[derive(Clone, Copy)]
pub struct WeightSource<'c> {
    checkpoint: &'c Checkpoint,
}

impl<'c> WeightSource<'c> {
    /// The weights of this checkpoint.
    pub const fn new(checkpoint: &'c Checkpoint) -> Self {
        Self { checkpoint }
    }

    /// Hands `rows` of a weight, packed, to `take`, piece after piece in order; pieces are made on all cores, and
    /// never more than one a core at a time.
    fn pieces(
        &self,
        weight: &Weight,
        rows: Range<usize>,
        mut take: impl FnMut(&Piece) -> Result<(), ExecError>,
    ) -> Result<(), ExecError> {
        let make = |weight: &Weight, matrices: &[Matrix<'_>], rows: Range<usize>| {
            let mut scratch = Scratch::default();
            let layout = pack(weight, matrices, rows.clone(), &mut scratch)?;
            Ok(Piece { rows, layout, bytes: scratch.packed })
        };
        self.in_pieces(weight, rows, make, |piece| take(&piece))
    }

    /// Hands all rows of a weight in stored form to `take`, piece after piece in order; on all cores, in bounded memory.
    ///
    /// # Errors
    /// A tensor that can't be read or quantized, or what `take` says.
    pub fn stored<E: From<ExecError>>(
        &self,
        weight: &Weight,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let gather = |weight: &Weight, matrices: &[Matrix<'_>], rows: Range<usize>| {
            let mut bytes = Vec::with_capacity(rows.len() * weight.format.row_bytes(weight.cols()));
            each_row(weight, matrices, rows, &mut Vec::new(), |_, stored| bytes.extend_from_slice(stored))?;
            Ok(bytes)
        };
        self.in_pieces(weight, 0..weight.rows(), gather, |bytes: Vec<u8>| take(&bytes))
    }

    fn in_pieces<T: Send, E: From<ExecError>>(
        &self,
        weight: &Weight,
        rows: Range<usize>,
        make: impl Fn(&Weight, &[Matrix<'_>], Range<usize>) -> Result<T, ExecError> + Sync,
        mut take: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        let row_bytes = weight.format.row_bytes(weight.cols()).max(1);
        let step = (PIECE_BYTES / row_bytes).max(1);
        let ranges: Vec<Range<usize>> =
            rows.clone().step_by(step).map(|start| start..(start + step).min(rows.end)).collect();
        let matrices = matrices(self.checkpoint, weight)?;
        for batch in ranges.chunks(rayon::current_num_threads()) {
            let pieces = batch.par_iter().map(|rows| make(weight, &matrices, rows.clone()));
            let pieces: Vec<T> = pieces.collect::<Result<_, _>>()?;
            pieces.into_iter().try_for_each(&mut take)?;
        }
        Ok(())
    }

    /// A weight's rows, packed whole as slices of these layouts.
    pub(super) fn packed(&self, weight: &Weight, slices: &[(usize, PackedLayout)]) -> Result<Vec<Vec<u8>>, ExecError> {
        let mut packed = Vec::with_capacity(slices.len());
        for (first, layout) in slices {
            let mut bytes = vec![0u8; layout.bytes as usize];
            self.pieces(weight, *first..first + layout.rows, |piece| {
                for (offset, source) in spread(piece, *first, layout) {
                    bytes[offset as usize..][..source.len()].copy_from_slice(source);
                }
                Ok(())
            })?;
            packed.push(bytes);
        }
        Ok(packed)
    }

    /// A vector's values.
    ///
    /// # Errors
    /// A tensor that can't be read.
    pub fn vector(&self, vector: &Vector) -> Result<Vec<f32>, ExecError> {
        match vector {
            Vector::Values(values) => Ok(values.clone()),
            Vector::Spec(spec) => self.elements(&spec.parts),
            Vector::OnePlus(spec) => Ok(self.elements(&spec.parts)?.into_iter().map(|value| 1.0 + value).collect()),
            Vector::Sum([a, b]) => {
                let pairs = self.elements(&a.parts)?.into_iter().zip(self.elements(&b.parts)?);
                Ok(pairs.map(|(a, b)| a + b).collect())
            }
            Vector::RopeTable { rope, positions } => {
                let tensor = |spec: &VectorSpec| self.elements(&spec.parts);
                let frequencies = rope.inverse_frequencies(*positions, tensor)?;
                Ok(rope_table(&frequencies, rope.magnitude, *positions))
            }
        }
    }

    fn elements(&self, parts: &[Part]) -> Result<Vec<f32>, ExecError> {
        let mut values = Vec::new();
        for part in parts {
            let view = self.checkpoint.tensor(&part.tensor)?;
            let mut whole = vec![0.0; view.shape.iter().product()];
            view.format.dequantize(&view.rows_from(0..view.rows()), &mut whole);
            values.extend_from_slice(&whole[part.rows.clone()]);
        }
        Ok(values)
    }

    /// The packed bytes of a graph's weights, for as long as they are wanted.
    pub(super) fn packed_source(&self, graph: &Graph) -> Arc<dyn PackedSource> {
        Arc::new(CheckpointWeights { checkpoint: self.checkpoint.clone(), weights: graph.weights.clone() })
    }
}
/// Where each region of a piece belongs in the slice that starts at row `first`: byte offset and source.
fn spread<'p>(piece: &'p Piece, first: usize, slice: &PackedLayout) -> Vec<(u64, &'p [u8])> {
    let row = piece.rows.start - first;
    let regions = slice.row_bytes.iter().enumerate().map(|(region, row_bytes)| {
        let source = &piece.layout.region(&piece.bytes, region)[..piece.rows.len() * row_bytes];
        (slice.regions[region].start + (row * row_bytes) as u64, source)
    });
    regions.collect()
}
/// Checks that every tensor the graph reads has the shape the model says, and that every tensor of the checkpoint is
/// read or ignored on purpose.
///
/// # Errors
/// The first tensor that is missing, misshapen or unknown.
pub fn check_tensors(checkpoint: &Checkpoint, spec: &ModelSpec, graph: &Graph) -> Result<(), ExecError> {
    let mut used: HashSet<&str> = HashSet::new();
    for spec in graph.weights.iter().flat_map(|weight| &weight.specs) {
        for part in &spec.parts {
            used.insert(&part.tensor);
            check_matrix(&checkpoint.tensor(&part.tensor)?, part, spec.cols)?;
        }
    }
    let vectors = graph.vectors.iter().flat_map(|vector| match vector {
        Vector::Spec(spec) | Vector::OnePlus(spec) => vec![spec],
        Vector::Sum(specs) => specs.iter().collect(),
        Vector::RopeTable { rope, .. } => rope.tensors().collect(),
        Vector::Values(_) => vec![],
    });
    for part in vectors.flat_map(|spec| &spec.parts) {
        used.insert(&part.tensor);
        check_vector(&checkpoint.tensor(&part.tensor)?, part.tensor_rows)?;
    }
    let ignored = |name: &str| {
        let head = spec.is_tied() && (name == "lm_head.weight" || name == "embed_out.weight");
        head || spec.ignored.iter().any(|pattern| matches(pattern, name)) || is_empty_bias(checkpoint, name)
    };
    let unknown: Vec<&str> = checkpoint.names().filter(|name| !used.contains(name) && !ignored(name)).collect();
    let Some(first) = unknown.first() else { return Ok(()) };
    let shape = checkpoint.tensor(first).map(|view| shape_text(view.shape));
    Err(ExecError::UnknownTensors {
        file: checkpoint.path().display().to_string(),
        count: unknown.len(),
        tensor: (*first).to_owned(),
        // In a format no one reads, its shape is not known either.
        found: shape.unwrap_or_default(),
        family: spec.family,
    })
}

/// Whether this is the bias of a quantized linear and all zeros: GPTQ's writers add one to every linear.
fn is_empty_bias(checkpoint: &Checkpoint, name: &str) -> bool {
    let Some(linear) = name.strip_suffix(".bias") else { return false };
    let composed = checkpoint.tensor(&format!("{linear}.weight")).is_ok_and(|weight| weight.is_composed());
    composed && checkpoint.tensor(name).is_ok_and(|bias| bias.bytes.iter().all(|byte| *byte == 0))
}

/// A matrix, or several of them stacked (experts), or one row as a vector.
fn check_matrix(view: &TensorView<'_>, part: &Part, cols: usize) -> Result<(), ExecError> {
    if part.transposed && !view.is_composed() {
        if view.format.block_len() != 1 {
            let expected = "plain numbers, which a transposed matrix needs".to_owned();
            return Err(misfit(view, expected, view.format.name().to_owned()));
        }
        return check_shape(view, &[cols, part.tensor_rows]);
    }
    let stacked = view.shape.len() == 3 && view.rows() == part.tensor_rows && view.cols() == cols;
    let row = part.tensor_rows == 1 && view.shape == [cols];
    if stacked || row { Ok(()) } else { check_shape(view, &[part.tensor_rows, cols]) }
}

/// A vector, or several of them stacked (the norms of heads).
fn check_vector(view: &TensorView<'_>, len: usize) -> Result<(), ExecError> {
    let stacked = matches!(view.shape, [heads, cols] if *heads > 1 && heads * cols == len);
    if stacked { Ok(()) } else { check_shape(view, &[len]) }
}

fn check_shape(view: &TensorView<'_>, expected: &[usize]) -> Result<(), ExecError> {
    if view.shape == expected { Ok(()) } else { Err(misfit(view, shape_text(expected), shape_text(view.shape))) }
}

fn misfit(view: &TensorView<'_>, expected: String, found: String) -> ExecError {
    ExecError::Tensor { file: view.file.display().to_string(), tensor: view.name.into(), expected, found }
}

fn shape_text(shape: &[usize]) -> String {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("({})", dims.join(", "))
}

/// Whether a name fits a pattern in which `*` stands for a number, at the end for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, "")) => name.starts_with(before),
        Some((before, after)) => {
            let middle = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            middle.is_some_and(|middle| !middle.is_empty() && middle.bytes().all(|byte| byte.is_ascii_digit()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_a_layer_number_only() {
        let pattern = "layers.*.attention.bias";
        assert!(matches(pattern, "layers.12.attention.bias"), "a number fits");
        assert!(!matches(pattern, "layers.12.x.attention.bias"), "a path does not");
        assert!(!matches(pattern, "layers..attention.bias"), "nothing does not");
        assert!(
            matches("vision.*", "vision.layers.0.bias") && !matches("vision.*", "text"),
            "at the end anything fits"
        );
    }
}
