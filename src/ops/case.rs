//! Test and bench cases: an op with operand types, a step, and how close kernel and reference must be.

use super::{Op, Step, StateType};
use crate::quant::BlockFormat;
use crate::tensor::TensorType;

/// An operand that a case fills with seeded numbers.
#[derive(Debug, Clone)]
pub enum CaseInput {
    /// An activation; values around 1 with a few outliers.
    Activation(TensorType),
    /// Token ids below `vocab_size`.
    Tokens {
        /// Exclusive upper bound.
        vocab_size: u32,
    },
    /// A weight matrix, cut into slices of at most `slice_rows` rows.
    Weight {
        /// Its format.
        format: &'static dyn BlockFormat,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// Rows of a slice at most.
        slice_rows: usize,
    },
    /// An f32 vector.
    Vector(usize),
    /// The cosine/sine table of RoPE, `(positions, rotary_dim / 2, 2)`.
    RopeTable {
        /// Positions.
        positions: usize,
        /// Rotated values of a head.
        rotary_dim: usize,
    },
    /// A filled key or value cache.
    State(StateType),
}

/// One op with everything needed to run it.
#[derive(Debug)]
pub struct Case {
    /// What it shows, for messages.
    pub label: String,
    /// The op.
    pub op: Box<dyn Op>,
    /// Its inputs.
    pub inputs: Vec<CaseInput>,
    /// Its outputs; states are filled first and updated in place.
    pub outputs: Vec<CaseInput>,
    /// The forward.
    pub step: Step,
    /// Largest normalised mean squared error, Σ(a−b)²/Σa², of each output against the reference.
    pub max_nmse: f64,
}

/// Every case of every op.
pub fn all_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(super::embed::cases());
    cases.extend(super::norm::cases());
    cases.extend(super::matmul::cases());
    cases.extend(super::rope::cases());
    cases.extend(super::attention::cases());
    cases.extend(super::activation::cases());
    cases
}
