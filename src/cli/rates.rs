//! Measured speeds of adapters, kept in the user's cache folder from `wgpt adapters --probe` on.
//!
//! Invariant: a file that can't be read is as good as none: it is only ever a better guess, and safe to delete.

use std::path::PathBuf;

use anyhow::{Context, Result};
use wgpt::exec::MeasuredRates;

use super::embedded::cache_folder;
use super::output::write_file;

fn file() -> Option<PathBuf> {
    cache_folder().map(|folder| folder.join("adapters.json"))
}

/// What was measured before.
pub(super) fn load() -> MeasuredRates {
    let text = file().and_then(|file| std::fs::read(file).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Keeps what was measured.
pub(super) fn save(rates: &MeasuredRates) -> Result<()> {
    let file = file().context("no cache folder: set XDG_CACHE_HOME")?;
    let folder = file.parent().expect("it is inside a folder");
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot make it", folder.display()))?;
    write_file(&file, &serde_json::to_vec_pretty(rates)?)
}
