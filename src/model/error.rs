//! Why a checkpoint's config can't be run.

use crate::checkpoint::CheckpointError;

/// A model that can't be described.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A key that is missing or of the wrong type.
    #[error(transparent)]
    Config(#[from] CheckpointError),
    /// No family of that name.
    #[error("model_type \"{model_type}\" is not supported; supported: {}", .supported.join(", "))]
    UnknownFamily {
        /// What the config says.
        model_type: String,
        /// Every family.
        supported: Vec<String>,
    },
    /// A key whose value changes the maths in a way no one here has built.
    #[error("{family}: \"{key}\" is {value}, which is not supported{hint}")]
    Unsupported {
        /// The family.
        family: &'static str,
        /// The config key.
        key: String,
        /// Its value.
        value: String,
        /// What is supported instead, with a leading separator, or nothing.
        hint: String,
    },
    /// Keys that no one here knows.
    #[error(
        "{family}: the config has keys that wgpt does not know and that may change what the model computes: {}; remove \
         them from the config if they do not",
        .keys.join(", ")
    )]
    UnknownKeys {
        /// The family.
        family: &'static str,
        /// The keys, in dotted form.
        keys: Vec<String>,
    },
    /// Numbers that contradict one another.
    #[error("{family}: {reason}")]
    Inconsistent {
        /// The family.
        family: &'static str,
        /// What contradicts what.
        reason: String,
    },
}
