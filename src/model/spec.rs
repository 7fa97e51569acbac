//! What a model is: plain data, in the order of the forward.

use std::ops::Range;

use super::RopeSpec;
use crate::checkpoint::Config;
use crate::ops::{Activation, Alibi, NormKind};

/// What a family describes from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The checkpoint's config, in Hugging Face names.
    pub config: &'a Config,
    /// Whether the checkpoint holds a tensor of this name.
    pub has_tensor: &'a dyn Fn(&str) -> bool,
}

/// Rows of one tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// The tensor's Hugging Face name.
    pub tensor: String,
    /// Rows the whole tensor must have (elements, for a vector).
    pub tensor_rows: usize,
    /// The rows taken.
    pub rows: Range<usize>,
    /// The tensor is stored `(cols, rows)`, as GPT-2 stores its linears.
    pub transposed: bool,
}

impl Part {
    /// Some rows of a tensor that has `tensor_rows`.
    pub fn some(tensor: impl Into<String>, tensor_rows: usize, rows: Range<usize>) -> Self {
        Self { tensor: tensor.into(), tensor_rows, rows, transposed: false }
    }

    /// All rows of a tensor.
    pub fn whole(tensor: impl Into<String>, rows: usize) -> Self {
        Self::some(tensor, rows, 0..rows)
    }
}

/// A weight matrix `(rows, cols)`: rows of one or more tensors, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightSpec {
    /// The rows, in order.
    pub parts: Vec<Part>,
    /// Columns: input features.
    pub cols: usize,
}

impl WeightSpec {
    /// A whole tensor.
    pub fn whole(tensor: impl Into<String>, rows: usize, cols: usize) -> Self {
        Self { parts: vec![Part::whole(tensor, rows)], cols }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len()).sum()
    }

    /// The first tensor's name, with a count where there are more.
    pub fn label(&self) -> String {
        label(&self.parts)
    }
}

/// A vector of the checkpoint (bias, norm weight): elements of one or more 1-D tensors.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VectorSpec {
    /// The elements, in order.
    pub parts: Vec<Part>,
}

impl VectorSpec {
    /// A whole tensor.
    pub fn whole(tensor: impl Into<String>, len: usize) -> Self {
        Self { parts: vec![Part::whole(tensor, len)] }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len()).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first tensor's name, with a count where there are more.
    pub fn label(&self) -> String {
        label(&self.parts)
    }
}

fn label(parts: &[Part]) -> String {
    let mut names: Vec<&str> = parts.iter().map(|part| part.tensor.as_str()).collect();
    names.dedup();
    match names.len() {
        0 => "nothing".into(),
        1 => names[0].into(),
        more => format!("{} (+{})", names[0], more - 1),
    }
}

/// A linear layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearSpec {
    /// `(out_features, in_features)`.
    pub weight: WeightSpec,
    /// `(out_features)`.
    pub bias: Option<VectorSpec>,
}

impl LinearSpec {
    /// The whole tensors `<name>.weight` and, where there is a bias, `<name>.bias`.
    pub fn named(name: String, rows: usize, cols: usize, bias: bool) -> Self {
        Self {
            bias: bias.then(|| VectorSpec::whole(format!("{name}.bias"), rows)),
            weight: WeightSpec::whole(format!("{name}.weight"), rows, cols),
        }
    }
}

/// A normalisation.
#[derive(Debug, Clone, PartialEq)]
pub struct NormSpec {
    /// RMSNorm or LayerNorm.
    pub kind: NormKind,
    /// Added to the variance or mean square.
    pub eps: f32,
    /// `(hidden_size)`; none multiplies by one.
    pub weight: Option<VectorSpec>,
    /// The weight is stored as its distance from one.
    pub one_plus: bool,
    /// `(hidden_size)`; LayerNorm only.
    pub bias: Option<VectorSpec>,
}

impl NormSpec {
    /// An RMSNorm with the tensor `<name>.weight`.
    pub fn rms(name: &str, width: usize, eps: f32) -> Self {
        let weight = Some(VectorSpec::whole(format!("{name}.weight"), width));
        Self { kind: NormKind::Rms, eps, weight, one_plus: false, bias: None }
    }

    /// A LayerNorm with the tensors `<name>.weight` and `<name>.bias`.
    pub fn layer(name: &str, width: usize, eps: f32) -> Self {
        let bias = Some(VectorSpec::whole(format!("{name}.bias"), width));
        Self { kind: NormKind::Layer, bias, ..Self::rms(name, width, eps) }
    }

    /// A LayerNorm with the tensor `<name>.weight` and no bias.
    pub fn layer_without_bias(name: &str, width: usize, eps: f32) -> Self {
        Self { bias: None, ..Self::layer(name, width, eps) }
    }

    /// A LayerNorm without tensors.
    pub const fn plain_layer(eps: f32) -> Self {
        Self { kind: NormKind::Layer, eps, weight: None, one_plus: false, bias: None }
    }
}

/// Norms of queries and keys before they are rotated.
#[derive(Debug, Clone, PartialEq)]
pub struct QkNormSpec {
    /// RMSNorm or LayerNorm.
    pub kind: NormKind,
    /// Added to the variance or mean square.
    pub eps: f32,
    /// What is normalised by itself.
    pub span: NormSpan,
    /// The weights are stored as their distance from one.
    pub one_plus: bool,
    /// Of the columns of q, then of k, as many as there are: `(heads · head_dim + kv_heads · head_dim)`.
    pub weight: VectorSpec,
    /// Likewise; LayerNorm only.
    pub bias: Option<VectorSpec>,
}

/// What a q or k norm normalises by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormSpan {
    /// Each head.
    Head,
    /// All heads of q together, and all of k.
    Row,
}

/// Attention with its projections.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads; divides `heads`.
    pub kv_heads: u32,
    /// Values of a head.
    pub head_dim: u32,
    /// `(heads · head_dim, hidden_size)`.
    pub q: LinearSpec,
    /// `(kv_heads · head_dim, hidden_size)`.
    pub k: LinearSpec,
    /// `(kv_heads · head_dim, hidden_size)`.
    pub v: LinearSpec,
    /// `(hidden_size, heads · head_dim)`.
    pub o: LinearSpec,
    /// Rotary position embedding.
    pub rope: Option<RopeSpec>,
    /// Position bias: how, and each head's slope.
    pub alibi: Option<(Alibi, Vec<f32>)>,
    /// Norms of q and k.
    pub qk_norm: Option<QkNormSpec>,
    /// q, k and v are first brought within ± this.
    pub clip_qkv: Option<f32>,
    /// Multiplies q·k.
    pub scale: f32,
    /// Sliding window, in positions including the token's own.
    pub window: Option<u32>,
    /// Soft cap of the scores.
    pub softcap: Option<f32>,
}

/// The feed-forward part of a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum MlpSpec {
    /// `down(act(up(x)))`.
    Plain {
        /// `(intermediate_size, hidden_size)`.
        up: LinearSpec,
        /// `(hidden_size, intermediate_size)`.
        down: LinearSpec,
        /// The nonlinearity.
        activation: Activation,
    },
    /// `down(act(gate(x)) · up(x))`: SwiGLU, GeGLU.
    Gated {
        /// `(intermediate_size, hidden_size)`.
        gate: LinearSpec,
        /// `(intermediate_size, hidden_size)`.
        up: LinearSpec,
        /// `(hidden_size, intermediate_size)`.
        down: LinearSpec,
        /// The nonlinearity of the gate.
        activation: Activation,
    },
    /// A mixture of gated experts.
    Experts(Box<ExpertsSpec>),
}

impl MlpSpec {
    /// The inner width, of one expert where there are several.
    pub fn intermediate_size(&self) -> usize {
        match self {
            Self::Plain { up, .. } | Self::Gated { up, .. } => up.weight.rows(),
            Self::Experts(experts) => experts.down.cols,
        }
    }
}

/// A mixture of experts: each token is computed by a few of them.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsSpec {
    /// All experts.
    pub experts: u32,
    /// Experts that compute a token.
    pub top_k: u32,
    /// The chosen experts' weights are made to add up to 1.
    pub normalize: bool,
    /// `(experts, hidden_size)`: the scores they are chosen by.
    pub router: LinearSpec,
    /// `(experts · 2 · moe_intermediate_size, hidden_size)`: each expert's gate, then its up.
    pub gate_up: WeightSpec,
    /// `(experts · hidden_size, moe_intermediate_size)`.
    pub down: WeightSpec,
    /// The nonlinearity of the gates.
    pub activation: Activation,
    /// Computes every token besides.
    pub shared: Option<SharedExpertSpec>,
}

/// An expert that computes every token.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedExpertSpec {
    /// `(intermediate_size, hidden_size)`.
    pub gate: LinearSpec,
    /// `(intermediate_size, hidden_size)`.
    pub up: LinearSpec,
    /// `(hidden_size, intermediate_size)`.
    pub down: LinearSpec,
    /// `(1, hidden_size)`: the sigmoid of its score scales the output.
    pub scale: Option<LinearSpec>,
}

/// How a layer's two parts join the residual stream. Each may be normalised before (`norm`) and after (`post`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// `x + attention(norm1 x) + mlp(norm2 x)`; without a norm of its own the MLP reads what attention reads.
    Parallel,
    /// `h = x + post1 attention(norm1 x)`, then `h + post2 mlp(norm2 h)`.
    Sequential,
}

/// One decoder layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Parallel or sequential.
    pub residual: Residual,
    /// Before attention.
    pub attention_norm: Option<NormSpec>,
    /// Attention.
    pub attention: AttentionSpec,
    /// After attention, before its residual.
    pub attention_post_norm: Option<NormSpec>,
    /// Before the MLP.
    pub mlp_norm: Option<NormSpec>,
    /// Feed-forward.
    pub mlp: MlpSpec,
    /// After the MLP, before its residual.
    pub mlp_post_norm: Option<NormSpec>,
}

/// A whole model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The family's name, as `model_type` says it.
    pub family: &'static str,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Positions the model was made for.
    pub max_position_embeddings: u32,
    /// Positions it can be stretched to by its RoPE scaling; at least `max_position_embeddings`.
    pub max_context_length: u32,
    /// `(vocab_size, hidden_size)`.
    pub embedding: WeightSpec,
    /// Multiplies the embedding's rows.
    pub embedding_scale: f32,
    /// `(positions, hidden_size)`: learned, added to the embedding.
    pub position_embedding: Option<WeightSpec>,
    /// Decoder layers, in order.
    pub layers: Vec<LayerSpec>,
    /// Before the head.
    pub norm: NormSpec,
    /// `(vocab_size, hidden_size)`; the embedding's spec where they are tied.
    pub lm_head: LinearSpec,
    /// Bends the logits to ± this by tanh.
    pub logit_softcap: Option<f32>,
    /// Tensors that published files carry and the maths does not need: names, where `*` stands for a layer number and
    /// a `*` at the end for anything.
    pub ignored: &'static [&'static str],
}

impl ModelSpec {
    /// Rows of the embedding: token ids are below.
    pub fn vocab_size(&self) -> usize {
        self.embedding.rows()
    }

    /// Whether the head reads the embedding.
    pub fn is_tied(&self) -> bool {
        self.embedding == self.lm_head.weight
    }
}
