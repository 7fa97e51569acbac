//! Streaming keeps to its memory: of a model larger than it, and over many tokens.
//!
//! Processes of their own, since memory is counted by process. Linux only: elsewhere no one tells how much it was.
#![cfg(target_os = "linux")]

mod common;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::repository;
use serde_json::json;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{Batch, ExecOptions, LogitRows, open};
use wgpt::gpu::AdapterChoice;
use wgpt::plan::{Offload, OffloadMode};

/// Layers of the large model, each of 28 MB.
const LAYERS: usize = 20;
const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 3328;
const VOCABULARY: usize = 256;

/// Writes a Llama of random weights, f16, in a Hugging Face folder.
fn write_model(folder: &Path) {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "hidden_act": "silu", "tie_word_embeddings": false, "rope_theta": 10000.0,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
        ["q", "k", "v", "o"].iter().for_each(|name| add(&format!("self_attn.{name}_proj"), &[HIDDEN, HIDDEN]));
        ["gate", "up"].iter().for_each(|name| add(&format!("mlp.{name}_proj"), &[INTERMEDIATE, HIDDEN]));
        add("mlp.down_proj", &[HIDDEN, INTERMEDIATE]);
    }
    tensors.push(("model.norm.weight".into(), vec![HIDDEN]));
    tensors.push(("lm_head.weight".into(), vec![VOCABULARY, HIDDEN]));
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in &tensors {
        let start = end;
        end += shape.iter().product::<usize>() * 2;
        header.insert(name.clone(), json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors")).expect("made"));
    file.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(header.as_bytes()))
        .expect("written");
    // A linear congruence is random enough for weights between -0.03 and 0.03.
    let mut state = 1u32;
    let tile: Vec<u8> = (0..1 << 20)
        .flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            half::f16::from_f32((state >> 8) as f32 / (1 << 24) as f32 * 0.06 - 0.03).to_le_bytes()
        })
        .collect();
    let mut left = end;
    while left > 0 {
        let piece = left.min(tile.len());
        file.write_all(&tile[..piece]).expect("written");
        left -= piece;
    }
}

/// A number of kilobytes in a process's status, in bytes.
fn status(process: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// The most memory that a run of the program had, its share of the file cache included; `cache` is the user's cache
/// folder.
fn peak(args: &[&str], cache: &Path) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WGPT_")) {
        command.env_remove(name);
    }
    command.env("XDG_CACHE_HOME", cache);
    let mut child =
        command.args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut peak = 0;
    while child.try_wait().expect("it can be waited for").is_none() {
        peak = status(&child.id().to_string(), "VmHWM").unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    peak
}

#[test]
fn a_mapped_model_takes_no_more_host_memory_than_its_ring_and_300_mb() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    write_model(folder.path());
    let path = folder.path().to_str().expect("UTF-8");
    let size = std::fs::metadata(folder.path().join("model.safetensors")).expect("it is there").len();
    let offload = ["--checkpoint", path, "--adapter", "llvmpipe", "--offload", "all", "--offload-mode"];
    let args = |mode| [&["bench", "-p", "4", "-n", "1", "--repeats", "1"][..], &offload, &[mode]].concat();
    let limit = |more: &[&str]| {
        let plan = [&["plan", "--json", "--context-length", "64"][..], &offload, &["mapped"], more].concat();
        let planned =
            Command::new(env!("CARGO_BIN_EXE_wgpt")).args(plan).env("XDG_CACHE_HOME", common::cache_folder()).output();
        let planned = planned.expect("the program starts").stdout;
        let planned: serde_json::Value = serde_json::from_slice(&planned).expect("JSON");
        // The memory of a software adapter is this process's.
        let limit = planned["adapters"][0]["total"].as_u64().expect("bytes") + 300_000_000;
        assert!(limit < size, "a model of {size} bytes shows nothing for a limit of {limit}");
        limit
    };
    let cache = tempfile::tempdir().expect("a scratch folder");
    let (mapped, pinned) = (peak(&args("mapped"), cache.path()), peak(&args("pinned"), cache.path()));
    assert!(mapped <= limit(&[]), "{mapped} bytes, of which {} are allowed", limit(&[]));
    assert!(pinned > size, "pinned it is all in memory: {pinned} of {size} bytes");
    // Quantized, and kept for the next start: the first one reads all of the model and writes all of the cache.
    let packed = ["--quantize", "q8_0"];
    let limit = limit(&packed);
    for start in ["writes", "reads"] {
        let quantized = peak(&[&args("mapped")[..], &packed].concat(), cache.path());
        assert!(
            quantized <= limit,
            "the start that {start} the cache: {quantized} bytes, of which {limit} are allowed"
        );
    }
    let kept = wgpt::exec::PackedCache::new(&cache.path().join("wgpt/packed")).list().expect("it can be read");
    assert!(kept[0].bytes > size / 2, "it was written: {kept:?}");
}

#[test]
fn memory_is_flat_over_two_thousand_tokens() {
    for mode in [OffloadMode::Mapped, OffloadMode::Pinned] {
        let checkpoint = Checkpoint::open(&repository("checkpoints/tiny-llama-gqa")).expect("the checkpoint opens");
        let options = ExecOptions {
            adapter: AdapterChoice::Index(0),
            offload: Offload::All,
            offload_mode: Some(mode),
            context_length: Some(96),
            ..ExecOptions::default()
        };
        let (mut executor, _) = open(&checkpoint, &options, &mut |_| ()).expect("it loads");
        let mut tokens = |count: u32| {
            for token in 0..count {
                let batch = Batch { tokens: &[token % 96], position: token % 96, logits: LogitRows::Last };
                executor.forward(&batch).expect("the token runs");
            }
            status("self", "VmRSS").expect("Linux tells")
        };
        let (before, after) = (tokens(400), tokens(1600));
        assert!(after < before + (8 << 20), "{mode}: {before} bytes after 400 tokens, {after} after 2000");
    }
}
