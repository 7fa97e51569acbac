//! stub
#[derive(Debug, Clone, thiserror::Error)]
#[error("stub")]
pub enum GpuError {}
