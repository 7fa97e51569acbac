//! GGUF's key-value pairs: architecture numbers, vocabulary, chat template.
//!
//! Arrays stay in the mapping (vocabularies have 100 000s of strings) and are decoded when asked for. Invariant:
//! what was counted was there: no count read from a file decides an allocation before the bytes behind it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::cursor::Cursor;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::mmap::MappedFile;

/// Arrays may hold arrays; nobody nests them deeper.
const MAX_DEPTH: u32 = 4;

/// Metadata of a GGUF file. Getters answer `None` for a key that is absent and an error for another type.
#[derive(Debug, Clone)]
pub struct GgufMetadata {
    mapping: Arc<MappedFile>,
    pairs: BTreeMap<String, MetadataValue>,
    /// Where each pair's type and value lie.
    places: BTreeMap<String, Range<usize>>,
}

/// A value, kept small.
#[derive(Debug, Clone)]
pub(super) enum MetadataValue {
    /// Any of the integer types.
    Integer(i128),
    Float(f64),
    Bool(bool),
    String(String),
    Array {
        element: u32,
        count: usize,
        bytes: Range<usize>,
    },
}

/// The type ids of metadata values.
pub(super) mod kind {
    pub(in crate::checkpoint::gguf) const U32: u32 = 4;
    pub(in crate::checkpoint::gguf) const I32: u32 = 5;
    pub(in crate::checkpoint::gguf) const BOOL: u32 = 7;
    pub(in crate::checkpoint::gguf) const STRING: u32 = 8;
    pub(in crate::checkpoint::gguf) const ARRAY: u32 = 9;
    pub(in crate::checkpoint::gguf) const F32: u32 = 6;
    pub(in crate::checkpoint::gguf) const F64: u32 = 12;
}

/// Bytes of a value of this type; for strings and arrays the least it can be.
fn size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | kind::BOOL => Some(1),
        2 | 3 => Some(2),
        4 | 5 | kind::F32 => Some(4),
        kind::STRING | 10 | 11 | kind::F64 => Some(8),
        kind::ARRAY => Some(12),
        _ => None,
    }
}

/// A number of a fixed size; `bytes` is as long as [`size`] says.
fn scalar(kind: u32, bytes: &[u8]) -> Option<MetadataValue> {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(word);
    // Moves the sign bit to the top and back down, which extends it.
    let unused = 64 - 8 * bytes.len() as u32;
    let signed = (unsigned << unused) as i64 >> unused;
    Some(match kind {
        0 | 2 | 4 | 10 => MetadataValue::Integer(unsigned.into()),
        1 | 3 | 5 | 11 => MetadataValue::Integer(signed.into()),
        kind::F32 => MetadataValue::Float(f32::from_bits(unsigned as u32).into()),
        kind::F64 => MetadataValue::Float(f64::from_bits(unsigned)),
        kind::BOOL if unsigned <= 1 => MetadataValue::Bool(unsigned == 1),
        _ => return None,
    })
}

impl GgufMetadata {
    pub(super) fn parse(
        cursor: &mut Cursor<'_>,
        mapping: &Arc<MappedFile>,
        count: u64,
    ) -> Result<Self, CheckpointError> {
        // The shortest pair: an empty key, a type and one byte.
        if count > cursor.left() / 13 {
            let left = cursor.left();
            return Err(cursor.malformed(format!("counts {count} metadata pairs, but has only {left} bytes left")));
        }
        let (mut pairs, mut places) = (BTreeMap::new(), BTreeMap::new());
        for index in 0..count {
            let key = cursor.str(&format!("metadata key {index}"))?;
            let what = format!("metadata \"{key}\"");
            let start = cursor.at() as usize;
            let value = parse_value(cursor, &what)?;
            places.insert(key.to_owned(), start..cursor.at() as usize);
            if pairs.insert(key.to_owned(), value).is_some() {
                return Err(cursor.malformed(format!("{what} is there twice")));
            }
        }
        Ok(Self { mapping: Arc::clone(mapping), pairs, places })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        self.mapping.path()
    }

    /// Every key, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.pairs.contains_key(key)
    }

    /// Every key with its type and value as the file has them.
    pub(super) fn stored_pairs(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.places.iter().map(|(key, place)| (key.as_str(), &self.mapping[place.clone()]))
    }

    pub(super) fn value(&self, key: &str) -> Option<&MetadataValue> {
        self.pairs.get(key)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&'a MetadataValue) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.pairs.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| CheckpointError::WrongType {
            file: self.file().display().to_string(),
            key: key.into(),
            expected,
            found: excerpt(value),
        })
    }
}

#[expect(clippy::missing_errors_doc, reason = "the type says it: a value of another type")]
impl GgufMetadata {
    /// `general.architecture`, which prefixes the model's own keys.
    pub fn architecture(&self) -> Result<Option<&str>, CheckpointError> {
        self.str("general.architecture")
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, CheckpointError> {
        self.typed(key, "a string", |value| match value {
            MetadataValue::String(value) => Some(value.as_str()),
            _ => None,
        })
    }

    /// An integer of any width.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        self.typed(key, "an integer from 0 to 4294967295", |value| match value {
            MetadataValue::Integer(value) => u32::try_from(*value).ok(),
            _ => None,
        })
    }

    /// An integer of any width that may be negative.
    pub fn i32(&self, key: &str) -> Result<Option<i32>, CheckpointError> {
        self.typed(key, "a 32-bit integer", |value| match value {
            MetadataValue::Integer(value) => i32::try_from(*value).ok(),
            _ => None,
        })
    }

    /// A float of either width.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, CheckpointError> {
        self.typed(key, "a float", |value| match value {
            MetadataValue::Float(value) => Some(*value as f32),
            _ => None,
        })
    }

    /// A flag.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        self.typed(key, "true or false", |value| match value {
            MetadataValue::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// An array of strings, borrowed from the file.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, CheckpointError> {
        self.typed(key, "an array of strings", |value| match value {
            MetadataValue::Array { element: kind::STRING, count, bytes } => self.decode_strings(*count, bytes.clone()),
            _ => None,
        })
    }

    /// An array of floats of either width.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        let float = |value| match value {
            MetadataValue::Float(value) => Some(value as f32),
            _ => None,
        };
        self.typed(key, "an array of floats", |value| self.numbers(value)?.map(float).collect())
    }

    /// An array of integers of any width.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, CheckpointError> {
        let integer = |value| match value {
            MetadataValue::Integer(value) => i32::try_from(value).ok(),
            _ => None,
        };
        self.typed(key, "an array of 32-bit integers", |value| self.numbers(value)?.map(integer).collect())
    }

    /// The elements of an array of numbers or flags.
    pub(super) fn numbers(&self, value: &MetadataValue) -> Option<impl Iterator<Item = MetadataValue>> {
        let MetadataValue::Array { element, bytes, .. } = value else { return None };
        if matches!(*element, kind::STRING | kind::ARRAY) {
            return None;
        }
        let elements = self.mapping.get(bytes.clone())?.chunks_exact(size(*element)? as usize);
        Some(elements.map_while(|bytes| scalar(*element, bytes)))
    }

    fn decode_strings(&self, count: usize, bytes: Range<usize>) -> Option<Vec<&str>> {
        let mut rest = self.mapping.get(bytes)?;
        let mut strings = Vec::with_capacity(count);
        for _ in 0..count {
            let (length, behind) = rest.split_first_chunk::<8>()?;
            let (string, behind) = behind.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
            strings.push(std::str::from_utf8(string).ok()?);
            rest = behind;
        }
        Some(strings)
    }
}

fn parse_value(cursor: &mut Cursor<'_>, what: &str) -> Result<MetadataValue, CheckpointError> {
    match cursor.u32(what)? {
        kind::STRING => Ok(MetadataValue::String(cursor.str(what)?.to_owned())),
        kind::ARRAY => {
            let start = cursor.at() as usize;
            let (element, count) = skip_array(cursor, what, 1)?;
            let bytes = start + 12..cursor.at() as usize;
            Ok(MetadataValue::Array { element, count: count as usize, bytes })
        }
        kind => {
            let unknown = || cursor.malformed(format!("{what}: value type {kind} is unknown"));
            let size = size(kind).ok_or_else(unknown)?;
            let bytes = cursor.take(size, what)?;
            scalar(kind, bytes).ok_or_else(|| cursor.malformed(format!("{what}: expected a flag, found {bytes:?}")))
        }
    }
}

/// Steps over an array and checks what is in it; answers its element type and count.
fn skip_array(cursor: &mut Cursor<'_>, what: &str, depth: u32) -> Result<(u32, u64), CheckpointError> {
    if depth > MAX_DEPTH {
        return Err(cursor.malformed(format!("{what}: arrays are nested deeper than {MAX_DEPTH}")));
    }
    let (element, count) = (cursor.u32(what)?, cursor.u64(what)?);
    let size = size(element).ok_or_else(|| cursor.malformed(format!("{what}: element type {element} is unknown")))?;
    if count > cursor.left() / size {
        let left = cursor.left();
        return Err(
            cursor.malformed(format!("{what} counts {count} elements, but the file has only {left} bytes left"))
        );
    }
    match element {
        kind::STRING => (0..count).try_for_each(|_| cursor.str(what).map(|_| ()))?,
        kind::ARRAY => (0..count).try_for_each(|_| skip_array(cursor, what, depth + 1).map(|_| ()))?,
        kind::BOOL => {
            if let Some(byte) = cursor.take(count, what)?.iter().find(|byte| **byte > 1) {
                return Err(cursor.malformed(format!("{what}: expected flags, found {byte}")));
            }
        }
        _ => {
            cursor.skip(count * size, what)?;
        }
    }
    Ok((element, count))
}

/// The value, short enough for a message.
fn excerpt(value: &MetadataValue) -> String {
    match value {
        MetadataValue::Integer(value) => value.to_string(),
        MetadataValue::Float(value) => value.to_string(),
        MetadataValue::Bool(value) => value.to_string(),
        MetadataValue::String(value) => format!("{:?}", value.chars().take(60).collect::<String>()),
        MetadataValue::Array { element, count, .. } => format!("an array of {count} (element type {element})"),
    }
}
