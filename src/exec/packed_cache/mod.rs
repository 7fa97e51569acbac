//! Packed weights kept in files for the next start: what quantizing made, and what streaming would pack anew for every
//! token.
//!
//! A checkpoint has a folder, each unit of its graph a file in it, named by what its weights are made of. A file holds
//! packed rows that do not depend on the adapter or on how many units are streamed. Never needed: what can't be
//! written, or is damaged, is said once and packed from the checkpoint instead. Invariant: bytes that come from here are
//! those that packing would make.

mod file;
mod header;
mod listing;
mod weights;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

pub use listing::CachedCheckpoint;
pub(super) use weights::Packing;

use super::checkpoint_weights::CheckpointWeights;
use super::packed::PackedSource;
use super::{ExecError, Progress};
use crate::checkpoint::Checkpoint;
use crate::graph::{Graph, Weight, WeightId};
use crate::plan::Bytes;
use file::{NotWritten, PackedFile, Unusable, write};
use header::Header;
use weights::CachedWeights;

/// What names of its files end in.
const EXTENSION: &str = "packed";

/// What is left free on the disk.
const SPARE: u64 = 1 << 30;

/// How old a file is that nobody writes to any more.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder for packed weights.
#[derive(Debug)]
pub struct PackedCache {
    folder: PathBuf,
    report: Mutex<CacheReport>,
}

/// What was read from the cache and written to it for a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// The checkpoint's folder.
    pub folder: PathBuf,
    /// Bytes of files that were there.
    pub read: u64,
    /// Bytes of files that were written.
    pub written: u64,
    /// Things a user should be told once.
    pub notices: Vec<String>,
}

impl PackedCache {
    /// The cache in this folder, which need not be there yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), report: Mutex::default() }
    }

    /// What it was used for since the last call.
    pub(super) fn take_report(&self) -> CacheReport {
        std::mem::take(&mut *self.report.lock().expect("no thread panics while it holds the report"))
    }

    /// The folder of a checkpoint.
    fn folder_of(&self, checkpoint: &Path) -> PathBuf {
        let path = checkpoint.canonicalize().unwrap_or_else(|_| checkpoint.to_owned());
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name: String = name.chars().map(plain).collect();
        self.folder.join(format!("{name}-{:016x}", xxh3_64(path.to_string_lossy().as_bytes())))
    }

    /// The packed bytes of a graph's weights: those worth keeping from files, which are written first where they are
    /// missing, the others as `made`.
    pub(super) fn packing(
        &self,
        checkpoint: &Checkpoint,
        graph: &Graph,
        streamed: &[WeightId],
        made: CheckpointWeights,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Packing, ExecError> {
        let units = wanted(graph, streamed, &made)?;
        let identity = if units.is_empty() { None } else { checkpoint.identity()? };
        let Some(identity) = identity else { return Ok(Packing::uncached(made)) };
        let folder = self.folder_of(checkpoint.path());
        let unit = |(unit, ids): (usize, Vec<WeightId>)| {
            let weights: Vec<(WeightId, Weight)> =
                ids.into_iter().map(|id| (id, graph.weights[id.0].clone())).collect();
            let of_unit = weights.iter().map(|(_, weight)| weight);
            let header = Header::new(checkpoint.path(), &identity, &graph.units[unit].name, of_unit);
            let path = folder.join(header.file_name(EXTENSION));
            Unit { path, header, weights }
        };
        let units: Vec<Unit> = units.into_iter().map(unit).collect();
        let mut report = CacheReport { folder, ..CacheReport::default() };
        sweep(&units[0].header, &mut report);
        let cached = cached(units, made, &mut report, progress)?;
        self.report.lock().expect("no thread panics while it holds the report").clone_from(&report);
        Ok(Packing::cached(cached))
    }
}

/// A unit's weights that are worth keeping, and the file they are kept in.
#[derive(Debug)]
struct Unit {
    path: PathBuf,
    header: Header,
    weights: Vec<(WeightId, Weight)>,
}

impl Unit {
    fn bytes(&self) -> u64 {
        let json = serde_json::to_vec(&self.header).expect("strings and numbers are JSON");
        self.header.places(json.len() as u64).bytes
    }

    fn write(&self, source: &dyn PackedSource, progress: &mut dyn FnMut(u64)) -> Result<(), NotWritten> {
        let weights: Vec<(WeightId, &Weight)> = self.weights.iter().map(|(id, weight)| (*id, weight)).collect();
        write(&self.path, &self.header, &weights, source, progress)
    }
}

/// By unit, the weights that are worth keeping: those that are quantized, and streamed ones that are packed. One that
/// several units share belongs to the first.
fn wanted(
    graph: &Graph,
    streamed: &[WeightId],
    made: &CheckpointWeights,
) -> Result<Vec<(usize, Vec<WeightId>)>, ExecError> {
    let (mut units, mut seen) = (Vec::new(), HashSet::new());
    for (unit, about) in graph.units.iter().enumerate() {
        let mut kept = Vec::new();
        for id in about.weights.iter().filter(|id| seen.insert(**id)) {
            if made.is_quantized(*id)? || streamed.contains(id) && made.is_packed(*id)? {
                kept.push(*id);
            }
        }
        if !kept.is_empty() {
            units.push((unit, kept));
        }
    }
    Ok(units)
}

/// Deletes files of other versions of the checkpoint, and what is left of writes that were interrupted.
fn sweep(current: &Header, report: &mut CacheReport) {
    let mut stale = 0;
    for (path, is_partial) in listing::files(&report.folder) {
        if is_partial {
            let modified = std::fs::metadata(&path).and_then(|about| about.modified());
            let age = modified.ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > ABANDONED) {
                drop(std::fs::remove_file(path));
            }
        } else if file::header(&path).is_some_and(|header| !header.has_source_of(current)) {
            drop(std::fs::remove_file(path));
            stale += 1;
        }
    }
    if stale > 0 {
        report.notices.push(format!(
            "{}: {stale} files of packed weights belong to another version of {} or of wgpt: deleted, to be made anew",
            report.folder.display(),
            current.checkpoint
        ));
    }
}

/// Opens the files of units, writing those that are missing.
fn cached(
    units: Vec<Unit>,
    made: CheckpointWeights,
    report: &mut CacheReport,
    progress: &mut dyn FnMut(Progress),
) -> Result<CachedWeights, ExecError> {
    let mut cached = CachedWeights::new(made);
    let (mut missing, mut unreadable) = (Vec::new(), Vec::new());
    for unit in units {
        match PackedFile::open(&unit.path, &unit.header) {
            Ok(file) => {
                report.read += file.bytes();
                cached.add(file, unit);
                continue;
            }
            Err(Unusable::Missing) => {}
            Err(Unusable::Stale) => drop(std::fs::remove_file(&unit.path)),
            Err(Unusable::Damaged(reason)) => {
                report.notices.push(damaged(&unit.path, &reason));
                drop(std::fs::remove_file(&unit.path));
            }
            Err(Unusable::Unreadable(reason)) => {
                unreadable.push(reason);
                continue;
            }
        }
        missing.push(unit);
    }
    if let [first, others @ ..] = &*unreadable {
        let more = if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) };
        report.notices.push(format!("{first}{more}: nothing is changed there, and packed for this run alone"));
    }
    let needed = missing.iter().map(Unit::bytes).sum();
    if missing.is_empty() {
        return Ok(cached);
    }
    let ready = std::fs::create_dir_all(&report.folder).map_err(|error| error.to_string());
    if let Err(reason) = ready.and_then(|()| enough_room(needed, fs4::available_space(&report.folder))) {
        report.notices.push(not_kept(report, &reason));
        return Ok(cached);
    }
    progress(Progress::Caching(needed));
    for unit in missing {
        match unit.write(&cached.made, &mut |bytes| progress(Progress::Cached(bytes))) {
            Err(NotWritten::Source(error)) => return Err(error),
            // Another process may have been faster, where a file that is open can't be replaced.
            Ok(()) | Err(NotWritten::Io(_)) if unit.path.exists() => {}
            Err(NotWritten::Io(error)) => {
                report.notices.push(not_kept(report, &error.to_string()));
                break;
            }
            Ok(()) => {}
        }
        match PackedFile::open(&unit.path, &unit.header) {
            Ok(file) => {
                report.written += file.bytes();
                cached.add(file, unit);
            }
            Err(error) => report.notices.push(not_kept(report, &format!("{error:?}"))),
        }
    }
    Ok(cached)
}

fn damaged(path: &Path, reason: &str) -> String {
    format!("{}: damaged, so deleted and made anew: {reason}", path.display())
}

fn not_kept(report: &CacheReport, reason: &str) -> String {
    format!(
        "{}: packed weights can't be kept there: {reason}; going on without (--no-cache does not try)",
        report.folder.display()
    )
}

/// Whether a disk has room for so many bytes, and some to spare.
fn enough_room(needed: u64, free: std::io::Result<u64>) -> Result<(), String> {
    // A system that does not tell says so when it is written to.
    let Ok(free) = free else { return Ok(()) };
    if needed.saturating_add(SPARE) <= free {
        return Ok(());
    }
    let (needed, free, spare) = (Bytes(needed), Bytes(free), Bytes(SPARE));
    Err(format!("they take {needed}, the disk has {free} free, of which {spare} stay so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_keeps_some_room() {
        assert_eq!(enough_room(5, Ok(SPARE + 5)), Ok(()), "just enough");
        let refused = enough_room(5 << 30, Ok(5 << 30)).expect_err("nothing would be left");
        assert!(refused.contains("5.37 GB"), "says how much: {refused}");
        assert_eq!(enough_room(5, Err(std::io::ErrorKind::Unsupported.into())), Ok(()), "nobody knows");
    }

    #[test]
    fn checkpoints_of_one_name_have_folders_of_their_own() {
        let cache = PackedCache::new(Path::new("cache"));
        let (one, other) = (cache.folder_of(Path::new("a/m.gguf")), cache.folder_of(Path::new("b/m.gguf")));
        assert_ne!(one, other, "other files");
        assert!(one.file_name().is_some_and(|name| name.to_string_lossy().starts_with("m-")), "{}", one.display());
    }
}
