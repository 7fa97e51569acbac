//! Lowering of a layer's feed-forward part: plain, gated, or a mixture of experts.

use super::super::{GraphError, TensorId};
use super::Lowering;
use crate::model::{ExpertsSpec, LinearSpec, MlpSpec, WeightSpec};
use crate::ops::{Activation, CombineExperts, GatedActivation, MatmulExperts, Route};
use crate::tensor::Dim;

/// An MLP before its last step.
#[derive(Debug)]
pub(super) enum Inner {
    /// What the last matrix reads.
    Dense(TensorId),
    /// The experts' outputs and the selection; the shared expert's output and its gate.
    Experts(Vec<TensorId>, Vec<TensorId>),
}

impl Lowering<'_> {
    /// The MLP up to its last matrix.
    pub(super) fn mlp_inner(&mut self, index: usize, spec: &MlpSpec, x: TensorId) -> Result<Inner, GraphError> {
        match spec {
            MlpSpec::Plain { up, activation, .. } => {
                Ok(Inner::Dense(self.linear(format!("layer {index} up"), up, x, Dim::Tokens, *activation, None)?))
            }
            MlpSpec::Gated { gate, up, activation, .. } => {
                Ok(Inner::Dense(self.gated(format!("layer {index}"), [gate, up], *activation, x)?))
            }
            MlpSpec::Experts(experts) => self.experts(index, experts, x),
        }
    }

    /// The MLP's last matrix, or the sum over experts.
    pub(super) fn mlp_outer(
        &mut self,
        index: usize,
        name: String,
        spec: &MlpSpec,
        inner: Inner,
        residual: Option<TensorId>,
    ) -> Result<TensorId, GraphError> {
        match (spec, inner) {
            (MlpSpec::Plain { down, .. } | MlpSpec::Gated { down, .. }, Inner::Dense(inner)) => {
                self.linear(name, down, inner, Dim::Tokens, Activation::Identity, residual)
            }
            (MlpSpec::Experts(spec), Inner::Experts(mut inputs, shared)) => {
                let Some(residual) = residual else {
                    return Err(GraphError::Unsupported(format!("layer {index}: a norm behind a mixture of experts")));
                };
                inputs.push(residual);
                inputs.extend(shared);
                let output = self.hidden(name, Dim::Tokens, self.hidden_size);
                let gated = spec.shared.as_ref().is_some_and(|shared| shared.scale.is_some());
                let op = CombineExperts { top_k: spec.top_k, shared: spec.shared.is_some(), gated };
                self.node(op, inputs, vec![output]);
                Ok(output)
            }
            (spec, inner) => unreachable!("mlp_inner made {inner:?} of {spec:?}"),
        }
    }

    /// act(gate x) · up x.
    fn gated(
        &mut self,
        name: String,
        [gate, up]: [&LinearSpec; 2],
        activation: Activation,
        x: TensorId,
    ) -> Result<TensorId, GraphError> {
        let both = self.concatenated(format!("{name} gate, up"), &[gate, up], x)?;
        let inner = self.hidden(format!("{name} gated"), Dim::Tokens, up.weight.rows());
        let op = GatedActivation { activation, interleaved: false, groups: 1, quantized: false };
        self.node(op.clone(), vec![both], vec![inner]);
        self.may_round(&[inner], GatedActivation { quantized: true, ..op });
        Ok(inner)
    }

    fn experts(&mut self, index: usize, spec: &ExpertsSpec, x: TensorId) -> Result<Inner, GraphError> {
        let at = |what: &str| format!("layer {index} {what}");
        let &ExpertsSpec { experts, top_k, .. } = spec;
        let scores = self.linear(at("router"), &spec.router, x, Dim::Tokens, Activation::Identity, None)?;
        let selection = self.hidden(at("selection"), Dim::Tokens, 2 * top_k as usize);
        self.node(Route { experts, top_k, normalize: spec.normalize, scale: 1.0 }, vec![scores], vec![selection]);
        let both = self.by_experts(at("experts' gate, up"), spec, &spec.gate_up, [x, selection], true)?;
        let inner_width = (spec.down.cols as u32 * top_k) as usize;
        let inner = self.hidden(at("experts' gated"), Dim::Tokens, inner_width);
        let gated =
            GatedActivation { activation: spec.activation, interleaved: false, groups: top_k, quantized: false };
        self.node(gated, vec![both], vec![inner]);
        let down = self.by_experts(at("experts' down"), spec, &spec.down, [inner, selection], false)?;
        let mut shared = Vec::new();
        if let Some(spec_of) = &spec.shared {
            let inner = self.gated(at("shared expert"), [&spec_of.gate, &spec_of.up], spec.activation, x)?;
            let name = at("shared expert");
            shared.push(self.linear(name, &spec_of.down, inner, Dim::Tokens, Activation::Identity, None)?);
            if let Some(scale) = &spec_of.scale {
                let name = at("shared expert's gate");
                shared.push(self.linear(name, scale, x, Dim::Tokens, Activation::Identity, None)?);
            }
        }
        Ok(Inner::Experts(vec![down, selection], shared))
    }

    fn by_experts(
        &mut self,
        name: String,
        spec: &ExpertsSpec,
        weight: &WeightSpec,
        [x, selection]: [TensorId; 2],
        shared_input: bool,
    ) -> Result<TensorId, GraphError> {
        let rows = weight.rows() / spec.experts as usize;
        let output = self.hidden(name, Dim::Tokens, rows * spec.top_k as usize);
        let weight = self.weight(weight)?;
        let op = MatmulExperts { experts: spec.experts, top_k: spec.top_k, shared_input };
        self.node(op, vec![x, weight, selection], vec![output]);
        Ok(output)
    }
}
