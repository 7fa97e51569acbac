//! Read-only file mappings and what tells one version of a file from another.
//!
//! The only `unsafe` of this room. Invariant: a [`MappedFile`] is never empty and never written through.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;

use super::CheckpointError;

/// What a cache keyed by a file must compare.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// When it was last written, where the system says.
    pub modified: Option<SystemTime>,
    /// Hash of its beginning and its end, where headers are: clocks are coarse, and can be set.
    pub ends: u64,
}

/// Bytes at a file's beginning and at its end that tell it from others.
const ENDS: (u64, u64) = (1 << 20, 64 << 10);

/// A whole file, mapped.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
    /// Kept to be asked for its length again.
    file: File,
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    /// What can't be opened, is no file, or is empty.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::Io { path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        let refuse = |reason: &str| CheckpointError::NotACheckpoint { path: path.into(), reason: reason.into() };
        if !about.is_file() {
            return Err(refuse("is not a file"));
        }
        if about.len() == 0 {
            return Err(refuse("is empty; download it again"));
        }
        // SAFETY: the mapping is private to this process and read-only. What Rust can't promise is that no other
        // process writes to the file meanwhile: no system offers that for a mapping, and copying tens of gigabytes
        // instead is no option. The room therefore relies on nothing it read before: offsets and lengths were
        // copied out and checked when the file was opened, text is checked again whenever it is borrowed, and every
        // byte pattern is a valid weight. A file cut short while it is mapped ends the process with SIGBUS, so that
        // whoever reads much of it asks `check_length` first.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        tracing::debug!("{}: {} bytes mapped", path.display(), about.len());
        Ok(Self { map, file, path: path.into(), bytes: about.len(), modified: about.modified().ok() })
    }

    /// Whether the file is still as long as it was: reading beyond its end would kill the process.
    pub(super) fn check_length(&self) -> Result<(), CheckpointError> {
        let about = self.file.metadata();
        let found = about.map_err(|source| CheckpointError::Io { path: self.path.clone(), source })?.len();
        if found >= self.bytes {
            return Ok(());
        }
        Err(CheckpointError::Shortened { path: self.path.clone(), bytes: self.bytes, found })
    }

    /// Reads bytes of the file into memory, not through the mapping: a file that was cut short meanwhile is an error
    /// then, and what was read does not count as this process's memory.
    ///
    /// # Errors
    /// A file that can't be read, or is not as long as it was.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        match read_exact_at(&self.file, offset, bytes) {
            // It says by how much, if that is why.
            Err(source) => {
                self.check_length()?;
                Err(CheckpointError::Io { path: self.path.clone(), source })
            }
            Ok(()) => Ok(()),
        }
    }

    /// Tells the system that a range will be read soon. It need not listen.
    pub fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        drop(self.map.advise_range(memmap2::Advice::WillNeed, range.start, range.len()));
        #[cfg(not(unix))]
        drop(range);
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells this version of it from others.
    pub(super) fn identity(&self) -> Result<FileIdentity, CheckpointError> {
        let (beginning, end) = (self.bytes.min(ENDS.0), self.bytes.min(ENDS.1));
        let mut bytes = vec![0; beginning as usize + end as usize];
        let (first, last) = bytes.split_at_mut(beginning as usize);
        self.read_at(0, first)?;
        self.read_at(self.bytes - end, last)?;
        let (path, modified) = (self.path.clone(), self.modified);
        Ok(FileIdentity { path, bytes: self.bytes, modified, ends: xxh3_64(&bytes) })
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut bytes: &mut [u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => (offset, bytes) = (offset + read as u64, &mut bytes[read..]),
        }
    }
    Ok(())
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
