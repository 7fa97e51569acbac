//! The index of a checkpoint in several files, the same for safetensors and PyTorch: which tensor is in which file.
//!
//! Says nothing of what is in the shards. Invariant: every shard is a file of the index's own directory.

use std::path::{Component, Path, PathBuf};

use super::CheckpointError;
use super::unique_map::UniqueMap;

/// The index of a checkpoint in shards: which tensor is in which file.
#[derive(Debug)]
pub(super) struct ShardIndex {
    /// The files, sorted, each once.
    pub(super) shards: Vec<PathBuf>,
    /// Tensor names with positions in `shards`.
    pub(super) tensors: Vec<(String, usize)>,
}

/// Parses the index at `path`, which lies in `directory`, and looks for every shard it names.
pub(super) fn parse(path: &Path, json: &[u8], directory: &Path) -> Result<ShardIndex, CheckpointError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: UniqueMap<String>,
    }
    let malformed = |reason| CheckpointError::Malformed { file: path.into(), reason };
    let index: Index =
        serde_json::from_slice(json).map_err(|error| malformed(format!("not a shard index: {error}")))?;
    let map = index.weight_map.0;
    let mut names: Vec<&str> = map.iter().map(|(_, shard)| shard.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let inside = |name: &str| {
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        plain && !name.is_empty() && !name.contains('\\')
    };
    if let Some(name) = names.iter().find(|name| !inside(name)) {
        return Err(malformed(format!("names the shard \"{name}\", which is not a file in this directory")));
    }
    let missing: Vec<&str> = names.iter().filter(|name| !directory.join(name).is_file()).copied().collect();
    if !missing.is_empty() {
        let (all, missing) = (names.len(), missing.join(", "));
        return Err(malformed(format!("of its {all} shards these are missing: {missing}; download them")));
    }
    let position = |shard: &String| names.binary_search(&shard.as_str()).unwrap_or_default();
    let tensors = map.iter().map(|(tensor, shard)| (tensor.clone(), position(shard))).collect();
    Ok(ShardIndex { shards: names.iter().map(|name| directory.join(name)).collect(), tensors })
}
