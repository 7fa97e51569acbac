//! `rms_norm`, `layer_norm`: each row brought to unit scale, then weighted.

use super::quantize_row::{quantized_slot, round_rows};
use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Phase, Step, reduce_slot, stored_slot};
use crate::tensor::{Dim, FEW_ROWS, TensorType};

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps) · weight` (Zhang & Sennrich 2019).
    Rms,
    /// `(x − mean) / sqrt(variance + eps) · weight + bias` (Ba et al. 2016).
    Layer,
}

/// Inputs: x `(tokens, cols)`, weight `(cols)`, for [`NormKind::Layer`] also bias `(cols)`, of a pair all four in one
/// vector; then the residual `(rows, cols)` where there is one. Outputs: `(rows, cols)`, norm(x) + residual, of a
/// pair one for each; then each of them rounded where wanted, few rows.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Which norm.
    pub kind: NormKind,
    /// Keeps the root away from zero.
    pub eps: f32,
    /// The output is `(logit_rows, cols)`: only the rows whose logits are wanted, the step's trailing ones.
    pub logit_rows_only: bool,
    /// Two weights and biases, each for an output of its own: a parallel layer's two norms, by one dispatch. Only of
    /// [`NormKind::Layer`].
    pub pair: bool,
    /// A residual follows the other inputs.
    pub residual: bool,
    /// As many outputs more hold the same in 8-bit blocks, as [`super::QuantizeRow`] makes them; written where rows are
    /// few.
    pub quantized: bool,
}

/// Most invocations of a workgroup: one row alone should be over soon, of many rows several share a processor.
const DECODE_INVOCATIONS: u32 = 1024;
const PREFILL_INVOCATIONS: u32 = 256;
const SOFTWARE_INVOCATIONS: u32 = 8;

impl Norm {
    /// Of every row, and nothing beside.
    pub const fn plain(kind: NormKind, eps: f32) -> Self {
        Self { kind, eps, logit_rows_only: false, pair: false, residual: false, quantized: false }
    }

    /// The vectors that weight a normed row, an input each.
    const fn vectors(&self) -> &'static [&'static str] {
        match (self.kind, self.pair) {
            (_, true) => &["vectors"],
            (NormKind::Layer, false) => &["weight", "bias"],
            (NormKind::Rms, false) => &["weight"],
        }
    }

    /// Ways in which it is weighted, with an output each.
    const fn ways(&self) -> usize {
        if self.pair { 2 } else { 1 }
    }

    /// Which input the residual is; x stands in for an absent one, never read.
    const fn residual_input(&self) -> usize {
        if self.residual { 1 + self.vectors().len() } else { 0 }
    }

    fn bindings(&self, quantized: bool) -> Vec<(&'static str, Bind)> {
        let mut bindings = vec![("x", Bind::Input(0)), ("residual", Bind::Input(self.residual_input()))];
        bindings.extend(self.vectors().iter().copied().zip((1..).map(Bind::Input)));
        bindings.extend(["output", "output_beside"].into_iter().take(self.ways()).zip((0..).map(Bind::Output)));
        let rounded = ["quantized", "quantized_beside"].into_iter().zip((self.ways()..).map(Bind::Output));
        bindings.extend(rounded.take(if quantized { self.ways() } else { 0 }));
        bindings
    }

    /// What the slots of weights and of rounded rows are filled with.
    fn slots(&self, quantized: bool) -> Vec<(&'static str, String)> {
        let rounded = match (quantized, self.pair) {
            (true, true) => ("QUANTIZED", "lib/quantized_pair".into()),
            _ => quantized_slot(quantized),
        };
        let weighted = if self.pair { "lib/weighted_pair" } else { "lib/weighted_row" };
        let weighted = (self.kind == NormKind::Layer).then(|| ("WEIGHTED", weighted.into()));
        [rounded].into_iter().chain(weighted).collect()
    }

    fn rows(&self, step: Step) -> usize {
        if self.logit_rows_only { step.logit_rows as usize } else { step.tokens as usize }
    }
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        match self.kind {
            NormKind::Rms => "rms_norm",
            NormKind::Layer => "layer_norm",
        }
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let cols = call.columns(0);
        let most = match call.phase {
            _ if call.traits.software => SOFTWARE_INVOCATIONS,
            Phase::Decode | Phase::Few => DECODE_INVOCATIONS,
            Phase::Prefill => PREFILL_INVOCATIONS,
        };
        let workgroup = (cols / 4).next_power_of_two().max(32).min(most).min(call.traits.invocations);
        let mut overrides = vec![
            ("WORKGROUP", f64::from(workgroup)),
            ("LANES", f64::from(workgroup)),
            ("COLS", f64::from(cols)),
            ("EPS", f64::from(self.eps)),
            ("LOGIT_ROWS_ONLY", f64::from(u8::from(self.logit_rows_only))),
            ("RESIDUAL", f64::from(u8::from(self.residual))),
        ];
        let reduce = reduce_slot(call.traits, workgroup, &mut overrides);
        let quantized = self.quantized && call.phase != Phase::Prefill;
        let rows = if self.logit_rows_only { Extent::LogitRows { per: 1 } } else { Extent::Tokens { per: 1 } };
        vec![Kernel {
            source: self.name(),
            slots: [vec![reduce, stored_slot(call, 0)], self.slots(quantized)].concat(),
            overrides,
            bindings: self.bindings(quantized),
            workgroups: [rows, Extent::Fixed(self.ways() as u32), Extent::Fixed(1)],
            scratch: vec![],
        }]
    }

    fn writes_f16(&self, output: usize, call: &Call<'_>) -> bool {
        call.phase == Phase::Prefill && output < self.ways()
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let x = inputs[0].f32();
        let cols = inputs[1].f32().len() / if self.pair { 4 } else { 1 };
        let rows = self.rows(step);
        let first = step.tokens as usize - rows;
        let eps = f64::from(self.eps);
        let residual = self.residual.then(|| inputs[self.residual_input()].f32());
        for (number, row) in x[first * cols..].chunks_exact(cols).enumerate().take(rows) {
            let mean = |of: &dyn Fn(f64) -> f64| row.iter().map(|x| of(f64::from(*x))).sum::<f64>() / cols as f64;
            let centre = if self.kind == NormKind::Layer { mean(&|x| x) } else { 0.0 };
            let scale = (mean(&|x| (x - centre) * (x - centre)) + eps).sqrt().recip();
            for (way, at) in (0..self.ways()).flat_map(|way| (0..cols).map(move |at| (way, at))) {
                let vector = |index: usize| match self.pair {
                    true => f64::from(inputs[1].f32()[(2 * way + index) * cols + at]),
                    false => f64::from(inputs[1 + index].f32()[at]),
                };
                let bias = if self.kind == NormKind::Layer { vector(1) } else { 0.0 };
                let added = residual.map_or(0.0, |residual| f64::from(residual[number * cols + at]));
                let normed = (f64::from(row[at]) - centre) * scale;
                outputs[way][number * cols + at] = (normed * vector(0) + bias + added) as f32;
            }
        }
        if self.quantized && Phase::of(rows as u32, step.tokens) != Phase::Prefill {
            let (normed, rounded) = outputs.split_at_mut(self.ways());
            for (normed, rounded) in normed.iter().zip(rounded) {
                rounded.copy_from_slice(normed);
                round_rows(rounded);
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let sizes = [
        (1, 1, 12, false, false, false),
        (1, 1, 2560, false, true, false),
        (1, 1, 2560, false, false, true),
        (1, 1, 4544, false, false, true),
        (1, 1, 576, false, true, true),
        (5, 1, 576, false, false, true),
        (2, 1, 2560, false, false, true),
        (16, 1, 4544, false, false, true),
        (6, 1, 100, false, true, false),
        (19, 1, 576, false, true, true),
        (7, 3, 100, true, false, false),
        (7, 1, 160, true, false, true),
        (8, 8, 160, true, false, true),
        (33, 18, 160, true, false, true),
        (3, 1, 4544, true, false, false),
    ];
    let mut cases = Vec::new();
    cases.extend(halved_cases());
    for kind in [NormKind::Rms, NormKind::Layer] {
        cases.extend(sizes.map(|(tokens, logit_rows, cols, logit_rows_only, residual, quantized)| {
            let op = Norm { logit_rows_only, residual, quantized, ..Norm::plain(kind, 1e-5) };
            case(op, (tokens, logit_rows), cols)
        }));
    }
    for (tokens, cols, residual, quantized) in
        [(1, 2560, false, true), (1, 100, true, false), (3, 576, false, true), (19, 576, true, true)]
    {
        let op = Norm { pair: true, residual, quantized, ..Norm::plain(NormKind::Layer, 1e-5) };
        cases.push(case(op, (tokens, 1), cols));
    }
    cases
}

/// Many rows as f16.
fn halved_cases() -> impl Iterator<Item = Case> {
    let kinds = [(NormKind::Rms, false), (NormKind::Layer, false), (NormKind::Layer, true)];
    kinds.into_iter().map(|(kind, pair)| {
        let op = Norm { pair, ..Norm::plain(kind, 1e-5) };
        let mut case = case(op, (21, 1), 576);
        case.halve_outputs();
        case
    })
}

fn case(op: Norm, (tokens, logit_rows): (u32, u32), cols: u32) -> Case {
    let row = TensorType::f32([Dim::Tokens, Dim::Fixed(cols)]);
    let rows = if op.logit_rows_only { Dim::LogitRows } else { Dim::Tokens };
    let output = TensorType::f32([rows, Dim::Fixed(cols)]);
    let mut inputs = vec![CaseInput::Activation(row)];
    let length = if op.pair { 4 * cols } else { cols } as usize;
    inputs.extend(op.vectors().iter().map(|_| CaseInput::Vector(length)));
    inputs.extend(op.residual.then(|| CaseInput::Activation(output.clone())));
    let step = Step::new(tokens, 3, logit_rows);
    // Of many rows nothing is written there: it is as if it were not.
    let rounded = op.quantized && output.shape[0].length(step.extents()) <= FEW_ROWS;
    let mut outputs = vec![CaseInput::Activation(output.clone()); op.ways()];
    outputs.extend((0..op.ways()).filter(|_| rounded).map(|_| CaseInput::Activation(output.rounded())));
    Case {
        label: format!("{tokens} tokens, {logit_rows} rows of logits, {cols} columns: {op:?}"),
        op: Box::new(op),
        inputs,
        outputs,
        step,
        // Rounding brings a value half-way between two codes to either side.
        max_nmse: if rounded { 1e-6 } else { 1e-11 },
    }
}
