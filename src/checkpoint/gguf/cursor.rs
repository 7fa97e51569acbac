//! Reads plain little-endian values from a mapped GGUF file, front to back.
//!
//! Knows nothing of what they mean. Invariant: never beyond the file; text is UTF-8.

use std::ops::Range;
use std::path::Path;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::mmap::MappedFile;

/// Where reading has got to.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    mapping: &'a MappedFile,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(mapping: &'a MappedFile) -> Self {
        Self { mapping, at: 0 }
    }

    pub(super) fn file(&self) -> &'a Path {
        self.mapping.path()
    }

    pub(super) fn at(&self) -> u64 {
        self.at as u64
    }

    pub(super) fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    pub(super) fn left(&self) -> u64 {
        self.len() - self.at()
    }

    /// Steps over the next `bytes` bytes and says where they are.
    pub(super) fn skip(&mut self, bytes: u64, what: &str) -> Result<Range<usize>, CheckpointError> {
        if bytes > self.left() {
            return Err(CheckpointError::Truncated {
                file: self.file().into(),
                what: what.into(),
                at: self.at(),
                needed: bytes,
                left: self.left(),
            });
        }
        let start = self.at;
        self.at += bytes as usize;
        Ok(start..self.at)
    }

    pub(super) fn take(&mut self, bytes: u64, what: &str) -> Result<&'a [u8], CheckpointError> {
        let range = self.skip(bytes, what)?;
        Ok(&self.mapping[range])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], CheckpointError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, CheckpointError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, CheckpointError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(super) fn str(&mut self, what: &str) -> Result<&'a str, CheckpointError> {
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|error| self.malformed(format!("{what} is not UTF-8: {error}")))
    }

    pub(super) fn malformed(&self, reason: String) -> CheckpointError {
        CheckpointError::Malformed { file: self.file().into(), reason }
    }

    pub(super) fn bad_tensor(&self, tensor: &str, reason: String) -> CheckpointError {
        CheckpointError::BadTensor { file: self.file().into(), tensor: tensor.into(), reason }
    }
}
