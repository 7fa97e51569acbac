//! `route`: which experts compute a token, and how much each counts.

use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Step};
use crate::tensor::{Dim, TensorType};

/// Input: scores `(tokens, experts)`. Output: `(tokens, top_k · 2)`, pairs of expert number and weight in falling order
/// of weight: softmax over all experts, then the best (Shazeer et al. 2017). Expert numbers are exact in f32.
#[derive(Debug, Clone)]
pub struct Route {
    /// All experts.
    pub experts: u32,
    /// Experts that compute a token; at most [`Route::MAX_TOP_K`].
    pub top_k: u32,
    /// The chosen weights are made to add up to 1.
    pub normalize: bool,
    /// Weights are multiplied by it.
    pub scale: f32,
}

const INVOCATIONS: u32 = 8;

impl Route {
    /// `MAX_TOP_K` of route.wgsl.
    pub const MAX_TOP_K: u32 = 16;
}

impl Op for Route {
    fn name(&self) -> &'static str {
        "route"
    }

    fn kernels(&self, _call: &Call<'_>) -> Vec<Kernel> {
        vec![Kernel {
            source: "route",
            slots: vec![],
            overrides: vec![
                ("EXPERTS", f64::from(self.experts)),
                ("TOP_K", f64::from(self.top_k)),
                ("NORMALIZE", f64::from(u8::from(self.normalize))),
                ("SCALE", f64::from(self.scale)),
            ],
            bindings: vec![("scores", Bind::Input(0)), ("selection", Bind::Output(0))],
            workgroups: [Extent::Tokens { per: INVOCATIONS }, Extent::Fixed(1), Extent::Fixed(1)],
            scratch: vec![],
        }]
    }

    fn reference(&self, _step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let top_k = self.top_k as usize;
        let rows = inputs[0].f32().chunks_exact(self.experts as usize).zip(outputs[0].chunks_exact_mut(2 * top_k));
        for (scores, selection) in rows {
            let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f64> = scores.iter().map(|score| f64::from(score - maximum).exp()).collect();
            let mut order: Vec<usize> = (0..scores.len()).collect();
            // Stable: of equal scores the lower number comes first.
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            order.truncate(top_k);
            let all: f64 =
                if self.normalize { order.iter().map(|at| weights[*at]).sum() } else { weights.iter().sum() };
            for (expert, pair) in order.iter().zip(selection.chunks_exact_mut(2)) {
                pair[0] = *expert as f32;
                pair[1] = (weights[*expert] / all * f64::from(self.scale)) as f32;
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (tokens, experts, top_k, normalize, scale) in [
        (1, 8, 2, true, 1.0),
        (5, 8, 2, true, 1.0),
        (9, 60, 4, false, 1.0),
        (17, 128, 8, true, 2.5),
        (2, 3, 3, false, 1.0),
    ] {
        let op = Route { experts, top_k, normalize, scale };
        cases.push(Case {
            label: format!("{tokens} tokens {op:?}"),
            op: Box::new(op),
            inputs: vec![CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(experts)]))],
            outputs: vec![CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(2 * top_k)]))],
            step: Step::new(tokens, 3, 1),
            max_nmse: 1e-11,
        });
    }
    cases
}
