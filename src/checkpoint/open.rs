//! Decides what a path is and puts the checkpoint together.
//!
//! Only file names are judged here; what is in the files is the parsers' business. Invariant: of two files that
//! could be meant, none is guessed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gguf::{self, Architecture};
use super::mmap::MappedFile;
use super::view::TensorEntry;
use super::{Checkpoint, CheckpointError, Config, RowConventions};
use super::{quantized, safetensors, shard_index, torch};

const CONFIG: &str = "config.json";

/// Files that say how the tensors beside them are read.
pub(super) const CONFIGS: [&str; 3] = [CONFIG, quantized::OLDER[0].0, quantized::OLDER[1].0];

/// A kind of weight file in a Hugging Face directory.
struct Kind {
    /// All weights in one file.
    whole: &'static str,
    /// Which of several files a tensor is in.
    index: &'static str,
    /// The tensors of one file, which is number `file` of the checkpoint.
    parse: fn(&MappedFile, usize) -> Result<Vec<TensorEntry>, CheckpointError>,
}

/// In the order of Hugging Face's loader, which takes the first it finds; within a kind a whole file goes first.
const KINDS: [Kind; 2] = [
    Kind { whole: "model.safetensors", index: "model.safetensors.index.json", parse: safetensors::parse },
    Kind { whole: "pytorch_model.bin", index: "pytorch_model.bin.index.json", parse: torch::parse },
];

/// What lit-gpt makes of a checkpoint, under names and in a row order of its own.
const LIT: &str = "lit_model.pth";

/// No config or index is near this; a mistaken path should not fill the memory.
const MAX_JSON: u64 = 256 << 20;

pub(super) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let about = fs::metadata(path).map_err(|source| CheckpointError::Io { path: path.into(), source })?;
    if about.is_dir() {
        return open_directory(path);
    }
    let extension = path.extension().and_then(|extension| extension.to_str());
    if let Some("safetensors" | "json" | "bin" | "pth" | "pt") = extension {
        let reason = format!("is one file of a model; name its directory, which must hold {CONFIG} too");
        return Err(CheckpointError::NotACheckpoint { path: path.into(), reason });
    }
    open_gguf(path, path, None)
}

fn open_directory(directory: &Path) -> Result<Checkpoint, CheckpointError> {
    let has = |name: &str| directory.join(name).is_file();
    let refuse = |reason| Err(CheckpointError::NotACheckpoint { path: directory.into(), reason });
    if let Some(kind) = KINDS.iter().find(|kind| has(kind.whole) || has(kind.index)) {
        if !has(CONFIG) {
            return refuse(format!("{CONFIG} is missing; download it from where the weights came from"));
        }
        return open_hugging_face(directory, kind);
    }
    let ggufs = gguf_files(directory)?;
    match ggufs.as_slice() {
        [file] => open_gguf(directory, file, Some(directory)),
        [] => {
            let config = if has(CONFIG) { String::new() } else { format!("{CONFIG} and ") };
            let [safetensors, torch] = KINDS.map(|kind| format!("{} (or {})", kind.whole, kind.index));
            let hint = if has(LIT) {
                format!("; {LIT} is lit-gpt's and not read: put the files it was converted from beside it")
            } else {
                String::new()
            };
            refuse(format!("no model here: missing {config}{safetensors} or {torch}, or one .gguf file{hint}"))
        }
        several => {
            let names: Vec<_> = several.iter().filter_map(|file| file.file_name()?.to_str()).collect();
            refuse(format!("holds several .gguf files, name one of them: {}", names.join(", ")))
        }
    }
}

fn gguf_files(directory: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: directory.into(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn open_gguf(path: &Path, file: &Path, directory: Option<&Path>) -> Result<Checkpoint, CheckpointError> {
    let mapping = Arc::new(MappedFile::open(file)?);
    let parsed = gguf::parse(&mapping)?;
    let architecture = Architecture::of(&parsed.metadata, &parsed.tensors)?;
    let config = architecture.map(|known| known.config(&parsed.metadata, &parsed.tensors)).transpose()?;
    let files = vec![file.to_owned()];
    let mut tensors = BTreeMap::new();
    for mut entry in parsed.tensors {
        if let Some(architecture) = architecture {
            entry.name = architecture.tensor_name(&entry.name);
        }
        insert(&mut tensors, entry, &files)?;
    }
    Ok(Checkpoint {
        path: path.into(),
        directory: directory.map(Path::to_owned),
        files,
        mappings: vec![mapping],
        tensors,
        config,
        gguf: Some(Arc::new(parsed.metadata)),
        replaced: false,
    })
}

fn open_hugging_face(directory: &Path, kind: &Kind) -> Result<Checkpoint, CheckpointError> {
    let path = directory.join(CONFIG);
    let config = Config::parse(path.display().to_string(), &read_json(&path)?, RowConventions::default())?;
    let whole = directory.join(kind.whole);
    let index = if whole.is_file() {
        None
    } else {
        let path = directory.join(kind.index);
        Some(shard_index::parse(&path, &read_json(&path)?, directory)?)
    };
    let files = index.as_ref().map_or_else(|| vec![whole], |index| index.shards.clone());
    let (mut mappings, mut tensors) = (Vec::new(), BTreeMap::new());
    for (number, file) in files.iter().enumerate() {
        let mapping = MappedFile::open(file)?;
        for entry in (kind.parse)(&mapping, number)? {
            insert(&mut tensors, entry, &files)?;
        }
        mappings.push(Arc::new(mapping));
    }
    for (tensor, shard) in index.iter().flat_map(|index| &index.tensors) {
        if tensors.get(tensor).is_none_or(|entry| entry.file != *shard) {
            let reason = format!("{} says it is in this file, which does not hold it", kind.index);
            return Err(CheckpointError::BadTensor { file: files[*shard].clone(), tensor: tensor.clone(), reason });
        }
    }
    quantized::compose(&mut tensors, &files, &mappings, &config, older_quantization(directory)?)?;
    let directory = Some(directory.to_owned());
    let path = directory.clone().unwrap_or_default();
    Ok(Checkpoint { path, directory, files, mappings, tensors, config: Some(config), gguf: None, replaced: false })
}

/// What older quantizers wrote beside the config, and whose it is.
fn older_quantization(directory: &Path) -> Result<Option<(Config, &'static str)>, CheckpointError> {
    let Some((path, method)) =
        quantized::OLDER.iter().map(|(name, method)| (directory.join(name), *method)).find(|(path, _)| path.is_file())
    else {
        return Ok(None);
    };
    let config = Config::parse(path.display().to_string(), &read_json(&path)?, RowConventions::default())?;
    Ok(Some((config, method)))
}

/// Adds a tensor, whose name must be new.
fn insert(
    tensors: &mut BTreeMap<String, TensorEntry>,
    entry: TensorEntry,
    files: &[PathBuf],
) -> Result<(), CheckpointError> {
    match tensors.entry(entry.name.clone()) {
        Entry::Vacant(vacant) => {
            vacant.insert(entry);
            Ok(())
        }
        Entry::Occupied(other) => {
            let reason = format!("is in {} too; only one can be meant", files[other.get().file].display());
            Err(CheckpointError::BadTensor { file: files[entry.file].clone(), tensor: entry.name, reason })
        }
    }
}

fn read_json(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.into(), source };
    let bytes = fs::metadata(path).map_err(io)?.len();
    if bytes > MAX_JSON {
        let reason = format!("is {bytes} bytes long, too long for a JSON file");
        return Err(CheckpointError::Malformed { file: path.into(), reason });
    }
    fs::read(path).map_err(io)
}
