//! `wgpt cache`: packed weights that lie in the user's cache folder.
//!
//! Shows and deletes what `wgpt::exec` keeps there. Invariant: what else lies in the folder (figures of adapters, the
//! default model) is left alone.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use serde::Serialize;
use wgpt::exec::{CachedCheckpoint, PackedCache};

use super::cache_args::{CacheAction, CacheCommandArgs};
use super::embedded::cache_folder;
use super::output::{Text, bytes};
use super::resolve;

/// Everything that is shown.
#[derive(Debug, Serialize)]
struct Report {
    folder: PathBuf,
    bytes: u64,
    checkpoints: Vec<Entry>,
}

/// Packed weights of one checkpoint.
#[derive(Debug, Serialize)]
struct Entry {
    /// `None` where no file says so any more.
    checkpoint: Option<PathBuf>,
    /// Whether the checkpoint is where it was.
    there: bool,
    formats: Vec<String>,
    files: usize,
    bytes: u64,
    /// Seconds since they were last written or read.
    unused_seconds: Option<u64>,
    folder: PathBuf,
}

/// Where packed weights are kept; none where the user has no cache folder.
pub(super) fn folder() -> Option<PathBuf> {
    cache_folder().map(|folder| folder.join("packed"))
}

pub(super) fn run(args: &CacheCommandArgs) -> Result<()> {
    let folder = folder().context("no cache folder: set XDG_CACHE_HOME")?;
    let cache = PackedCache::new(&folder);
    match &args.action {
        CacheAction::List { json } => list(&cache, &folder, *json),
        CacheAction::Clear { checkpoint } => clear(&cache, &folder, checkpoint.as_deref()),
    }
}

/// Deletes the packed weights of one checkpoint, which may itself be gone, or of all.
fn clear(cache: &PackedCache, folder: &Path, typed: Option<&Path>) -> Result<()> {
    let found = typed.map(|path| resolve::find(path).map_err(|missing| (path, missing)));
    let checkpoint = found.as_ref().map(|found| found.as_deref().unwrap_or_else(|(path, _)| path));
    let deleted = cache.clear(checkpoint).with_context(|| format!("{}", folder.display()))?;
    match found {
        Some(Err((path, missing))) if deleted == 0 => Err(missing
            .context(format!("{}: no packed weights are kept of it; wgpt cache list shows whose are", path.display()))),
        _ => {
            eprintln!("deleted {} of packed weights in {}", bytes(deleted), folder.display());
            Ok(())
        }
    }
}

fn list(cache: &PackedCache, folder: &Path, json: bool) -> Result<()> {
    let cached = cache.list().with_context(|| format!("{}", folder.display()))?;
    let checkpoints: Vec<Entry> = cached.into_iter().map(entry).collect();
    let sum = checkpoints.iter().map(|entry| entry.bytes).sum();
    let report = Report { folder: folder.to_owned(), bytes: sum, checkpoints };
    let mut stdout = Text::new();
    if json {
        stdout.show(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        return Ok(());
    }
    if !report.checkpoints.is_empty() {
        stdout.show(&format!("{}\n\n", table(&report.checkpoints)))?;
    }
    stdout.show(&format!("{} of packed weights in {}\n", bytes(report.bytes), folder.display()))?;
    Ok(())
}

fn entry(cached: CachedCheckpoint) -> Entry {
    let since = |time: SystemTime| time.elapsed().ok().map(|time| time.as_secs());
    Entry {
        there: cached.checkpoint.as_ref().is_some_and(|path| path.exists()),
        unused_seconds: cached.used.and_then(since),
        checkpoint: cached.checkpoint,
        formats: cached.formats,
        files: cached.files,
        bytes: cached.bytes,
        folder: cached.folder,
    }
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["checkpoint", "formats", "files", "size", "last used"]);
    for entry in entries {
        let gone = if entry.there { "" } else { " (not there any more)" };
        let name = entry.checkpoint.as_ref().unwrap_or(&entry.folder).display();
        table.add_row([
            format!("{name}{gone}"),
            entry.formats.join(", "),
            entry.files.to_string(),
            bytes(entry.bytes),
            entry.unused_seconds.map_or_else(|| "unknown".to_owned(), ago),
        ]);
    }
    table
}

/// A time span in its largest unit.
fn ago(seconds: u64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let unit = units.into_iter().find(|(length, _)| seconds >= *length);
    let Some((length, name)) = unit else { return "just now".to_owned() };
    let count = seconds / length;
    format!("{count} {name}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::ago;

    #[test]
    fn a_time_span_has_one_unit() {
        let spans = [(0, "just now"), (60, "1 minute ago"), (7_300, "2 hours ago"), (86_400 * 40, "40 days ago")];
        for (seconds, text) in spans {
            assert_eq!(ago(seconds), text, "{seconds}");
        }
    }
}
