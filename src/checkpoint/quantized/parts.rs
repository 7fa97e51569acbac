//! The tensors that make up quantized linears: taken from the checkpoint's list, checked, held as bytes of their file;
//! those of linears that were quantized in this process, as bytes in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::sync::Arc;

use half::{bf16, f16};

use super::Linear;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::mmap::MappedFile;
use crate::checkpoint::view::TensorEntry;

/// A checkpoint's tensors while linears are put together from them.
pub(super) struct Parts<'a> {
    tensors: &'a mut BTreeMap<String, TensorEntry>,
    files: &'a [PathBuf],
    mappings: &'a [Arc<MappedFile>],
}

impl<'a> Parts<'a> {
    pub(super) fn new(
        tensors: &'a mut BTreeMap<String, TensorEntry>,
        files: &'a [PathBuf],
        mappings: &'a [Arc<MappedFile>],
    ) -> Self {
        Self { tensors, files, mappings }
    }

    /// What stands before `suffix` in the names that end so.
    pub(super) fn stems(&self, suffix: &str) -> Vec<String> {
        self.tensors.keys().filter_map(|name| name.strip_suffix(suffix)).map(str::to_owned).collect()
    }

    /// Names of this beginning.
    pub(super) fn starting_with(&self, start: &str) -> Vec<String> {
        self.tensors.keys().filter(|name| name.starts_with(start)).cloned().collect()
    }

    /// Whether a tensor is of this element type.
    pub(super) fn is(&self, name: &str, dtype: &str) -> bool {
        self.tensors.get(name).is_some_and(|entry| entry.encoding.dtype() == dtype)
    }

    /// Takes a tensor off the list, if it is there.
    pub(super) fn take(&mut self, name: &str) -> Option<Part> {
        let entry = self.tensors.remove(name)?;
        let bytes = Bytes::Mapped { mapping: Arc::clone(&self.mappings[entry.file]), range: entry.range.clone() };
        Some(Part { file: self.files[entry.file].clone(), entry, bytes })
    }

    /// Takes a tensor off the list; `codes` is the one that it must accompany.
    pub(super) fn need(&mut self, name: &str, codes: &Part) -> Result<Part, CheckpointError> {
        self.take(name).ok_or_else(|| codes.bad(format!("\"{name}\" is missing, which belongs to it")))
    }

    /// Puts a finished linear on the list, under a name that must be free.
    pub(super) fn put(&mut self, name: String, linear: Linear) -> Result<(), CheckpointError> {
        if self.tensors.contains_key(&name) {
            let file = self.files[linear.codes.file].clone();
            let reason = format!("makes up \"{name}\", which is there too; only one can be meant");
            return Err(CheckpointError::BadTensor { file, tensor: linear.codes.name, reason });
        }
        self.tensors.insert(name.clone(), linear.entry(name));
        Ok(())
    }
}

/// One tensor off the list.
pub(super) struct Part {
    file: PathBuf,
    pub(super) entry: TensorEntry,
    pub(super) bytes: Bytes,
}

impl Part {
    /// An error about this tensor.
    pub(super) fn bad(&self, reason: String) -> CheckpointError {
        CheckpointError::BadTensor { file: self.file.clone(), tensor: self.entry.name.clone(), reason }
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    /// As integers of 32 bits, of this shape.
    pub(super) fn words(self, shape: [usize; 2], why: &str) -> Result<Words, CheckpointError> {
        self.expect(&["I32", "U32"])?;
        self.expect_shape(&[&shape], why)?;
        Ok(Words(self.bytes))
    }

    /// As floats, of one of these shapes.
    pub(super) fn floats(self, shapes: &[&[usize]], why: &str) -> Result<Floats, CheckpointError> {
        self.expect(&["f16", "bf16", "f32"])?;
        self.expect_shape(shapes, why)?;
        let (read, size): (ReadFloat, usize) = match self.entry.encoding.dtype() {
            "f16" => (read_half, 2),
            "bf16" => (|bytes, at| bf16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32(), 2),
            _ => (|bytes, at| word(bytes, at).map_or(f32::NAN, f32::from_bits), 4),
        };
        Ok(Floats { bytes: self.bytes, read, size })
    }

    pub(super) fn expect(&self, dtypes: &[&str]) -> Result<(), CheckpointError> {
        let found = self.entry.encoding.dtype();
        if dtypes.contains(&found) {
            return Ok(());
        }
        Err(self.bad(format!("expected {}, found {found}", dtypes.join(" or "))))
    }

    pub(super) fn expect_shape(&self, shapes: &[&[usize]], why: &str) -> Result<(), CheckpointError> {
        if shapes.iter().any(|shape| *shape == self.shape()) {
            return Ok(());
        }
        let expected: Vec<String> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
        Err(self.bad(format!("expected shape {} ({why}), found {:?}", expected.join(" or "), self.shape())))
    }
}

/// Bytes that outlive the list of tensors.
#[derive(Clone)]
pub(super) enum Bytes {
    /// Of a mapped file.
    Mapped { mapping: Arc<MappedFile>, range: Range<usize> },
    /// Of this process.
    Owned(Arc<[u8]>),
}

impl Bytes {
    /// Some of them, read from their file.
    pub(super) fn part(&self, part: Range<usize>) -> Result<Vec<u8>, CheckpointError> {
        let mut into = vec![0; part.len()];
        self.read(part.start, &mut into)?;
        Ok(into)
    }

    /// The same part of each of the lines that they are, `line` bytes long.
    fn lines(&self, line: usize, part: &Range<usize>) -> Result<Self, CheckpointError> {
        let bytes = match self {
            Self::Mapped { range, .. } => range.len(),
            Self::Owned(bytes) => bytes.len(),
        };
        let mut parts = vec![0; bytes / line.max(1) * part.len()];
        if part.len() == line {
            self.read(0, &mut parts)?;
        } else {
            for (index, into) in parts.chunks_exact_mut(part.len().max(1)).enumerate() {
                self.read(index * line + part.start, into)?;
            }
        }
        Ok(Self::Owned(parts.into()))
    }

    fn read(&self, start: usize, into: &mut [u8]) -> Result<(), CheckpointError> {
        match self {
            Self::Mapped { mapping, range } => mapping.read_at((range.start + start) as u64, into),
            Self::Owned(bytes) => {
                into.copy_from_slice(&bytes[start..start + into.len()]);
                Ok(())
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped { mapping, range } => &mapping[range.clone()],
            Self::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mapped { mapping, range } => write!(f, "bytes {range:?} of {}", mapping.path().display()),
            Self::Owned(bytes) => write!(f, "{} bytes", bytes.len()),
        }
    }
}

/// Little-endian words of 32 bits.
#[derive(Debug, Clone)]
pub(super) struct Words(Bytes);

impl Words {
    /// Words in memory.
    pub(super) fn owned(bytes: Arc<[u8]>) -> Self {
        Self(Bytes::Owned(bytes))
    }

    pub(super) fn all(&self) -> &[[u8; 4]] {
        self.0.as_chunks().0
    }

    /// The same words of each of the lines that they are, `width` words long.
    pub(super) fn lines(&self, width: usize, words: Range<usize>) -> Result<Self, CheckpointError> {
        self.0.lines(width * 4, &(words.start * 4..words.end * 4)).map(Self)
    }
}

fn read_half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.as_chunks().0.get(at).map(|word| u32::from_le_bytes(*word))
}

/// Number `at` of some bytes.
type ReadFloat = fn(&[u8], usize) -> f32;

/// Floats of any width, read one by one.
#[derive(Clone)]
pub(super) struct Floats {
    bytes: Bytes,
    read: ReadFloat,
    /// Bytes of one.
    size: usize,
}

impl Floats {
    /// f16 numbers in memory.
    pub(super) fn halves(bytes: Arc<[u8]>) -> Self {
        Self { bytes: Bytes::Owned(bytes), read: read_half, size: 2 }
    }

    /// Some of them, read from their file.
    pub(super) fn some(&self, numbers: Range<usize>) -> Result<Vec<f32>, CheckpointError> {
        let bytes = self.bytes.part(numbers.start * self.size..numbers.end * self.size)?;
        Ok((0..numbers.len()).map(|at| (self.read)(&bytes, at)).collect())
    }

    /// The same numbers of each of the lines that they are, `width` numbers long.
    pub(super) fn lines(&self, width: usize, numbers: &Range<usize>) -> Result<Self, CheckpointError> {
        let part = numbers.start * self.size..numbers.end * self.size;
        Ok(Self { bytes: self.bytes.lines(width * self.size, &part)?, ..*self })
    }

    /// Number `at`.
    pub(super) fn at(&self, at: usize) -> f32 {
        (self.read)(&self.bytes, at)
    }
}

impl fmt::Debug for Floats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.fmt(f)
    }
}
