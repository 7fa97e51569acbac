//! Lowering of attention: projections side by side, norms of heads, rope and cache, scores.

use super::super::{GraphError, TensorId, TensorKind, Vector};
use super::Lowering;
use crate::model::{AttentionSpec, NormSpan, QkNormSpec};
use crate::ops::{Attention, NormGroups, QkNorm, RopeAppend, RopeAttention, RopeStyle, StateType};
use crate::tensor::{DType, Dim};

impl Lowering<'_> {
    /// Fused rows `[q | k | v]`.
    pub(super) fn qkv(&mut self, index: usize, spec: &AttentionSpec, x: TensorId) -> Result<TensorId, GraphError> {
        self.multiple_of_four("head_dim", spec.head_dim as usize)?;
        if spec.head_dim > Attention::MAX_HEAD_DIM {
            return Err(GraphError::HeadTooLarge { head_dim: spec.head_dim, limit: Attention::MAX_HEAD_DIM });
        }
        self.concatenated(format!("layer {index} qkv"), &[&spec.q, &spec.k, &spec.v], x)
    }

    /// The values attended to.
    pub(super) fn attention(
        &mut self,
        index: usize,
        spec: &AttentionSpec,
        qkv: TensorId,
    ) -> Result<TensorId, GraphError> {
        let qkv = match &spec.qk_norm {
            Some(norm) => self.qk_norm(index, spec, norm, qkv),
            None => qkv,
        };
        let state = StateType {
            kv_heads: spec.kv_heads,
            context_length: self.options.context_length,
            head_dim: spec.head_dim,
            format: self.options.kv_format,
        };
        let keys = self.tensor(format!("layer {index} keys"), TensorKind::State(state));
        let values = self.tensor(format!("layer {index} values"), TensorKind::State(state));
        let width = (spec.heads * spec.head_dim) as usize;
        let q = self.hidden(format!("layer {index} q"), Dim::Tokens, width);
        let rotary = spec.rope.as_ref();
        let table = match rotary {
            Some(rope) => {
                let positions = self.options.context_length;
                self.vector("rope table".into(), Vector::RopeTable { rope: rope.clone(), positions })
            }
            None => self.vector("no rope".into(), Vector::Values(vec![0.0; 2])),
        };
        let rope = RopeAppend {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            rotary_dim: rotary.map_or(0, |rope| rope.rotary_dim),
            style: rotary.map_or(RopeStyle::HalfSplit, |rope| rope.style),
            clip: spec.clip_qkv,
            format: state.format,
        };
        let output = self.hidden(format!("layer {index} attention"), Dim::Tokens, width);
        let attention = Attention {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: spec.scale,
            // A window beyond the context hides nothing; without it all such layers share a kernel.
            window: spec.window.filter(|window| *window < self.options.context_length),
            softcap: spec.softcap,
            alibi: spec.alibi.as_ref().map(|(alibi, _)| *alibi),
            format: state.format,
            quantized: false,
        };
        let mut inputs = vec![qkv, table];
        if let Some((_, slopes)) = &spec.alibi {
            inputs.push(self.vector("slopes".into(), Vector::Values(slopes.clone())));
        }
        let op = RopeAttention { rope, attention: attention.clone() };
        self.node(op.clone(), inputs, vec![output, q, keys, values]);
        if spec.head_dim.is_multiple_of(DType::Q8_BLOCK as u32) {
            self.may_round(&[output], RopeAttention { attention: Attention { quantized: true, ..attention }, ..op });
        }
        Ok(output)
    }

    pub(super) fn qk_norm(&mut self, index: usize, spec: &AttentionSpec, norm: &QkNormSpec, qkv: TensorId) -> TensorId {
        let groups = |heads: u32| match norm.span {
            NormSpan::Head => NormGroups { count: heads, cols: spec.head_dim },
            NormSpan::Row => NormGroups { count: 1, cols: heads * spec.head_dim },
        };
        let width = ((spec.heads + 2 * spec.kv_heads) * spec.head_dim) as usize;
        let normed = ((spec.heads + spec.kv_heads) * spec.head_dim) as usize;
        let weight = self.norm_weight(Some(&norm.weight), norm.one_plus, normed);
        let bias = self.norm_bias(norm.bias.as_ref(), normed);
        let output = self.hidden(format!("layer {index} normed qkv"), Dim::Tokens, width);
        let op = QkNorm {
            kind: norm.kind,
            eps: norm.eps,
            q: groups(spec.heads),
            k: groups(spec.kv_heads),
            v_cols: spec.kv_heads * spec.head_dim,
        };
        self.node(op, vec![qkv, weight, bias], vec![output]);
        output
    }
}
