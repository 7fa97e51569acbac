//! StableLM 3B-4E1T, Zephyr, StableCode, StableLM 2 (Bellagente et al. 2024, arXiv:2402.17834). StableLM-alpha is a
//! GPT-NeoX.

use super::decoder::{AttentionBias, Decoder, RopeKeys};
use super::{Family, ModelError, ModelSpec, NormSpan, NormSpec, Part, QkNormSpec, Residual, Source, VectorSpec};
use crate::ops::NormKind;

pub(super) const FAMILY: Family = Family { model_type: "stablelm", describe };
/// What configs said before transformers knew the family.
pub(super) const EPOCH: Family = Family { model_type: "stablelm_epoch", describe };

fn describe(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, FAMILY.model_type)?;
    let config = &decoder.config;
    let eps = config.opt_any_f32(&["layer_norm_eps", "norm_eps"])?.unwrap_or(1e-5);
    let activation = decoder.activation("silu")?;
    let intermediate = decoder.intermediate()?;
    let bias = AttentionBias::qkv(config.bool_or("use_qkv_bias", false)?);
    let qk_norm = config.bool_or("qk_layernorm", false)?;
    let parallel = config.bool_or("use_parallel_residual", false)?;
    // Two keys of the first configs: the heads once more, and a scaling of RoPE that none of them uses.
    config.ignore(&["num_heads"]);
    if let Some(other) = config.opt_f32("rotary_scaling_factor")?.filter(|factor| *factor != 1.0) {
        return Err(decoder.unsupported("rotary_scaling_factor", other, "; expected 1"));
    }
    let part = &["partial_rotary_factor", "rope_pct"];
    let rope = decoder.rope(&RopeKeys { part, default_part: 0.25, ..RopeKeys::default() })?;
    let norm = |name: String| NormSpec::layer(&name, decoder.hidden, eps);
    let layer = |i: u32| {
        let at = format!("model.layers.{i}");
        let mut attention = decoder.attention(&format!("{at}.self_attn"), bias, "o_proj");
        attention.rope = Some(rope.clone());
        attention.qk_norm = qk_norm.then(|| head_norms(&decoder, &format!("{at}.self_attn"), eps));
        let mlp = decoder.gated_mlp(&format!("{at}.mlp"), intermediate, false, activation);
        let attention_norm = Some(norm(format!("{at}.input_layernorm")));
        // Both parts read the one norm where they are parallel.
        let (residual, mlp_norm) = match parallel {
            true => (Residual::Parallel, None),
            false => (Residual::Sequential, Some(norm(format!("{at}.post_attention_layernorm")))),
        };
        decoder.pre_norm_layer(residual, [attention_norm, mlp_norm], attention, mlp)
    };
    let layers = (0..decoder.layers).map(layer).collect();
    let tensors = ["model.embed_tokens.weight", "lm_head.weight"];
    let spec = decoder.model(layers, norm("model.norm".into()), tensors, false)?;
    Ok(ModelSpec { ignored: super::llama::IGNORED, ..spec })
}

/// LayerNorms without bias, a weight for every head: a tensor each, or one with all of them.
fn head_norms(decoder: &Decoder<'_>, at: &str, eps: f32) -> QkNormSpec {
    let dim = decoder.head_dim as usize;
    let weights = |name: &str, heads: u32| -> Vec<Part> {
        let stacked = format!("{at}.{name}.norms.weight");
        match (decoder.source.has_tensor)(&stacked) {
            true => vec![Part::whole(stacked, heads as usize * dim)],
            false => (0..heads).map(|head| Part::whole(format!("{at}.{name}.norms.{head}.weight"), dim)).collect(),
        }
    };
    let parts = [weights("q_layernorm", decoder.heads), weights("k_layernorm", decoder.kv_heads)].concat();
    let weight = VectorSpec { parts };
    QkNormSpec { kind: NormKind::Layer, eps, span: NormSpan::Head, one_plus: false, weight, bias: None }
}
