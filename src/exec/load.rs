//! From the checkpoint to weights: matrices packed in bounded pieces, vectors as f32, and whether they are all there and
//! of the shapes that the model says.

use std::collections::HashSet;
use std::ops::Range;

use rayon::prelude::*;

use super::ExecError;
use super::checkpoint_weights::{CheckpointWeights, each_row, matrices};
use super::packed_cache::{PackedCache, Packing};
use crate::checkpoint::{Checkpoint, TensorView};
use crate::graph::{Graph, Vector, Weight, WeightId};
use crate::model::{ModelSpec, Part, VectorSpec, rope_table};

/// Bytes packed at a time by each thread.
const PIECE_BYTES: usize = 4 << 20;

/// Reads a graph's weights out of a checkpoint.
#[derive(Clone, Copy)]
pub struct WeightSource<'c> {
    checkpoint: &'c Checkpoint,
    cache: Option<&'c PackedCache>,
}

/// What loading tells whoever waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of weights placed since the last one.
    Loaded(u64),
    /// Bytes that will be written to the cache of packed weights before they are placed.
    Caching(u64),
    /// Bytes of them written since the last one.
    Cached(u64),
}

impl<'c> WeightSource<'c> {
    /// The weights of this checkpoint.
    pub const fn new(checkpoint: &'c Checkpoint) -> Self {
        Self { checkpoint, cache: None }
    }

    /// The weights of this checkpoint, packed ones kept in a cache.
    pub(super) const fn cached(checkpoint: &'c Checkpoint, cache: Option<&'c PackedCache>) -> Self {
        Self { checkpoint, cache }
    }

    /// What they come from.
    pub(super) const fn checkpoint(&self) -> &'c Checkpoint {
        self.checkpoint
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
        let (rows, row_bytes) = (weight.rows(), weight.format.row_bytes(weight.cols()));
        let step = (PIECE_BYTES / row_bytes.max(1)).max(1);
        let ranges: Vec<Range<usize>> = (0..rows).step_by(step).map(|start| start..(start + step).min(rows)).collect();
        let matrices = matrices(self.checkpoint, weight)?;
        let gather = |rows: &Range<usize>| {
            let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
            let put = |_, stored: &[u8]| bytes.extend_from_slice(stored);
            each_row(weight, &matrices, rows.clone(), &mut Vec::new(), put)?;
            Ok(bytes)
        };
        for batch in ranges.chunks(rayon::current_num_threads()) {
            let pieces: Vec<Vec<u8>> = batch.par_iter().map(gather).collect::<Result<_, ExecError>>()?;
            pieces.iter().try_for_each(|bytes| take(bytes))?;
        }
        Ok(())
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
            let mut stored = vec![0; view.rows() * view.format.row_bytes(view.cols())];
            view.read_rows(0..view.rows(), &mut stored)?;
            view.format.dequantize(&stored, &mut whole);
            values.extend_from_slice(&whole[part.rows.clone()]);
        }
        Ok(values)
    }

    /// The packed bytes of a graph's weights, for as long as they are wanted. What quantizing or, of `streamed` weights,
    /// packing makes comes from the cache, if there is one, and is put there first where it is missing.
    pub(super) fn packing(
        &self,
        graph: &Graph,
        streamed: &[WeightId],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Packing, ExecError> {
        let made = CheckpointWeights::new(self.checkpoint, &graph.weights);
        match self.cache {
            Some(cache) => cache.packing(self.checkpoint, graph, streamed, made, progress),
            None => Ok(Packing::uncached(made)),
        }
    }
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
