//! Checkpoints that contradict themselves end in errors that say what, where and why.

mod common;

use std::path::Path;

use common::repository;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{ExecOptions, lower_checkpoint, open};
use wgpt::gpu::AdapterChoice;

/// A tiny checkpoint's copy with one text of its config replaced.
fn edited(from: &str, to: &str) -> (tempfile::TempDir, String) {
    let source = repository("checkpoints/tiny-llama-mha");
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(source.join(name), folder.path().join(name)).expect("it copies");
    }
    let config = std::fs::read_to_string(source.join("config.json")).expect("a config");
    assert!(config.contains(from), "the config says {from}");
    std::fs::write(folder.path().join("config.json"), config.replace(from, to)).expect("it writes");
    let message = refusal(folder.path());
    (folder, message)
}

fn refusal(path: &Path) -> String {
    let checkpoint = Checkpoint::open(path).expect("the files themselves are sound");
    lower_checkpoint(&checkpoint, &ExecOptions::default()).expect_err("it is refused").to_string()
}

/// `"key": value` as the tiny config has it.
fn line(key: &str) -> String {
    let config = repository("checkpoints/tiny-llama-mha/config.json");
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(config).expect("a config")).expect("JSON");
    format!("\"{key}\": {}", json[key])
}

#[test]
fn sizes_out_of_all_proportion_are_refused_before_memory_is_asked_for() {
    for key in ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"] {
        for size in ["4294967295", "0"] {
            let (_folder, message) = edited(&line(key), &format!("\"{key}\": {size}"));
            assert!(message.contains(key) && message.contains(size), "{key} {size}: {message}");
        }
    }
}

#[test]
fn a_wrong_shape_names_tensor_expected_and_found() {
    let (_folder, message) = edited(&line("intermediate_size"), "\"intermediate_size\": 4");
    assert!(message.contains("mlp.gate_proj.weight\": expected (4, "), "{message}");
}

#[test]
fn too_few_layers_leave_tensors_over() {
    let (_folder, message) = edited(&line("num_hidden_layers"), "\"num_hidden_layers\": 1");
    assert!(message.contains("tensors are not part of a llama model") && message.contains("layers.1"), "{message}");
}

#[test]
fn too_many_layers_miss_tensors() {
    let (_folder, message) = edited(&line("num_hidden_layers"), "\"num_hidden_layers\": 50");
    assert!(message.contains("model.layers.") && message.contains("q_proj.weight"), "{message}");
}

#[test]
fn a_scale_that_is_no_number_is_refused_with_tensor_and_row() {
    let source = repository("checkpoints/tiny-llama-q4_k_m/model.gguf");
    let sound = Checkpoint::open(&source).expect("the file is sound");
    let name = "model.layers.0.mlp.down_proj.weight";
    let view = sound.tensor(name).expect("it is there");
    assert_eq!(view.format.name(), "q6_k", "as in published Q4_K_M files");
    let mut bytes = std::fs::read(&source).expect("the file can be read");
    let tensor = bytes.windows(view.bytes.len()).position(|window| window == view.bytes).expect("its bytes are there");
    // The last two bytes of row 9's block are its scale.
    let scale = tensor + 10 * view.format.row_bytes(view.cols()) - 2;
    bytes[scale..scale + 2].copy_from_slice(&[0x00, 0x7e]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("it writes");
    let damaged = Checkpoint::open(&path).expect("scales are not looked at before they are loaded");
    for adapter in [AdapterChoice::Host, AdapterChoice::Default] {
        let options = ExecOptions { adapter, ..ExecOptions::default() };
        let message = open(&damaged, &options, &mut |_| ()).err().expect("it is refused").to_string();
        for part in ["model.gguf: ", name, "row 9, weights 0 to 255", "q6_k", "damaged"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}

#[test]
fn an_unknown_activation_or_family_is_refused_by_name() {
    let (_folder, message) = edited(&line("hidden_act"), "\"hidden_act\": \"quux\"");
    assert!(message.contains("\"hidden_act\" is \"quux\"") && message.contains("gelu"), "{message}");
    let (_folder, message) = edited(&line("model_type"), "\"model_type\": \"quux\"");
    assert!(message.contains("\"quux\" is not supported; supported: gpt_neox, llama"), "{message}");
}
