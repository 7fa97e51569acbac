//! `rms_norm`, `layer_norm`: each row brought to unit scale, then weighted.

use super::quantize_row::{quantized_slot, round_rows};
use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Phase, Step, reduce_slot};
use crate::tensor::{Dim, FEW_ROWS, TensorType};

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps) · weight` (Zhang & Sennrich 2019).
    Rms,
    /// `(x − mean) / sqrt(variance + eps) · weight + bias` (Ba et al. 2016).
    Layer,
}

/// Inputs: x `(tokens, cols)`, weight `(cols)`, for [`NormKind::Layer`] also bias `(cols)`, then the residual
/// `(rows, cols)` where there is one. Output: `(rows, cols)`, norm(x) + residual; few rows also rounded, where wanted.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Which norm.
    pub kind: NormKind,
    /// Keeps the root away from zero.
    pub eps: f32,
    /// The output is `(logit_rows, cols)`: only the rows whose logits are wanted, the step's trailing ones.
    pub logit_rows_only: bool,
    /// A residual follows the other inputs.
    pub residual: bool,
    /// A second output holds the same in 8-bit blocks, as [`super::QuantizeRow`] makes it; written
    /// where rows are few.
    pub quantized: bool,
}

/// Most invocations of a workgroup: one row alone should be over soon, of many rows several share a processor.
const DECODE_INVOCATIONS: u32 = 1024;
const PREFILL_INVOCATIONS: u32 = 256;
const SOFTWARE_INVOCATIONS: u32 = 8;

impl Norm {
    /// Which input the residual is; x stands in for an absent one, never read.
    fn residual_input(&self) -> usize {
        let after = if self.kind == NormKind::Layer { 3 } else { 2 };
        if self.residual { after } else { 0 }
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
        let cols = call.vector(1) as u32;
        let most = match call.phase {
            _ if call.traits.software => SOFTWARE_INVOCATIONS,
            Phase::Decode | Phase::Few => DECODE_INVOCATIONS,
            Phase::Prefill => PREFILL_INVOCATIONS,
        };
        let workgroup = (cols / 4).next_power_of_two().max(32).min(most).min(call.traits.invocations);
        let mut bindings = vec![
            ("x", Bind::Input(0)),
            ("weight", Bind::Input(1)),
            ("residual", Bind::Input(self.residual_input())),
            ("output", Bind::Output(0)),
        ];
        if self.kind == NormKind::Layer {
            bindings.push(("bias", Bind::Input(2)));
        }
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
        bindings.extend(quantized.then_some(("quantized", Bind::Output(1))));
        let rows = if self.logit_rows_only { Extent::LogitRows { per: 1 } } else { Extent::Tokens { per: 1 } };
        vec![Kernel {
            source: self.name(),
            slots: vec![reduce, quantized_slot(quantized)],
            overrides,
            bindings,
            workgroups: [rows, Extent::Fixed(1), Extent::Fixed(1)],
            scratch: vec![],
        }]
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let (x, weight) = (inputs[0].f32(), inputs[1].f32());
        let cols = weight.len();
        let rows = self.rows(step);
        let first = step.tokens as usize - rows;
        let eps = f64::from(self.eps);
        let residual = self.residual.then(|| inputs[self.residual_input()].f32());
        let pairs = x[first * cols..].chunks_exact(cols).zip(outputs[0].chunks_exact_mut(cols)).take(rows);
        for (number, (row, output)) in pairs.enumerate() {
            let mean = |of: &dyn Fn(f64) -> f64| row.iter().map(|x| of(f64::from(*x))).sum::<f64>() / cols as f64;
            let centre = if self.kind == NormKind::Layer { mean(&|x| x) } else { 0.0 };
            let scale = (mean(&|x| (x - centre) * (x - centre)) + eps).sqrt().recip();
            for (at, value) in output.iter_mut().enumerate() {
                let bias = if self.kind == NormKind::Layer { f64::from(inputs[2].f32()[at]) } else { 0.0 };
                let added = residual.map_or(0.0, |residual| f64::from(residual[number * cols + at]));
                *value = ((f64::from(row[at]) - centre) * scale * f64::from(weight[at]) + bias + added) as f32;
            }
        }
        if self.quantized && Phase::of(rows as u32, step.tokens) != Phase::Prefill {
            let (normed, rounded) = outputs.split_at_mut(1);
            rounded[0].copy_from_slice(normed[0]);
            round_rows(rounded[0]);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [NormKind::Rms, NormKind::Layer] {
        for (tokens, logit_rows, cols, logit_rows_only, residual, quantized) in [
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
        ] {
            let row = TensorType::f32([Dim::Tokens, Dim::Fixed(cols)]);
            let rows = if logit_rows_only { Dim::LogitRows } else { Dim::Tokens };
            let mut inputs = vec![CaseInput::Activation(row), CaseInput::Vector(cols as usize)];
            if kind == NormKind::Layer {
                inputs.push(CaseInput::Vector(cols as usize));
            }
            let output = TensorType::f32([rows, Dim::Fixed(cols)]);
            inputs.extend(residual.then(|| CaseInput::Activation(output.clone())));
            // Of many rows nothing is written there: it is as if it were not.
            let rounded = quantized && output.shape[0].length(Step::new(tokens, 3, logit_rows).extents()) <= FEW_ROWS;
            let mut outputs = vec![CaseInput::Activation(output.clone())];
            outputs.extend(rounded.then(|| CaseInput::Activation(output.rounded())));
            let op = Norm { kind, eps: 1e-5, logit_rows_only, residual, quantized };
            cases.push(Case {
                label: format!(
                    "{} tokens {tokens} logit rows {logit_rows} only {logit_rows_only} cols {cols} residual {residual} \
                     quantized {quantized}",
                    op.name()
                ),
                op: Box::new(op),
                inputs,
                outputs,
                step: Step::new(tokens, 3, logit_rows),
                // Rounding brings a value half-way between two codes to either side.
                max_nmse: if rounded { 1e-6 } else { 1e-11 },
            });
        }
    }
    cases
}
