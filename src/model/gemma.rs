//! Gemma 1, 2 and 3 (Gemma Team 2024, arXiv:2403.08295, arXiv:2408.00118; 2025, arXiv:2503.19786): GeGLU, norms that
//! multiply by one more than their weight, an embedding scaled by the root of its width. Of the multimodal Gemma 3 the
//! text model is run.

use super::decoder::{AttentionBias, Decoder, Defaults, RopeKeys};
use super::{Family, LayerSpec, ModelError, ModelSpec, NormSpec, Residual, Source, keys, qwen};
use crate::checkpoint::{Config, NormOffset};
use crate::ops::Activation;

pub(super) const GEMMA: Family = Family { model_type: "gemma", describe: describe_gemma };
pub(super) const GEMMA2: Family = Family { model_type: "gemma2", describe: describe_gemma2 };
pub(super) const GEMMA3_TEXT: Family = Family { model_type: "gemma3_text", describe: describe_gemma3_text };
pub(super) const GEMMA3: Family = Family { model_type: "gemma3", describe: describe_gemma3 };

/// What looks at images.
const VISION: &[&str] = &[
    "vision_tower.*",
    "multi_modal_projector.*",
    "model.vision_tower.*",
    "model.multi_modal_projector.*",
    "model.layers.*.self_attn.rotary_emb.inv_freq",
];

/// What published configs of the multimodal Gemma 3 leave out.
const GEMMA3_DEFAULTS: Defaults =
    Defaults { heads: Some(8), kv_heads: Some(4), head_dim: Some(256), vocab: Some(262_208), positions: Some(131_072) };

/// Where the decoder's tensors are in multimodal checkpoints of different ages.
const PREFIXES: &[&str] = &["model", "language_model.model", "model.language_model"];

/// A Gemma's parts as far as all versions agree.
struct Gemma<'a> {
    decoder: Decoder<'a>,
    prefix: &'static str,
    eps: f32,
    one_plus: bool,
    intermediate: usize,
    activation: Activation,
}

impl<'a> Gemma<'a> {
    fn read(decoder: Decoder<'a>) -> Result<Self, ModelError> {
        let config = &decoder.config;
        decoder.refuse_flags(&["attention_bias", "use_bidirectional_attention"])?;
        let has = |prefix: &&&str| (decoder.source.has_tensor)(&format!("{prefix}.embed_tokens.weight"));
        let named = config.opt_str("hidden_activation")?;
        let activation = match (named, config.opt_str("hidden_act")?) {
            // The first configs said gelu where the model had been trained with its tanh form.
            (None, Some("gelu") | None) => Activation::GeluTanh,
            (Some(_), _) => keys::activation(config, decoder.family, "hidden_activation", "gelu_pytorch_tanh")?,
            (None, _) => keys::activation(config, decoder.family, "hidden_act", "gelu_pytorch_tanh")?,
        };
        Ok(Self {
            prefix: PREFIXES.iter().find(has).copied().unwrap_or("model"),
            eps: config.f32_or("rms_norm_eps", 1e-6)?,
            one_plus: config.rows.norms == NormOffset::Apart,
            intermediate: decoder.intermediate()?,
            activation,
            decoder,
        })
    }

    fn norm(&self, name: &str) -> NormSpec {
        let spec = NormSpec::rms(&format!("{}.{name}", self.prefix), self.decoder.hidden, self.eps);
        NormSpec { one_plus: self.one_plus, ..spec }
    }

    /// A layer with norms before its parts and none behind.
    fn layer(&self, i: u32, mlp_norm: &str) -> LayerSpec {
        let at = format!("{}.layers.{i}", self.prefix);
        let attention = self.decoder.attention(&format!("{at}.self_attn"), AttentionBias::None, "o_proj");
        let mlp = self.decoder.gated_mlp(&format!("{at}.mlp"), self.intermediate, false, self.activation);
        let norms = ["input_layernorm", mlp_norm].map(|name| Some(self.norm(&format!("layers.{i}.{name}"))));
        self.decoder.pre_norm_layer(Residual::Sequential, norms, attention, mlp)
    }

    /// A layer with norms before and behind its parts, as from version 2 on.
    fn sandwiched_layer(&self, i: u32, scale: f32, softcap: Option<f32>) -> LayerSpec {
        let mut layer = self.layer(i, "pre_feedforward_layernorm");
        layer.attention_post_norm = Some(self.norm(&format!("layers.{i}.post_attention_layernorm")));
        layer.mlp_post_norm = Some(self.norm(&format!("layers.{i}.post_feedforward_layernorm")));
        layer.attention.scale = scale;
        layer.attention.softcap = softcap;
        layer
    }

    /// What scores are multiplied by, from version 2 on.
    fn scale(&self) -> Result<f32, ModelError> {
        Ok(1.0 / self.decoder.config.f32_or("query_pre_attn_scalar", 256.0)?.sqrt())
    }

    fn model(&self, layers: Vec<LayerSpec>) -> Result<ModelSpec, ModelError> {
        let embedding = format!("{}.embed_tokens.weight", self.prefix);
        let head = match self.prefix {
            "language_model.model" => "language_model.lm_head.weight",
            _ => "lm_head.weight",
        };
        let spec = self.decoder.model(layers, self.norm("norm"), [&embedding, head], true)?;
        let embedding_scale = (self.decoder.hidden as f32).sqrt();
        let logit_softcap = self.decoder.config.opt_f32("final_logit_softcapping")?;
        Ok(ModelSpec { embedding_scale, logit_softcap, ignored: VISION, ..spec })
    }
}

fn describe_gemma(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let gemma = Gemma::read(Decoder::read(source, GEMMA.model_type)?)?;
    let rope = gemma.decoder.rope(&RopeKeys::default())?;
    let layer = |i| {
        let mut layer = gemma.layer(i, "post_attention_layernorm");
        layer.attention.rope = Some(rope.clone());
        layer
    };
    gemma.model((0..gemma.decoder.layers).map(layer).collect())
}

fn describe_gemma2(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let gemma = Gemma::read(Decoder::read(source, GEMMA2.model_type)?)?;
    let config = &gemma.decoder.config;
    let rope = gemma.decoder.rope(&RopeKeys::default())?;
    let softcap = config.opt_f32("attn_logit_softcapping")?;
    let scale = gemma.scale()?;
    // Every second layer sees everything.
    let windows = gemma.decoder.windows(|i| i.is_multiple_of(2))?;
    let layer = |i: u32| {
        let mut layer = gemma.sandwiched_layer(i, scale, softcap);
        layer.attention.rope = Some(rope.clone());
        layer.attention.window = windows[i as usize];
        layer
    };
    gemma.model((0..gemma.decoder.layers).map(layer).collect())
}

fn describe_gemma3_text(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    gemma3(Decoder::read_section(source, GEMMA3_TEXT.model_type, source.config.clone(), &GEMMA3_DEFAULTS)?)
}

fn describe_gemma3(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let Some(text) = source.config.section("text_config")? else {
        let reason = "\"text_config\" is missing: it describes the text model".into();
        return Err(ModelError::Inconsistent { family: GEMMA3.model_type, reason });
    };
    // Images and what stands for them in a text.
    source.config.ignore(&[
        "vision_config",
        "mm_tokens_per_image",
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
        "tie_word_embeddings",
    ]);
    gemma3(Decoder::read_section(source, GEMMA3.model_type, text, &GEMMA3_DEFAULTS)?)
}

fn gemma3(decoder: Decoder<'_>) -> Result<ModelSpec, ModelError> {
    let gemma = Gemma::read(decoder)?;
    let (decoder, config) = (&gemma.decoder, &gemma.decoder.config);
    let (global, local) = ropes(decoder)?;
    let softcap = config.opt_f32("attn_logit_softcapping")?;
    let scale = gemma.scale()?;
    let pattern = config.opt_any_u32(&["sliding_window_pattern", "_sliding_window_pattern"])?.unwrap_or(6).max(1);
    let windows = decoder.windows(|i| !(i + 1).is_multiple_of(pattern))?;
    let layer = |i: u32| {
        let mut layer = gemma.sandwiched_layer(i, scale, softcap);
        let window = windows[i as usize];
        layer.attention.rope = Some(if window.is_some() { local.clone() } else { global.clone() });
        layer.attention.window = window;
        let at = format!("{}.layers.{i}.self_attn", gemma.prefix);
        layer.attention.qk_norm = Some(qwen::head_norms(decoder, &at, gemma.eps, gemma.one_plus));
        layer
    };
    gemma.model((0..decoder.layers).map(layer).collect())
}

/// RoPE of the layers that see everything, and of those with a window.
fn ropes(decoder: &Decoder<'_>) -> Result<(super::RopeSpec, super::RopeSpec), ModelError> {
    let config = &decoder.config;
    let parameters = config.section("rope_parameters")?;
    let kind = |name: &str| -> Result<Option<Config>, ModelError> {
        Ok(parameters.as_ref().map(|section| section.section(name)).transpose()?.flatten())
    };
    let theta = |section: &Option<Config>, key: &str, default: f32| -> Result<f32, ModelError> {
        let inside = section.as_ref().map(|section| section.opt_f32("rope_theta")).transpose()?.flatten();
        Ok(inside.unwrap_or(config.f32_or(key, default)?))
    };
    let (full, sliding) = (kind("full_attention")?, kind("sliding_attention")?);
    let (global_theta, local_theta) =
        (theta(&full, "rope_theta", 1_000_000.0)?, theta(&sliding, "rope_local_base_freq", 10_000.0)?);
    let scaling = match full {
        Some(full) => Some(full),
        None => config.section("rope_scaling")?,
    };
    Ok((decoder.rope_of(global_theta, 1.0, scaling)?, decoder.rope_of(local_theta, 1.0, sliding)?))
}
