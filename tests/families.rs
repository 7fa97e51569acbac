//! Families beyond their golden logits: half precision, the names that older checkpoints carry, and what is refused.

mod common;

use std::path::Path;

use common::{Golden, all_adapters, golden, max_difference, nmse, repository, tiny_checkpoints};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{Batch, ExecOptions, LogitRows, lower_checkpoint, open};
use wgpt::gpu::{AdapterChoice, DeviceOptions, Tier};
use wgpt::ops::KvFormat;

/// A tensor on its way from one checkpoint to another: name, type, shape, bytes.
type Moved = (String, Dtype, Vec<usize>, Vec<u8>);

/// A checkpoint's copy in another folder, its config and its tensors changed.
fn changed(
    name: &str,
    config: impl FnOnce(&mut Value),
    tensors: impl FnOnce(Vec<Moved>) -> Vec<Moved>,
) -> tempfile::TempDir {
    let source = repository("checkpoints").join(name);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(source.join("tokenizer.json"), folder.path().join("tokenizer.json")).expect("it copies");
    let text = std::fs::read_to_string(source.join("config.json")).expect("a config");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    config(&mut value);
    std::fs::write(folder.path().join("config.json"), value.to_string()).expect("it writes");
    let bytes = std::fs::read(source.join("model.safetensors")).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let all = file.tensors().into_iter();
    let moved = tensors(all.map(|(name, t)| (name, t.dtype(), t.shape().to_vec(), t.data().to_vec())).collect());
    let views = moved.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("a shape that fits"))
    });
    let written = safetensors::serialize(views, None).expect("it serializes");
    std::fs::write(folder.path().join("model.safetensors"), written).expect("it writes");
    folder
}

fn logits(folder: &Path, golden: &Golden, adapter: AdapterChoice, kv_format: KvFormat) -> Vec<f32> {
    let checkpoint = Checkpoint::open(folder).expect("the checkpoint opens");
    let context_length = Some(golden.tokens.len() as u32);
    let options = ExecOptions { adapter, context_length, kv_format: Some(kv_format), ..ExecOptions::default() };
    let (mut executor, _) = open(&checkpoint, &options, &mut |_| ()).expect("the model loads");
    let batch = Batch { tokens: &golden.tokens, position: 0, logits: LogitRows::All };
    executor.forward(&batch).expect("the forward runs").values
}

fn halved((name, dtype, shape, data): Moved) -> Moved {
    if dtype != Dtype::F32 {
        return (name, dtype, shape, data);
    }
    let values = data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let halves = values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect();
    (name, Dtype::F16, shape, halves)
}

/// Whether the config says so: then floats are scales, and mean something else in f16.
fn is_quantized(folder: &Path) -> bool {
    let text = std::fs::read_to_string(folder.join("config.json")).expect("a config");
    let config: Value = serde_json::from_str(&text).expect("JSON");
    config.get("quantization_config").is_some()
}

#[test]
fn every_family_runs_in_f16() {
    let matrices = all_adapters()[0].features.iter().any(|name| name == "cooperative-matrix");
    let most = if matrices { 1e-4 } else { 1e-5 };
    let whole = tiny_checkpoints().into_iter().filter(|folder| folder.join("model.safetensors").is_file());
    let whole = whole.filter(|folder| !is_quantized(folder));
    for source in whole {
        let name = source.file_name().expect("a name").to_string_lossy().into_owned();
        let golden = golden(&source);
        let folder = changed(&name, |_| (), |tensors| tensors.into_iter().map(halved).collect());
        let host = logits(folder.path(), &golden, AdapterChoice::Host, KvFormat::F16);
        let found = logits(folder.path(), &golden, AdapterChoice::Default, KvFormat::F16);
        // The same weights: what differs is the rounding of keys and values, and on cooperative matrices of activations.
        let error = nmse(&host, &found);
        assert!(error <= most, "{name}: nmse {error} against the host");
        // Rounded weights: far from the exact ones only if something is wrong.
        let error = nmse(&golden.logits, &found);
        assert!(error <= 1e-3, "{name}: nmse {error} against the golden logits");
    }
}

fn same_logits(name: &str, folder: &tempfile::TempDir) {
    let golden = golden(&repository("checkpoints").join(name));
    let found = logits(folder.path(), &golden, AdapterChoice::Host, KvFormat::F32);
    let difference = max_difference(&golden.logits, &found);
    assert!(difference <= 1e-4, "{name} under its older names: {difference}");
}

fn set(key: &'static str, value: impl Into<Value>) -> impl FnOnce(&mut Value) {
    let value = value.into();
    move |config| config[key] = value
}

fn rename(config: &mut Value, from: &str, to: &str) {
    let object = config.as_object_mut().expect("an object");
    if let Some(value) = object.remove(from) {
        object.insert(to.to_owned(), value);
    }
}

#[test]
fn falcon_s_first_configs_are_read() {
    let older = |config: &mut Value| {
        for (from, to) in [("num_hidden_layers", "n_layer"), ("num_attention_heads", "n_head")] {
            rename(config, from, to);
        }
        rename(config, "num_kv_heads", "n_head_kv");
        rename(config, "new_decoder_architecture", "unused");
        config.as_object_mut().expect("an object").remove("unused");
    };
    for (name, model_type) in [("tiny-falcon-7b", "RefinedWebModel"), ("tiny-falcon-40b", "RefinedWeb")] {
        let edit = |config: &mut Value| {
            older(config);
            config["model_type"] = model_type.into();
        };
        same_logits(name, &changed(name, edit, |tensors| tensors));
    }
}

#[test]
fn stablelm_s_first_configs_are_read() {
    let edit = |config: &mut Value| {
        config["model_type"] = "stablelm_epoch".into();
        rename(config, "partial_rotary_factor", "rope_pct");
        rename(config, "layer_norm_eps", "norm_eps");
        config["num_heads"] = config["num_attention_heads"].clone();
        config["rotary_scaling_factor"] = 1.0.into();
    };
    same_logits("tiny-stablelm-3b", &changed("tiny-stablelm-3b", edit, |tensors| tensors));
}

/// Keys that published configs of Llama's shape carry besides those of transformers itself.
#[test]
fn keys_that_say_nothing_of_the_maths_are_passed_over() {
    let edit = |config: &mut Value| {
        config["max_sequence_length"] = 2048.into();
        config["is_llama_config"] = true.into();
        config["rope_interleaved"] = false.into();
        config["use_mrope"] = false.into();
        config["transformers.js_config"] = serde_json::json!({"dtype": "q4"});
    };
    same_logits("tiny-llama-mha", &changed("tiny-llama-mha", edit, |tensors| tensors));
}

/// Phi 1.5 and 2 as they were first published: other names, and q, k, v as one tensor.
#[test]
fn phi_s_first_checkpoints_are_read() {
    let edit = |config: &mut Value| {
        let get = |key: &str| config[key].as_f64().expect("a number");
        let head_dim = get("hidden_size") / get("num_attention_heads");
        let rotary_dim = (head_dim * get("partial_rotary_factor")) as u32;
        config["rotary_dim"] = rotary_dim.into();
        config["model_type"] = "phi-msft".into();
        for (from, to) in [
            ("hidden_size", "n_embd"),
            ("num_attention_heads", "n_head"),
            ("num_hidden_layers", "n_layer"),
            ("max_position_embeddings", "n_positions"),
            ("intermediate_size", "n_inner"),
            ("layer_norm_eps", "layer_norm_epsilon"),
            ("hidden_act", "activation_function"),
        ] {
            rename(config, from, to);
        }
        for gone in ["partial_rotary_factor", "rope_theta", "rope_scaling", "num_key_value_heads", "qk_layernorm"] {
            config.as_object_mut().expect("an object").remove(gone);
        }
    };
    let renamed = |tensors: Vec<Moved>| {
        let mut all: Vec<Moved> = Vec::new();
        for suffix in ["weight", "bias"] {
            for layer in 0.. {
                let find = |part: &str| {
                    let name = format!("model.layers.{layer}.self_attn.{part}_proj.{suffix}");
                    tensors.iter().find(|tensor| tensor.0 == name).cloned()
                };
                let (Some(q), Some(k), Some(v)) = (find("q"), find("k"), find("v")) else { break };
                let mut shape = q.2.clone();
                shape[0] *= 3;
                all.push((format!("transformer.h.{layer}.mixer.Wqkv.{suffix}"), q.1, shape, [q.3, k.3, v.3].concat()));
            }
        }
        for (name, dtype, shape, data) in tensors {
            let name = name
                .replace("model.embed_tokens", "transformer.embd.wte")
                .replace("model.final_layernorm", "lm_head.ln")
                .replace("model.layers", "transformer.h")
                .replace("self_attn.dense", "mixer.out_proj")
                .replace("input_layernorm", "ln");
            let name = match name.strip_prefix("lm_head.").filter(|rest| !rest.starts_with("ln")) {
                Some(rest) => format!("lm_head.linear.{rest}"),
                None => name,
            };
            if !name.contains("self_attn") {
                all.push((name, dtype, shape, data));
            }
        }
        all
    };
    same_logits("tiny-phi", &changed("tiny-phi", edit, renamed));
}

#[test]
fn what_changes_the_maths_and_is_not_built_is_refused_by_name() {
    let table: &[(&str, &str, Value, &str)] = &[
        ("tiny-llama-mha", "rope_scaling", serde_json::json!({"type": "spiral", "factor": 2.0}), "\"spiral\""),
        ("tiny-llama-mha", "rope_scaling", serde_json::json!({"type": "linear", "factor": -2.0}), "factor\" is -2"),
        ("tiny-llama-mha", "residual_multiplier", 0.5.into(), "residual_multiplier"),
        ("tiny-llama-mha", "rope_interleaved", true.into(), "rope_interleaved"),
        ("tiny-stablelm-3b", "rotary_scaling_factor", 2.0.into(), "rotary_scaling_factor"),
        ("tiny-llama-mha", "num_local_experts", 8.into(), "num_local_experts"),
        ("tiny-llama-mha", "attention_bias", true.into(), "self_attn.q_proj.bias"),
        ("tiny-mistral", "layer_types", serde_json::json!(["chunked_attention"]), "layer_types[0]\" is \"chunked"),
        ("tiny-falcon-7b", "num_ln_in_parallel_attn", 3.into(), "num_ln_in_parallel_attn"),
        ("tiny-falcon-7b", "apply_residual_connection_post_layernorm", true.into(), "apply_residual_connection"),
        ("tiny-phi3", "attention_bias", true.into(), "attention_bias"),
        ("tiny-phi3-longrope-long", "rope_scaling", serde_json::json!({"type": "longrope"}), "short_factor"),
        ("tiny-gemma2", "use_bidirectional_attention", true.into(), "use_bidirectional_attention"),
        ("tiny-gemma2", "hidden_activation", "quick_gelu".into(), "quick_gelu"),
        ("tiny-olmo", "clip_qkv", (-1.0).into(), "clip_qkv"),
        ("tiny-mixtral", "num_experts_per_tok", 17.into(), "num_experts_per_tok"),
        ("tiny-qwen2-moe", "use_sliding_window", true.into(), "use_sliding_window"),
        ("tiny-gpt2", "scale_attn_by_inverse_layer_idx", true.into(), "scale_attn_by_inverse_layer_idx"),
        ("tiny-gpt2", "scale_attn_weights", false.into(), "scale_attn_weights"),
        ("tiny-mpt", "no_bias", false.into(), "no_bias"),
        ("tiny-mpt", "attn_config", serde_json::json!({"qk_ln": true}), "attn_config.qk_ln"),
        ("tiny-mpt", "logit_scale", 0.5.into(), "logit_scale"),
        ("tiny-llama-mha", "model_type", "mamba".into(), "model_type \"mamba\" is not supported"),
    ];
    for (name, key, value, expected) in table {
        let folder = changed(name, set(key, value.clone()), |tensors| tensors);
        let checkpoint = Checkpoint::open(folder.path()).expect("the files themselves are sound");
        let refused = lower_checkpoint(&checkpoint, &ExecOptions::default());
        let message = refused.map(|_| ()).expect_err(&format!("{name} with {key} {value}")).to_string();
        assert!(message.contains(expected), "{name} with {key} {value}: {message}");
    }
}

/// Not a number in one expert's weights shows whether they were read: whatever it is multiplied by.
#[test]
fn only_the_chosen_experts_weights_are_read() {
    const LAYERS: usize = 2;
    const EXPERTS: usize = 4;
    const CHOSEN: usize = 2;
    let mut golden = golden(&repository("checkpoints/tiny-mixtral"));
    golden.tokens.truncate(1);
    let logits = |folder: &Path| logits(folder, &golden, AdapterChoice::Default, KvFormat::F32);
    let expected = logits(&repository("checkpoints/tiny-mixtral"));
    for layer in 0..LAYERS {
        let poisoned = |expert: usize| {
            let prefix = format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.");
            let poison = |(name, dtype, shape, mut data): Moved| {
                if name.starts_with(&prefix) {
                    data.chunks_exact_mut(4).for_each(|value| value.copy_from_slice(&f32::NAN.to_le_bytes()));
                }
                (name, dtype, shape, data)
            };
            changed("tiny-mixtral", |_| (), |tensors| tensors.into_iter().map(poison).collect())
        };
        let untouched = (0..EXPERTS).filter(|expert| {
            let found = logits(poisoned(*expert).path());
            assert!(found == expected || found.iter().all(|logit| logit.is_nan()), "read as a whole or not at all");
            found == expected
        });
        assert_eq!(untouched.count(), EXPERTS - CHOSEN, "layer {layer}: all but the chosen ones");
    }
}

/// A row's or a column's values of a matrix, times a factor.
fn scaled((name, dtype, shape, mut data): Moved, at: impl Fn(usize, usize) -> bool, factor: f32) -> Moved {
    for (index, value) in data.chunks_exact_mut(4).enumerate().filter(|(i, _)| at(i / shape[1], i % shape[1])) {
        let scaled = f32::from_le_bytes([value[0], value[1], value[2], value[3]]) * factor;
        assert!(scaled.abs() < 65_504.0, "value {index} of {name} is f16 still: {scaled}");
        value.copy_from_slice(&scaled.to_le_bytes());
    }
    (name, dtype, shape, data)
}

#[test]
fn gated_activations_beyond_f16_are_multiplied_on_matrices() {
    const CHANNEL: usize = 5;
    // The gate's row, up's, and the column of down that they meet: its weights stay normal numbers of f16.
    const FACTORS: [(&str, f32); 3] = [("gate_proj", 16.0), ("up_proj", 16_384.0), ("down_proj", 1.0 / 256.0)];
    let with = |tensor: Moved| {
        let factor = FACTORS.iter().find(|(name, _)| tensor.0.ends_with(&format!("0.mlp.{name}.weight")));
        let Some((name, factor)) = factor else { return tensor };
        scaled(tensor, |row, column| CHANNEL == if *name == "down_proj" { column } else { row }, *factor)
    };
    let folder = changed("tiny-llama-gqa", |_| (), |tensors| tensors.into_iter().map(with).map(halved).collect());
    let checkpoint = Checkpoint::open(folder.path()).expect("the checkpoint opens");
    let tokens = golden(&repository("checkpoints/tiny-llama-gqa")).tokens;
    let batch = Batch { tokens: &tokens, position: 0, logits: LogitRows::All };
    let logits = |adapter| {
        let device = DeviceOptions { tier: Tier::EmulatedMatrix, ..DeviceOptions::default() };
        let options = ExecOptions { adapter, device, kv_format: Some(KvFormat::F32), ..ExecOptions::default() };
        let (mut executor, _) = open(&checkpoint, &options, &mut |_| ()).expect("the model loads");
        executor.forward(&batch).expect("the forward runs").values
    };
    let expected = logits(AdapterChoice::Host);
    for adapter in all_adapters() {
        let error = nmse(&expected, &logits(AdapterChoice::Index(adapter.index)));
        assert!(error < 1e-5, "{}: nmse {error}", adapter.name);
    }
}

#[test]
fn a_scaling_tells_how_far_the_context_reaches() {
    let limit = |name: &str| {
        let checkpoint = Checkpoint::open(&repository("checkpoints").join(name)).expect("the checkpoint opens");
        let (spec, _) = lower_checkpoint(&checkpoint, &ExecOptions::default()).expect("it lowers");
        (spec.max_position_embeddings, spec.max_context_length)
    };
    assert_eq!(limit("tiny-llama-mha"), (256, 256), "no scaling, no reach");
    assert_eq!(limit("tiny-llama-rope-linear"), (256, 512), "a factor of two");
    assert_eq!(limit("tiny-llama-rope-dynamic-beyond"), (32, 128), "a factor of four");
    assert_eq!(limit("tiny-llama-rope-yarn"), (256, 256), "max_position_embeddings counts the stretched positions");
}
