//! Llama and the models of its shape: Llama 1 to 3, Code Llama, Vicuna, LongChat, TinyLlama, SmolLM2, Falcon 3
//! (Touvron et al. 2023, arXiv:2302.13971), and Mistral (Jiang et al. 2023, arXiv:2310.06825).
//!
//! Families that change one or two things about this shape start from [`decoder`].

use super::decoder::{AttentionBias, Decoder, RopeKeys};
use super::{Family, ModelError, ModelSpec, NormSpec, Residual, Source};

pub(super) const LLAMA: Family = Family { model_type: "llama", describe };
pub(super) const MISTRAL: Family = Family { model_type: "mistral", describe: describe_mistral };

/// Tables that older exports wrote out.
pub(super) const IGNORED: &[&str] = &["model.layers.*.self_attn.rotary_emb.inv_freq"];

/// Where a model of this shape has its biases.
pub(super) struct Biases {
    pub(super) attention: AttentionBias,
    pub(super) mlp: bool,
}

fn describe(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, LLAMA.model_type)?;
    let attention = AttentionBias::all(decoder.config.bool_or("attention_bias", false)?);
    let mlp = decoder.config.bool_or("mlp_bias", false)?;
    model(&decoder, &Biases { attention, mlp }, false)
}

fn describe_mistral(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, MISTRAL.model_type)?;
    let windows = decoder.windows(|_| true)?;
    let mut spec = model(&decoder, &Biases { attention: AttentionBias::None, mlp: false }, false)?;
    for (layer, window) in spec.layers.iter_mut().zip(windows) {
        layer.attention.window = window;
    }
    Ok(spec)
}

/// A model of Llama's shape under Llama's names; `tied` is what a config means that does not say.
pub(super) fn model(decoder: &Decoder<'_>, biases: &Biases, tied: bool) -> Result<ModelSpec, ModelError> {
    let eps = decoder.config.f32_or("rms_norm_eps", 1e-6)?;
    let activation = decoder.activation("silu")?;
    let intermediate = decoder.intermediate()?;
    let rope = decoder.rope(&RopeKeys::default())?;
    let norm = |name: String| NormSpec::rms(&name, decoder.hidden, eps);
    let layer = |i: u32| {
        let at = format!("model.layers.{i}");
        let mut attention = decoder.attention(&format!("{at}.self_attn"), biases.attention, "o_proj");
        attention.rope = Some(rope.clone());
        let mlp = decoder.gated_mlp(&format!("{at}.mlp"), intermediate, biases.mlp, activation);
        let norms = ["input_layernorm", "post_attention_layernorm"].map(|name| Some(norm(format!("{at}.{name}"))));
        decoder.pre_norm_layer(Residual::Sequential, norms, attention, mlp)
    };
    let layers = (0..decoder.layers).map(layer).collect();
    let tensors = ["model.embed_tokens.weight", "lm_head.weight"];
    let spec = decoder.model(layers, norm("model.norm".into()), tensors, tied)?;
    Ok(ModelSpec { ignored: IGNORED, ..spec })
}
