//! Hugging Face directories: what opens, and how each lie is called.

use std::fs;

use wgpt::checkpoint::Checkpoint;

use crate::files::{CONFIG, directory, file, hugging_face, safetensors};
use crate::{assert_refused, assert_says};

const ONE: &str = r#"{"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}"#;

#[test]
fn tensors_are_views_of_the_file() {
    let header = r#"{"__metadata__": {"format": "pt"},
        "b.bias": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "mask": {"dtype": "BOOL", "shape": [1, 1, 2, 2], "data_offsets": [32, 36]},
        "scalar": {"dtype": "BF16", "shape": [], "data_offsets": [36, 38]}}"#;
    let data: Vec<u8> = (0..38).collect();
    let directory = hugging_face(header, &data);
    let checkpoint = Checkpoint::open(directory.path()).expect("a valid checkpoint");
    let a = checkpoint.tensor("a").expect("it is there");
    assert_eq!((a.name, a.format.name(), a.rows(), a.cols()), ("a", "f32", 2, 3), "as the header says");
    assert_eq!((a.bytes, &*a.row(1)), (&data[..24], &data[12..24]), "borrowed");
    let bias = checkpoint.tensor("b.bias").expect("it is there");
    assert_eq!((bias.rows(), bias.cols(), bias.shape), (1, 4, &[4][..]), "a vector is one row");
    let scalar = checkpoint.tensor("scalar").expect("it is there");
    assert_eq!((scalar.rows(), scalar.cols()), (1, 1), "a scalar too");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b.bias", "mask", "scalar"], "all of them");
    assert_eq!(checkpoint.tensors().count(), 3, "the mask is in no format for weights");
    let error = checkpoint.tensor("mask").expect_err("not a weight");
    assert_says(&error, &["model.safetensors", "\"mask\"", "dtype BOOL is not supported", "supported: f32, f16"]);
    let error = checkpoint.tensor("model.b.bias").expect_err("not there");
    assert_says(&error, &["there is no tensor \"model.b.bias\""]);
}

#[test]
fn companions_and_identity_belong_to_the_directory() {
    let directory = hugging_face(ONE, &[0; 24]);
    fs::write(directory.path().join("tokenizer.json"), "{}").expect("a scratch file");
    let checkpoint = Checkpoint::open(directory.path()).expect("a valid checkpoint");
    assert_eq!(checkpoint.companion("tokenizer.json"), Some(directory.path().join("tokenizer.json")), "it is there");
    assert_eq!(checkpoint.companion("vocab.json"), None, "it is not");
    assert_eq!(checkpoint.files(), [directory.path().join("model.safetensors")], "the weights");
    let identity = checkpoint.identity().expect("it can be read").expect("it is as stored");
    assert_eq!((identity.len(), identity[0].bytes), (2, 8 + ONE.len() as u64 + 24), "the whole file's length");
    assert!(identity[1].path.ends_with("config.json"), "and what says how to read it");
    let modified = identity[0].modified.expect("this system knows when files were written");
    let other = hugging_face(ONE, &[1; 24]);
    let file = fs::File::options().write(true).open(other.path().join("model.safetensors")).expect("it is there");
    file.set_modified(modified).expect("a time can be set");
    let other = Checkpoint::open(other.path()).expect("a valid checkpoint").identity().expect("read").expect("stored");
    assert_eq!((other[0].bytes, other[0].modified), (identity[0].bytes, identity[0].modified), "a coarse clock");
    assert_ne!(other[0].ends, identity[0].ends, "tells other bytes from these");
}

#[test]
fn what_a_directory_lacks_is_listed() {
    let empty = directory(&[]);
    assert_refused(
        empty.path(),
        &["missing config.json and model.safetensors", "or pytorch_model.bin (or", "or one .gguf file"],
    );
    let no_weights = directory(&[("config.json", CONFIG.as_bytes())]);
    assert_refused(no_weights.path(), &["missing model.safetensors (or model.safetensors.index.json)"]);
    for weights in ["model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"] {
        assert_refused(directory(&[(weights, b"x")]).path(), &["config.json is missing"]);
    }
    let several = directory(&[("a.gguf", b"x"), ("b.gguf", b"x")]);
    assert_refused(several.path(), &["several .gguf files, name one of them: a.gguf, b.gguf"]);
    let (_directory, one) = file("model.safetensors", &safetensors(ONE, &[0; 24]));
    assert_refused(&one, &["name its directory, which must hold config.json too"]);
    assert_refused(&empty.path().join("nowhere"), &["nowhere: "]);
}

#[test]
fn a_broken_header_is_refused() {
    let open = |bytes: &[u8], parts: &[&str]| {
        let directory = directory(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", bytes)]);
        assert_refused(directory.path(), &[&["model.safetensors"], parts].concat());
    };
    open(b"", &["is empty"]);
    open(b"abc", &["truncated: the header's length needs 8 bytes at byte 0, the file has 3 left"]);
    open(&safetensors(ONE, &[0; 24])[..40], &["truncated: the header needs 65 bytes at byte 8"]);
    open(&u64::MAX.to_le_bytes(), &["not a safetensors file", "18446744073709551615 bytes"]);
    open(&safetensors("[1]", &[]), &["not a safetensors file", "expected an object"]);
    open(&safetensors("{\"a\"", &[]), &["not a safetensors file"]);
    open(&[&2u64.to_le_bytes()[..], b"\xff\xff"].concat(), &["not a safetensors file"]);
    open(&safetensors(r#"{"a": 1}"#, &[]), &["\"a\": invalid type"]);
    let negative = r#"{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}"#;
    open(&safetensors(negative, &[0; 8]), &["\"a\": invalid value: integer `-2`"]);
}

#[test]
fn tensors_that_contradict_the_file_are_refused() {
    let open = |header: &str, bytes: usize, parts: &[&str]| {
        let directory = hugging_face(header, &vec![0; bytes]);
        assert_refused(directory.path(), &[&["model.safetensors"], parts].concat());
    };
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    let two = |first: &str, second: &str| {
        format!(
            r#"{{"a": {{"dtype": "U8", "shape": [4], "data_offsets": {first}}},
               "b": {{"dtype": "U8", "shape": [4], "data_offsets": {second}}}}}"#
        )
    };
    open(&one("F32", "[2, 3]", "[0, 24]"), 23, &["\"a\": data_offsets [0, 24] are outside the file's 23 bytes"]);
    open(&one("F32", "[2, 3]", "[24, 0]"), 24, &["\"a\": data_offsets [24, 0] are outside"]);
    open(&one("F32", "[2, 3]", "[0, 20]"), 20, &["\"a\": expected 24 bytes for F32 [2, 3], found 20"]);
    open(&one("Q9", "[1]", "[0, 1]"), 1, &["\"a\": dtype \"Q9\" is unknown"]);
    open(&one("F32", "[4294967296, 4294967296]", "[0, 4]"), 4, &["\"a\": shape", "too large for any file"]);
    open(&one("F4", "[3]", "[0, 1]"), 1, &["\"a\": shape [3] does not fill whole bytes"]);
    open(&one("F32", "[2]", "[0, 8]"), 12, &["the last 4 bytes belong to no tensor"]);
    open(&one("F32", "[1]", "[4, 8]"), 8, &["\"a\": 4 bytes between \"the header\" and it belong to no tensor"]);
    open(&two("[0, 4]", "[2, 6]"), 6, &["\"b\": overlaps \"a\" by 2 bytes"]);
    open(&two("[0, 4]", "[6, 10]"), 10, &["\"b\": 2 bytes between \"a\" and it belong to no tensor"]);
    let misaligned = r#"{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                         "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}"#;
    open(misaligned, 6, &["\"b\": starts at byte 2 of the data, misaligned for F32"]);
    let twice = format!("{}, {}", &ONE[..ONE.len() - 1], &ONE[1..]);
    open(&twice, 24, &["\"a\" is there twice"]);
}

const SHARD_A: &str = r#"{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}"#;
const SHARD_B: &str = r#"{"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#;

fn sharded(index: &str, b: &str) -> tempfile::TempDir {
    directory(&[
        ("config.json", CONFIG.as_bytes()),
        ("model.safetensors.index.json", index.as_bytes()),
        ("1.safetensors", &safetensors(SHARD_A, &[1])),
        ("2.safetensors", &safetensors(b, &[2; 4])),
    ])
}

#[test]
fn shards_are_one_checkpoint() {
    let index = r#"{"metadata": {"total_size": 5}, "weight_map": {"b": "2.safetensors", "a": "1.safetensors"}}"#;
    let directory = sharded(index, SHARD_B);
    let checkpoint = Checkpoint::open(directory.path()).expect("a valid checkpoint");
    let b = checkpoint.tensor("b").expect("it is there");
    assert_eq!((b.bytes, b.file), (&[2; 4][..], directory.path().join("2.safetensors").as_path()), "from its shard");
    assert_eq!(
        (checkpoint.files().len(), checkpoint.identity().expect("read").map(|files| files.len())),
        (2, Some(3)),
        "both files, and the config"
    );
}

#[test]
fn an_index_that_contradicts_its_shards_is_refused() {
    let open = |map: &str, b: &str, parts: &[&str]| {
        assert_refused(sharded(&format!(r#"{{"weight_map": {map}}}"#), b).path(), parts);
    };
    let both = r#"{"a": "1.safetensors", "b": "2.safetensors"}"#;
    open(
        r#"{"a": "1.safetensors", "b": "3.safetensors"}"#,
        SHARD_B,
        &["index.json", "of its 2 shards these are missing: 3.safetensors"],
    );
    open(r#"{"a": "2.safetensors"}"#, SHARD_B, &["2.safetensors", "tensor \"a\"", "does not hold it"]);
    open(both, &SHARD_B.replace("\"b\"", "\"a\""), &["2.safetensors: tensor \"a\": is in", "1.safetensors too"]);
    open(r#"{"a": "1.safetensors", "a": "2.safetensors"}"#, SHARD_B, &["index.json", "\"a\" is there twice"]);
    for outside in ["../2.safetensors", "/2.safetensors", "..\\\\2.safetensors", ""] {
        open(&format!(r#"{{"a": "{outside}"}}"#), SHARD_B, &["index.json: names the shard", "not a file in this"]);
    }
    open("3", SHARD_B, &["index.json: not a shard index", "expected an object"]);
    assert_refused(sharded("{}", SHARD_B).path(), &["not a shard index: missing field `weight_map`"]);
}
