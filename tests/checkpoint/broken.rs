//! Random damage to valid files: any answer, no panic, no runaway allocation.

use std::fs;

use proptest::prelude::*;
use wgpt::checkpoint::Checkpoint;

use crate::files::{ARRAY, CONFIG, Gguf, STRING, directory, safetensors, string};
use crate::torch_files::{Zip, dict, int, one, pickle, storage, tensor, text, torch_directory};

/// Opens and reads everything a caller could.
fn read_all(directory: &std::path::Path) {
    let Ok(checkpoint) = Checkpoint::open(directory) else { return };
    if let Ok(config) = checkpoint.config() {
        let _ = (config.u32("hidden_size"), config.section("rope_scaling"), config.unread());
    }
    for name in checkpoint.names() {
        let Ok(tensor) = checkpoint.tensor(name) else { continue };
        for row in 0..tensor.rows().min(4) {
            let mut weights = vec![0.0; tensor.cols()];
            tensor.format.dequantize(&tensor.row(row), &mut weights);
        }
    }
    if let Some(metadata) = checkpoint.gguf_metadata() {
        for key in metadata.keys() {
            let _ = (metadata.strings(key), metadata.i32s(key), metadata.f32s(key));
        }
    }
}

fn damaged(file: &[u8], damage: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>) -> Vec<u8> {
    let mut file = file.to_vec();
    for (at, byte) in damage {
        let at = at.index(file.len());
        file[at] = *byte;
    }
    if let Some(cut) = cut {
        file.truncate(cut.index(file.len() + 1));
    }
    file
}

fn gguf() -> Vec<u8> {
    let nested = [&STRING.to_le_bytes()[..], &1u64.to_le_bytes(), &string("x")].concat();
    Gguf::llama()
        .array("tokenizer.ggml.tokens", STRING, 2, &[string("ab"), string("c")].concat())
        .array("tokenizer.ggml.scores", 6, 2, &[0; 8])
        .array("nested", ARRAY, 1, &nested)
        .f32("llama.rope.scaling.factor", 2.0)
        .u32("llama.rope.dimension_count", 16)
        .bytes()
}

fn header() -> Vec<u8> {
    let header = r#"{"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [1, 4], "data_offsets": [24, 32]}}"#;
    safetensors(header, &[1; 32])
}

fn state_dict() -> Vec<u8> {
    let half = tensor(&storage("HalfStorage", "1", 8), 1, &[3, 1, 2], &[2, 9, 1]);
    let state = dict(&[(text("b"), half), (text("n"), int(-1)), (text("list"), b"](NK\x01e".to_vec())]);
    let size = b"\x8c\x05torch\x94\x8c\x04Size\x93".to_vec();
    pickle(&dict(&[(text("model"), state), (text("more"), one()), (text("size"), size)]))
}

fn torch(pickle: &[u8]) -> Vec<u8> {
    Zip { zip64: true, ..Zip::torch(pickle, &[&[1; 24], &[2; 16]]) }.bytes()
}

type Damage = Vec<(prop::sample::Index, u8)>;

fn damage() -> impl Strategy<Value = Damage> {
    // Small and extreme bytes make plausible counts and offsets; others make noise.
    let byte = prop_oneof![Just(0u8), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
    prop::collection::vec((any::<prop::sample::Index>(), byte), 0..6)
}

#[test]
fn what_is_damaged_was_whole() {
    let whole = torch_directory(&torch(&state_dict()));
    assert_eq!(Checkpoint::open(whole.path()).expect("a valid file").names().collect::<Vec<_>>(), ["b"], "its tensor");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_gguf_never_panics(damage in damage(), cut in any::<Option<prop::sample::Index>>()) {
        let scratch = directory(&[]);
        fs::write(scratch.path().join("model.gguf"), damaged(&gguf(), &damage, cut)).expect("a scratch file");
        read_all(scratch.path());
    }

    #[test]
    fn damaged_safetensors_never_panic(damage in damage(), cut in any::<Option<prop::sample::Index>>()) {
        let file = damaged(&header(), &damage, cut);
        let scratch = directory(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &file)]);
        read_all(scratch.path());
    }

    #[test]
    fn damaged_torch_files_never_panic(damage in damage(), cut in any::<Option<prop::sample::Index>>()) {
        read_all(torch_directory(&damaged(&torch(&state_dict()), &damage, cut)).path());
    }

    #[test]
    fn damaged_pickles_never_panic(damage in damage(), cut in any::<Option<prop::sample::Index>>()) {
        read_all(torch_directory(&torch(&damaged(&state_dict(), &damage, cut))).path());
    }

    #[test]
    fn damaged_configs_never_panic(damage in damage(), cut in any::<Option<prop::sample::Index>>()) {
        let file = damaged(CONFIG.as_bytes(), &damage, cut);
        let scratch = directory(&[("config.json", &file), ("model.safetensors", &header())]);
        read_all(scratch.path());
    }
}
