//! GPT-NeoX: StableLM-alpha, Pythia, RedPajama-INCITE, Dolly v2 (Black et al. 2022, arXiv:2204.06745).

use super::rope::RopeConfig;
use super::{
    AttentionSpec, Family, LayerSpec, LinearSpec, MlpSpec, ModelError, ModelSpec, NormSpec, Part, Residual, Source,
    VectorSpec, WeightSpec, keys,
};
use crate::checkpoint::QkvRows;

pub(super) const FAMILY: Family = Family { model_type: "gpt_neox", describe };

/// Masks and tables that older exports wrote out.
const IGNORED: &[&str] = &[
    "gpt_neox.layers.*.attention.bias",
    "gpt_neox.layers.*.attention.masked_bias",
    "gpt_neox.layers.*.attention.rotary_emb.inv_freq",
];

fn describe(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let config = source.config;
    let hidden = config.u32("hidden_size")? as usize;
    let heads = config.u32("num_attention_heads")?;
    let intermediate = config.u32("intermediate_size")? as usize;
    let vocab = config.u32("vocab_size")? as usize;
    let eps = config.opt_f32("layer_norm_eps")?.unwrap_or(1e-5);
    let max_position_embeddings = config.u32("max_position_embeddings")?;
    if heads == 0 || !hidden.is_multiple_of(heads as usize) {
        let reason = format!("hidden_size {hidden} is not a multiple of num_attention_heads {heads}");
        return Err(ModelError::Inconsistent { family: FAMILY.model_type, reason });
    }
    let head_dim = (hidden / heads as usize) as u32;
    let activation = keys::activation(config, FAMILY.model_type, "gelu")?;
    let parallel = config.opt_bool("use_parallel_residual")?.unwrap_or(true);
    let attention_bias = config.opt_bool("attention_bias")?.unwrap_or(true);

    // Newer configs keep RoPE's numbers in `rope_parameters`, older ones beside the rest.
    let parameters = config.section("rope_parameters")?;
    let rotary_pct = match parameters.as_ref().map(|section| section.opt_f32("partial_rotary_factor")).transpose()? {
        Some(Some(part)) => part,
        _ => config.opt_f32("rotary_pct")?.unwrap_or(0.25),
    };
    let theta = keys::theta(config, parameters.as_ref(), "rotary_emb_base")?;
    let scaling = if parameters.is_some() { parameters } else { config.section("rope_scaling")? };
    let rope = RopeConfig {
        family: FAMILY.model_type,
        head_dim,
        rotary_dim: (f64::from(head_dim) * f64::from(rotary_pct)) as u32,
        theta,
        max_position_embeddings,
        scaling,
        source,
    };
    let rope = rope.spec()?;

    let norm = |name: String| NormSpec::layer(&name, hidden, eps);
    let linear = LinearSpec::named;
    let layer = |i: u32| {
        let at = format!("gpt_neox.layers.{i}");
        let qkv = |which| {
            let parts =
                |suffix| qkv_parts(format!("{at}.attention.query_key_value.{suffix}"), which, source, heads, head_dim);
            LinearSpec {
                weight: WeightSpec { parts: parts("weight"), cols: hidden },
                bias: attention_bias.then(|| VectorSpec { parts: parts("bias") }),
            }
        };
        LayerSpec {
            residual: if parallel { Residual::Parallel } else { Residual::Sequential },
            attention_norm: norm(format!("{at}.input_layernorm")),
            attention: AttentionSpec {
                heads,
                kv_heads: heads,
                head_dim,
                q: qkv(0),
                k: qkv(1),
                v: qkv(2),
                o: linear(format!("{at}.attention.dense"), hidden, hidden, attention_bias),
                rope: rope.clone(),
                scale: 1.0 / (head_dim as f32).sqrt(),
                window: None,
                softcap: None,
            },
            mlp_norm: norm(format!("{at}.post_attention_layernorm")),
            mlp: MlpSpec::Plain {
                up: linear(format!("{at}.mlp.dense_h_to_4h"), intermediate, hidden, true),
                down: linear(format!("{at}.mlp.dense_4h_to_h"), hidden, intermediate, true),
                activation,
            },
        }
    };
    let embedding = WeightSpec::whole("gpt_neox.embed_in.weight", vocab, hidden);
    let tied = keys::is_tied(source, "embed_out.weight", false)?;
    let head = if tied { embedding.clone() } else { WeightSpec::whole("embed_out.weight", vocab, hidden) };
    Ok(ModelSpec {
        family: FAMILY.model_type,
        hidden_size: hidden,
        max_position_embeddings,
        layers: (0..config.u32("num_hidden_layers")?).map(layer).collect(),
        norm: norm("gpt_neox.final_layer_norm".into()),
        lm_head: LinearSpec { weight: head, bias: None },
        embedding,
        ignored: IGNORED,
    })
}

/// The rows of q (0), k (1) or v (2) in the fused projection: Hugging Face stores `[q, k, v]` head by head, GGUF one
/// block after the other.
fn qkv_parts(tensor: String, which: usize, source: &Source<'_>, heads: u32, head_dim: u32) -> Vec<Part> {
    let (heads, dim) = (heads as usize, head_dim as usize);
    let tensor_rows = 3 * heads * dim;
    match source.config.rows.qkv {
        QkvRows::Blocked => {
            vec![Part { tensor, tensor_rows, rows: which * heads * dim..(which + 1) * heads * dim }]
        }
        QkvRows::PerHead => {
            let rows = (0..heads).map(|head| (3 * head + which) * dim);
            rows.map(|first| Part { tensor: tensor.clone(), tensor_rows, rows: first..first + dim }).collect()
        }
    }
}
