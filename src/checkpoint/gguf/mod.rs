//! GGUF versions 2 and 3, little endian: metadata, a list of tensors, then their bytes.
//!
//! This file reads the list of tensors and checks it against the file; `metadata.rs` holds the key-value pairs,
//! `cursor.rs` reads plain values, `writer.rs` writes such files, `translate.rs` turns names and keys into Hugging Face's by `architectures/`. Invariant: tensors
//! follow one another in the data, each at the next multiple of the alignment, as ggml itself demands.

mod architectures;
mod cursor;
mod ggml_type;
mod metadata;
mod translate;
mod writer;

use std::collections::HashSet;
use std::sync::Arc;

pub(super) use architectures::Architecture;
use cursor::Cursor;
pub use metadata::GgufMetadata;
pub use writer::{GgufTensor, GgufValue, GgufWriter};

use super::CheckpointError;
use super::mmap::MappedFile;
use super::view::{TensorEntry, tensor_bytes};

/// Dimensions ggml's tensors can have.
const MAX_DIMENSIONS: u32 = 4;

/// Bytes the shortest possible entry of the list takes: empty name, one dimension, type, offset.
const MIN_INFO_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// A parsed file: tensors by their names in it, in the order of their bytes.
#[derive(Debug)]
pub(super) struct Gguf {
    pub(super) metadata: GgufMetadata,
    pub(super) tensors: Vec<TensorEntry>,
}

/// Parses the file and checks all it says of itself.
pub(super) fn parse(mapping: &Arc<MappedFile>) -> Result<Gguf, CheckpointError> {
    let mut cursor = Cursor::new(mapping);
    check_version(&mut cursor)?;
    let tensor_count = cursor.u64("the tensor count")?;
    let pair_count = cursor.u64("the metadata count")?;
    let metadata = GgufMetadata::parse(&mut cursor, mapping, pair_count)?;
    if let parts @ 2.. = metadata.u32("split.count")?.unwrap_or(1) {
        let reason = format!("is one of {parts} parts of a split GGUF; merge them with llama.cpp's gguf-split first");
        return Err(cursor.malformed(reason));
    }
    let alignment = alignment(&metadata, &cursor)?;
    if tensor_count > cursor.left() / MIN_INFO_BYTES {
        let left = cursor.left();
        return Err(cursor.malformed(format!("counts {tensor_count} tensors, but has only {left} bytes left")));
    }
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for index in 0..tensor_count {
        let info = Info::parse(&mut cursor, index)?;
        if !names.insert(info.name) {
            return Err(cursor.malformed(format!("tensor \"{}\" is there twice", info.name)));
        }
        tensors.push(info);
    }
    let data = data_start(&cursor, alignment, &tensors)?;
    let tensors = place(tensors, &cursor, data, alignment)?;
    Ok(Gguf { metadata, tensors })
}

fn check_version(cursor: &mut Cursor<'_>) -> Result<(), CheckpointError> {
    let magic = cursor.take(4, "the magic")?;
    if magic == b"FUGG" {
        return Err(cursor.malformed("is a big-endian GGUF, which is not supported; convert it again".into()));
    }
    if magic != b"GGUF" {
        let reason = "is not a GGUF file; name one, or a directory with config.json and model.safetensors";
        return Err(cursor.malformed(reason.into()));
    }
    match cursor.u32("the version")? {
        2 | 3 => Ok(()),
        version if version & 0xffff == 0 => {
            Err(cursor.malformed("is a big-endian GGUF, which is not supported; convert it again".into()))
        }
        version => Err(cursor.malformed(format!("is GGUF version {version}; versions 2 and 3 are supported"))),
    }
}

fn alignment(metadata: &GgufMetadata, cursor: &Cursor<'_>) -> Result<u64, CheckpointError> {
    match metadata.u32("general.alignment")? {
        None => Ok(32),
        Some(alignment) if alignment.is_power_of_two() => Ok(alignment.into()),
        Some(alignment) => {
            Err(cursor.malformed(format!("general.alignment: expected a power of two, found {alignment}")))
        }
    }
}

/// One line of the list of tensors, as the file has it.
#[derive(Debug)]
struct Info<'a> {
    name: &'a str,
    /// Outermost first: the file's order reversed.
    shape: Vec<u64>,
    ggml_type: u32,
    /// From the start of the data.
    offset: u64,
}

impl<'a> Info<'a> {
    fn parse(cursor: &mut Cursor<'a>, index: u64) -> Result<Self, CheckpointError> {
        let name = cursor.str(&format!("the name of tensor {index}"))?;
        let what = format!("the description of tensor \"{name}\"");
        let dimensions = cursor.u32(&what)?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            let reason = format!("expected 1 to {MAX_DIMENSIONS} dimensions, found {dimensions}");
            return Err(cursor.bad_tensor(name, reason));
        }
        let mut shape = (0..dimensions).map(|_| cursor.u64(&what)).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        Ok(Self { name, shape, ggml_type: cursor.u32(&what)?, offset: cursor.u64(&what)? })
    }
}

/// Where the data begins. A file of metadata alone need not reach it; one with tensors must, even if they have no bytes.
fn data_start(cursor: &Cursor<'_>, alignment: u64, tensors: &[Info<'_>]) -> Result<u64, CheckpointError> {
    let (at, data) = (cursor.at(), cursor.at().next_multiple_of(alignment));
    if data > cursor.len() && !tensors.is_empty() {
        return Err(CheckpointError::Truncated {
            file: cursor.file().into(),
            what: "the padding before the tensors".into(),
            at,
            needed: data - at,
            left: cursor.left(),
        });
    }
    Ok(data)
}

/// Checks that the tensors fill the data from its start, and gives each its bytes.
fn place(
    mut infos: Vec<Info<'_>>,
    cursor: &Cursor<'_>,
    data: u64,
    alignment: u64,
) -> Result<Vec<TensorEntry>, CheckpointError> {
    infos.sort_by_key(|info| info.offset);
    let available = cursor.len().saturating_sub(data);
    let mut entries = Vec::with_capacity(infos.len());
    let (mut end, mut before) = (0u64, "the header");
    for info in &infos {
        let bad = |reason| cursor.bad_tensor(info.name, reason);
        let kind = ggml_type::look_up(info.ggml_type);
        let kind = kind.ok_or_else(|| bad(format!("ggml type {} is unknown", info.ggml_type)))?;
        let bytes = tensor_bytes(&info.shape, kind.block_len, kind.block_bytes * 8).map_err(bad)?;
        if !info.offset.is_multiple_of(alignment) {
            return Err(bad(format!("offset {} is misaligned: expected a multiple of {alignment}", info.offset)));
        }
        if info.offset < end {
            return Err(bad(format!("overlaps \"{before}\" by {} bytes", end - info.offset)));
        }
        if info.offset != end.next_multiple_of(alignment) {
            let expected = end.next_multiple_of(alignment);
            let found = info.offset;
            return Err(bad(format!("expected offset {expected}, right behind \"{before}\", found {found}")));
        }
        let last = info.offset.checked_add(bytes).filter(|last| *last <= available);
        let last = last.ok_or_else(|| CheckpointError::Truncated {
            file: cursor.file().into(),
            what: format!("tensor \"{}\"", info.name),
            at: data.saturating_add(info.offset),
            needed: bytes,
            left: available.saturating_sub(info.offset),
        })?;
        entries.push(TensorEntry {
            name: info.name.into(),
            file: 0,
            encoding: kind.encoding,
            shape: info.shape.iter().map(|dim| *dim as usize).collect(),
            range: (data + info.offset) as usize..(data + last) as usize,
        });
        (end, before) = (last, info.name);
    }
    Ok(entries)
}
