//! A model as a straight line of ops.
//!
//! [`lower`] turns a [`crate::model::ModelSpec`] into a [`Graph`]: tensors, nodes in execution order, and the units
//! they fall into (embedding, each layer, head), which are what a plan places. It reads no weights and knows no
//! adapter. Invariant: every tensor is written before it is read (some in columns, by several nodes), and a unit reads of the units before it only its
//! own input.

mod buffers;
mod lower;
mod quantize;

use std::fmt;
use std::ops::Range;

pub use buffers::{BufferSlot, Buffers, assign_buffers};
pub use lower::{LowerOptions, Ordered, lower};
pub use quantize::{Quantize, QuantizedFormats};

use crate::model::{RopeSpec, VectorSpec, WeightSpec};
use crate::ops::{KvFormat, Op, StateType};
use crate::quant::BlockFormat;
use crate::tensor::TensorType;

/// Index into [`Graph::tensors`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// Index into [`Graph::weights`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub usize);

/// Index into [`Graph::vectors`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VectorId(pub usize);

/// What a tensor is.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorKind {
    /// Computed in each forward; token ids are the first of them.
    Activation(TensorType),
    /// A matrix of the checkpoint.
    Weight(WeightId),
    /// An f32 vector: of the checkpoint, or made at load.
    Vector(VectorId),
    /// A layer's key or value cache.
    State(StateType),
}

/// A tensor of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// For printing and labels.
    pub name: String,
    /// What it is.
    pub kind: TensorKind,
}

/// A weight matrix: where it comes from and how it is stored.
#[derive(Debug, Clone)]
pub struct Weight {
    /// Its columns in the checkpoint: one matrix, or several with as many rows side by side, each a whole number of the
    /// format's runs but the last, which is one of blocks. At least one.
    pub specs: Vec<WeightSpec>,
    /// The format it keeps on the adapter.
    pub format: &'static dyn BlockFormat,
    /// Its columns are in an order of their own, which is how the checkpoint holds it in fewest bits; what it multiplies
    /// has been gathered in that order.
    pub ordered: bool,
}

impl Weight {
    /// Output features.
    pub fn rows(&self) -> usize {
        self.specs[0].rows()
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.specs.iter().map(|spec| spec.cols).sum()
    }

    /// Its matrices' names.
    pub fn label(&self) -> String {
        let names: Vec<String> = self.specs.iter().map(WeightSpec::label).collect();
        names.join(" | ")
    }

    /// Bytes in packed form, as one slice.
    pub fn bytes(&self) -> u64 {
        self.format.layout(self.rows(), self.cols()).bytes
    }
}

/// Where an f32 vector's values come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Vector {
    /// The checkpoint.
    Spec(VectorSpec),
    /// One more than the checkpoint says: norms that store their weight's distance from one.
    OnePlus(VectorSpec),
    /// Two of the checkpoint, added: biases of what is computed as one.
    Sum([VectorSpec; 2]),
    /// Known beforehand: biases and weights that a family does not have, ALiBi's slopes.
    Values(Vec<f32>),
    /// The cosines and sines of RoPE for this many positions.
    RopeTable {
        /// Frequencies.
        rope: RopeSpec,
        /// Positions.
        positions: u32,
    },
}

impl Vector {
    /// Values.
    pub fn len(&self) -> usize {
        match self {
            Self::Spec(spec) | Self::OnePlus(spec) | Self::Sum([spec, _]) => spec.len(),
            Self::Values(values) => values.len(),
            Self::RopeTable { rope, positions } => rope.rotary_dim as usize * *positions as usize,
        }
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One op with its operands.
#[derive(Debug)]
pub struct Node {
    /// What it computes.
    pub op: Box<dyn Op>,
    /// Operands, in the op's order.
    pub inputs: Vec<TensorId>,
    /// Results, in the op's order; states are updated in place.
    pub outputs: Vec<TensorId>,
}

/// What is placed as a whole: the embedding, a layer, the head.
#[derive(Debug, Clone)]
pub struct Unit {
    /// `embedding`, `layer 3`, `head`.
    pub name: String,
    /// Its nodes.
    pub nodes: Range<usize>,
    /// The weights it reads.
    pub weights: Vec<WeightId>,
    /// The vectors it reads.
    pub vectors: Vec<VectorId>,
    /// What it takes from the unit before it (the embedding: token ids).
    pub input: TensorId,
    /// What it hands to the next.
    pub output: TensorId,
    /// Bytes of its weights and vectors.
    pub bytes: u64,
    /// Bytes of its KV cache.
    pub kv_bytes: u64,
}

/// A lowered model.
#[derive(Debug)]
pub struct Graph {
    /// All tensors.
    pub tensors: Vec<Tensor>,
    /// All weight matrices; tied ones appear once.
    pub weights: Vec<Weight>,
    /// All vectors.
    pub vectors: Vec<Vector>,
    /// Ops in execution order.
    pub nodes: Vec<Node>,
    /// Units in execution order; their node ranges cover `nodes`.
    pub units: Vec<Unit>,
    /// The token ids.
    pub tokens: TensorId,
    /// The logits, `(logit_rows, vocab_size)`.
    pub logits: TensorId,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions the KV cache has room for.
    pub context_length: u32,
}

/// A model that can't be lowered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// A size the kernels can't take.
    #[error("{what} is {size}: kernels need a multiple of {multiple}")]
    Size {
        /// Which size.
        what: String,
        /// What it is.
        size: usize,
        /// What it must be a multiple of.
        multiple: usize,
    },
    /// A head that attention's registers don't hold.
    #[error("head_dim is {head_dim}: attention takes at most {limit}")]
    HeadTooLarge {
        /// What the model has.
        head_dim: u32,
        /// The most.
        limit: u32,
    },
    /// A tensor the model needs and the checkpoint does not have.
    #[error("tensor \"{0}\" is missing from the checkpoint")]
    MissingTensor(String),
    /// A combination that no kernel has been built for.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// One weight made of tensors that are stored in different formats.
    #[error("tensor \"{tensor}\" is stored as {found}, the rest of its weight as {expected}")]
    MixedFormats {
        /// The tensor.
        tensor: String,
        /// Its format.
        found: &'static str,
        /// The others'.
        expected: &'static str,
    },
}

impl Graph {
    /// A tensor's activation type, where it is one.
    pub fn activation(&self, id: TensorId) -> Option<&TensorType> {
        match &self.tensors[id.0].kind {
            TensorKind::Activation(ty) => Some(ty),
            _ => None,
        }
    }

    /// How keys and values are held; `None` where nothing is.
    pub fn kv_format(&self) -> Option<KvFormat> {
        self.tensors.iter().find_map(|tensor| match &tensor.kind {
            TensorKind::State(state) => Some(state.format),
            _ => None,
        })
    }

    /// Logits of a row.
    pub fn logits_width(&self) -> usize {
        let columns = self.activation(self.logits).and_then(TensorType::columns);
        columns.expect("lowering gives logits a fixed width") as usize
    }
}

impl fmt::Display for Graph {
    /// One line a node: `%12 = matmul(%11, model.layers.0.…)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for unit in &self.units {
            writeln!(f, "{}:", unit.name)?;
            for node in &self.nodes[unit.nodes.clone()] {
                let names = |ids: &[TensorId]| {
                    let names: Vec<&str> = ids.iter().map(|id| self.tensors[id.0].name.as_str()).collect();
                    names.join(", ")
                };
                writeln!(f, "  {} = {:?}({})", names(&node.outputs), node.op, names(&node.inputs))?;
            }
        }
        Ok(())
    }
}
