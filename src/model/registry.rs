//! Every family, by the name its configs carry.

use super::{ModelError, ModelSpec, Source};

/// A model family.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `model_type` of its configs.
    pub model_type: &'static str,
    /// Config to spec.
    pub describe: fn(&Source<'_>) -> Result<ModelSpec, ModelError>,
}

/// All families.
pub static FAMILIES: &[Family] = &[super::gpt_neox::FAMILY, super::llama::FAMILY];

/// The most a size of a config may be: far above any model, low enough that products of two don't overflow and a
/// hostile config costs no memory.
const PLAUSIBLE: &[(&str, u32)] = &[
    ("hidden_size", 1 << 20),
    ("intermediate_size", 1 << 22),
    ("vocab_size", 1 << 24),
    ("num_hidden_layers", 1 << 10),
    ("num_attention_heads", 1 << 10),
    ("num_key_value_heads", 1 << 10),
    ("head_dim", 1 << 10),
    ("max_position_embeddings", 1 << 27),
];

/// Describes the model of a checkpoint's config.
///
/// # Errors
/// An unknown family, a missing key, or a value that changes the maths and is not supported.
pub fn describe(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let model_type = source.config.architecture()?;
    let family = FAMILIES.iter().find(|family| family.model_type == model_type);
    let unknown = || ModelError::UnknownFamily {
        model_type: model_type.to_owned(),
        supported: FAMILIES.iter().map(|family| family.model_type.to_owned()).collect(),
    };
    let family = family.ok_or_else(unknown)?;
    for (key, most) in PLAUSIBLE {
        if let Some(size) = source.config.opt_u32(key)?
            && !(1..=*most).contains(&size)
        {
            let reason = format!("\"{key}\" is {size}, expected 1 to {most}");
            return Err(ModelError::Inconsistent { family: family.model_type, reason });
        }
    }
    (family.describe)(source)
}
