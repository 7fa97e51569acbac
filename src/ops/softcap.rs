//! `softcap`: values bent to ± a cap by tanh.

use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Step};
use crate::tensor::{Dim, TensorType};

/// Input and output: `(logit_rows, cols)`, `cap · tanh(x / cap)` (Gemma Team 2024, arXiv:2408.00118).
#[derive(Debug, Clone)]
pub struct Softcap {
    /// The bound.
    pub cap: f32,
}

const INVOCATIONS: u32 = 64;

impl Op for Softcap {
    fn name(&self) -> &'static str {
        "softcap"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let cols = call.columns(0);
        vec![Kernel {
            source: "softcap",
            slots: vec![],
            overrides: vec![("COLS", f64::from(cols)), ("CAP", f64::from(self.cap))],
            bindings: vec![("x", Bind::Input(0)), ("output", Bind::Output(0))],
            workgroups: [Extent::Fixed(cols.div_ceil(INVOCATIONS)), Extent::LogitRows { per: 1 }, Extent::Fixed(1)],
            scratch: vec![],
        }]
    }

    fn reference(&self, _step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let cap = f64::from(self.cap);
        for (x, output) in inputs[0].f32().iter().zip(outputs[0].iter_mut()) {
            *output = (cap * (f64::from(*x) / cap).tanh()) as f32;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |rows, cols, cap| {
        let row = CaseInput::Activation(TensorType::f32([Dim::LogitRows, Dim::Fixed(cols)]));
        Case {
            label: format!("softcap {cap} of {rows}x{cols}"),
            op: Box::new(Softcap { cap }),
            inputs: vec![row.clone()],
            outputs: vec![row],
            step: Step::new(5, 3, rows),
            max_nmse: 1e-11,
        }
    };
    vec![case(1, 1001, 30.0), case(3, 67, 0.5)]
}
