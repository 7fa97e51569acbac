//! The committed checkpoints open, and a model says the same of itself in every kind of file.

use std::fs;
use std::path::{Path, PathBuf};

use wgpt::checkpoint::{Checkpoint, RopeRows, RowConventions};

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

#[test]
fn every_tiny_checkpoint_opens() {
    for directory in tiny() {
        let checkpoint = Checkpoint::open(&directory).unwrap_or_else(|error| panic!("{error}"));
        let config = checkpoint.config().unwrap_or_else(|error| panic!("{error}"));
        assert!(["llama", "gpt_neox"].contains(&config.architecture().expect("a name")), "{}", directory.display());
        for name in checkpoint.names().filter(|name| checkpoint.tensor(name).is_err()) {
            let mask = name.ends_with(".attention.bias") && config.rows == RowConventions::default();
            assert!(mask, "{}: {name}: only the masks of older exports are in no weight format", directory.display());
        }
    }
}

#[test]
fn gguf_and_safetensors_of_a_model_agree() {
    for directory in
        tiny().into_iter().filter(|path| path.join("config.json").is_file() && path.join("model.gguf").is_file())
    {
        let (hugging_face, gguf) = (Checkpoint::open(&directory), Checkpoint::open(&directory.join("model.gguf")));
        let (hugging_face, gguf) = (hugging_face.expect("it opens"), gguf.expect("it opens"));
        let (expected, found) = (hugging_face.config().expect("a config"), gguf.config().expect("a config"));
        for key in ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"] {
            let (expected, found) = (expected.u32(key).expect(key), found.u32(key).expect(key));
            assert_eq!(found, expected, "{}: {key}", directory.display());
        }
        assert_eq!(found.str("hidden_act").expect("a name"), expected.str("hidden_act").expect("a name"), "hidden_act");
        for expected in hugging_face.tensors() {
            let found = gguf.tensor(expected.name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(found.shape, expected.shape, "{}: {}", directory.display(), expected.name);
        }
        assert_eq!(expected.rows, RowConventions::default(), "Hugging Face's own order");
        let interleaved = found.architecture().expect("a name") == "llama";
        assert_eq!(found.rows.rope == RopeRows::Interleaved, interleaved, "{}", directory.display());
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
