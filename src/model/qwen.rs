//! Qwen 2, 2.5 and 3 (Yang et al. 2024, arXiv:2407.10671; 2025, arXiv:2505.09388): Llama with biases on q, k and v, or
//! with norms on q and k.

use super::decoder::{AttentionBias, Decoder};
use super::llama::{self, Biases};
use super::{Family, ModelError, ModelSpec, NormSpan, QkNormSpec, Source};
use crate::ops::NormKind;

pub(super) const QWEN2: Family = Family { model_type: "qwen2", describe: describe_qwen2 };
pub(super) const QWEN3: Family = Family { model_type: "qwen3", describe: describe_qwen3 };

/// `max_window_layers` of dense models whose config does not say.
const DENSE_WINDOW_LAYERS: u32 = 28;

fn describe_qwen2(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, QWEN2.model_type)?;
    let mut spec = llama::model(&decoder, &Biases { attention: AttentionBias::Qkv, mlp: false }, false)?;
    slide(&decoder, &mut spec, DENSE_WINDOW_LAYERS)?;
    Ok(spec)
}

fn describe_qwen3(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    qwen3(&Decoder::read(source, QWEN3.model_type)?, DENSE_WINDOW_LAYERS)
}

/// Qwen 3 with dense layers; `first_window` is what a config means that does not say which layers slide.
pub(super) fn qwen3(decoder: &Decoder<'_>, first_window: u32) -> Result<ModelSpec, ModelError> {
    let attention = AttentionBias::all(decoder.config.bool_or("attention_bias", false)?);
    let eps = decoder.config.f32_or("rms_norm_eps", 1e-6)?;
    let mut spec = llama::model(decoder, &Biases { attention, mlp: false }, false)?;
    slide(decoder, &mut spec, first_window)?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.attention.qk_norm = Some(head_norms(decoder, &format!("model.layers.{i}.self_attn"), eps, false));
    }
    Ok(spec)
}

/// RMSNorms of each head, one weight for all heads of q (`q_norm`) and one for all of k (`k_norm`).
pub(super) fn head_norms(decoder: &Decoder<'_>, at: &str, eps: f32, one_plus: bool) -> QkNormSpec {
    let weight = decoder.per_head(at, ["q_norm", "k_norm"], "weight");
    QkNormSpec { kind: NormKind::Rms, eps, span: NormSpan::Head, one_plus, weight, bias: None }
}

/// Sliding windows, where they are switched on: of the layers from `max_window_layers` on, or by `layer_types`.
fn slide(decoder: &Decoder<'_>, spec: &mut ModelSpec, default: u32) -> Result<(), ModelError> {
    let first = decoder.config.u32_or("max_window_layers", default)?;
    let windows = decoder.windows(|layer| layer >= first)?;
    if decoder.config.bool_or("use_sliding_window", false)? {
        for (layer, window) in spec.layers.iter_mut().zip(windows) {
            layer.attention.window = window;
        }
    }
    Ok(())
}
