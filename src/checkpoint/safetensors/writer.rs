//! Writes a safetensors file whose tensors come one by one, in any order.
//!
//! Knows names, types and sizes, not what tensors are for. Invariant: a file that [`SafetensorsWriter::finish`] accepted
//! is one that the parser beside this file takes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::DTYPES;
use crate::checkpoint::CheckpointError;

/// A file being written.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    file: File,
    /// Bytes of the file that each tensor takes; those that came are gone.
    places: BTreeMap<String, Range<u64>>,
    bytes: u64,
}

impl SafetensorsWriter {
    /// Begins a file of tensors of these names, dtypes (as the format spells them) and shapes.
    ///
    /// # Errors
    /// A file that can't be written.
    ///
    /// # Panics
    /// On a dtype that the format lacks, or two tensors of one name: a caller's mistake.
    pub fn create(path: &Path, tensors: &[(String, &str, Vec<usize>)]) -> Result<Self, CheckpointError> {
        let bits = |dtype: &str| {
            let known = DTYPES.iter().find(|(name, ..)| *name == dtype);
            known.unwrap_or_else(|| panic!("{dtype} is no dtype of safetensors")).1
        };
        // The widest first, so that each is aligned.
        let mut order: Vec<_> = tensors.iter().collect();
        order.sort_by_key(|(name, dtype, _)| (std::cmp::Reverse(bits(dtype)), name.clone()));
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        let (mut places, mut end) = (BTreeMap::new(), 0);
        for (name, dtype, shape) in order {
            let start = end;
            end += shape.iter().product::<usize>() as u64 * bits(dtype) / 8;
            header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
            assert!(places.insert(name.clone(), start..end).is_none(), "two tensors \"{name}\"");
        }
        let mut header = serde_json::Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let data = 8 + header.len() as u64;
        places.values_mut().for_each(|place| *place = place.start + data..place.end + data);
        let io = |source| CheckpointError::Io { path: path.into(), source };
        let mut file = File::create_new(path).map_err(io)?;
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        file.write_all(header.as_bytes()).map_err(io)?;
        Ok(Self { path: path.into(), file, places, bytes: data + end })
    }

    /// Writes a tensor, whole.
    ///
    /// # Errors
    /// A file that can't be written.
    ///
    /// # Panics
    /// If there is no such tensor, it came already, or its length is another.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let place = self.places.remove(name).unwrap_or_else(|| panic!("\"{name}\" is no tensor still to come"));
        assert_eq!(place.end - place.start, bytes.len() as u64, "bytes of \"{name}\"");
        let write = |file: &mut File| {
            file.seek(SeekFrom::Start(place.start))?;
            file.write_all(bytes)
        };
        write(&mut self.file).map_err(|source| self.io(source))
    }

    /// Ends the file and says how long it is.
    ///
    /// # Errors
    /// A file that can't be written.
    ///
    /// # Panics
    /// If a tensor did not come.
    pub fn finish(self) -> Result<u64, CheckpointError> {
        assert!(self.places.is_empty(), "tensors did not come: {:?}", self.places.keys());
        self.file.sync_all().map_err(|source| self.io(source))?;
        Ok(self.bytes)
    }

    fn io(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Io { path: self.path.clone(), source }
    }
}
