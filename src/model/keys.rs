//! Config keys that several families share, in all the forms that configs write them.

use super::{ModelError, Source};
use crate::checkpoint::Config;
use crate::ops::Activation;

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
