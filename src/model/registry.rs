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
    (family.ok_or_else(unknown)?.describe)(source)
}
