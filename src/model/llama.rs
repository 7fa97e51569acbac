//! Llama and the models of its shape: Llama 1 to 3, SmolLM2, TinyLlama, Vicuna (Touvron et al. 2023,
//! arXiv:2302.13971).

use super::rope::RopeConfig;
use super::{
    AttentionSpec, Family, LayerSpec, LinearSpec, MlpSpec, ModelError, ModelSpec, NormSpec, Residual, Source,
    VectorSpec, WeightSpec,
};
use crate::checkpoint::Config;
use crate::ops::{Activation, NormKind};

pub(super) const FAMILY: Family = Family { model_type: "llama", describe };

const IGNORED: &[&str] = &["model.layers.*.self_attn.rotary_emb.inv_freq", "rope_freqs.weight"];

fn describe(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let config = source.config;
    let hidden = config.u32("hidden_size")? as usize;
    let heads = config.u32("num_attention_heads")?;
    let kv_heads = config.opt_u32("num_key_value_heads")?.unwrap_or(heads);
    let intermediate = config.u32("intermediate_size")? as usize;
    let vocab = config.u32("vocab_size")? as usize;
    let eps = config.opt_f32("rms_norm_eps")?.unwrap_or(1e-6);
    let max_position_embeddings = config.u32("max_position_embeddings")?;
    let inconsistent = |reason| ModelError::Inconsistent { family: FAMILY.model_type, reason };
    if kv_heads == 0 || heads % kv_heads != 0 {
        let reason = format!("num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}");
        return Err(inconsistent(reason));
    }
    let head_dim = match config.opt_u32("head_dim")? {
        Some(dim) => dim,
        None if hidden.is_multiple_of(heads as usize) => (hidden / heads as usize) as u32,
        None => return Err(inconsistent(format!("hidden_size {hidden} is not a multiple of {heads} heads"))),
    };
    let activation = activation(config, FAMILY.model_type, "silu")?;
    let attention_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    let mlp_bias = config.opt_bool("mlp_bias")?.unwrap_or(false);

    let parameters = config.section("rope_parameters")?;
    let theta = theta(config, parameters.as_ref(), "rope_theta")?;
    let scaling = if parameters.is_some() { parameters } else { config.section("rope_scaling")? };
    let rope = RopeConfig {
        family: FAMILY.model_type,
        head_dim,
        rotary_dim: head_dim,
        theta,
        max_position_embeddings,
        scaling,
        source,
    };
    let rope = rope.spec()?;

    let norm = |name: String| NormSpec {
        kind: NormKind::Rms,
        eps,
        weight: VectorSpec::whole(format!("{name}.weight"), hidden),
        bias: None,
    };
    let linear = |name: String, rows: usize, cols: usize, bias: bool| LinearSpec {
        weight: WeightSpec::whole(format!("{name}.weight"), rows, cols),
        bias: bias.then(|| VectorSpec::whole(format!("{name}.bias"), rows)),
    };
    let (q_rows, kv_rows) = ((heads * head_dim) as usize, (kv_heads * head_dim) as usize);
    let layer = |i: u32| {
        let at = format!("model.layers.{i}");
        LayerSpec {
            residual: Residual::Sequential,
            attention_norm: norm(format!("{at}.input_layernorm")),
            attention: AttentionSpec {
                heads,
                kv_heads,
                head_dim,
                q: linear(format!("{at}.self_attn.q_proj"), q_rows, hidden, attention_bias),
                k: linear(format!("{at}.self_attn.k_proj"), kv_rows, hidden, attention_bias),
                v: linear(format!("{at}.self_attn.v_proj"), kv_rows, hidden, attention_bias),
                o: linear(format!("{at}.self_attn.o_proj"), hidden, q_rows, attention_bias),
                rope: rope.clone(),
                scale: 1.0 / (head_dim as f32).sqrt(),
                window: None,
                softcap: None,
            },
            mlp_norm: norm(format!("{at}.post_attention_layernorm")),
            mlp: MlpSpec::Gated {
                gate: linear(format!("{at}.mlp.gate_proj"), intermediate, hidden, mlp_bias),
                up: linear(format!("{at}.mlp.up_proj"), intermediate, hidden, mlp_bias),
                down: linear(format!("{at}.mlp.down_proj"), hidden, intermediate, mlp_bias),
                activation,
            },
        }
    };
    let embedding = WeightSpec::whole("model.embed_tokens.weight", vocab, hidden);
    let tied = is_tied(source, "lm_head.weight", false)?;
    let head = if tied { embedding.clone() } else { WeightSpec::whole("lm_head.weight", vocab, hidden) };
    Ok(ModelSpec {
        family: FAMILY.model_type,
        hidden_size: hidden,
        max_position_embeddings,
        layers: (0..config.u32("num_hidden_layers")?).map(layer).collect(),
        norm: norm("model.norm".into()),
        lm_head: LinearSpec { weight: head, bias: None },
        embedding,
        ignored: IGNORED,
    })
}

/// RoPE's base: in the newer section, else under `key` or the common name, else 10 000.
pub(super) fn theta(config: &Config, parameters: Option<&Config>, key: &str) -> Result<f32, ModelError> {
    if let Some(theta) = parameters.map(|section| section.opt_f32("rope_theta")).transpose()?.flatten() {
        return Ok(theta);
    }
    let named = config.opt_f32(key)?;
    Ok(match named {
        Some(theta) => theta,
        None => config.opt_f32("rope_theta")?.unwrap_or(10_000.0),
    })
}

/// `hidden_act` by any of the names configs use.
pub(super) fn activation(config: &Config, family: &'static str, default: &str) -> Result<Activation, ModelError> {
    match config.opt_str("hidden_act")?.unwrap_or(default) {
        "gelu" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "silu" | "swish" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        other => Err(ModelError::Unsupported {
            family,
            key: "hidden_act".into(),
            value: format!("\"{other}\""),
            hint: "; supported: gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, silu, relu".into(),
        }),
    }
}

/// Whether the head reads the embedding: when the config says so, or when the file has no head of its own.
pub(super) fn is_tied(source: &Source<'_>, head: &str, default: bool) -> Result<bool, ModelError> {
    let said = source.config.opt_bool("tie_word_embeddings")?.unwrap_or(default);
    Ok(said || !(source.has_tensor)(head))
}
