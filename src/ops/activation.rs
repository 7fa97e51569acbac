//! Activation functions, and `gated_activation`: act(gate) · up.

use super::quantize_row::{quantized_slot, round_rows};
use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Phase, Step, stored_slot};
use crate::tensor::{DType, Dim, TensorType};

/// An activation function. Its number is the override `ACTIVATION` of shaders/lib/activation.wgsl.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// None.
    Identity = 0,
    /// `x · Φ(x)`, exact (Hendrycks & Gimpel 2016).
    GeluErf = 1,
    /// Its approximation by tanh, from the same paper.
    GeluTanh = 2,
    /// `x · sigmoid(x)`.
    Silu = 3,
    /// `max(x, 0)`.
    Relu = 4,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Self; 5] = [Self::Identity, Self::GeluErf, Self::GeluTanh, Self::Silu, Self::Relu];

    /// The override constant that chooses it.
    pub fn constant(self) -> (&'static str, f64) {
        ("ACTIVATION", f64::from(self as u8))
    }

    /// The function, for references.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Self::Identity => x,
            Self::GeluErf => x * 0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
            Self::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Relu => x.max(0.0),
        }
    }
}

/// The complementary error function, which Rust's library lacks: erf's Maclaurin series near zero, from there the
/// continued fraction of erfc (Abramowitz & Stegun 7.1.5 and 7.1.14), evaluated from its far end.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..40 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - std::f64::consts::FRAC_2_SQRT_PI * sum;
    }
    let fraction = (1..80).rev().fold(x, |fraction, n| x + f64::from(n) / 2.0 / fraction);
    (-x * x).exp() / (fraction * std::f64::consts::PI.sqrt())
}

/// Input: `(tokens, groups · 2n)`, each group `[gate | up]`. Output: `(tokens, groups · n)`, act(gate) · up (Shazeer
/// 2020).
#[derive(Debug, Clone)]
pub struct GatedActivation {
    /// What the gate goes through.
    pub activation: Activation,
    /// Rows are pairs `(gate, up)` instead.
    pub interleaved: bool,
    /// One, or a token's experts.
    pub groups: u32,
    /// A second output holds the same in 8-bit blocks, as [`super::QuantizeRow`] makes it; written
    /// where rows are few.
    pub quantized: bool,
}

const INVOCATIONS: u32 = 64;

impl Op for GatedActivation {
    fn name(&self) -> &'static str {
        "gated_activation"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let cols = call.columns(0) / 2 / self.groups;
        let quantized = self.quantized && call.phase != Phase::Prefill;
        let mut bindings = vec![("x", Bind::Input(0)), ("output", Bind::Output(0))];
        bindings.extend(quantized.then_some(("quantized", Bind::Output(1))));
        vec![Kernel {
            source: "gated_activation",
            slots: vec![quantized_slot(quantized), stored_slot(call, 0)],
            overrides: vec![
                self.activation.constant(),
                ("WORKGROUP", f64::from(INVOCATIONS)),
                ("COLS", f64::from(cols)),
                ("GROUPS", f64::from(self.groups)),
                ("INTERLEAVED", f64::from(u8::from(self.interleaved))),
            ],
            bindings,
            workgroups: [
                Extent::Fixed((cols / 4).div_ceil(INVOCATIONS)),
                Extent::Tokens { per: 1 },
                Extent::Fixed(self.groups),
            ],
            scratch: vec![],
        }]
    }

    fn writes_f16(&self, output: usize, call: &Call<'_>) -> bool {
        call.phase == Phase::Prefill && output == 0
    }

    fn f16(&self) -> DType {
        // Products of two activations: some models' have values beyond f16.
        DType::F16Scaled
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let x = inputs[0].f32();
        let cols = x.len() / step.tokens as usize / 2 / self.groups as usize;
        for (row, output) in x.chunks_exact(2 * cols).zip(outputs[0].chunks_exact_mut(cols)) {
            for (at, value) in output.iter_mut().enumerate() {
                let (gate, up) = if self.interleaved { (2 * at, 2 * at + 1) } else { (at, cols + at) };
                *value = (self.activation.apply(f64::from(row[gate])) * f64::from(row[up])) as f32;
            }
        }
        if self.quantized && Phase::of(step.tokens, step.tokens) != Phase::Prefill {
            let (gated, rounded) = outputs.split_at_mut(1);
            rounded[0].copy_from_slice(gated[0]);
            round_rows(rounded[0]);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for activation in Activation::ALL {
        for (tokens, groups, cols, interleaved, quantized) in [
            (1, 1, 12, false, false),
            (1, 1, 1568, false, true),
            (1, 3, 1536, false, false),
            (5, 1, 1028, false, false),
            (3, 2, 260, true, false),
            (2, 1, 1568, false, true),
            (16, 1, 96, true, true),
            (21, 1, 260, false, false),
            (33, 1, 288, false, false),
            (34, 1, 288, false, false),
        ] {
            let output = TensorType::f32([Dim::Tokens, Dim::Fixed(groups * cols)]);
            let mut outputs = vec![CaseInput::Activation(output.clone())];
            outputs.extend(quantized.then(|| CaseInput::Activation(output.rounded())));
            let mut case = Case {
                label: format!(
                    "gated_activation {activation:?} tokens {tokens} cols {groups}x{cols} interleaved {interleaved} \
                     quantized {quantized}"
                ),
                op: Box::new(GatedActivation { activation, interleaved, groups, quantized }),
                inputs: vec![CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(2 * groups * cols)]))],
                outputs,
                step: Step::new(tokens, 3, 1),
                max_nmse: if quantized { 1e-6 } else { 1e-11 },
            };
            if tokens >= 33 {
                case.halve_outputs();
            }
            if tokens == 34 {
                // Products beyond f16.
                case.enlarge_input(0, 250.0);
            }
            cases.push(case);
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_has_its_tabulated_values() {
        let table = [(0.0, 1.0), (0.5, 0.479_500_122_186_953_5), (1.0, 0.157_299_207_050_285_13)];
        let table = table.into_iter().chain([(2.0, 4.677_734_981_047_266e-3), (3.0, 2.209_049_699_858_544e-5)]);
        for (x, expected) in table {
            assert!((erfc(x) / expected - 1.0).abs() < 1e-12, "erfc({x}) is {}, not {expected}", erfc(x));
            assert!((erfc(-x) - (2.0 - expected)).abs() < 1e-12, "erfc(-{x}) mirrors erfc({x})");
        }
    }
}
