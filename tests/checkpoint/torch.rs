//! PyTorch files: what real ones hold, and how each is refused that can't be read.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use wgpt::checkpoint::Checkpoint;

use crate::files::{CONFIG, directory, safetensors};
use crate::torch_files::{
    Zip, call, dict, global, int, ints, one, pickle, pickled, storage, tensor, text, torch_directory,
};
use crate::{assert_refused, assert_says};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch")
}

/// A file that `tests/golden/torch_files.py` wrote, as the weights of a directory.
fn written(name: &str) -> tempfile::TempDir {
    torch_directory(&fs::read(golden().join(name)).expect("the golden files are committed"))
}

#[test]
fn files_by_torch_hold_the_bytes_torch_reads() {
    let mut count = 0;
    for entry in fs::read_dir(golden()).expect("the golden files are committed") {
        let expected = entry.expect("an entry").path();
        if expected.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let name = expected.file_stem().expect("a name").to_string_lossy().into_owned();
        let bytes = fs::read(&expected).expect("a golden file");
        let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
        let directory = written(&format!("{name}.bin"));
        let checkpoint = Checkpoint::open(directory.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut names = expected.names();
        names.sort_unstable();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), names, "{name}: tensors only, and all of them");
        for (tensor, expected) in expected.tensors() {
            let format = expected.dtype().to_string().to_lowercase();
            if !["f32", "f16", "bf16"].contains(&format.as_str()) {
                let error = checkpoint.tensor(&tensor).expect_err("no format for weights");
                assert_says(&error, &["pytorch_model.bin", &format!("\"{tensor}\": dtype "), "is not supported"]);
                continue;
            }
            let found = checkpoint.tensor(&tensor).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((found.format.name(), found.shape), (&*format, expected.shape()), "{name}: {tensor}");
            assert_eq!(found.bytes, expected.data(), "{name}: {tensor}");
            count += 1;
        }
    }
    assert!(count > 50, "the golden files hold many tensors, found {count}");
}

#[test]
fn unreadable_types_are_called_as_torch_calls_them() {
    let directory = written("dtypes.bin");
    let checkpoint = Checkpoint::open(directory.path()).expect("a valid file");
    for dtype in ["float64", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16", "float8_e4m3fn"] {
        let error = checkpoint.tensor(&format!("buffer_{dtype}")).expect_err("no format for weights");
        assert_says(&error, &[&format!("dtype {dtype} is not supported; supported: f32, f16, bf16")]);
    }
}

#[test]
fn tied_weights_are_the_same_bytes() {
    let directory = written("views.bin");
    let checkpoint = Checkpoint::open(directory.path()).expect("a valid file");
    let bytes = |name: &str| checkpoint.tensor(name).expect("it is there").bytes;
    assert_eq!(bytes("embedding").as_ptr(), bytes("head").as_ptr(), "borrowed from one storage");
    assert_eq!(bytes("rows").as_ptr(), bytes("embedding")[24..].as_ptr(), "a view starts inside it");
}

#[test]
fn what_wgpt_cannot_read_is_refused_by_name() {
    let refused = |name: &str, parts: &[&str]| {
        assert_refused(written(name).path(), &[&["pytorch_model.bin: "], parts].concat());
    };
    refused("transposed.bin", &["\"weight\": shape [3, 2] is not stored row after row", "[2, 1], found [1, 3]"]);
    refused("negated.bin", &["\"weight\": is kept negated"]);
    refused("training.bin", &["names \"argparse.Namespace\"", "refused and nothing was run", "state_dict() alone"]);
    refused("sparse.bin", &["names \"torch._utils._rebuild_sparse_tensor\""]);
    refused("legacy.bin", &["PyTorch before 1.6", "load it with PyTorch (weights_only=True) and save it again"]);
}

#[test]
fn files_that_are_something_else_are_refused() {
    let refused = |bytes: &[u8], parts: &[&str]| assert_refused(torch_directory(bytes).path(), parts);
    refused(b"version https://git-lfs.github.com/spec/v1\n", &["is not a PyTorch file", "download it again"]);
    let tar = [&[b'x'; 257][..], b"ustar\0", &[0; 300]].concat();
    refused(&tar, &["PyTorch before 1.6"]);
    refused(&Zip::default().entry("word/document.xml", b"x").bytes(), &["without data.pkl"]);
    let two = Zip::torch(&pickle(&one()), &[&[0; 24]]).entry("other/data.pkl", b"");
    refused(&two.bytes(), &["holds both archive/data.pkl and other/data.pkl"]);
    let mut big = Zip::torch(&pickle(&one()), &[&[0; 24]]).bytes();
    let at = big.windows(6).position(|window| window == b"little").expect("the byte order");
    big[at..at + 6].copy_from_slice(b"big   ");
    refused(&big, &["byte order is \"big   \"; only \"little\" is read"]);
}

#[test]
fn tensors_that_contradict_the_archive_are_refused() {
    let refused = |value: Vec<u8>, parts: &[&str]| {
        let directory = pickled(&dict(&[(text("a"), value)]), &[&[0; 24]]);
        assert_refused(directory.path(), &[&["pytorch_model.bin: tensor \"a\": "], parts].concat());
    };
    let six = storage("FloatStorage", "0", 6);
    let bad = |offset, shape: &[i64], strides: &[i64]| tensor(&six, offset, shape, strides);
    refused(tensor(&storage("FloatStorage", "1", 6), 0, &[6], &[1]), &["no entry data/1"]);
    refused(tensor(&storage("FloatStorage", "0", 5), 0, &[5], &[1]), &["expected 5 elements of float32", "found 24"]);
    refused(tensor(&storage("FloatStorage", "0", -6), 0, &[6], &[1]), &["expected -6 elements"]);
    refused(tensor(&storage("FloatStorage", "0", i64::MAX), 0, &[6], &[1]), &["expected 9223372036854775807 elements"]);
    refused(bad(1, &[2, 3], &[3, 1]), &["float32 [2, 3] from element 1 on is outside the 24 bytes of data/0"]);
    refused(bad(-1, &[2, 3], &[3, 1]), &["from element -1 on is outside"]);
    refused(bad(i64::MAX, &[1], &[1]), &["is outside the 24 bytes"]);
    refused(bad(7, &[0], &[1]), &["from element 7 on is outside"]);
    refused(bad(0, &[2, -3], &[3, 1]), &["negative size or stride, -3"]);
    refused(bad(0, &[i64::MAX, 4], &[4, 1]), &["too large for any file"]);
    refused(bad(0, &[2, 3], &[1, 2]), &["expected strides [3, 1], found [1, 2]", "contiguous()"]);
    refused(bad(0, &[2, 3], &[0, 1]), &["found [0, 1]"]);
    refused(bad(0, &[2, 3], &[1]), &["expected strides [3, 1], found [1]"]);
    refused(bad(0, &[1; 65], &[1; 65]), &["has 65 dimensions"]);
    refused(bad(0, &[i64::MAX, 4, 0], &[0, 0, 1]), &["too large for any file"]);
}

#[test]
fn state_dicts_that_could_mean_two_things_are_refused() {
    let refused = |body: Vec<u8>, parts: &[&str]| assert_refused(pickled(&body, &[&[0; 24]]).path(), parts);
    let a = || tensor(&storage("FloatStorage", "0", 6), 0, &[2, 3], &[3, 1]);
    refused(dict(&[(text("a"), a()), (text("a"), a())]), &["tensor \"a\" is there twice"]);
    refused(dict(&[(int(1), a())]), &["under a key that is no text"]);
    refused(dict(&[(text("model"), one()), (text("state_dict"), one())]), &["several dicts of tensors"]);
    refused(dict(&[(text("weights"), one())]), &["holds no tensors, neither itself nor under state_dict or model"]);
    refused(dict(&[(text("steps"), int(3))]), &["holds no tensors"]);
    refused(a(), &["holds no dict of tensors"]);
    refused(int(3), &["holds no dict of tensors"]);
    let lazy = |flags: Vec<u8>| {
        let hooks = call("collections", "OrderedDict", &[]);
        let storage = storage("FloatStorage", "0", 6);
        let arguments = [storage, int(0), ints(&[6]), ints(&[1]), b"\x89".to_vec(), hooks, flags];
        dict(&[(text("a"), call("torch._utils", "_rebuild_tensor_v2", &arguments))])
    };
    let plain = pickled(&lazy(dict(&[])), &[&[0; 24]]);
    assert!(Checkpoint::open(plain.path()).is_ok(), "no flags change no values");
    refused(
        lazy(dict(&[(text("new"), b"\x88".to_vec())])),
        &["tensor \"a\": is kept negated, conjugated or with other"],
    );
    refused(lazy(global("torch", "float16")), &["_rebuild_tensor_v2 with arguments that a state dict's never has"]);
}

const ONE: &str = r#"{"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}"#;

#[test]
fn safetensors_go_before_torch_files_and_those_before_gguf() {
    let torch = Zip::torch(&pickle(&one()), &[&[7; 24]]).bytes();
    let directory = directory(&[("config.json", CONFIG.as_bytes())]);
    let add = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).expect("a scratch file");
    let weights = || {
        let checkpoint = Checkpoint::open(directory.path()).expect("a valid checkpoint");
        checkpoint.files()[0].file_name().expect("a name").to_string_lossy().into_owned()
    };
    add("model.gguf", &crate::files::Gguf::llama().bytes());
    assert_eq!(weights(), "model.gguf", "alone");
    add("shard.bin", &torch);
    add("pytorch_model.bin.index.json", br#"{"weight_map": {"a": "shard.bin"}}"#);
    assert_eq!(weights(), "shard.bin", "a torch index goes before GGUF");
    add("pytorch_model.bin", &torch);
    assert_eq!(weights(), "pytorch_model.bin", "a whole file before an index");
    add("shard.safetensors", &safetensors(ONE, &[0; 24]));
    add("model.safetensors.index.json", br#"{"weight_map": {"a": "shard.safetensors"}}"#);
    assert_eq!(weights(), "shard.safetensors", "a safetensors index before any torch file");
    add("model.safetensors", &safetensors(ONE, &[0; 24]));
    assert_eq!(weights(), "model.safetensors", "and its whole file first of all");
}

#[test]
fn a_torch_index_is_held_against_its_shards() {
    let torch = Zip::torch(&pickle(&one()), &[&[7; 24]]).bytes();
    let open = |index: &str, parts: &[&str]| {
        let directory = directory(&[
            ("config.json", CONFIG.as_bytes()),
            ("pytorch_model.bin.index.json", index.as_bytes()),
            ("1.bin", &torch),
            ("2.bin", &torch),
        ]);
        assert_refused(directory.path(), parts);
    };
    open(r#"{"weight_map": {"a": "3.bin"}}"#, &["bin.index.json: of its 1 shards these are missing: 3.bin"]);
    open(r#"{"weight_map": {"b": "1.bin"}}"#, &["1.bin: tensor \"b\": pytorch_model.bin.index.json says it is in"]);
    open(r#"{"weight_map": {"a": "1.bin", "b": "2.bin"}}"#, &["2.bin: tensor \"a\": is in", "1.bin too"]);
    open(r#"{"weight_map": {"a": "../1.bin"}}"#, &["names the shard \"../1.bin\", which is not a file in this"]);
}

#[test]
fn lit_gpt_s_own_files_are_refused_with_what_to_do() {
    let directory = directory(&[("lit_config.json", b"{}"), ("lit_model.pth", b"x")]);
    assert_refused(
        directory.path(),
        &["no model here", "lit_model.pth is lit-gpt's", "the files it was converted from"],
    );
    assert_refused(&directory.path().join("lit_model.pth"), &["name its directory"]);
}
