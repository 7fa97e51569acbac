//! Writes GGUF version 3: metadata, the list of tensors, then their bytes as they come.
//!
//! Knows the container only: what the pairs mean and what a tensor holds is the caller's business. Invariant: a file
//! that [`GgufWriter::finish`] accepted is one that the parser beside this file takes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::metadata::{GgufMetadata, kind};
use crate::checkpoint::CheckpointError;
use crate::quant::BlockFormat;

/// What tensors are aligned to where the metadata says nothing.
const ALIGNMENT: u64 = 32;

/// A metadata value to write.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// An unsigned integer.
    U32(u32),
    /// A float.
    F32(f32),
    /// A flag.
    Bool(bool),
    /// A string.
    String(String),
    /// Integers.
    I32s(Vec<i32>),
    /// Floats.
    F32s(Vec<f32>),
    /// Strings.
    Strings(Vec<String>),
    /// Type and value as another file has them.
    Stored(Vec<u8>),
}

/// A tensor to write.
#[derive(Debug, Clone)]
pub struct GgufTensor {
    /// Its GGUF name.
    pub name: String,
    /// Outermost dimension first, as Hugging Face has it.
    pub shape: Vec<usize>,
    /// How its rows are stored.
    pub format: &'static dyn BlockFormat,
}

impl GgufTensor {
    /// Bytes of its rows.
    pub fn bytes(&self) -> u64 {
        let (cols, outer) = self.shape.split_last().map_or((1, &[][..]), |(cols, outer)| (*cols, outer));
        (outer.iter().product::<usize>() * self.format.row_bytes(cols)) as u64
    }
}

/// A file being written.
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    out: BufWriter<File>,
    /// Bytes of the tensors, in order.
    sizes: Vec<u64>,
    /// The tensor being written, and how much of it is there.
    at: (usize, u64),
}

impl GgufWriter {
    /// Writes everything but the tensors' bytes.
    ///
    /// # Errors
    /// A file that can't be written.
    ///
    /// # Panics
    /// On a format that GGUF does not have.
    pub fn create(path: &Path, pairs: &[(String, GgufValue)], tensors: &[GgufTensor]) -> Result<Self, CheckpointError> {
        let mut header = Vec::from(b"GGUF");
        header.extend(3u32.to_le_bytes());
        put_len(&mut header, tensors.len());
        put_len(&mut header, pairs.len());
        for (key, value) in pairs {
            put_str(&mut header, key);
            put_value(&mut header, value);
        }
        let mut offset = 0u64;
        for tensor in tensors {
            put_str(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|dim| put_len(&mut header, *dim));
            let ggml_type = tensor.format.ggml_type().expect("a format of GGUF's");
            header.extend(ggml_type.to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        let io = |source| CheckpointError::Io { path: path.into(), source };
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
        out.write_all(&header).map_err(io)?;
        let sizes = tensors.iter().map(GgufTensor::bytes).collect();
        Ok(Self { path: path.into(), out, sizes, at: (0, 0) })
    }

    /// The next bytes of the tensors, one tensor after the other; no call crosses a border.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let (tensor, written) = self.at;
        let (written, size) = (written + bytes.len() as u64, self.sizes[tensor]);
        assert!(written <= size, "tensor {tensor} has {size} bytes, not {written}");
        self.put(bytes)?;
        self.at = (tensor, written);
        if written == size {
            let padding = size.next_multiple_of(ALIGNMENT) - size;
            self.put(&[0; ALIGNMENT as usize][..padding as usize])?;
            self.at = (tensor + 1, 0);
        }
        Ok(())
    }

    /// Ends the file, which must be whole.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        assert!(self.at == (self.sizes.len(), 0), "{} of {} tensors were written", self.at.0, self.sizes.len());
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        synced.map_err(|source| CheckpointError::Io { path: self.path.clone(), source })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.out.write_all(bytes).map_err(|source| CheckpointError::Io { path: self.path.clone(), source })
    }
}

impl GgufMetadata {
    /// Every pair, to be written as it is.
    pub fn stored(&self) -> impl Iterator<Item = (String, GgufValue)> {
        self.stored_pairs().map(|(key, bytes)| (key.to_owned(), GgufValue::Stored(bytes.to_vec())))
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend((len as u64).to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &GgufValue) {
    let put_kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    let put_array = |out: &mut Vec<u8>, element: u32, count: usize| {
        put_kind(out, kind::ARRAY);
        put_kind(out, element);
        put_len(out, count);
    };
    match value {
        GgufValue::U32(value) => {
            put_kind(out, kind::U32);
            out.extend(value.to_le_bytes());
        }
        GgufValue::F32(value) => {
            put_kind(out, kind::F32);
            out.extend(value.to_le_bytes());
        }
        GgufValue::Bool(value) => {
            put_kind(out, kind::BOOL);
            out.push((*value).into());
        }
        GgufValue::String(value) => {
            put_kind(out, kind::STRING);
            put_str(out, value);
        }
        GgufValue::I32s(values) => {
            put_array(out, kind::I32, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        GgufValue::F32s(values) => {
            put_array(out, kind::F32, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        GgufValue::Strings(values) => {
            put_array(out, kind::STRING, values.len());
            values.iter().for_each(|value| put_str(out, value));
        }
        GgufValue::Stored(bytes) => out.extend(bytes),
    }
}
