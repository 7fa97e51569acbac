//! Lowering of a layer whose two parts read the same residual stream: `x + attention(x) + mlp(x)`.
//!
//! Attention waits for one thing after another and leaves most of the adapter idle, so the MLP's first matrix comes right
//! behind it: they have no result in common and share the adapter. Their last matrices are one where their formats
//! agree: `[o | down] · [attended ; inner]` is a dispatch less to wait for than o and, on top of it, down.
//! Nothing is joined behind norms, which each part has of its own, nor behind experts, which have no one last matrix.

use super::super::{GraphError, TensorId, Vector};
use super::Lowering;
use super::mlp::Inner;
use crate::model::{LayerSpec, LinearSpec, MlpSpec, NormSpec, VectorSpec};
use crate::ops::{Matmul, Norm, NormKind};
use crate::tensor::Dim;

impl Lowering<'_> {
    pub(super) fn parallel(&mut self, index: usize, layer: &LayerSpec, x: TensorId) -> Result<TensorId, GraphError> {
        let [normed, mlp_input] = self.parallel_norms(index, layer, x);
        let qkv = self.qkv(index, &layer.attention, normed)?;
        let attended = self.attention(index, &layer.attention, qkv)?;
        let inner = self.mlp_inner(index, &layer.mlp, mlp_input)?;
        let (Some(down), Inner::Dense(inner)) = (self.down_beside_o(layer)?, &inner) else {
            let joined = self.attention_joined(index, layer, attended, x)?;
            return self.mlp_joined(index, layer, inner, joined);
        };
        self.o_and_down(format!("layer {index} output"), [&layer.attention.o, down], [attended, *inner], x)
    }

    /// What attention reads, and what the MLP does: x normed, by one op where there are two norms of a kind.
    fn parallel_norms(&mut self, index: usize, layer: &LayerSpec, x: TensorId) -> [TensorId; 2] {
        if let (Some(first), Some(second)) = (&layer.attention_norm, &layer.mlp_norm)
            && let Some(vectors) = norm_vectors([first, second])
        {
            let inputs = vec![x, self.vector(vectors.label(), Vector::Spec(vectors))];
            let outputs = ["attention norm", "mlp norm"]
                .map(|what| self.hidden(format!("layer {index} {what}"), Dim::Tokens, self.hidden_size));
            let op = Norm { pair: true, ..Norm::plain(first.kind, first.eps) };
            self.node(op.clone(), inputs, outputs.to_vec());
            self.may_round(&outputs, Norm { quantized: true, ..op });
            return outputs;
        }
        let normed = self.layer_norm(index, "attention norm", layer.attention_norm.as_ref(), x, x);
        [normed, self.layer_norm(index, "mlp norm", layer.mlp_norm.as_ref(), x, normed)]
    }

    /// The MLP's last matrix, where it can lie beside attention's: each row one's blocks, then the other's.
    fn down_beside_o<'l>(&self, layer: &'l LayerSpec) -> Result<Option<&'l LinearSpec>, GraphError> {
        let down = match &layer.mlp {
            MlpSpec::Plain { down, .. } | MlpSpec::Gated { down, .. } => down,
            MlpSpec::Experts(_) => return Ok(None),
        };
        let normed = layer.attention_post_norm.is_some() || layer.mlp_post_norm.is_some();
        if normed || self.options.apart {
            return Ok(None);
        }
        let [first, second] = [&layer.attention.o.weight, &down.weight];
        if [first, second].into_iter().any(|weight| self.order(weight).is_some()) {
            return Ok(None);
        }
        let format = self.format(first)?;
        let same_format = format.name() == self.format(second)?.name();
        let whole = first.cols.is_multiple_of(format.run_len()) && second.cols.is_multiple_of(format.block_len());
        let quads = first.cols.is_multiple_of(4) && second.cols.is_multiple_of(4);
        Ok((same_format && whole && quads && first.rows() == second.rows()).then_some(down))
    }

    /// `x + o attended + down inner`, with both biases.
    fn o_and_down(
        &mut self,
        name: String,
        [o, down]: [&LinearSpec; 2],
        [attended, inner]: [TensorId; 2],
        x: TensorId,
    ) -> Result<TensorId, GraphError> {
        let mut inputs = vec![attended, self.beside(&[&o.weight, &down.weight])?];
        inputs.extend(match [&o.bias, &down.bias] {
            [Some(o), Some(down)] => {
                let label = format!("{} + {}", o.label(), down.label());
                Some(self.vector(label, Vector::Sum([o.clone(), down.clone()])))
            }
            [Some(bias), None] | [None, Some(bias)] => Some(self.vector(bias.label(), Vector::Spec(bias.clone()))),
            [None, None] => None,
        });
        let bias = inputs.len() > 2;
        inputs.extend([x, inner]);
        let integer = self.options.integer && self.format(&o.weight)?.integer();
        if integer {
            inputs.extend([attended, inner].map(|part| self.rounded(part)));
        }
        let op = Matmul { bias, residual: true, beside: true, quantized: integer, ..Matmul::plain() };
        let output = self.hidden(name, Dim::Tokens, o.weight.rows());
        self.node(op, inputs, vec![output]);
        Ok(output)
    }
}

/// Weight and bias of two norms of rows one after the other, where one op can be both: LayerNorms alike, with all of these.
fn norm_vectors(norms: [&NormSpec; 2]) -> Option<VectorSpec> {
    let alike = norms
        .iter()
        .all(|norm| norm.kind == NormKind::Layer && !norm.one_plus && norm.eps.to_bits() == norms[0].eps.to_bits());
    let vectors = norms.into_iter().flat_map(|norm| [norm.weight.as_ref(), norm.bias.as_ref()]);
    let parts = vectors.map(|vector| Some(vector?.parts.clone())).collect::<Option<Vec<_>>>()?;
    alike.then(|| VectorSpec { parts: parts.concat() })
}
