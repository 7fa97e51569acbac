//! The committed checkpoints open, and a model says the same of itself in every kind of file (`families.rs` compares
//! the GGUF forms).

use std::fs;
use std::path::{Path, PathBuf};

use wgpt::checkpoint::{Checkpoint, RowConventions};

use crate::assert_refused;
use crate::files::copy;

fn checkpoints() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints")
}

/// Directories `tiny-*`.
fn tiny() -> Vec<PathBuf> {
    let entries = fs::read_dir(checkpoints()).expect("checkpoints are committed");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let tiny: Vec<_> =
        paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tiny-"))).collect();
    assert!(!tiny.is_empty(), "there are tiny checkpoints");
    tiny
}

/// Those of them that are there as safetensors and as GGUF.
pub(crate) fn checkpoints_with_both_forms() -> Vec<PathBuf> {
    let both = |path: &PathBuf| path.join("config.json").is_file() && path.join("model.gguf").is_file();
    let both: Vec<_> = tiny().into_iter().filter(both).collect();
    assert!(both.len() >= 30, "most families come in both forms, found {both:?}");
    both
}

#[test]
fn every_tiny_checkpoint_opens() {
    for directory in tiny() {
        let checkpoint = Checkpoint::open(&directory).unwrap_or_else(|error| panic!("{error}"));
        let config = checkpoint.config().unwrap_or_else(|error| panic!("{error}"));
        let hugging_face = directory.join("config.json").is_file();
        assert_eq!(config.rows == RowConventions::default(), hugging_face, "{}: row order", directory.display());
        for name in checkpoint.names().filter(|name| checkpoint.tensor(name).is_err()) {
            let mask = hugging_face && (name.ends_with(".attention.bias") || name.ends_with(".attn.bias"));
            assert!(mask, "{}: {name}: only the masks of older exports are in no weight format", directory.display());
        }
    }
}

#[test]
fn torch_files_and_safetensors_of_a_model_agree() {
    let open = |name: &str| Checkpoint::open(&checkpoints().join(name)).unwrap_or_else(|error| panic!("{error}"));
    let (safetensors, torch) = (open("tiny-gpt-neox-f16"), open("tiny-gpt-neox-torch"));
    assert_eq!(torch.names().collect::<Vec<_>>(), safetensors.names().collect::<Vec<_>>(), "all tensors");
    assert_eq!(torch.files().len(), 2, "from both shards");
    for (expected, found) in safetensors.tensors().zip(torch.tensors()) {
        let same = (found.name, found.shape) == (expected.name, expected.shape) && found.bytes == expected.bytes;
        assert!(same && found.format.name() == expected.format.name(), "{}", expected.name);
    }
}

#[test]
fn a_vocabulary_file_opens() {
    let path = checkpoints().join("vocab/ggml-vocab-gpt-neox.gguf");
    let checkpoint = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}"));
    let tokens = checkpoint.gguf_metadata().expect("a GGUF").strings("tokenizer.ggml.tokens");
    assert_eq!(tokens.expect("strings").map(|tokens| tokens.len()), Some(50_432), "the whole vocabulary");
}

#[test]
fn a_download_cut_short_says_which_file() {
    let directory = copy(&checkpoints().join("tiny-llama-sharded"));
    let shard = directory.path().join("model-00002-of-00003.safetensors");
    let bytes = fs::read(&shard).expect("the shard");
    fs::write(&shard, &bytes[..bytes.len() - 100]).expect("a scratch file");
    assert_refused(directory.path(), &["model-00002-of-00003.safetensors", "outside the file's"]);
    fs::remove_file(&shard).expect("a scratch file");
    assert_refused(directory.path(), &["these are missing: model-00002-of-00003.safetensors"]);
}
