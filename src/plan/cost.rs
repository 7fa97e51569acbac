//! What every unit of a graph needs of an adapter, kind by kind and to the byte.
//!
//! Counts; places nothing and allocates nothing. The executor makes its buffers from the same types, slices and
//! kernels, so that what is counted here is what is allocated there. Invariant: what several units share carries a
//! name, so that it is counted once on an adapter.

use std::collections::HashMap;
use std::fmt;

use super::kernels::{NodeKernels, unit_kernels};
use crate::graph::{Buffers, Graph, Node, TensorKind, VectorId, Weight, WeightId};
use crate::ops::{Choose, Kernel, Phase, Step, Traits, WeightType};
use crate::quant::{CHUNK_BYTES, PackedLayout, REGION_ALIGN};
use crate::tensor::{Extents, TensorType};

/// Bytes of logits computed at once when all are wanted; a prefill chunk is cut where its logits would be more.
const LOGITS_BYTES: u64 = 32 << 20;

/// Rows that kernels may write as one: activations have room for whole groups.
const ROWS: u64 = 16;

/// Chosen tokens that are kept for the host: the one it takes, the one being computed, and the one queued.
pub const CHOICES_IN_FLIGHT: usize = 3;

/// Bytes of the token choice, which follows the last unit: the slices of logits, the rule, the choice, a place for it
/// where the embedding is on another adapter, and those kept for the host.
const CHOICE_BYTES: u64 =
    Choose::SLICE_BYTES + Choose::RULE_BYTES + (2 + CHOICES_IN_FLIGHT as u64) * Choose::CHOSEN_BYTES;

/// The number its buffers go by among those of activations.
const CHOICE: usize = usize::MAX;

/// What the bytes on an adapter depend on.
#[derive(Debug, Clone, Copy)]
pub struct AdapterLimits<'a> {
    /// Largest storage binding, bytes.
    pub max_binding: u64,
    /// What kernels are chosen by.
    pub traits: &'a Traits,
}

/// What a buffer holds that is bound whole: weights are cut to what an adapter binds, these are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncut {
    /// Activations of the largest forward.
    Activations,
    /// What kernels use between their dispatches.
    Scratch,
    /// Keys or values of a layer.
    KvCache,
    /// Norms, biases, tables.
    Vectors,
}

impl Uncut {
    /// The flag that decides how large it is.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Activations | Self::Scratch => "--prefill-chunk",
            Self::KvCache | Self::Vectors => "--context-length",
        }
    }
}

impl fmt::Display for Uncut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Activations => "activations of a layer",
            Self::Scratch => "intermediate results of a kernel",
            Self::KvCache => "the keys or values of a layer",
            Self::Vectors => "a vector or table of positions",
        })
    }
}

/// What one unit needs of an adapter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitCost {
    /// Its weights: bytes of each row slice, packed.
    pub weights: Vec<(WeightId, Vec<u64>)>,
    /// Its vectors; they stay on the adapter even when the weights are streamed.
    pub vectors: Vec<(VectorId, u64)>,
    /// Bytes of the largest row of its weights, packed by itself.
    pub row: u64,
    /// Bytes of KV cache; they stay too.
    pub kv_cache: u64,
    /// Bytes of the largest buffer of it.
    pub state: u64,
    /// The activation buffers it uses, by slot of [`Buffers`]; those of the token choice count as one more.
    pub activations: Vec<(usize, u64)>,
    /// Bytes of each scratch buffer.
    pub scratch: Vec<u64>,
    /// Bytes of its output in the largest forward: what may be read back.
    pub output: u64,
    /// Bytes of weights that one decoded token reads: of an embedding one row, of experts those chosen.
    pub read: u64,
    /// Weights of quantized formats that one decoded token reads.
    pub quantized: u64,
    /// Multiplications and additions of one token.
    pub flops: u64,
    /// Dispatches of one token.
    pub dispatches: usize,
}

impl UnitCost {
    /// Bytes of its weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().flat_map(|(_, slices)| slices).sum()
    }

    /// Its largest buffer of those that are never cut, and the bytes of it.
    pub fn largest_uncut(&self) -> (Uncut, u64) {
        let largest = |sizes: &mut dyn Iterator<Item = u64>| sizes.max().unwrap_or(0);
        let sizes = [
            (Uncut::Activations, largest(&mut self.activations.iter().map(|(_, bytes)| *bytes))),
            (Uncut::Scratch, largest(&mut self.scratch.iter().copied())),
            (Uncut::KvCache, self.state),
            (Uncut::Vectors, largest(&mut self.vectors.iter().map(|(_, bytes)| *bytes))),
        ];
        sizes.into_iter().max_by_key(|(_, bytes)| *bytes).expect("there are four kinds")
    }
}

/// The size of the buffer that holds so many bytes.
pub fn buffer_bytes(bytes: u64) -> u64 {
    bytes.next_multiple_of(4).max(16)
}

/// The largest forward: `prefill_chunk` tokens, of which it computes groups of 16 as one where it can, but no more than
/// every adapter has workgroups for along an axis, and no more rows of logits than every one binds at once.
pub fn largest_forward<'a>(
    graph: &Graph,
    prefill_chunk: u32,
    limits: impl IntoIterator<Item = AdapterLimits<'a>>,
) -> Extents {
    let (mut bindable, mut workgroups) = (LOGITS_BYTES, u32::MAX);
    for AdapterLimits { max_binding, traits } in limits {
        (bindable, workgroups) = (bindable.min(max_binding), workgroups.min(traits.workgroups));
    }
    let whole_groups = |rows: u64| if rows < ROWS { rows.max(1) } else { rows / ROWS * ROWS };
    let rows = whole_groups(bindable / (graph.logits_width() as u64 * 4));
    let tokens = u64::from(prefill_chunk.clamp(1, graph.context_length)).next_multiple_of(ROWS);
    // Some kernels have a workgroup for every token.
    let tokens = tokens.min(whole_groups(u64::from(workgroups)));
    Extents { tokens: tokens as u32, logit_rows: tokens.min(rows) as u32 }
}

/// Every unit's cost on an adapter of these limits.
pub fn unit_costs(graph: &Graph, buffers: &Buffers, extents: Extents, limits: AdapterLimits<'_>) -> Vec<UnitCost> {
    let types: Vec<WeightType> = graph.weights.iter().map(|weight| weight_type(weight, limits.max_binding)).collect();
    (0..graph.units.len()).map(|unit| unit_cost(graph, buffers, extents, limits.traits, &types, unit)).collect()
}

fn unit_cost(
    graph: &Graph,
    buffers: &Buffers,
    extents: Extents,
    traits: &Traits,
    types: &[WeightType],
    unit: usize,
) -> UnitCost {
    let choice = (unit + 1 == graph.units.len()).then_some((CHOICE, CHOICE_BYTES));
    let unit = &graph.units[unit];
    let slices = |id: &WeightId| types[id.0].slices.iter().map(|(_, layout)| buffer_bytes(layout.bytes)).collect();
    let vector = |id: &VectorId| buffer_bytes(graph.vectors[id.0].len() as u64 * 4);
    let mut cost = UnitCost {
        weights: unit.weights.iter().map(|id| (*id, slices(id))).collect(),
        vectors: unit.vectors.iter().map(|id| (*id, vector(id))).collect(),
        row: unit.weights.iter().map(|id| row_bytes(&types[id.0])).max().unwrap_or(0),
        output: graph.activation(unit.output).map_or(0, |ty| ty.bytes(extents)),
        ..UnitCost::default()
    };
    let (mut slots, mut states) = (HashMap::new(), HashMap::new());
    for node in &graph.nodes[unit.nodes.clone()] {
        for id in node.inputs.iter().chain(&node.outputs) {
            match &graph.tensors[id.0].kind {
                TensorKind::Activation(_) => {
                    let own = buffers.slots_of(*id);
                    slots.extend(own.map(|slot| (slot, buffer_bytes(buffers.slots[slot].bytes(extents)))));
                }
                TensorKind::State(state) => {
                    states.insert(*id, buffer_bytes(state.bytes()));
                }
                TensorKind::Weight(id) => {
                    let rows = rows_read(graph, node, &types[id.0]);
                    let weight = &types[id.0];
                    cost.read += (weight.format.row_bytes(weight.cols) * rows) as u64;
                    cost.quantized += if weight.format.block_len() > 1 { (rows * weight.cols) as u64 } else { 0 };
                    cost.flops += 2 * (rows * weight.cols) as u64;
                }
                TensorKind::Vector(_) => {}
            }
        }
    }
    for NodeKernels { phase, kernels, .. } in unit_kernels(graph, unit, (traits, extents), |id| &types[id.0]) {
        let first = Step::new(1, 0, 1);
        let run = kernels.iter().filter(|kernel| kernel.runs(first)).count();
        cost.dispatches += if phase == Phase::Decode { run } else { 0 };
        add_scratch(&mut cost.scratch, &kernels);
    }
    cost.kv_cache = states.values().sum();
    cost.state = states.values().copied().max().unwrap_or(0);
    cost.activations = slots.into_iter().chain(choice).collect();
    cost.activations.sort_unstable();
    cost
}

/// Bytes of one packed row with what is lost between its regions.
fn row_bytes(weight: &WeightType) -> u64 {
    let regions = &weight.slices[0].1.row_bytes;
    regions.iter().map(|bytes| *bytes as u64 + 2 * CHUNK_BYTES as u64).sum()
}

/// Rows of a weight that one token reads: an embedding's is one, of experts as many as its output is wide.
fn rows_read(graph: &Graph, node: &Node, weight: &WeightType) -> usize {
    let width = graph.activation(node.outputs[0]).and_then(TensorType::columns).map_or(0, |columns| columns as usize);
    match node.op.name() {
        "embed" | "add_positions" => 1,
        _ => width.min(weight.rows),
    }
}

/// Scratch buffers as large as the largest of each number.
fn add_scratch(scratch: &mut Vec<u64>, kernels: &[Kernel]) {
    let wanted = kernels.iter().flat_map(|kernel| kernel.scratch.iter().enumerate());
    for (number, bytes) in wanted {
        merge_largest(scratch, number, buffer_bytes(*bytes));
    }
}

/// Raises the size at `index` to at least `bytes`.
pub(super) fn merge_largest(sizes: &mut Vec<u64>, index: usize, bytes: u64) {
    if sizes.len() <= index {
        sizes.resize(index + 1, 0);
    }
    sizes[index] = sizes[index].max(bytes);
}

/// A weight as an operand where one binding holds `max_binding` bytes.
pub fn weight_type(weight: &Weight, max_binding: u64) -> WeightType {
    let (rows, cols) = (weight.rows(), weight.cols());
    WeightType { format: weight.format, rows, cols, slices: slices(weight, max_binding) }
}

/// The row slices of a weight where one binding holds `max_binding` bytes: first row and layout of each.
pub fn slices(weight: &Weight, max_binding: u64) -> Vec<(usize, PackedLayout)> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let layout = weight.format.layout(rows, cols);
    if layout.bytes <= max_binding {
        return vec![(0, layout)];
    }
    // Regions are aligned, so a slice takes a little more than its rows.
    let slack = layout.regions.len() as u64 * 2 * REGION_ALIGN;
    let row_bytes = layout.bytes.div_ceil(rows as u64).max(1);
    let per_slice = ((max_binding.saturating_sub(slack)) / (row_bytes + 1)).max(1) as usize;
    let starts = (0..rows).step_by(per_slice);
    starts.map(|first| (first, weight.format.layout(per_slice.min(rows - first), cols))).collect()
}
