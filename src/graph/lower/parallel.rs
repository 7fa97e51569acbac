//! Lowering of a layer whose two parts read the same residual stream: `x + attention(x) + mlp(x)`.
//!
//! The parts are begun side by side, since what is independent shares the adapter. Their last matrices are one where
//! their formats agree: `[o | down] · [attended ; inner]` is a dispatch less to wait for than o and, on top of it, down.
//! Nothing is joined behind norms, which each part has of its own, nor behind experts, which have no one last matrix.

use super::super::{GraphError, TensorId, Vector};
use super::Lowering;
use crate::model::{LayerSpec, LinearSpec, MlpSpec};
use crate::ops::{Activation, Columns, Matmul};
use crate::tensor::Dim;

impl Lowering<'_> {
    pub(super) fn parallel(&mut self, index: usize, layer: &LayerSpec, x: TensorId) -> Result<TensorId, GraphError> {
        let normed = self.layer_norm(index, "attention norm", layer.attention_norm.as_ref(), x, x);
        let mlp_input = self.layer_norm(index, "mlp norm", layer.mlp_norm.as_ref(), x, normed);
        let qkv = self.qkv(index, &layer.attention, normed)?;
        let Some(down) = self.down_beside_o(layer)? else {
            let inner = self.mlp_inner(index, &layer.mlp, mlp_input, None)?;
            let attended = self.attention(index, &layer.attention, qkv, None)?;
            let joined = self.attention_joined(index, layer, attended, x)?;
            return self.mlp_joined(index, layer, inner, joined);
        };
        let o = &layer.attention.o;
        let (width, of) = (o.weight.cols as u32, o.weight.cols + down.weight.cols);
        let both = self.hidden(format!("layer {index} attention, inner"), Dim::Tokens, of);
        let columns = |start| Some((both, Columns { start, of: of as u32 }));
        self.mlp_inner(index, &layer.mlp, mlp_input, columns(width))?;
        self.attention(index, &layer.attention, qkv, columns(0))?;
        self.o_and_down(format!("layer {index} output"), [o, down], both, x)
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
        both: TensorId,
        x: TensorId,
    ) -> Result<TensorId, GraphError> {
        let mut inputs = vec![both, self.beside(&[&o.weight, &down.weight])?];
        inputs.extend(match [&o.bias, &down.bias] {
            [Some(o), Some(down)] => {
                let label = format!("{} + {}", o.label(), down.label());
                Some(self.vector(label, Vector::Sum([o.clone(), down.clone()])))
            }
            [Some(bias), None] | [None, Some(bias)] => Some(self.vector(bias.label(), Vector::Spec(bias.clone()))),
            [None, None] => None,
        });
        let bias = inputs.len() > 2;
        inputs.push(x);
        let integer = self.options.integer && self.format(&o.weight)?.integer();
        inputs.extend(integer.then(|| self.rounded(both)));
        let (activation, residual) = (Activation::Identity, true);
        let op = Matmul { bias, residual, activation, columns: None, quantized: integer };
        let output = self.hidden(name, Dim::Tokens, o.weight.rows());
        self.node(op, inputs, vec![output]);
        Ok(output)
    }
}
