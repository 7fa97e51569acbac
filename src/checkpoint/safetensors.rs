//! Safetensors: an 8-byte length, a JSON header of that length, then the tensors' bytes.
//!
//! Parses headers; believes nothing in them. Invariant: the tensors of a file cover its data
//! exactly, without overlap, so that no byte is read twice or hidden.

mod writer;

pub use writer::SafetensorsWriter;

use super::CheckpointError;
use super::mmap::MappedFile;
use super::unique_map::UniqueMap;
use super::view::{Encoding, TensorEntry, tensor_bytes};
use crate::quant;

/// Hugging Face's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Bits of every element type the format defines, and wgpt's format for it where there is one.
const DTYPES: &[(&str, u64, Option<&str>)] = &[
    ("F32", 32, Some("f32")),
    ("F16", 16, Some("f16")),
    ("BF16", 16, Some("bf16")),
    ("BOOL", 8, None),
    ("U8", 8, None),
    ("I8", 8, None),
    ("F8_E5M2", 8, None),
    ("F8_E4M3", 8, None),
    ("F8_E8M0", 8, None),
    ("F6_E2M3", 6, None),
    ("F6_E3M2", 6, None),
    ("F4", 4, None),
    ("I16", 16, None),
    ("U16", 16, None),
    ("I32", 32, None),
    ("U32", 32, None),
    ("I64", 64, None),
    ("U64", 64, None),
    ("F64", 64, None),
    ("C64", 64, None),
];

#[derive(serde::Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The tensors of one file, which is number `file` of the checkpoint.
pub(super) fn parse(mapping: &MappedFile, file: usize) -> Result<Vec<TensorEntry>, CheckpointError> {
    let malformed = |reason| CheckpointError::Malformed { file: mapping.path().into(), reason };
    let (length, rest) =
        mapping.split_first_chunk::<8>().ok_or_else(|| truncated(mapping, "the header's length", 0, 8))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(malformed(format!("not a safetensors file: its header would be {length} bytes long")));
    }
    let header = rest.get(..length as usize).ok_or_else(|| truncated(mapping, "the header", 8, length))?;
    let header: UniqueMap<Info> = serde_json::from_slice(header)
        .map_err(|error| malformed(format!("not a safetensors file: the header is not valid: {error}")))?;
    let data = 8 + length as usize;
    let mut entries = Vec::with_capacity(header.0.len());
    for (name, info) in header.0 {
        let bad = |reason| CheckpointError::BadTensor { file: mapping.path().into(), tensor: name.clone(), reason };
        let (encoding, range) = check(&info, (mapping.len() - data) as u64).map_err(bad)?;
        let shape = info.shape.iter().map(|dim| *dim as usize).collect();
        let range = data + range.0 as usize..data + range.1 as usize;
        entries.push(TensorEntry { name, file, encoding, shape, range });
    }
    check_cover(mapping, data, &mut entries)?;
    Ok(entries)
}

fn truncated(mapping: &MappedFile, what: &str, at: u64, needed: u64) -> CheckpointError {
    let left = mapping.len() as u64 - at;
    CheckpointError::Truncated { file: mapping.path().into(), what: what.into(), at, needed, left }
}

/// Compares an entry with the `available` bytes of data.
fn check(info: &Info, available: u64) -> Result<(Encoding, (u64, u64)), String> {
    let dtype = DTYPES.iter().find(|(name, ..)| *name == info.dtype);
    let (name, bits, format) = dtype.ok_or_else(|| format!("dtype \"{}\" is unknown", info.dtype))?;
    let (begin, end) = info.data_offsets;
    if begin > end || end > available {
        return Err(format!(
            "data_offsets [{begin}, {end}] are outside the file's {available} bytes of data; download it again"
        ));
    }
    let expected = tensor_bytes(&info.shape, 1, *bits)?;
    if end - begin != expected {
        let found = end - begin;
        return Err(format!("expected {expected} bytes for {name} {:?}, found {found}", info.shape));
    }
    if !begin.is_multiple_of(bits.div_ceil(8)) {
        return Err(format!("starts at byte {begin} of the data, misaligned for {name}"));
    }
    let encoding = match format.and_then(quant::format) {
        Some(format) => Encoding::Known(format),
        None => Encoding::Unknown(format!("dtype {name}")),
    };
    Ok((encoding, (begin, end)))
}

/// From the data's first byte to the file's last, each belongs to one tensor.
fn check_cover(mapping: &MappedFile, data: usize, entries: &mut [TensorEntry]) -> Result<(), CheckpointError> {
    entries.sort_by_key(|entry| (entry.range.start, entry.range.end));
    let mut end = data;
    let mut before = "the header";
    for entry in &*entries {
        let TensorEntry { name, range, .. } = entry;
        let bad = |reason| CheckpointError::BadTensor { file: mapping.path().into(), tensor: name.clone(), reason };
        if range.start < end {
            return Err(bad(format!("overlaps \"{before}\" by {} bytes", end - range.start)));
        }
        if range.start > end {
            return Err(bad(format!("{} bytes between \"{before}\" and it belong to no tensor", range.start - end)));
        }
        (end, before) = (range.end, name);
    }
    if end != mapping.len() {
        let reason = format!("the last {} bytes belong to no tensor; download it again", mapping.len() - end);
        return Err(CheckpointError::Malformed { file: mapping.path().into(), reason });
    }
    Ok(())
}
