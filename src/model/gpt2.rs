//! GPT-2 (Radford et al. 2019), GPT-BigCode: SantaCoder and StarCoder (Li et al. 2023, arXiv:2305.06161), and GPT-J
//! (Wang & Komatsuzaki 2021).

use super::decoder::{AttentionBias, Decoder, FusedRows};
use super::{Family, LinearSpec, ModelError, ModelSpec, NormSpec, Residual, Source, VectorSpec, WeightSpec, keys};
use crate::checkpoint::Conv1dAxes;
use crate::ops::{Activation, RopeStyle};

pub(super) const GPT2: Family = Family { model_type: "gpt2", describe: describe_gpt2 };
pub(super) const BIGCODE: Family = Family { model_type: "gpt_bigcode", describe: describe_bigcode };
pub(super) const GPTJ: Family = Family { model_type: "gptj", describe: describe_gptj };

/// Masks that older exports wrote out.
const IGNORED: &[&str] = &[
    "transformer.h.*.attn.bias",
    "transformer.h.*.attn.masked_bias",
    "h.*.attn.bias",
    "h.*.attn.masked_bias",
    "transformer.h.*.attn.embed_positions",
];

/// What these models' configs say alike.
struct Gpt<'a> {
    decoder: Decoder<'a>,
    eps: f32,
    activation: Activation,
    intermediate: usize,
    /// Before every tensor's name, with its dot: the first GPT-2 checkpoints have nothing there.
    prefix: &'static str,
}

impl<'a> Gpt<'a> {
    fn read(source: &'a Source<'a>, family: &'static str, default_activation: &str) -> Result<Self, ModelError> {
        let decoder = Decoder::read(source, family)?;
        let config = &decoder.config;
        decoder.refuse_flags(&["scale_attn_by_inverse_layer_idx", "add_cross_attention"])?;
        if !config.bool_or("scale_attn_weights", true)? {
            return Err(decoder.unsupported("scale_attn_weights", false, "; expected true"));
        }
        // How it was run, not what it computes.
        config.ignore(&["reorder_and_upcast_attn", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"]);
        config.ignore(&["inference_runner", "pad_key_length", "validate_runner_input", "n_ctx"]);
        let inner = config.opt_any_u32(&["n_inner", "intermediate_size"])?;
        let prefix = if (source.has_tensor)("wte.weight") { "" } else { "transformer." };
        Ok(Self {
            eps: config.f32_or("layer_norm_epsilon", 1e-5)?,
            activation: keys::activation(config, family, "activation_function", default_activation)?,
            intermediate: inner.map_or(4 * decoder.hidden, |width| width as usize),
            prefix,
            decoder,
        })
    }

    fn norm(&self, name: &str) -> NormSpec {
        NormSpec::layer(&format!("{}{name}", self.prefix), self.decoder.hidden, self.eps)
    }

    /// A layer of GPT-2's: two norms, learned positions elsewhere.
    fn layer(&self, i: u32, rows: FusedRows) -> super::LayerSpec {
        let (decoder, at) = (&self.decoder, format!("{}h.{i}", self.prefix));
        let qkv = decoder.fused_qkv(&format!("{at}.attn.c_attn"), true, rows);
        let o = LinearSpec::named(format!("{at}.attn.c_proj"), decoder.hidden, decoder.q_rows(), true);
        let names = ["c_fc", "c_proj"].map(|name| format!("{at}.mlp.{name}"));
        let mlp = decoder.plain_mlp(names, self.intermediate, true, self.activation);
        let norms = ["ln_1", "ln_2"].map(|name| Some(self.norm(&format!("h.{i}.{name}"))));
        decoder.pre_norm_layer(Residual::Sequential, norms, decoder.attention_of(qkv, o), mlp)
    }

    fn model(&self, layers: Vec<super::LayerSpec>, tied: bool) -> Result<ModelSpec, ModelError> {
        let embedding = format!("{}wte.weight", self.prefix);
        let spec = self.decoder.model(layers, self.norm("ln_f"), [&embedding, "lm_head.weight"], tied)?;
        Ok(ModelSpec { ignored: IGNORED, ..spec })
    }

    fn with_positions(&self, spec: ModelSpec) -> ModelSpec {
        let table = format!("{}wpe.weight", self.prefix);
        let table = WeightSpec::whole(table, self.decoder.positions as usize, self.decoder.hidden);
        ModelSpec { position_embedding: Some(table), ..spec }
    }
}

fn describe_gpt2(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let gpt = Gpt::read(source, GPT2.model_type, "gelu_new")?;
    let transposed = source.config.rows.conv1d == Conv1dAxes::InOut;
    let layer = |i: u32| {
        let mut layer = gpt.layer(i, FusedRows::Blocked);
        let attention = &mut layer.attention;
        let mut linears = vec![&mut attention.q, &mut attention.k, &mut attention.v, &mut attention.o];
        if let super::MlpSpec::Plain { up, down, .. } = &mut layer.mlp {
            linears.extend([up, down]);
        }
        for part in linears.into_iter().flat_map(|linear| &mut linear.weight.parts) {
            part.transposed = transposed;
        }
        layer
    };
    let spec = gpt.model((0..gpt.decoder.layers).map(layer).collect(), true)?;
    Ok(gpt.with_positions(spec))
}

fn describe_bigcode(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let mut gpt = Gpt::read(source, BIGCODE.model_type, "gelu_pytorch_tanh")?;
    let multi_query = gpt.decoder.config.bool_or("multi_query", true)?;
    gpt.decoder.kv_heads = if multi_query { 1 } else { gpt.decoder.heads };
    let rows = FusedRows::of_checkpoint(source.config);
    let layers = (0..gpt.decoder.layers).map(|i| gpt.layer(i, rows)).collect();
    let spec = gpt.model(layers, true)?;
    Ok(gpt.with_positions(spec))
}

fn describe_gptj(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let gpt = Gpt::read(source, GPTJ.model_type, "gelu_new")?;
    let decoder = &gpt.decoder;
    if !decoder.config.bool_or("rotary", true)? {
        return Err(decoder.unsupported("rotary", false, "; expected true"));
    }
    let rotary_dim = decoder.config.u32_or("rotary_dim", decoder.head_dim)?;
    let mut rope = decoder.rope_of(10_000.0, rotary_dim as f32 / decoder.head_dim as f32, None)?;
    rope.style = RopeStyle::Interleaved;
    let layer = |i: u32| {
        let at = format!("transformer.h.{i}");
        let mut attention = decoder.attention(&format!("{at}.attn"), AttentionBias::None, "out_proj");
        attention.rope = Some(rope.clone());
        let names = ["fc_in", "fc_out"].map(|name| format!("{at}.mlp.{name}"));
        let mlp = decoder.plain_mlp(names, gpt.intermediate, true, gpt.activation);
        decoder.pre_norm_layer(Residual::Parallel, [Some(gpt.norm(&format!("h.{i}.ln_1"))), None], attention, mlp)
    };
    let mut spec = gpt.model((0..decoder.layers).map(layer).collect(), false)?;
    spec.lm_head.bias = Some(VectorSpec::whole("lm_head.bias", decoder.vocab));
    Ok(spec)
}
