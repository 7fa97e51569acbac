//! stub
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub enum CheckpointError {}
