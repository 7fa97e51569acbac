//! Checkpoints that contradict themselves end in errors that say what, where and why.

mod common;

use std::path::Path;

use common::repository;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{ExecOptions, lower_checkpoint};

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
fn an_unknown_activation_or_family_is_refused_by_name() {
    let (_folder, message) = edited(&line("hidden_act"), "\"hidden_act\": \"quux\"");
    assert!(message.contains("\"hidden_act\" is \"quux\"") && message.contains("gelu"), "{message}");
    let (_folder, message) = edited(&line("model_type"), "\"model_type\": \"quux\"");
    assert!(message.contains("\"quux\" is not supported; supported: gpt_neox, llama"), "{message}");
}
