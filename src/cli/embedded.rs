//! The model that comes with wgpt, inside the program: so that an installed binary works anywhere.
//!
//! Checkpoints are read through mmap, so the files are written once to the user's cache folder, whole or not at all.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../checkpoints/wgpt-stories-4m/", $name)).as_slice())
    };
}

const FILES: [(&str, &[u8]); 5] = [
    file!("config.json"),
    file!("generation_config.json"),
    file!("tokenizer.json"),
    file!("tokenizer_config.json"),
    file!("model.safetensors"),
];

/// The folder the model was unpacked to, unpacking it first where it is not there.
///
/// # Errors
/// No cache folder, or one that can't be written.
pub(super) fn unpacked() -> Result<PathBuf> {
    let cache =
        cache_folder().context("no cache folder: set XDG_CACHE_HOME, or give a checkpoint with --checkpoint")?;
    let folder = cache.join(format!("wgpt-stories-4m-{:016x}", fingerprint()));
    if is_whole(&folder) {
        return Ok(folder);
    }
    unpack(&cache, &folder)
        .with_context(|| format!("the default model could not be unpacked to {}", folder.display()))?;
    Ok(folder)
}

/// Writes beside the folder and renames, so that no one ever sees half a model.
fn unpack(cache: &Path, folder: &Path) -> std::io::Result<()> {
    let partial = cache.join(format!("partial-{}", std::process::id()));
    std::fs::create_dir_all(&partial)?;
    for (name, bytes) in FILES {
        let mut file = std::fs::File::create(partial.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    // A damaged folder of the same name is replaced; another process may also have been faster.
    let _ = std::fs::remove_dir_all(folder);
    match std::fs::rename(&partial, folder) {
        Err(_) if is_whole(folder) => std::fs::remove_dir_all(&partial),
        renamed => renamed,
    }
}

fn is_whole(folder: &Path) -> bool {
    FILES.iter().all(|(name, bytes)| std::fs::metadata(folder.join(name)).is_ok_and(|m| m.len() == bytes.len() as u64))
}

/// FNV-1a of all files: another version of the model gets another folder.
fn fingerprint() -> u64 {
    let bytes = FILES.iter().flat_map(|(_, bytes)| *bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The user's cache folder for wgpt.
pub(super) fn cache_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || variable("HOME");
    let base = variable("XDG_CACHE_HOME").or_else(|| {
        if cfg!(windows) {
            variable("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            home().map(|home| home.join("Library/Caches"))
        } else {
            home().map(|home| home.join(".cache"))
        }
    });
    base.map(|base| base.join("wgpt"))
}

/// Where compiled pipelines are kept.
pub(super) fn pipelines_folder() -> Option<PathBuf> {
    cache_folder().map(|folder| folder.join("pipelines"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_copy_is_replaced() {
        let cache = tempfile::tempdir().expect("a folder");
        let folder = cache.path().join("model");
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("config.json"), "{").expect("a damaged file");
        assert!(!is_whole(&folder), "one short file is not a model");
        unpack(cache.path(), &folder).expect("it unpacks");
        assert!(is_whole(&folder), "all files are there");
        let left = std::fs::read_dir(cache.path()).expect("the cache").count();
        assert_eq!(left, 1, "nothing else is left behind");
    }
}
