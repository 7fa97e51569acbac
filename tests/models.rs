//! Tiny checkpoints of every family against logits that Hugging Face transformers computed from the same files.

mod common;

use std::path::Path;

use common::{Golden, all_adapters, committed_checkpoints, golden, max_difference, nmse};
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{Activations, Batch, ExecOptions, Executor, LogitRows, lower_checkpoint, open};
use wgpt::gpu::{AdapterChoice, DeviceOptions, Tier};
use wgpt::graph::TensorId;
use wgpt::ops::{KvFormat, Phase, Traits};
use wgpt::plan::{halved, unit_kernels, weight_type};
use wgpt::tensor::{DType, Extents};

/// Golden logits are f32; the kernels that a plain adapter runs are f32 too, whatever the weights are stored in. So
/// differences are a few roundings, of the largest logit where logits are large.
fn tolerance(golden: &[f32]) -> f32 {
    let largest = golden.iter().fold(0.0f32, |most, logit| most.max(logit.abs()));
    (3e-6 * largest).max(1e-4)
}

/// Cooperative matrices multiply in f16, whose error grows with the logits: normalised mean squared error.
const MATRIX_NMSE: f64 = 1e-5;

/// The context is as long as the golden text: RoPE scalings that depend on the length take the references' choice.
fn options(adapter: AdapterChoice, golden: &Golden) -> ExecOptions {
    ExecOptions {
        adapter,
        kv_format: Some(KvFormat::F32),
        prefill_chunk: Some(48),
        context_length: Some(golden.tokens.len() as u32),
        ..ExecOptions::default()
    }
}

fn all_logits(executor: &mut dyn Executor, tokens: &[u32]) -> Vec<f32> {
    let batch = Batch { tokens, position: 0, logits: LogitRows::All };
    executor.forward(&batch).expect("the forward runs").values
}

/// What the host computes from a checkpoint, against the golden logits of a folder: what is wrong, if anything.
fn golden_failure(folder: &Path, checkpoint: &Path) -> Option<String> {
    let golden = golden(folder);
    let logits = Checkpoint::open(checkpoint).map_err(|error| error.to_string()).and_then(|checkpoint| {
        let opened = open(&checkpoint, &options(AdapterChoice::Host, &golden), &mut |_| ());
        let (mut executor, _) = opened.map_err(|error| error.to_string())?;
        Ok(all_logits(&mut *executor, &golden.tokens))
    });
    match logits.map(|logits| max_difference(&golden.logits, &logits)) {
        Ok(difference) if difference <= tolerance(&golden.logits) => None,
        Ok(difference) => Some(format!("{}: at most {difference}", checkpoint.display())),
        Err(error) => Some(format!("{}: {error}", checkpoint.display())),
    }
}

#[test]
fn gpu_logits_equal_the_golden_ones() {
    let mut failures = Vec::new();
    for adapter in all_adapters() {
        for folder in committed_checkpoints() {
            let golden = golden(&folder);
            let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
            let choice = AdapterChoice::Index(adapter.index);
            let (mut executor, _) = open(&checkpoint, &options(choice, &golden), &mut |_| ()).expect("the model loads");
            let found = all_logits(&mut *executor, &golden.tokens);
            let difference = max_difference(&golden.logits, &found);
            let error = nmse(&golden.logits, &found);
            let matrices = adapter.features.iter().any(|name| name == "cooperative-matrix");
            let close = if matrices { error <= MATRIX_NMSE } else { difference <= tolerance(&golden.logits) };
            let place = format!("{} on {}", folder.display(), adapter.name);
            failures.extend((!close).then(|| format!("{place}: at most {difference}, nmse {error}")));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn gguf_forms_give_the_golden_logits_too() {
    let files: Vec<_> =
        committed_checkpoints().into_iter().filter(|folder| folder.join("model.gguf").is_file()).collect();
    assert!(files.len() >= 8, "the tiny checkpoints come as GGUF as well, found {files:?}");
    let failures: Vec<String> =
        files.iter().filter_map(|folder| golden_failure(folder, &folder.join("model.gguf"))).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn host_logits_equal_the_golden_ones() {
    let mut failures = Vec::new();
    for folder in committed_checkpoints() {
        failures.extend(golden_failure(&folder, &folder));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn matrices_of_one_input_may_differ_in_format() {
    let checkpoint = Checkpoint::open(&common::repository("checkpoints/tiny-llama-q4_k_m")).expect("it opens");
    let (_, graph) = lower_checkpoint(&checkpoint, &ExecOptions::default()).expect("it lowers");
    let weights = |layer: &str| {
        let unit = graph.units.iter().find(|unit| unit.name == layer).expect("the layer is a unit");
        unit.weights.iter().map(|id| graph.weights[id.0].format.name()).collect::<Vec<_>>()
    };
    let (q4, q6) = ("q4_k", "q6_k");
    assert_eq!(weights("layer 0"), [q4, q4, q6, q4, q4, q6], "q, k, v, o, gate with up, down: v apart from q and k");
    assert_eq!(weights("layer 1"), [q4; 4], "qkv, o, gate with up, down");
}

#[test]
fn rows_are_rounded_where_their_unit_reads_them() {
    let mut count = 0;
    for folder in committed_checkpoints() {
        let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
        let options = ExecOptions { activations: Some(Activations::Q8), ..ExecOptions::default() };
        let (_, graph) = lower_checkpoint(&checkpoint, &options).expect("it lowers");
        for unit in &graph.units {
            let nodes = &graph.nodes[unit.nodes.clone()];
            let rounded = |id: &TensorId| graph.activation(*id).is_some_and(|ty| ty.dtype == DType::Q8);
            for id in nodes.iter().flat_map(|node| &node.outputs).filter(|id| rounded(id)) {
                let read = nodes.iter().any(|node| node.inputs.contains(id));
                assert!(read, "{}, {}: nobody reads {}", folder.display(), unit.name, graph.tensors[id.0].name);
                count += 1;
            }
        }
    }
    assert!(count > 20, "there are checkpoints of quantized weights, with {count} rounded rows");
}

#[test]
fn what_only_cooperative_matrices_read_is_f16() {
    let adapter = Traits::large();
    let without = Traits { cooperative_matrix: false, ..adapter.clone() };
    let extents = Extents { tokens: 64, logit_rows: 1 };
    let names = |folder: &str, kv_format, traits: &Traits| {
        let checkpoint = Checkpoint::open(&common::repository(folder)).expect("it opens");
        let options = ExecOptions { kv_format: Some(kv_format), ..ExecOptions::default() };
        let (_, graph) = lower_checkpoint(&checkpoint, &options).expect("it lowers");
        let types: Vec<_> = graph.weights.iter().map(|weight| weight_type(weight, u64::MAX)).collect();
        let unit = graph.units.iter().find(|unit| unit.name == "layer 0").expect("there are layers");
        let halved = halved(&graph, unit, (traits, extents), |id| &types[id.0]);
        let named = |(id, dtype): (&TensorId, &DType)| {
            let name = &graph.tensors[id.0].name["layer 0 ".len()..];
            if *dtype == DType::F16Scaled { format!("{name}, scaled") } else { name.to_owned() }
        };
        halved.iter().map(named).collect::<Vec<_>>()
    };
    let parallel = "checkpoints/tiny-gpt-neox-f16";
    assert_eq!(names(parallel, KvFormat::F16, &adapter), ["attention norm", "mlp norm", "attention", "up"]);
    let turned = names(parallel, KvFormat::Q8_0, &adapter);
    assert_eq!(turned, ["attention norm", "mlp norm", "up"], "what is turned back is so as f32");
    let sequential = names("checkpoints/tiny-llama-q8_0", KvFormat::F16, &adapter);
    assert_eq!(sequential, ["attention norm", "attention", "mlp norm", "gated, scaled"]);
    let f32 = names(parallel, KvFormat::F16, &without);
    assert!(f32.is_empty(), "without matrices everything is f32: {f32:?}");
}

#[test]
fn matrices_that_wait_for_nothing_share_a_dispatch() {
    // By node of the first layer: what its kernels for many rows are called.
    let many = |folder: &Path, traits: &Traits| {
        let checkpoint = Checkpoint::open(folder).expect("it opens");
        let (_, graph) = lower_checkpoint(&checkpoint, &ExecOptions::default()).expect("it lowers");
        let types: Vec<_> = graph.weights.iter().map(|weight| weight_type(weight, u64::MAX)).collect();
        let unit = graph.units.iter().find(|unit| unit.name == "layer 0").expect("there are layers");
        let extents = Extents { tokens: 64, logit_rows: 1 };
        let all = unit_kernels(&graph, unit, (traits, extents), |id| &types[id.0]).into_iter();
        let all = all.filter(|own| own.phase == Phase::Prefill).map(|own| {
            let name = &graph.tensors[graph.nodes[own.node].outputs[0].0].name["layer 0 ".len()..];
            let sources = own.kernels.iter().map(|kernel| {
                let both = kernel.slots.iter().any(|(_, file)| file == "lib/second_weight");
                format!("{}{}", kernel.source, if both { " of two" } else { "" })
            });
            (name.to_owned(), sources.collect::<Vec<_>>())
        });
        all.filter(|(name, _)| ["qkv", "up"].contains(&name.as_str())).collect::<Vec<_>>()
    };
    let of = |name: &str, sources: &[&str]| (name.to_owned(), sources.iter().map(|s| (*s).to_owned()).collect());
    let parallel = common::repository("checkpoints/tiny-gpt-neox-f16");
    assert_eq!(many(&parallel, &Traits::large()), [of("qkv", &["gemm_matrix of two"]), of("up", &["sum_parts_f16"])]);
    let without = many(&parallel, &Traits { cooperative_matrix: false, ..Traits::large() });
    assert_eq!(without, [of("qkv", &["gemm"]), of("up", &["gemm"])]);
    // The same layers, one part behind the other.
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::copy(parallel.join("model.safetensors"), folder.path().join("model.safetensors")).expect("it is copied");
    let config = std::fs::read_to_string(parallel.join("config.json")).expect("there is one");
    let config = config.replace("\"use_parallel_residual\": true", "\"use_parallel_residual\": false");
    std::fs::write(folder.path().join("config.json"), config).expect("it is written");
    let sequential = many(folder.path(), &Traits::large());
    let up = of("up", &["gemm_matrix", "sum_parts_f16"]);
    assert_eq!(sequential, [of("qkv", &["gemm_matrix"]), up], "up waits for attention");
}

#[test]
fn decoding_token_by_token_gives_the_prefill_s_logits() {
    for folder in committed_checkpoints() {
        let golden = golden(&folder);
        let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
        let (mut executor, _) =
            open(&checkpoint, &options(AdapterChoice::Default, &golden), &mut |_| ()).expect("the model loads");
        let (vocab_size, most) = (executor.vocab_size(), tolerance(&golden.logits));
        for (position, token) in golden.tokens.iter().enumerate() {
            let batch = Batch { tokens: &[*token], position: position as u32, logits: LogitRows::Last };
            let found = executor.forward(&batch).expect("the forward runs").values;
            let expected = &golden.logits[position * vocab_size..][..vocab_size];
            let difference = max_difference(expected, &found);
            assert!(difference <= most, "{} position {position}: {difference}", folder.display());
        }
    }
}

#[test]
fn every_tier_gives_the_golden_logits() {
    let matrices = all_adapters()[0].features.iter().any(|name| name == "cooperative-matrix");
    // Quantized weights, dense ones of f16 and of f32, layer norms in parallel layers, experts.
    for name in ["tiny-llama-q4_0", "tiny-gpt-neox-f16", "tiny-falcon-7b", "tiny-mixtral"] {
        let folder = common::repository("checkpoints").join(name);
        let golden = golden(&folder);
        let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
        for tier in [Tier::Full, Tier::EmulatedMatrix, Tier::NoMatrix, Tier::NoFeatures, Tier::Plain] {
            let device = DeviceOptions { tier, ..DeviceOptions::default() };
            // What a GPU would round to 8 bits is told of elsewhere.
            let activations = Some(Activations::F32);
            let options = ExecOptions { device, activations, ..options(AdapterChoice::Default, &golden) };
            let (mut executor, _) = open(&checkpoint, &options, &mut |_| ()).expect("the model loads");
            let prompt = &golden.tokens[..golden.tokens.len() - 2];
            let mut found = all_logits(&mut *executor, prompt);
            for position in prompt.len()..golden.tokens.len() {
                let batch = Batch {
                    tokens: &golden.tokens[position..=position],
                    position: position as u32,
                    logits: LogitRows::Last,
                };
                found.extend(executor.forward(&batch).expect("a token runs").values);
            }
            let (difference, error) = (max_difference(&golden.logits, &found), nmse(&golden.logits, &found));
            let close = match tier {
                Tier::EmulatedMatrix => error <= MATRIX_NMSE,
                Tier::Full if matrices => error <= MATRIX_NMSE,
                _ => difference <= tolerance(&golden.logits),
            };
            assert!(close, "{name} {tier:?}: at most {difference}, nmse {error}");
        }
    }
}

#[test]
fn a_shorter_position_forgets_what_came_after() {
    let folder = common::repository("checkpoints/tiny-llama-gqa");
    let golden = golden(&folder);
    let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
    let options = ExecOptions { context_length: None, ..options(AdapterChoice::Default, &golden) };
    let (mut executor, _) = open(&checkpoint, &options, &mut |_| ()).expect("it loads");
    let whole = all_logits(&mut *executor, &golden.tokens);
    let batch = Batch { tokens: &golden.tokens[20..], position: 20, logits: LogitRows::Last };
    let again = executor.forward(&batch).expect("the forward runs");
    let last = &whole[whole.len() - again.vocab_size..];
    assert!(max_difference(last, &again.values) <= 1e-5, "going back to a position and on again changes nothing");
    let ahead = Batch { tokens: &[1], position: 250, logits: LogitRows::Last };
    let error = executor.forward(&ahead).expect_err("positions can't be skipped").to_string();
    assert!(error.contains("holds only 65 tokens"), "{error}");
}
