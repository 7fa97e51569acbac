//! OLMo (Groeneveld et al. 2024, arXiv:2402.00838): Llama with norms that have no weights. OLMo 2 (OLMo Team 2024,
//! arXiv:2501.00656): norms behind attention and MLP instead of before, and of whole rows of q and k.

use super::decoder::{AttentionBias, Decoder};
use super::llama::{self, Biases};
use super::{Family, ModelError, ModelSpec, NormSpan, NormSpec, Part, QkNormSpec, Source, VectorSpec};
use crate::ops::NormKind;

pub(super) const OLMO: Family = Family { model_type: "olmo", describe: describe_olmo };
pub(super) const OLMO2: Family = Family { model_type: "olmo2", describe: describe_olmo2 };

fn biases(decoder: &Decoder<'_>) -> Result<Biases, ModelError> {
    let attention = AttentionBias::all(decoder.config.bool_or("attention_bias", false)?);
    Ok(Biases { attention, mlp: false })
}

fn describe_olmo(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    /// Fixed in the model, not in its config.
    const EPS: f32 = 1e-5;
    let decoder = Decoder::read(source, OLMO.model_type)?;
    let clip_qkv = decoder.config.opt_f32("clip_qkv")?;
    if let Some(clip) = clip_qkv.filter(|clip| *clip <= 0.0) {
        return Err(decoder.unsupported("clip_qkv", clip, "; expected a number above 0"));
    }
    let mut spec = llama::model(&decoder, &biases(&decoder)?, false)?;
    for layer in &mut spec.layers {
        layer.attention_norm = Some(NormSpec::plain_layer(EPS));
        layer.mlp_norm = Some(NormSpec::plain_layer(EPS));
        layer.attention.clip_qkv = clip_qkv;
    }
    spec.norm = NormSpec::plain_layer(EPS);
    Ok(spec)
}

fn describe_olmo2(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, OLMO2.model_type)?;
    let eps = decoder.config.f32_or("rms_norm_eps", 1e-5)?;
    let mut spec = llama::model(&decoder, &biases(&decoder)?, false)?;
    spec.norm.eps = eps;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let norm = |name: &str| Some(NormSpec::rms(&format!("model.layers.{i}.{name}"), decoder.hidden, eps));
        layer.attention_norm = None;
        layer.attention_post_norm = norm("post_attention_layernorm");
        layer.mlp_norm = None;
        layer.mlp_post_norm = norm("post_feedforward_layernorm");
        let weight = |name: &str, rows| Part::whole(format!("model.layers.{i}.self_attn.{name}.weight"), rows);
        let parts = vec![weight("q_norm", decoder.q_rows()), weight("k_norm", decoder.kv_rows())];
        layer.attention.qk_norm = Some(QkNormSpec {
            kind: NormKind::Rms,
            eps,
            span: NormSpan::Row,
            one_plus: false,
            weight: VectorSpec { parts },
            bias: None,
        });
    }
    Ok(spec)
}
