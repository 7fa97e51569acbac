//! Ops: the whole vocabulary that models are lowered to.
//!
//! One file an op: its parameters, its kernels (as data: which WGSL file, which slots, which constants), its
//! reference (plain loops on the host) and its test cases. An op knows neither wgpu nor plans. Invariant: kernel
//! and reference compute the same function of the same operands; `tests/ops.rs` holds them together on every
//! adapter.
//!
//! Everything static about an op (sizes, epsilons, offsets) becomes a WGSL `override` constant, everything that
//! changes from forward to forward is in [`Step`], and workgroup counts are [`Extent`]s: so a kernel's pipeline
//! and bind group are made once and serve every forward of its [`Phase`].

use std::fmt::Debug;

use crate::quant::{BlockFormat, PackedLayout};
use crate::tensor::{DType, Extents, FEW_ROWS, TensorType};

mod activation;
mod attention;
mod case;
mod choose;
mod embed;
mod experts;
mod gather;
mod gemv;
mod host;
mod kv;
mod matmul;
mod norm;
mod positions;
mod qk_norm;
mod quantize_row;
mod rope;
mod rope_attention;
mod route;
mod softcap;
mod tuning;

pub use activation::{Activation, GatedActivation};
pub use attention::{Alibi, Attention, Pieces};
pub use case::{Case, CaseInput, CaseValue, Numbers, all_cases};
pub use choose::{Choose, Chosen};
pub use embed::Embed;
pub use experts::{CombineExperts, MatmulExperts};
pub use gather::GatherColumns;
pub use host::{HostInput, HostSlice, HostWeight, fan_out};
pub use kv::{KvFormat, StateType};
pub use matmul::{Columns, Matmul, Pair};
pub use norm::{Norm, NormKind};
pub use positions::AddPositions;
pub use qk_norm::{NormGroups, QkNorm};
pub use quantize_row::{Q8Block, QuantizeRow, decode_q8, encode_q8};
pub use rope::{RopeAppend, RopeStyle};
pub use rope_attention::RopeAttention;
pub use route::Route;
pub use softcap::Softcap;
pub use tuning::{AdapterClass, Shape, TunedKernel, Tuning, TuningKey, Vendor};

/// What changes from one forward to the next. Twin of `Step` in shaders/lib/step.wgsl.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// Tokens of this forward.
    pub tokens: u32,
    /// Position of the first one.
    pub position: u32,
    /// Trailing tokens whose logits are wanted.
    pub logit_rows: u32,
    /// `position + tokens`: valid rows of the KV cache after this forward.
    pub context: u32,
}

const _: () = assert!(size_of::<Step>() == 16, "the WGSL uniform is four words");

impl Step {
    /// A forward of `tokens` tokens from `position`, wanting `logit_rows` rows of logits.
    pub const fn new(tokens: u32, position: u32, logit_rows: u32) -> Self {
        Self { tokens, position, logit_rows, context: position + tokens }
    }

    /// The symbolic dimensions' lengths.
    pub const fn extents(self) -> Extents {
        Extents { tokens: self.tokens, logit_rows: self.logit_rows }
    }
}

/// How many workgroups along one axis, known when the forward is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// The same for every forward.
    Fixed(u32),
    /// One for each `per` tokens, rounded up.
    Tokens {
        /// Tokens a workgroup covers.
        per: u32,
    },
    /// One for each `per` rows of logits, rounded up.
    LogitRows {
        /// Rows a workgroup covers.
        per: u32,
    },
    /// One for each piece of the context.
    Pieces(Pieces),
    /// So many where a token sees a context of up to `most` positions, otherwise none.
    ContextUpTo {
        /// Positions.
        most: u32,
        /// Workgroups.
        count: u32,
    },
    /// So many where a token sees a context of more than `most` positions, otherwise none.
    ContextBeyond {
        /// Positions.
        most: u32,
        /// Workgroups.
        count: u32,
    },
}

impl Extent {
    /// Workgroups in this forward.
    pub const fn count(self, step: Step) -> u32 {
        match self {
            Self::Fixed(count) => count,
            Self::Tokens { per } => step.tokens.div_ceil(per),
            Self::LogitRows { per } => step.logit_rows.div_ceil(per),
            Self::Pieces(pieces) => pieces.count(step),
            // The first token sees the least, the last one all.
            Self::ContextUpTo { most, count } => count * (step.position < most) as u32,
            Self::ContextBeyond { most, count } => count * (step.context > most) as u32,
        }
    }
}

/// What a kernel's binding is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bind {
    /// The op's n-th input: an activation, a vector or a state.
    Input(usize),
    /// The op's n-th output.
    Output(usize),
    /// One region of one row slice of the op's n-th input, a weight.
    Weight {
        /// Which input.
        input: usize,
        /// Which row slice.
        slice: usize,
        /// Which region of its packed layout.
        region: usize,
    },
    /// The op's n-th scratch buffer.
    Scratch(usize),
    /// A tensor of the graph that is none of the op's operands: see [`Kernel::EARLY`] and [`Pair`].
    Tensor(usize),
    /// As [`Self::Weight`], of a tensor of the graph that is none of the op's operands.
    TensorWeight {
        /// Which tensor.
        tensor: usize,
        /// Which row slice.
        slice: usize,
        /// Which region of its packed layout.
        region: usize,
    },
}

/// One dispatch, as data. The uniform `step` is bound by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    /// The file of `shaders/`.
    pub source: &'static str,
    /// What fills its slots.
    pub slots: Vec<(&'static str, String)>,
    /// Its constants.
    pub overrides: Vec<(&'static str, f64)>,
    /// Its bindings by WGSL name, or [`Self::EARLY`]. Other names that the composed shader lacks are an error.
    pub bindings: Vec<(&'static str, Bind)>,
    /// Workgroups along x, y, z.
    pub workgroups: [Extent; 3],
    /// Bytes of each scratch buffer it uses, by [`Bind::Scratch`] number.
    pub scratch: Vec<u64>,
}

impl Kernel {
    /// The name of bindings that no shader has: buffers that become readable for later kernels when this one runs.
    pub const EARLY: &'static str = "(early)";

    /// Whether it has anything to do in a forward: without workgroups along an axis it has not.
    pub fn runs(&self, step: Step) -> bool {
        self.workgroups.iter().all(|extent| extent.count(step) > 0)
    }
}

/// A weight matrix `(rows, cols)` as it is placed: row slices of one format.
#[derive(Debug, Clone)]
pub struct WeightType {
    /// How its values are stored.
    pub format: &'static dyn BlockFormat,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Its row slices: first row and layout of each.
    pub slices: Vec<(usize, PackedLayout)>,
}

/// The type of an op's operand.
#[derive(Debug, Clone)]
pub enum Operand {
    /// An activation.
    Activation(TensorType),
    /// A matrix of the checkpoint.
    Weight(WeightType),
    /// An f32 vector of the checkpoint or a table made at load, of this many values.
    Vector(usize),
    /// One layer's key or value cache.
    State(StateType),
}

impl Operand {
    /// The element type of an activation.
    pub const fn dtype(&self) -> Option<DType> {
        match self {
            Self::Activation(ty) => Some(ty.dtype),
            _ => None,
        }
    }

    /// Whether it is an activation of f16 rows.
    pub fn is_f16(&self) -> bool {
        self.dtype().is_some_and(DType::is_f16)
    }
}

/// What an adapter can do, as far as choosing kernels goes. Plain data, filled by the gpu room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traits {
    /// Bytes of workgroup memory.
    pub workgroup_storage: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
    /// Workgroups along one axis.
    pub workgroups: u32,
    /// Smallest subgroup, where subgroup functions may be used.
    pub subgroup: Option<u32>,
    /// Arithmetic on `f16`.
    pub f16: bool,
    /// 16×16×16 f16·f16→f32 cooperative matrices with subgroups of 32.
    pub cooperative_matrix: bool,
    /// A software adapter: few, fat invocations are best.
    pub software: bool,
    /// Workgroup shapes of the matrix kernels.
    pub tuning: Tuning,
}

impl Traits {
    /// WebGPU's guaranteed limits and nothing else.
    pub fn plain() -> Self {
        Self {
            workgroup_storage: 16 << 10,
            invocations: 256,
            workgroups: 65_535,
            subgroup: None,
            f16: false,
            cooperative_matrix: false,
            software: false,
            tuning: Tuning::default(),
        }
    }

    /// What a large GPU has, with cooperative matrices: for kernels that no adapter at hand would be given.
    pub fn large() -> Self {
        Self {
            workgroup_storage: 48 << 10,
            invocations: 1024,
            subgroup: Some(32),
            f16: true,
            cooperative_matrix: true,
            ..Self::plain()
        }
    }
}

/// One row, a few or many? Each phase of a node has its own kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Exactly one row.
    Decode,
    /// Up to [`FEW_ROWS`] rows, each of which gets the bits that decode gives it.
    Few,
    /// Any number of rows.
    Prefill,
}

impl Phase {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Decode, Self::Few, Self::Prefill];

    /// The phase of a node that computes `rows` rows, in a forward of `batch` tokens. A forward that goes through the
    /// adapters in pieces is counted whole: so a plan's pieces don't show in the bits.
    pub const fn of(rows: u32, batch: u32) -> Self {
        match (rows, batch) {
            (1, _) => Self::Decode,
            (_, ..=FEW_ROWS) => Self::Few,
            _ => Self::Prefill,
        }
    }
}

/// What an op chooses its kernels by.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// One row, a few or many.
    pub phase: Phase,
    /// Types of the inputs.
    pub inputs: &'a [Operand],
    /// Types of the outputs.
    pub outputs: &'a [Operand],
    /// The adapter.
    pub traits: &'a Traits,
    /// The largest forward: what rows of activations have room for.
    pub largest: Extents,
}

impl Call<'_> {
    /// The n-th input as a weight.
    ///
    /// # Panics
    /// If lowering gave the op something else: a broken invariant of the graph.
    pub fn weight(&self, input: usize) -> &WeightType {
        match &self.inputs[input] {
            Operand::Weight(weight) => weight,
            other => panic!("input {input} must be a weight, not {other:?}"),
        }
    }

    /// Values of the n-th input, a vector.
    ///
    /// # Panics
    /// If lowering gave the op something else.
    pub fn vector(&self, input: usize) -> usize {
        match &self.inputs[input] {
            Operand::Vector(values) => *values,
            other => panic!("input {input} must be a vector, not {other:?}"),
        }
    }

    /// Length of a row of the n-th input, an activation.
    ///
    /// # Panics
    /// If lowering gave the op something else.
    pub fn columns(&self, input: usize) -> u32 {
        match &self.inputs[input] {
            Operand::Activation(tensor) => tensor.columns(),
            _ => None,
        }
        .unwrap_or_else(|| panic!("input {input} must be an activation of fixed columns, not {:?}", self.inputs[input]))
    }

    /// The n-th output as a key or value cache.
    ///
    /// # Panics
    /// If lowering gave the op something else.
    pub fn state(operand: &Operand) -> StateType {
        match operand {
            Operand::State(state) => *state,
            other => panic!("operand must be a KV cache, not {other:?}"),
        }
    }
}

/// One operation of the graph.
pub trait Op: Debug + Send + Sync {
    /// Its name, as printed.
    fn name(&self) -> &'static str;

    /// Its dispatches, in order, for this call.
    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel>;

    /// The matmul that it is, if it is one: they may share a dispatch, see [`Matmul::pair`].
    fn as_matmul(&self) -> Option<&Matmul> {
        None
    }

    /// Whether its kernels for many rows take the `input`-th input as [`DType::F16`] or [`DType::F16Scaled`] where this call
    /// has it as f32.
    fn reads_f16(&self, _input: usize, _call: &Call<'_>) -> bool {
        false
    }

    /// Whether they write the `output`-th output so, as [`Self::f16`]: all for which they do, or none.
    fn writes_f16(&self, _output: usize, _call: &Call<'_>) -> bool {
        false
    }

    /// Which of the two its outputs are then.
    fn f16(&self) -> DType {
        DType::F16
    }

    /// The same in plain loops, f64 accumulation. Outputs are whole buffers: activations `(rows, …)`, states
    /// `(kv_heads, context_length, head_dim)` as f32, read and written in place.
    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]);
}

/// The bindings of row slice `slice` of the weight at `input`: the names the format snippets declare.
pub(crate) fn weight_bindings(input: usize, weight: &WeightType, slice: usize) -> Vec<(&'static str, Bind)> {
    const REGIONS: [&str; 3] = ["quants", "scales", "high_bits"];
    (0..weight.slices[slice].1.regions.len())
        .map(|region| (REGIONS[region], Bind::Weight { input, slice, region }))
        .collect()
}

/// The slot binding of how quads of the `output`-th output are stored.
pub(crate) fn stored_slot(call: &Call<'_>, output: usize) -> (&'static str, String) {
    let file = match call.outputs[output].dtype() {
        Some(DType::F16) => "lib/stored_f16",
        Some(DType::F16Scaled) => "lib/stored_f16_scaled",
        _ => "lib/stored_f32",
    };
    ("STORED", file.into())
}

/// The slot binding of a weight's format.
pub(crate) fn weight_slot(weight: &WeightType) -> (&'static str, String) {
    ("WEIGHTS", format!("quant/{}", weight.format.name()))
}

/// The slot binding of `REDUCE` for a workgroup of `workgroup` invocations, and the constant that it needs.
pub(crate) fn reduce_slot(
    traits: &Traits,
    workgroup: u32,
    overrides: &mut Vec<(&'static str, f64)>,
) -> (&'static str, String) {
    match traits.subgroup {
        Some(subgroup) if workgroup.is_multiple_of(subgroup) => {
            overrides.push(("SUBGROUP", f64::from(subgroup)));
            ("REDUCE", "lib/reduce_subgroup".into())
        }
        _ => ("REDUCE", "lib/reduce_workgroup".into()),
    }
}
