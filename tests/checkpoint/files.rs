//! Builds small checkpoint files, valid unless told otherwise.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

pub(crate) const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 8}"#;

/// A scratch directory with files in it.
pub(crate) fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().expect("a scratch directory");
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).expect("a scratch file");
    }
    directory
}

/// One scratch file, with its directory, which must live as long.
pub(crate) fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let directory = directory(&[(name, bytes)]);
    let path = directory.path().join(name);
    (directory, path)
}

/// A directory with a config and one safetensors file of this header and data.
pub(crate) fn hugging_face(header: &str, data: &[u8]) -> TempDir {
    directory(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &safetensors(header, data))])
}

/// A safetensors file.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A GGUF file in the making.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    pairs: Vec<Vec<u8>>,
    infos: Vec<Vec<u8>>,
    data: Vec<u8>,
    /// What the header says; None counts.
    pub(crate) tensor_count: Option<u64>,
    pub(crate) pair_count: Option<u64>,
}

pub(crate) const U32: u32 = 4;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;

impl Gguf {
    pub(crate) fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            alignment: 32,
            pairs: Vec::new(),
            infos: Vec::new(),
            data: Vec::new(),
            tensor_count: None,
            pair_count: None,
        }
    }

    /// A Llama file with one layer's worth of names.
    pub(crate) fn llama() -> Self {
        Self::new()
            .str("general.architecture", "llama")
            .u32("llama.embedding_length", 64)
            .u32("llama.attention.head_count", 4)
            .tensor("token_embd.weight", &[64, 3], 0, &[0; 64 * 3 * 4])
            .tensor("blk.0.attn_q.weight", &[64, 2], 2, &[7; 2 * 2 * 18])
    }

    pub(crate) fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.push([&string(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.pair(key, U32, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.pair(key, F32, &value.to_le_bytes())
    }

    pub(crate) fn str(self, key: &str, value: &str) -> Self {
        self.pair(key, STRING, &string(value))
    }

    pub(crate) fn array(self, key: &str, element: u32, count: u64, elements: &[u8]) -> Self {
        self.pair(key, ARRAY, &[&element.to_le_bytes()[..], &count.to_le_bytes(), elements].concat())
    }

    /// A tensor behind the last one; `dims` in the file's order, innermost first.
    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], ggml_type: u32, bytes: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        let offset = self.data.len() as u64;
        self.data.extend(bytes);
        self.info(name, dims, ggml_type, offset)
    }

    /// A line of the list of tensors, whatever it claims.
    pub(crate) fn info(mut self, name: &str, dims: &[u64], ggml_type: u32, offset: u64) -> Self {
        let mut info = string(name);
        info.extend((dims.len() as u32).to_le_bytes());
        info.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        info.extend(ggml_type.to_le_bytes());
        info.extend(offset.to_le_bytes());
        self.infos.push(info);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = self.magic.to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.infos.len() as u64).to_le_bytes());
        file.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        file.extend(self.pairs.concat());
        file.extend(self.infos.concat());
        if !self.infos.is_empty() {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
        }
        file.extend(&self.data);
        file
    }

    /// Written to a scratch directory, which must live as long as the path.
    pub(crate) fn write(&self) -> (TempDir, PathBuf) {
        file("model.gguf", &self.bytes())
    }
}

/// A GGUF string.
pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Copies a directory's files, so that one can be changed.
pub(crate) fn copy(from: &Path) -> TempDir {
    let directory = tempfile::tempdir().expect("a scratch directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a file name");
        fs::copy(&path, directory.path().join(name)).expect("a copy");
    }
    directory
}
