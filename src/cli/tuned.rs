//! The file that `wgpt tune` keeps its shapes in: read once a run.
//!
//! Invariant: a file that can't be read, or holds what is not known, costs speed and one line on stderr, never a run.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use wgpt::exec::TunedShapes;

use super::embedded::cache_folder;
use super::output::write_file;

/// Where the shapes are.
pub(super) fn file() -> Option<PathBuf> {
    cache_folder().map(|folder| folder.join("tuning.json"))
}

/// What was found before.
pub(super) fn load() -> &'static TunedShapes {
    static SHAPES: OnceLock<TunedShapes> = OnceLock::new();
    SHAPES.get_or_init(|| {
        let Some((file, text)) = file().and_then(|file| std::fs::read(&file).ok().map(|text| (file, text))) else {
            return TunedShapes::default();
        };
        let (shapes, warning) = TunedShapes::parse(&text);
        if let Some(warning) = warning {
            eprintln!("{}: {warning}; delete it, or run wgpt tune again", file.display());
        }
        shapes
    })
}

/// Keeps what was found.
pub(super) fn save(shapes: &TunedShapes) -> Result<PathBuf> {
    let file = file().context("no cache folder: set XDG_CACHE_HOME")?;
    let folder = file.parent().expect("it is inside a folder");
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot make it", folder.display()))?;
    write_file(&file, &shapes.to_json())?;
    Ok(file)
}
