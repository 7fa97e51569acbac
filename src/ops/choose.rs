//! `choose`: logits to the next token's id, where the logits are.
//!
//! The definition is the sampler's; here is what of it kernels take over, and how a rule and an outcome are written
//! as numbers. Invariant: a kernel chooses the reference's token, up to sums that tie within f32's rounding, or says
//! that it did not choose.

use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Step, Traits};
use crate::sampler::{Rule, SampleError, SamplingParams};
use crate::tensor::{Dim, TensorType};

/// Inputs: one row of logits `(vocab_size)`, a rule as [`Choose::numbers`]. Outputs: the outcome as
/// [`Chosen::from_numbers`] reads it, `(4)`, and the id as the next forward's token, `(1)` u32 (0 where none is
/// chosen).
///
/// Draws need sums over the vocabulary. The first kernel sums slices of it; filters then look only at candidates that
/// the slices' largest logits bound: with top-k that many slices, else some. Where top-p keeps more than is listed,
/// the outcome is [`Chosen::Undecided`], and whoever has the logits on the host chooses.
#[derive(Debug, Clone)]
pub struct Choose;

/// What came of a choice.
#[derive(Debug, Clone, PartialEq)]
pub enum Chosen {
    /// A token.
    Token(u32),
    /// There is none, for this reason.
    Failed(SampleError),
    /// The filters keep more candidates than kernels rank: choose on the host.
    Undecided,
}

/// `SLICES` of lib/choice.wgsl; four words each.
const SLICES: u32 = 512;

/// Slices a workgroup of choose_slices.wgsl sums.
const SLICES_PER_WORKGROUP: u32 = 8;

/// `LIST` of lib/candidates.wgsl.
const LIST: usize = 1024;

impl Choose {
    /// Bytes of its first scratch buffer.
    pub const SLICE_BYTES: u64 = SLICES as u64 * 16;

    /// Bytes of a rule.
    pub const RULE_BYTES: u64 = 32;

    /// Bytes of an outcome.
    pub const CHOSEN_BYTES: u64 = 16;

    /// Largest top-k: half the slices, so that about twice as many candidates are sure to be listed.
    const MAX_TOP_K: usize = SLICES as usize / 2;

    /// Whether kernels take this rule.
    pub fn takes(rule: &Rule) -> bool {
        let params = &rule.params;
        let few = params.top_k <= Self::MAX_TOP_K || rule.limit <= LIST || params.top_k >= rule.limit;
        // Beyond these temperatures f32 no longer tells weights apart from 0 or 1.
        params.temperature == 0.0 || ((1e-6..=1e6).contains(&params.temperature) && few)
    }

    /// A rule as its kernels read it, for rows of `vocab_size` logits: temperature, top-k, top-p, min-p, the number
    /// drawn, the limit.
    pub fn numbers(rule: &Rule, vocab_size: usize) -> [f32; 8] {
        let params = &rule.params;
        let limit = rule.limit.min(vocab_size);
        let top_k = params.top_k.min(limit) as f32;
        [params.temperature, top_k, params.top_p, params.min_p, rule.uniform as f32, limit as f32, 0.0, 0.0]
    }

    fn rule(numbers: &[f32]) -> Rule {
        let params = SamplingParams {
            temperature: numbers[0],
            top_k: numbers[1] as usize,
            top_p: numbers[2],
            min_p: numbers[3],
            ..SamplingParams::default()
        };
        Rule { params, limit: numbers[5] as usize, uniform: f64::from(numbers[4]) }
    }

    /// Invocations of the kernel that is one workgroup: as many loads on their way as the adapter allows.
    fn workgroup(traits: &Traits) -> u32 {
        let most = traits.invocations.min(SLICES);
        if traits.software { 64 } else { 1 << most.ilog2() }
    }
}

impl Chosen {
    /// Reads what the kernels wrote for a choice among `limit` tokens.
    pub fn from_numbers(numbers: [f32; 4], limit: usize) -> Self {
        let token = numbers[0] as u32;
        match numbers[1] as u32 {
            0 => Self::Token(token),
            1 => Self::Failed(SampleError::NotANumber { token, value: numbers[2] }),
            2 => Self::Failed(SampleError::NothingLeft(limit)),
            _ => Self::Undecided,
        }
    }

    fn numbers(result: &Result<u32, SampleError>, logits: &[f32]) -> [f32; 4] {
        match result {
            Ok(token) => [*token as f32, 0.0, logits[*token as usize], 0.0],
            Err(SampleError::NotANumber { token, value }) => [*token as f32, 1.0, *value, 0.0],
            Err(_) => [0.0, 2.0, 0.0, 0.0],
        }
    }
}

impl From<Result<u32, SampleError>> for Chosen {
    fn from(result: Result<u32, SampleError>) -> Self {
        result.map_or_else(Self::Failed, Self::Token)
    }
}

impl Op for Choose {
    fn name(&self) -> &'static str {
        "choose"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let common = || vec![("logits", Bind::Input(0)), ("rule", Bind::Input(1)), ("slices", Bind::Scratch(0))];
        let slices = Kernel {
            source: "choose_slices",
            slots: vec![],
            overrides: vec![],
            bindings: common(),
            workgroups: [Extent::Fixed(SLICES / SLICES_PER_WORKGROUP), Extent::Fixed(1), Extent::Fixed(1)],
            scratch: vec![Self::SLICE_BYTES],
        };
        let outputs = [("chosen", Bind::Output(0)), ("next", Bind::Output(1))];
        let choose = Kernel {
            source: "choose",
            overrides: vec![("WORKGROUP", f64::from(Self::workgroup(call.traits)))],
            bindings: common().into_iter().chain(outputs).collect(),
            workgroups: [Extent::Fixed(1); 3],
            ..slices.clone()
        };
        vec![slices, choose]
    }

    fn reference(&self, _step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let logits = inputs[0].f32();
        let result = Self::rule(inputs[1].f32()).choose(logits);
        outputs[0].copy_from_slice(&Chosen::numbers(&result, logits));
        outputs[1][0] = f32::from_bits(result.unwrap_or(0));
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |logits: CaseInput, vocab: usize, limit: usize, temperature, filters: (usize, f32, f32), uniform| {
        let (top_k, top_p, min_p) = filters;
        let params = SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() };
        let rule = Rule { params, limit, uniform };
        let row = |width| CaseInput::Activation(TensorType::f32([Dim::Fixed(width)]));
        cases.push(Case {
            label: format!("choose of {vocab} below {limit}: {temperature} {filters:?} at {uniform}"),
            op: Box::new(Choose),
            inputs: vec![logits, CaseInput::Values(Choose::numbers(&rule, vocab).to_vec())],
            outputs: vec![row(4), row(1)],
            step: Step::new(1, 3, 1),
            max_nmse: 0.0,
        });
    };
    let none = (0, 1.0, 0.0);
    for (vocab, limit) in [(1, 1), (7, 7), (300, 260), (5003, 5003), (50_432, 50_277)] {
        // Many equal logits: the first of the largest wins.
        add(CaseInput::Eighths(vocab), vocab, limit, 0.0, none, 0.0);
        add(CaseInput::Vector(vocab), vocab, limit, 0.7, none, 0.37);
        add(CaseInput::Vector(vocab), vocab, limit, 4.0, none, 0.91);
        add(CaseInput::Vector(vocab), vocab, limit, 6.0, (200, 1.0, 0.0), 0.66);
        add(CaseInput::Vector(vocab), vocab, limit, 3.0, (50, 0.9, 0.05), 0.81);
        add(CaseInput::Vector(vocab), vocab, limit, 1.5, (0, 0.8, 0.0), 0.29);
        add(CaseInput::Vector(vocab), vocab, limit, 2.5, (0, 1.0, 0.1), 0.55);
    }
    // Ties at the last place of top-k and of top-p go to the lower token.
    for (top_k, top_p, uniform) in [(3, 1.0, 0.999), (50, 1.0, 0.999), (50, 0.33, 0.999), (1, 0.5, 0.5)] {
        add(CaseInput::Eighths(5003), 5003, 5003, 1.0, (top_k, top_p, 0.0), uniform);
    }
    cases
}
