//! What lies in the cache of packed weights, and clearing it.
//!
//! Looks at names and headers only. Invariant: nothing is deleted that the cache did not write.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::file::{PARTIAL, header};
use super::{EXTENSION, PackedCache};

/// Packed weights of one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedCheckpoint {
    /// Where they lie.
    pub folder: PathBuf,
    /// What they were made from, by its whole path; none where no file says so.
    pub checkpoint: Option<PathBuf>,
    /// Their formats.
    pub formats: Vec<String>,
    /// How many files they are.
    pub files: usize,
    /// Bytes of those files.
    pub bytes: u64,
    /// When they were last written or read.
    pub used: Option<SystemTime>,
}

impl PackedCache {
    /// What lies in it, by checkpoint.
    ///
    /// # Errors
    /// A folder that can't be read; one that is not there is empty.
    pub fn list(&self) -> io::Result<Vec<CachedCheckpoint>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut folders: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        folders.sort();
        Ok(folders.iter().map(|folder| describe(folder)).filter(|cached| cached.files > 0).collect())
    }

    /// Deletes the packed weights of a checkpoint, or of all; how many bytes those were.
    ///
    /// # Errors
    /// A file that can't be deleted.
    pub fn clear(&self, checkpoint: Option<&Path>) -> io::Result<u64> {
        let own = checkpoint.map(|checkpoint| self.folder_of(checkpoint));
        let mut deleted = 0;
        for cached in self.list()? {
            let is_wanted =
                own.as_ref().is_none_or(|own| *own == cached.folder || checkpoint == cached.checkpoint.as_deref());
            if !is_wanted {
                continue;
            }
            for (path, _) in files(&cached.folder) {
                std::fs::remove_file(path)?;
            }
            deleted += cached.bytes;
            // What else lies there is not the cache's.
            drop(std::fs::remove_dir(&cached.folder));
        }
        Ok(deleted)
    }
}

fn describe(folder: &Path) -> CachedCheckpoint {
    let mut cached = CachedCheckpoint {
        folder: folder.to_owned(),
        checkpoint: None,
        formats: Vec::new(),
        files: 0,
        bytes: 0,
        used: None,
    };
    let mut formats = BTreeSet::new();
    for (path, _) in files(folder) {
        let Ok(about) = std::fs::metadata(&path) else { continue };
        cached.files += 1;
        cached.bytes += about.len();
        cached.used = cached.used.max(about.modified().ok());
        if let Some(header) = header(&path) {
            cached.checkpoint = Some(header.checkpoint.into());
            formats.extend(header.weights.into_iter().map(|weight| weight.format));
        }
    }
    cached.formats = formats.into_iter().collect();
    cached
}

/// The cache's files in a folder, and whether each is one that was not written to its end.
pub(super) fn files(folder: &Path) -> Vec<(PathBuf, bool)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let known = entries.filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        let whole = name.ends_with(&format!(".{EXTENSION}"));
        let partial = name.contains(&format!(".{EXTENSION}{PARTIAL}"));
        (whole || partial).then(|| (path.clone(), partial))
    });
    known.collect()
}
