//! Every family's GGUF form says what its Hugging Face form says: the same keys, the same tensors.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use wgpt::checkpoint::{Checkpoint, Config, RopeRows};

use crate::tiny::checkpoints_with_both_forms;

/// Keys of a config.json that no GGUF has, though they are neither null nor false: about training, about the program,
/// or about what the family takes for granted.
const UNSAID: &[&str] = &[
    "architectures",
    "attention_dropout",
    "attention_softmax_in_fp32",
    "attn_impl",
    "attn_pdrop",
    "attn_type",
    "cache_implementation",
    "decoder_sparse_step",
    "dtype",
    "embd_pdrop",
    "emb_pdrop",
    "embedding_fraction",
    "full_attn_mod",
    "hidden_dropout",
    "inference_runner",
    "init_config",
    "init_device",
    "initializer_range",
    "interpolate_factor",
    "learned_pos_emb",
    "max_window_layers",
    "mlp_only_layers",
    "n_ctx",
    "norm_type",
    "pad_key_length",
    "pretraining_tp",
    "resid_pdrop",
    "rope_parameters",
    "router_aux_loss_coef",
    "scale_attention_softmax_in_fp32",
    "scale_attn_weights",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tokenizer_name",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "validate_runner_input",
    "verbose",
];

/// What llama.cpp's converter leaves out, and the value that the family has without a word.
const DEFAULTS: &[(&str, f64)] = &[("rope_theta", 10000.0), ("rotary_emb_base", 10000.0)];

/// Keys of the files that say who made them; a GGUF names its tokenizer's ids.
const OTHERWISE: &[&str] = &["bos_token_id", "eos_token_id", "pad_token_id", "model_type"];

fn forms(folder: &Path) -> (Map<String, Value>, Checkpoint, Checkpoint) {
    let text = std::fs::read_to_string(folder.join("config.json")).expect("it can be read");
    let raw = serde_json::from_str(&text).expect("a JSON object");
    let hugging_face = Checkpoint::open(folder).expect("the directory opens");
    (raw, hugging_face, Checkpoint::open(&folder.join("model.gguf")).expect("the file opens"))
}

/// What the converter leaves out though the family needs it: Qwen2's window, which no published model uses, and the
/// dynamic and Llama 3 scalings, the latter a tensor of its own.
fn is_lost(key: &str, value: &Value, raw: &Map<String, Value>) -> bool {
    match key {
        "sliding_window" => raw.get("use_sliding_window") == Some(&Value::Bool(false)),
        "rope_scaling" => matches!(scaling_kind(value).as_deref(), Some("dynamic" | "llama3")),
        _ => false,
    }
}

fn scaling_kind(scaling: &Value) -> Option<String> {
    let kind = scaling.get("rope_type").or(scaling.get("type"))?;
    Some(kind.as_str()?.to_owned())
}

/// Compares a section of config.json with the translated one.
fn compare(raw: &Map<String, Value>, translated: &Config, at: &str) {
    for (key, value) in raw {
        if OTHERWISE.contains(&key.as_str()) || (UNSAID.contains(&key.as_str()) && !translated.has(key)) {
            continue;
        }
        let what = format!("{at}: {key}");
        if !translated.has(key) {
            let default = DEFAULTS.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
            let says = !is_lost(key, value, raw)
                && default != value.as_f64()
                && !value.is_null()
                && *value != Value::Bool(false);
            assert!(!says, "{what}: {value} has no translation");
            continue;
        }
        match value {
            Value::Null => assert_eq!(key, "n_inner", "{what} is null, but translated"),
            Value::Bool(value) => assert_eq!(translated.bool(key).expect(&what), *value, "{what}"),
            Value::String(value) => assert_eq!(translated.str(key).expect(&what), value, "{what}"),
            Value::Number(value) => {
                let expected = value.as_f64().expect("a number") as f32;
                assert_eq!(translated.f32(key).expect(&what), expected, "{what}");
            }
            Value::Object(_) if key == "rope_scaling" => compare_rope(value, translated, &what),
            Value::Object(section) => {
                compare(section, &translated.section(key).expect(&what).expect("it is there"), &what);
            }
            Value::Array(_) => panic!("{what}: no list is translated"),
        }
    }
}

/// Long and short factors are tensors in a GGUF.
fn compare_rope(raw: &Value, translated: &Config, what: &str) {
    let scaling = translated.section("rope_scaling").expect(what).expect("it is there");
    let kind = scaling_kind(raw).expect(what);
    assert_eq!(scaling.str("rope_type").expect(what), kind, "{what}");
    if let Some(factor) = raw.get("factor") {
        assert_eq!(f64::from(scaling.f32("factor").expect(what)), factor.as_f64().expect(what), "{what}");
    }
    if kind == "longrope" {
        let beyond = translated.f32("max_position_embeddings").expect(what);
        let original = translated.f32("original_max_position_embeddings").expect(what);
        let expected = (1.0 + (beyond / original).ln() / original.ln()).sqrt();
        let found = scaling.f32("attention_factor").expect(what);
        assert!((found - expected).abs() < 1e-6, "{what}: {found}, expected {expected}");
    }
}

#[test]
fn configs_say_the_same() {
    for folder in checkpoints_with_both_forms() {
        let (raw, _, gguf) = forms(&folder);
        let at = folder.display().to_string();
        let config = gguf.config().expect("a known architecture");
        compare(&raw, config, &at);
        let model_type = raw["model_type"].as_str().expect("a name").replace("mistral", "llama");
        assert_eq!(config.architecture().expect("a name"), model_type, "{at}: model_type");
        let prefix = gguf.gguf_metadata().and_then(|metadata| metadata.architecture().ok()?).expect("a name");
        let kept: Vec<_> = config.unread().into_iter().filter(|key| key.starts_with(&format!("{prefix}."))).collect();
        assert!(kept.is_empty(), "{at}: not translated {kept:?}");
    }
}

/// Values by name; numbered experts and heads count as one tensor, as GGUF stacks them.
fn sizes(checkpoint: &Checkpoint) -> BTreeMap<String, usize> {
    let mut sizes = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let mut parts: Vec<_> = tensor.name.split('.').collect();
        if let Some(at) = parts.iter().position(|part| matches!(*part, "experts" | "norms"))
            && parts[at + 1].parse::<u32>().is_ok()
        {
            parts.remove(at + 1);
        }
        let old_gpt2 = matches!(parts[0], "h" | "wte" | "wpe" | "ln_f");
        let name = if old_gpt2 { format!("transformer.{}", parts.join(".")) } else { parts.join(".") };
        *sizes.entry(name).or_default() += tensor.shape.iter().product::<usize>();
    }
    sizes.retain(|name, _| !name.starts_with("rope_f") && !name.ends_with(".attn.bias"));
    sizes
}

#[test]
fn tensors_are_the_same() {
    for folder in checkpoints_with_both_forms() {
        let (raw, hugging_face, gguf) = forms(&folder);
        assert_eq!(sizes(&gguf), sizes(&hugging_face), "{}", folder.display());
        let rows = gguf.config().expect("a known architecture").rows;
        let permuted = matches!(raw["model_type"].as_str(), Some("llama" | "mistral" | "mixtral" | "olmo"));
        assert_eq!(rows.rope == RopeRows::Interleaved, permuted, "{}: q and k", folder.display());
        for expected in hugging_face.tensors() {
            let Ok(found) = gguf.tensor(expected.name) else { continue };
            let mut shape = found.shape.to_vec();
            if raw["model_type"] == "gpt2" && expected.name.contains(".c_") {
                shape.reverse();
            }
            shape.splice(0..0, (expected.name.contains("shared_expert_gate")).then_some(1));
            assert_eq!(shape, expected.shape, "{}: {}", folder.display(), expected.name);
        }
    }
}
