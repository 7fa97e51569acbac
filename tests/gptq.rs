//! GPTQ: codes against numpy's, what it gains over rounding, the folders it writes, and what it refuses.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{golden, nmse, repository};
use half::f16;
use safetensors::SafeTensors;
use wgpt::checkpoint::{Checkpoint, GptqCodes, GptqLinear};
use wgpt::exec::{Batch, ExecOptions, LogitRows, lower_checkpoint, open, plan_checkpoint};
use wgpt::gptq::{GptqError, GptqOptions, GptqReport, foresee, quantize, round_linear, to_folder, windows};
use wgpt::gpu::AdapterChoice;
use wgpt::graph::Graph;
use wgpt::ops::KvFormat;
use wgpt::session::Language;
use wgpt::tokenizer::Special;

const STORIES: &str = "checkpoints/wgpt-stories-4m";

fn checkpoint(path: &str) -> Checkpoint {
    Checkpoint::open(&repository(path)).expect("the checkpoint opens")
}

fn on(adapter: AdapterChoice) -> ExecOptions {
    ExecOptions { adapter, kv_format: Some(KvFormat::F32), ..ExecOptions::default() }
}

/// Rounds a checkpoint in memory.
fn rounded(
    checkpoint: &Checkpoint,
    texts: &[Vec<u32>],
    options: &GptqOptions,
    exec: &ExecOptions,
) -> Result<(Vec<GptqLinear>, GptqReport), GptqError> {
    let mut linears = Vec::new();
    let mut take = |linear| {
        linears.push(linear);
        Ok(())
    };
    let report = quantize(checkpoint, texts, options, exec, &mut |_| (), &mut take)?;
    Ok((linears, report))
}

/// A text of the stories' grammar, in windows of 256 tokens: software adapters take their time.
fn tales(checkpoint: &Checkpoint, file: &str, most: usize) -> Vec<Vec<u32>> {
    let text = std::fs::read_to_string(repository("tests/golden").join(file)).expect("the text is there");
    let tokenizer = Language::of(checkpoint).expect("a tokenizer").tokenizer;
    let tokens = tokenizer.encode(&text, Special::Add).expect("it encodes");
    windows(&tokens, 512).expect("long enough").into_iter().take(most).map(|window| window[..256].to_vec()).collect()
}

/// Token ids that a tiny model of random weights is calibrated with.
fn ids(vocab_size: u32, texts: usize, tokens: usize) -> Vec<Vec<u32>> {
    let id = |at: usize| (at as u32).wrapping_mul(2_654_435_761) % vocab_size;
    (0..texts).map(|text| (0..tokens).map(|at| id(text * tokens + at + 1)).collect()).collect()
}

fn logits(checkpoint: &Checkpoint, tokens: &[u32], exec: &ExecOptions) -> Vec<f32> {
    let (mut executor, _) = open(checkpoint, exec, &mut |_| ()).expect("the model loads");
    executor.forward(&Batch { tokens, position: 0, logits: LogitRows::All }).expect("the forward runs").values
}

/// Mean negative log-likelihood of the texts' second halves.
fn loss(checkpoint: &Checkpoint, texts: &[Vec<u32>]) -> f64 {
    let (mut executor, _) = open(checkpoint, &on(AdapterChoice::Default), &mut |_| ()).expect("the model loads");
    let (mut sum, mut count) = (0.0, 0);
    for text in texts {
        let logits = executor.forward(&Batch { tokens: text, position: 0, logits: LogitRows::All }).expect("it runs");
        for (row, next) in logits.rows().zip(&text[1..]).skip(text.len() / 2) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = row.iter().map(|logit| f64::from(logit - most).exp()).sum();
            sum += total.ln() - f64::from(row[*next as usize] - most);
            count += 1;
        }
    }
    sum / f64::from(count)
}

/// A tensor's values.
fn values(checkpoint: &Checkpoint, tensor: &str) -> (Vec<f32>, usize) {
    let view = checkpoint.tensor(tensor).expect("it is there");
    let mut values = vec![0.0; view.rows() * view.cols()];
    view.format.dequantize(&view.rows_from(0..view.rows()), &mut values);
    (values, view.cols())
}

/// The same linears, each weight rounded to the nearest code: what GPTQ does where inputs are independent.
fn nearest(checkpoint: &Checkpoint, linears: &[GptqLinear]) -> Checkpoint {
    let round = |linear: &GptqLinear| {
        let (weights, cols) = values(checkpoint, &linear.tensor);
        let mut hessian = vec![0.0; cols * cols];
        (0..cols).for_each(|input| hessian[input * cols + input] = 1.0);
        let options = GptqOptions { group_size: linear.group_size, ..GptqOptions::default() };
        let plain = round_linear(&weights, &hessian, cols, &options).expect("it has an inverse");
        let contents =
            GptqCodes { codes: &plain.codes, scales: &plain.scales, zeros: &plain.zeros, group_of: &plain.group_of };
        GptqLinear::pack(linear.tensor.clone(), linear.group_size, contents)
    };
    checkpoint.with_gptq(&linears.iter().map(round).collect::<Vec<_>>())
}

fn formats(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    graph.weights.iter().for_each(|weight| *counts.entry(weight.format.name()).or_default() += 1);
    counts
}

#[test]
fn codes_are_those_of_the_paper_s_algorithm_in_numpy() {
    let bytes = std::fs::read(repository("tests/golden/gptq.safetensors")).expect("the golden file is there");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let data = |name: &str| file.tensor(name).unwrap_or_else(|_| panic!("{name} is there")).data().to_vec();
    let floats =
        |name: &str| data(name).as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect::<Vec<f32>>();
    for (name, problem, cols, group_size, act_order) in [
        ("groups", "24x160", 160, Some(32), false),
        ("rows", "16x96", 96, None, false),
        ("act_order", "24x160", 160, Some(32), true),
        ("wide", "8x192", 192, Some(96), false),
    ] {
        let options = GptqOptions { group_size, act_order, ..GptqOptions::default() };
        let (weights, hessian) = (floats(&format!("{problem}.weights")), floats(&format!("{problem}.hessian")));
        let found = round_linear(&weights, &hessian, cols, &options).expect("it has an inverse");
        let codes = data(&format!("{name}.codes"));
        let off: Vec<u8> = codes.iter().zip(&found.codes).map(|(a, b)| a.abs_diff(*b)).collect();
        let count = off.iter().filter(|off| **off > 0).count();
        // A weight that lies between two codes may go either way in f32, and changes those after it a little.
        assert!(count * 200 <= codes.len(), "{name}: {count} of {} codes differ", codes.len());
        assert!(off.iter().all(|off| *off <= 1), "{name}: none by more than one");
        let scales = data(&format!("{name}.scales"));
        for (expected, found) in scales.as_chunks().0.iter().zip(&found.scales) {
            let (expected, found) = (f16::from_le_bytes(*expected).to_f32(), found.to_f32());
            assert!((expected / found - 1.0).abs() < 2e-3, "{name}: scale {found}, expected {expected}");
        }
        assert_eq!(data(&format!("{name}.zeros")), found.zeros, "{name}: zero points");
        let groups: Vec<u8> = found.group_of.iter().flat_map(|group| group.to_le_bytes()).collect();
        assert_eq!(data(&format!("{name}.g_idx")), groups, "{name}: groups");
        // The column that no input touches is zero.
        let (row, group) = (3, found.group_of[5] as usize);
        let zero = found.zeros[row * (found.zeros.len() / (weights.len() / cols)) + group];
        assert_eq!(found.codes[row * cols + 5], zero, "{name}: the dead column");
    }
}

#[test]
fn held_out_text_is_predicted_better_than_by_the_nearest_codes() {
    let stories = checkpoint(STORIES);
    let (text, held_out) = (tales(&stories, "tales_calibration.txt", 6), tales(&stories, "tales_held_out.txt", 6));
    let exact = loss(&stories, &held_out);
    for (group_size, act_order) in [(Some(64), false), (None, true)] {
        let options = GptqOptions { group_size, act_order, ..GptqOptions::default() };
        let (linears, report) =
            rounded(&stories, &text, &options, &on(AdapterChoice::Default)).expect("it can be rounded");
        assert_eq!((report.rounded, linears.len()), (32, 32), "qkv, o, up, down of eight layers");
        assert!(report.kept.is_empty() && report.group_size == group_size, "{report:?}");
        let by_gptq = loss(&stories.with_gptq(&linears), &held_out);
        let by_nearest = loss(&nearest(&stories, &linears), &held_out);
        eprintln!("groups {group_size:?}: exact {exact:.4}, gptq {by_gptq:.4}, nearest {by_nearest:.4}");
        assert!(by_nearest > exact, "rounding costs something: {by_nearest} from {exact}");
        assert!(
            by_gptq - exact < 0.7 * (by_nearest - exact),
            "GPTQ loses clearly less: exact {exact}, gptq {by_gptq}, nearest {by_nearest}"
        );
    }
}

#[test]
fn adapter_and_host_find_the_same_codes() {
    // Some of whose linears stay; a parallel residual; fused ones.
    for name in ["tiny-llama-gqa", "tiny-falcon-40b", "tiny-phi4-mini"] {
        let model = checkpoint(&format!("checkpoints/{name}"));
        let text = ids(64, 3, 40);
        let options = GptqOptions { group_size: Some(32), ..GptqOptions::default() };
        let codes = |adapter| rounded(&model, &text, &options, &on(adapter)).expect("it can be rounded").0;
        let (host, adapter) = (codes(AdapterChoice::Host), codes(AdapterChoice::Default));
        let names = |linears: &[GptqLinear]| linears.iter().map(|l| l.tensor.clone()).collect::<Vec<_>>();
        assert_eq!(names(&host), names(&adapter), "{name}");
        assert!(!host.is_empty(), "{name}: some linears are rounded");
        let words = host.iter().zip(&adapter).flat_map(|(a, b)| a.qweight.iter().zip(b.qweight.iter()));
        let differ = words.clone().filter(|(a, b)| a != b).count();
        assert!(differ * 50 < words.count(), "{name}: {differ} bytes of codes differ");
    }
}

/// Writes a rounded checkpoint and opens it.
fn written(model: &Checkpoint, texts: &[Vec<u32>], options: &GptqOptions, folder: &Path) -> (Checkpoint, GptqReport) {
    let exec = on(AdapterChoice::Host);
    let (report, bytes) =
        to_folder(model, texts, options, &exec, folder, &mut |_| ()).expect("the folder can be written");
    assert_eq!(std::fs::metadata(folder.join("model.safetensors")).expect("it is there").len(), bytes, "bytes written");
    (Checkpoint::open(folder).expect("it opens"), report)
}

#[test]
fn a_folder_computes_what_rounding_at_load_does() {
    let names = [
        "tiny-llama-gqa",
        "tiny-llama-bias",
        "tiny-gpt-neox-f16",
        "tiny-falcon-40b",
        "tiny-phi4-mini",
        "tiny-qwen2-moe",
    ];
    for name in names {
        let folder = repository("checkpoints").join(name);
        let (model, tokens) = (Checkpoint::open(&folder).expect("it opens"), &golden(&folder).tokens[..12]);
        let text = ids(64, 3, 40);
        for act_order in [false, true] {
            let scratch = tempfile::tempdir().expect("a scratch folder");
            let options = GptqOptions { group_size: Some(32), act_order, ..GptqOptions::default() };
            let exec = on(AdapterChoice::Host);
            let (linears, report) = rounded(&model, &text, &options, &exec).expect("it can be rounded");
            let output = scratch.path().join("rounded");
            let (copy, said) = written(&model, &text, &options, &output);
            assert_eq!(report.to_string(), said.to_string(), "{name}");
            let at_load = logits(&model.with_gptq(&linears), tokens, &exec);
            assert!(at_load == logits(&copy, tokens, &exec), "{name}, act_order {act_order}");
            let error = nmse(&logits(&model, tokens, &exec), &at_load);
            assert!(error > 1e-6 && error < 0.3, "{name}: rounded, not another model: nmse {error}");
            assert!(output.join("tokenizer.json").is_file(), "{name}: what belongs to it is copied");
            let again = to_folder(&model, &text, &options, &exec, &output, &mut |_| ()).expect_err("it is there");
            assert!(again.to_string().contains("is there already"), "{again}");
            let left: Vec<_> = std::fs::read_dir(scratch.path()).expect("a folder").collect();
            assert_eq!(left.len(), 1, "{name}: nothing but the folder");
        }
    }
}

/// A GPT-2, whose linears are stored transposed, wide enough to be rounded.
fn wide_gpt2() -> (tempfile::TempDir, Checkpoint) {
    let (folder, source) =
        (tempfile::tempdir().expect("a scratch folder"), repository("checkpoints/tiny-gpt2-prefixed"));
    let config = std::fs::read_to_string(source.join("config.json")).expect("a config");
    let config = config.replace("\"n_embd\": 40", "\"n_embd\": 64").replace("\"n_inner\": 100", "\"n_inner\": 128");
    std::fs::write(folder.path().join("config.json"), config).expect("written");
    let bytes = std::fs::read(source.join("model.safetensors")).expect("the weights are there");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let wider = |dim: &usize| match *dim {
        40 => 64,
        120 => 192,
        100 => 128,
        other => other,
    };
    let mut tensors = file.tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b)); // they come in another order each time
    let made: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .enumerate()
        .map(|(seed, (name, view))| {
            let shape: Vec<usize> = view.shape().iter().map(wider).collect();
            let value = |at: usize| ((at * 7919 + seed * 104_729) % 2003) as f32 / 2003.0 - 0.5;
            let bytes = (0..shape.iter().product()).flat_map(|at| value(at).to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = made.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.expect("a shape that fits"))
    });
    let bytes = safetensors::serialize(views, None).expect("it serializes");
    std::fs::write(folder.path().join("model.safetensors"), bytes).expect("written");
    let checkpoint = Checkpoint::open(folder.path()).expect("it opens");
    (folder, checkpoint)
}

#[test]
fn linears_that_are_stored_transposed_are_rounded_by_their_outputs() {
    let (_folder, model) = wide_gpt2();
    let (exec, options) = (on(AdapterChoice::Host), GptqOptions { group_size: Some(32), ..GptqOptions::default() });
    let text = ids(512, 3, 40);
    let (linears, report) = rounded(&model, &text, &options, &exec).expect("it can be rounded");
    assert_eq!((report.rounded, report.kept.len()), (8, 0), "c_attn, c_proj, c_fc, c_proj of two layers");
    let fc = linears.iter().find(|linear| linear.tensor.ends_with("h.0.mlp.c_fc.weight")).expect("it is rounded");
    assert_eq!((fc.rows, fc.cols), (128, 64), "outputs by inputs, stored (64, 128)");
    let with = model.with_gptq(&linears);
    let (stored, stored_cols) = values(&model, &fc.tensor);
    let (found, cols) = values(&with, &fc.tensor);
    // Single values may be far off (the last columns make up for all before them), most are near.
    let original: Vec<f32> = (0..found.len()).map(|at| stored[at % cols * stored_cols + at / cols]).collect();
    let error = nmse(&original, &found);
    assert!(error < 0.02, "a weight in its own order: nmse {error}");
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (copy, _) = written(&model, &text, &options, &scratch.path().join("rounded"));
    let logits = |checkpoint: &Checkpoint| logits(checkpoint, &text[0], &exec);
    assert!(logits(&with) == logits(&copy), "the folder is what rounding at load gives");
    let error = nmse(&logits(&model), &logits(&with));
    assert!(error > 1e-6 && error < 0.3, "rounded, not another model: nmse {error}");
}

#[test]
fn act_order_keeps_four_bits_and_one_gather_serves_all_linears_of_an_input() {
    let stories = checkpoint(STORIES);
    let text = tales(&stories, "tales_calibration.txt", 1);
    let exec = on(AdapterChoice::Default);
    let options = GptqOptions { group_size: Some(64), act_order: true, ..GptqOptions::default() };
    let linears = rounded(&stories, &text, &options, &exec).expect("it can be rounded").0;
    // o and down, of different inputs, would be one matrix where columns are in order.
    let apart = ExecOptions { apart: true, ..exec.clone() };
    let graph = |checkpoint: &Checkpoint| lower_checkpoint(checkpoint, &apart).expect("it lowers").1;
    let plain = GptqOptions { act_order: false, ..options };
    let in_order = rounded(&stories, &text, &plain, &exec).expect("it can be rounded").0;
    let (sorted, in_order) = (graph(&stories.with_gptq(&linears)), graph(&stories.with_gptq(&in_order)));
    assert_eq!(formats(&sorted), formats(&in_order), "as many bits");
    assert_eq!(formats(&sorted)["u4_g32"], 32, "all linears of the layers");
    let bytes = |graph: &Graph| graph.units.iter().map(|unit| unit.bytes).sum::<u64>();
    // The orders: f32 numbers, one a column.
    let orders: u64 = 8 * (3 * 192 + 768) * 4;
    assert!(bytes(&sorted) <= bytes(&in_order) + orders, "{} from {}", bytes(&sorted), bytes(&in_order));
    let gathers = sorted.nodes.iter().filter(|node| node.op.name() == "gather_columns").count();
    assert_eq!(gathers, 8 * 4, "of qkv's, o's, up's and down's input");
    let weights = |graph: &Graph| graph.nodes.iter().filter(|node| node.op.name() == "matmul").count();
    assert_eq!(weights(&sorted), weights(&in_order), "q, k and v stay one matmul");
}

#[test]
fn what_rounding_will_take_is_foreseen() {
    let exec = ExecOptions { context_length: Some(64), ..on(AdapterChoice::Default) };
    for name in ["tiny-llama-gqa", "tiny-falcon-40b", "tiny-qwen2-moe", "wgpt-stories-4m"] {
        let model = checkpoint(&format!("checkpoints/{name}"));
        for (group_size, act_order) in [(Some(128), false), (Some(64), true), (Some(32), true), (None, false)] {
            let options = GptqOptions { group_size, act_order, ..GptqOptions::default() };
            let (planned, what) = foresee(&model, &options, &exec).expect("it is foreseen");
            let (linears, report) = rounded(&model, &ids(64, 2, 24), &options, &exec).expect("it can be rounded");
            assert!(report.rounded > 0 && what.contains(&format!("{} linears", report.rounded)), "{name}: {what}");
            let loaded = model.with_gptq(&linears);
            let what = format!("{name}, groups of {group_size:?}, act_order {act_order}");
            let graph = |checkpoint: &Checkpoint| lower_checkpoint(checkpoint, &exec).expect("it lowers").1;
            let (foreseen, made) = (graph(&planned), graph(&loaded));
            assert_eq!(formats(&foreseen), formats(&made), "{what}: the same formats");
            let (_, placed) = plan_checkpoint(&planned, &exec).expect("there is a plan");
            let executor = open(&loaded, &exec, &mut |_| ()).expect("it loads").0;
            let used: u64 = executor.memory().iter().map(|place| place.weights + place.kv_cache + place.other).sum();
            let total = placed.adapters[0].bytes.total();
            let error = (used as f64 - total as f64).abs() / total as f64;
            assert!(error <= 0.03, "{what}: {used} bytes used, {total} planned");
            let error = open(&planned, &exec, &mut |_| ()).map(|_| ()).expect_err("there is nothing to load");
            assert!(error.to_string().contains("only planned"), "{error}");
        }
    }
}

#[test]
fn linears_that_the_layout_does_not_hold_are_kept_and_counted() {
    let exec = on(AdapterChoice::Host);
    let options = GptqOptions { group_size: Some(128), ..GptqOptions::default() };
    // Rows of 64, of down 96, and of attention's output 80.
    let model = checkpoint("checkpoints/tiny-llama-gqa");
    let (linears, report) = rounded(&model, &ids(64, 2, 24), &options, &exec).expect("most can be rounded");
    assert_eq!(report.group_size, Some(32), "the largest that divides 64 and 96");
    let text = report.to_string();
    assert!(text.contains("kept as they are") && text.contains("rows of 80"), "{text}");
    let notices = report.notices.join("\n");
    assert!(notices.contains("groups of 128") && notices.contains("groups of 32"), "{notices}");
    assert!(notices.contains("48 tokens, fewer than the 96 inputs"), "{notices}");
    assert!(linears.iter().all(|linear| !linear.tensor.contains("o_proj")), "those of 80 stay");
    let moe = checkpoint("checkpoints/tiny-qwen3-moe-mlp-only");
    let (linears, report) = rounded(&moe, &ids(64, 2, 24), &options, &exec).expect("attention can be rounded");
    assert!(report.to_string().contains("experts"), "{report}");
    assert!(linears.iter().all(|linear| !linear.tensor.contains("expert")), "no expert is rounded");
}

#[test]
fn what_can_t_be_rounded_is_refused() {
    let (exec, options) = (on(AdapterChoice::Host), GptqOptions::default());
    let text = ids(64, 1, 16);
    let refusal = |path: &str| {
        rounded(&checkpoint(path), &text, &options, &exec).map(|_| ()).expect_err("it is refused").to_string()
    };
    let error = refusal("checkpoints/tiny-llama-gptq");
    assert!(error.contains("quantized already") && error.contains("--requantize"), "{error}");
    let error = refusal("checkpoints/tiny-llama-q4_0");
    assert!(error.contains("q4_0") && error.contains("quantized already"), "{error}");
    let error = refusal("checkpoints/tiny-falcon-7b");
    assert!(
        error.contains("--group-size 128 and all smaller ones divide no linear") && error.contains("60"),
        "{error}"
    );
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let gguf = Checkpoint::open(&repository("checkpoints/tiny-llama-gqa/model.gguf")).expect("it opens");
    let output = scratch.path().join("out");
    let error = to_folder(&gguf, &text, &options, &exec, &output, &mut |_| ()).expect_err("no config").to_string();
    assert!(error.contains("config.json") && error.contains("while it loads"), "{error}");
    // In memory a GGUF file can be rounded, and quantized weights anew.
    assert!(rounded(&gguf, &text, &options, &exec).is_ok(), "a GGUF file of floats");
    let again = GptqOptions { requantize: true, ..options };
    for path in ["checkpoints/tiny-llama-q4_0", "checkpoints/tiny-llama-gptq-act-order"] {
        let model = checkpoint(path);
        let (linears, _) = rounded(&model, &text, &again, &exec).expect("rounded anew");
        let error = nmse(&logits(&model, &text[0], &exec), &logits(&model.with_gptq(&linears), &text[0], &exec));
        assert!(error < 0.1, "{path}: nmse {error}");
    }
    let error = windows(&[1; 511], 2048).expect_err("too short").to_string();
    assert!(error.contains("511 tokens") && error.contains("512"), "{error}");
    let all: Vec<u32> = (0..512 * 600).collect();
    let some = windows(&all, 2048).expect("long enough");
    assert_eq!((some.len(), some[0][0], some[255][0]), (256, 0, 512 * 597), "spread over the text");
    assert_eq!(std::fs::read_dir(scratch.path()).expect("a folder").count(), 0, "nothing is left behind");
}
