//! Checkpoints: Hugging Face directories (safetensors or PyTorch's .bin files) and GGUF files, mapped and borrowed,
//! never read whole.
//!
//! All kinds look the same from outside: tensors by Hugging Face name as [`TensorView`]s, a typed [`Config`], and
//! [`RowConventions`] where the same model's rows are ordered differently. Linears that other libraries quantized are
//! one tensor each too (`quantized/`). Apart from those this room converts no weights, and it does not know what a
//! family needs. Invariant: whatever a file claims about itself was checked before it is handed out,
//! with an error that names file and tensor; no file, however broken, panics or decides an allocation.

mod config;
mod error;
mod gguf;
mod mmap;
mod open;
mod partial;
mod quantized;
mod safetensors;
mod shard_index;
mod torch;
mod unique_map;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use config::{Config, Conv1dAxes, NormOffset, QkvRows, RopeRows, RowConventions};
pub use error::CheckpointError;
pub use gguf::{GgufMetadata, GgufTensor, GgufValue, GgufWriter};
pub use mmap::{FileIdentity, MappedFile};
pub use partial::partial;
pub(crate) use partial::sweep_partials;
pub use quantized::{GptqCodes, GptqLinear, PlannedGptq};
pub use safetensors::SafetensorsWriter;
pub use view::TensorView;

use crate::quant::FORMATS;
use view::{Encoding, TensorEntry};

/// An opened checkpoint. A clone shares its files.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// What was opened.
    path: PathBuf,
    /// The directory whose other files belong to this model.
    directory: Option<PathBuf>,
    files: Vec<PathBuf>,
    mappings: Vec<Arc<MappedFile>>,
    /// By Hugging Face name.
    tensors: BTreeMap<String, TensorEntry>,
    /// None for a GGUF architecture without a table.
    config: Option<Config>,
    gguf: Option<Arc<GgufMetadata>>,
    /// Whether some tensors are not the files'.
    replaced: bool,
}

impl Checkpoint {
    /// Opens a Hugging Face directory (`config.json` and `model.safetensors` or `pytorch_model.bin`, or the index and
    /// shards of either), a GGUF file, or a directory with one GGUF file and none of the others.
    ///
    /// A GGUF file may hold a vocabulary only, or an architecture wgpt has no table for: then its metadata can be
    /// read, its tensors keep their GGUF names, and [`Self::config`] says what is wrong.
    ///
    /// # Errors
    /// Files that are missing, can't be read or contradict themselves.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let opened = open::open(path)?;
        tracing::info!("{}: {} files, {} tensors", path.display(), opened.files.len(), opened.tensors.len());
        Ok(opened)
    }

    /// The model's config.
    ///
    /// # Errors
    /// A GGUF architecture whose metadata can't be translated.
    pub fn config(&self) -> Result<&Config, CheckpointError> {
        let unknown = || {
            let architecture = self.gguf.as_ref().and_then(|metadata| metadata.architecture().ok().flatten());
            CheckpointError::UnknownArchitecture {
                file: self.path.clone(),
                architecture: architecture.unwrap_or("(none given)").into(),
                supported: gguf::Architecture::names(),
            }
        };
        self.config.as_ref().ok_or_else(unknown)
    }

    /// One tensor, by its Hugging Face name.
    ///
    /// # Errors
    /// No such tensor, one in a format wgpt can't read, or a file that has been cut short since it was opened.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        let entry = self.tensors.get(name).ok_or_else(|| CheckpointError::NoTensor {
            path: self.path.clone(),
            tensor: name.into(),
            hint: self.hint(name),
        })?;
        self.mappings[entry.file].check_length()?;
        self.view(entry).map_err(|format| CheckpointError::UnsupportedFormat {
            file: self.files[entry.file].clone(),
            tensor: name.into(),
            format: format.into(),
            supported: FORMATS.iter().map(|format| format.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whether there is a tensor of this name, readable or not.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Every tensor's name, sorted, those in unreadable formats included.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Every tensor in a format wgpt reads, sorted by name. Masks and index tables that some exports carry are in
    /// none; [`Self::names`] lists them too.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.values().filter_map(|entry| self.view(entry).ok())
    }

    /// The metadata of a GGUF file.
    pub fn gguf_metadata(&self) -> Option<&GgufMetadata> {
        self.gguf.as_deref()
    }

    /// What GGUF calls models of this kind, and how it orders their rows; none where it has no such models.
    pub fn gguf_architecture(&self) -> Option<(&'static str, RowConventions)> {
        self.architecture().map(|table| (table.name, table.rows))
    }

    /// What GGUF calls a tensor; none where it has no name for it. In a GGUF file every tensor has one.
    pub fn gguf_name(&self, tensor: &str) -> Option<String> {
        let translated = self.architecture().and_then(|table| table.gguf_name(tensor));
        translated.or_else(|| self.gguf.is_some().then(|| tensor.to_owned()))
    }

    fn architecture(&self) -> Option<&'static gguf::Architecture> {
        let config = self.config.as_ref()?;
        gguf::Architecture::of_model(config.architecture().ok()?, |name| self.has_tensor(name))
    }

    /// Another file of the model's directory, such as `tokenizer.json`. A GGUF file opened by its own name has none:
    /// what lies beside it may belong to another model.
    pub fn companion(&self, name: &str) -> Option<PathBuf> {
        let path = self.directory.as_ref()?.join(name);
        path.is_file().then_some(path)
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold weights.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What a cache made from this checkpoint must compare before it is used again: its weight files, and what says how
    /// to read them. None where weights were put in place of the files'.
    ///
    /// # Errors
    /// A file that can't be read any more.
    pub fn identity(&self) -> Result<Option<Vec<FileIdentity>>, CheckpointError> {
        if self.replaced {
            return Ok(None);
        }
        let configs = open::CONFIGS.iter().filter_map(|name| self.companion(name));
        let configs = configs.map(|path| MappedFile::open(&path)?.identity());
        self.mappings.iter().map(|mapping| mapping.identity()).chain(configs).collect::<Result<_, _>>().map(Some)
    }

    fn view<'m>(&'m self, entry: &'m TensorEntry) -> Result<TensorView<'m>, &'m str> {
        let (format, composed) = match &entry.encoding {
            Encoding::Unknown(format) => return Err(format),
            Encoding::Known(format) => (*format, None),
            Encoding::Composed(composed) => (composed.format(), Some(&**composed)),
        };
        Ok(TensorView {
            name: &entry.name,
            file: &self.files[entry.file],
            format,
            shape: &entry.shape,
            bytes: &self.mappings[entry.file][entry.range.clone()],
            composed,
            mapping: &self.mappings[entry.file],
            start: entry.range.start,
        })
    }

    /// A name that ends alike: most often only the prefix differs.
    fn hint(&self, name: &str) -> String {
        let tail = |name: &str| name.rsplit('.').take(3).map(str::to_owned).collect::<Vec<_>>();
        match self.tensors.keys().find(|known| tail(known) == tail(name)) {
            Some(known) => format!("; there is \"{known}\""),
            None => format!("; it has {} tensors", self.tensors.len()),
        }
    }
}
