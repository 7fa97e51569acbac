//! One tensor of a checkpoint: the checked entry kept for it, and the borrowed view handed out.
//!
//! Invariant: an entry's byte range lies in its file and is exactly what its shape and format take.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::CheckpointError;
use super::mmap::MappedFile;
use super::quantized::Composed;
use crate::quant::BlockFormat;

/// A tensor, borrowed from the mapped file.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'m> {
    /// Its Hugging Face name.
    pub name: &'m str,
    /// The file it lies in.
    pub file: &'m Path,
    /// How its weights are stored.
    pub format: &'static dyn BlockFormat,
    /// Row-major, outermost first, as Hugging Face has it.
    pub shape: &'m [usize],
    /// What the file holds: the stored bytes, row after row; where [`Self::is_composed`], the codes in an order that
    /// only [`Self::rows_from`] knows.
    pub bytes: &'m [u8],
    pub(super) composed: Option<&'m dyn Composed>,
    pub(super) mapping: &'m MappedFile,
    /// Where `bytes` begin in the file.
    pub(super) start: usize,
}

impl<'m> TensorView<'m> {
    /// Rows of the weight: all dimensions but the last; a vector is one row.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Weights of a row.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Whether its rows are put together from several tensors when they are read.
    pub fn is_composed(&self) -> bool {
        self.composed.is_some()
    }

    /// The same weight in fewer bits, its columns in another order: column `i` is input `order[i]`. Where groups of
    /// columns that share a scale are not neighbours (GPTQ's act-order).
    pub fn ordered(&self) -> Option<(Self, Arc<[u32]>)> {
        let ordered = self.composed?.ordered()?;
        let view = Self { format: ordered.rows.format(), composed: Some(&*ordered.rows), ..*self };
        Some((view, Arc::clone(&ordered.order)))
    }

    /// The stored bytes of one row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> Cow<'m, [u8]> {
        self.rows_from(row..row + 1)
    }

    /// The stored bytes of some rows, one after the other; many at once cost less than each by itself where rows are
    /// composed.
    ///
    /// # Panics
    /// When there are no such rows; or a file can't be read that rows are composed of, which [`Self::read_rows`] says.
    pub fn rows_from(&self, rows: Range<usize>) -> Cow<'m, [u8]> {
        assert!(rows.end <= self.rows(), "rows {rows:?} of tensor \"{}\", which has {}", self.name, self.rows());
        let bytes = self.format.row_bytes(self.cols());
        let Some(composed) = self.composed else {
            return Cow::Borrowed(&self.bytes[rows.start * bytes..rows.end * bytes]);
        };
        let mut stored = vec![0; rows.len() * bytes];
        composed.write_rows(rows, &mut stored).unwrap_or_else(|error| panic!("{error}"));
        Cow::Owned(stored)
    }

    /// As [`Self::rows_from`], into memory of the caller's, as long as they are. They come by reading files, not through
    /// the mapping: one that is cut short meanwhile is an error then.
    ///
    /// # Errors
    /// A file that can't be read, or is not as long as it was.
    ///
    /// # Panics
    /// When there are no such rows, or `stored` has another length.
    pub fn read_rows(&self, rows: Range<usize>, stored: &mut [u8]) -> Result<(), CheckpointError> {
        assert!(rows.end <= self.rows(), "rows {rows:?} of tensor \"{}\", which has {}", self.name, self.rows());
        let bytes = self.format.row_bytes(self.cols());
        assert_eq!(stored.len(), rows.len() * bytes, "room for rows {rows:?} of tensor \"{}\"", self.name);
        match self.composed {
            Some(composed) => composed.write_rows(rows, stored),
            None => self.mapping.read_at((self.start + rows.start * bytes) as u64, stored),
        }
    }

    /// Some columns of plain numbers, row after row, into memory of the caller's, as long as they are; read as by
    /// [`Self::read_rows`].
    ///
    /// # Errors
    /// A file that can't be read, or is not as long as it was.
    ///
    /// # Panics
    /// When there are no such columns, `stored` has another length, or they are no plain numbers of the file.
    pub fn read_columns(&self, columns: Range<usize>, stored: &mut [u8]) -> Result<(), CheckpointError> {
        let plain = self.composed.is_none() && self.format.block_len() == 1;
        assert!(plain && columns.end <= self.cols(), "columns {columns:?} of tensor \"{}\"", self.name);
        let (bytes, line) = (self.format.block_bytes(), self.format.row_bytes(self.cols()));
        let part = columns.len() * bytes;
        assert_eq!(stored.len(), self.rows() * part, "room for columns {columns:?} of tensor \"{}\"", self.name);
        for (row, stored) in stored.chunks_exact_mut(part.max(1)).enumerate() {
            self.mapping.read_at((self.start + row * line + columns.start * bytes) as u64, stored)?;
        }
        Ok(())
    }

    /// Tells the system that these rows will be read soon, where they lie in the file as they are.
    pub fn will_need(&self, rows: Range<usize>) {
        let bytes = self.format.row_bytes(self.cols());
        if self.composed.is_none() && rows.end <= self.rows() {
            self.mapping.will_need(self.start + rows.start * bytes..self.start + rows.end * bytes);
        }
    }
}

/// How a tensor is stored: known to wgpt, or only by name and size.
#[derive(Debug, Clone)]
pub(super) enum Encoding {
    Known(&'static dyn BlockFormat),
    /// As the file calls it: `iq2_xs (ggml type 17)`, `dtype I64`.
    Unknown(String),
    /// Rows that are put together from several tensors.
    Composed(Arc<dyn Composed>),
}

impl Encoding {
    /// The element type of plain numbers: wgpt's name of a float, else the file's.
    pub(super) fn dtype(&self) -> &str {
        match self {
            Self::Known(format) => format.name(),
            Self::Unknown(name) => name.strip_prefix("dtype ").unwrap_or(name),
            Self::Composed(composed) => composed.format().name(),
        }
    }
}

/// Where a tensor is.
#[derive(Debug, Clone)]
pub(super) struct TensorEntry {
    pub(super) name: String,
    /// Index of its file.
    pub(super) file: usize,
    pub(super) encoding: Encoding,
    pub(super) shape: Vec<usize>,
    pub(super) range: Range<usize>,
}

/// Bytes of a tensor whose rows are whole blocks of `block_len` weights in `block_bits` bits; or why there can't be
/// such a tensor.
pub(super) fn tensor_bytes(shape: &[u64], block_len: u64, block_bits: u64) -> Result<u64, String> {
    let cols = shape.last().copied().unwrap_or(1);
    if !cols.is_multiple_of(block_len) {
        return Err(format!("shape {shape:?}: rows of {cols} weights are not whole blocks of {block_len}"));
    }
    let elements = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let bits = elements.and_then(|elements| (elements / block_len).checked_mul(block_bits));
    match bits {
        Some(bits) if bits.is_multiple_of(8) => Ok(bits / 8),
        Some(_) => Err(format!("shape {shape:?} does not fill whole bytes")),
        None => Err(format!("shape {shape:?} is too large for any file")),
    }
}
