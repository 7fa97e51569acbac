//! Llama and the models of its shape: Llama 1 to 3, SmolLM2, TinyLlama, Vicuna (Touvron et al. 2023,
//! arXiv:2302.13971).

use super::rope::RopeConfig;
use super::{
    AttentionSpec, Family, LayerSpec, LinearSpec, MlpSpec, ModelError, ModelSpec, NormSpec, Residual, Source,
    WeightSpec, keys,
};

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
    let activation = keys::activation(config, FAMILY.model_type, "silu")?;
    let attention_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    let mlp_bias = config.opt_bool("mlp_bias")?.unwrap_or(false);

    let parameters = config.section("rope_parameters")?;
    let theta = keys::theta(config, parameters.as_ref(), "rope_theta")?;
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

    let norm = |name: String| NormSpec::rms(&name, hidden, eps);
    let linear = LinearSpec::named;
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
    let tied = keys::is_tied(source, "lm_head.weight", false)?;
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
