//! Several adapters and too little memory, as a user asks for them: plans hold what they say, texts stay the same.

mod common;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use assert_cmd::Command;
use common::{committed_checkpoints, golden, repository};
use serde_json::Value;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{
    Batch, ExecOptions, Executor, LoadReport, LogitRows, MeasuredRates, MemoryLimit, open, plan_checkpoint,
};
use wgpt::gpu::{AdapterChoice, DeviceOptions, Tier, adapters};
use wgpt::graph::Quantize;
use wgpt::ops::KvFormat;
use wgpt::plan::{Offload, OffloadMode, Rates, Residency};
use wgpt::quant::format_called;
use wgpt::sampler::SamplingParams;
use wgpt::session::{FinishReason, GenerateParams, Language, Session};

/// Eight layers: enough to split and to stream some of.
const STORIES: &str = "checkpoints/wgpt-stories-4m";

/// The program, in the repository, without the user's settings.
fn wgpt(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    command.current_dir(repository("")).args(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WGPT_")) {
        command.env_remove(name);
    }
    // What one test leaves must not be found by another.
    command.env("WGPT_NO_CACHE", "1");
    // What was measured, tuned and compiled before would make runs differ.
    command.env("XDG_CACHE_HOME", common::cache_folder());
    command
}

/// Exit code, stdout and stderr of a run.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = wgpt(args).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("whole UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn generate(checkpoint: &str, more: &[&str]) -> (String, String) {
    let fixed = ["generate", "--checkpoint", checkpoint, "--prompt", "Once upon a time", "--temperature", "0"];
    let args = [&fixed[..], &["--max-new-tokens", "16", "--context-length", "64"], more].concat();
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, Some(0), "{args:?}: {stderr}");
    (stdout, stderr)
}

fn plan(more: &[&str]) -> Value {
    let fixed = ["plan", "--checkpoint", STORIES, "--context-length", "64", "--json"];
    let (code, stdout, stderr) = run(&[&fixed[..], more].concat());
    assert_eq!(code, Some(0), "{more:?}: {stderr}");
    serde_json::from_str(&stdout).expect("JSON")
}

fn fails(args: &[&str], code: i32, parts: &[&str]) {
    let (found, stdout, stderr) = run(args);
    assert_eq!(found, Some(code), "{args:?}: {stderr}");
    assert_eq!(stdout, "", "{args:?} prints nothing");
    for part in parts {
        assert!(stderr.contains(part), "{args:?} says {part:?}: {stderr}");
    }
}

#[test]
fn every_placement_writes_the_same_text() {
    for checkpoint in [STORIES, "checkpoints/tiny-llama-q4_k_m", "checkpoints/tiny-mixtral"] {
        let (plain, _) = generate(checkpoint, &["--adapter", "0"]);
        let placements: &[(&[&str], &str)] = &[
            (&["--adapters", "1"], "loaded"),
            (&["--adapters", "0,0"], ": embedding, layer"),
            (&["--adapters", "0,0,0"], ": embedding"),
            (&["--offload", "all"], "(streamed)"),
            (&["--offload", "all", "--offload-mode", "pinned"], "(streamed)"),
            (&["--offload", "all", "--offload-mode", "mapped"], "(streamed)"),
            (&["--offload", "1", "--adapters", "0,0"], "streamed"),
            (&["--offload"], "loaded"),
        ];
        for (flags, note) in placements {
            let (text, stderr) = generate(checkpoint, flags);
            assert_eq!(text, plain, "{checkpoint} {flags:?}");
            assert!(stderr.contains(note), "{checkpoint} {flags:?} says {note:?}: {stderr}");
        }
    }
}

#[test]
fn too_little_memory_is_refused_and_with_offload_streamed() {
    let whole = plan(&[])["adapters"][0]["total"].as_u64().expect("bytes");
    // Three layers' worth less, more than the ring takes.
    let layer = plan(&[])["units"][1]["bytes"].as_u64().expect("bytes");
    let memory = (whole - 2 * layer).to_string();
    let flags = ["--checkpoint", STORIES, "--context-length", "64", "--memory", &memory];
    fails(&[&["generate", "--prompt", "a"][..], &flags].concat(), 1, &["does not fit", "--offload would stream"]);
    fails(&[&["plan"][..], &flags].concat(), 1, &["does not fit", "--offload would stream"]);
    let (plain, _) = generate(STORIES, &[]);
    let (text, stderr) = generate(STORIES, &["--memory", &memory, "--offload"]);
    assert_eq!(text, plain, "the same text with {memory} bytes");
    assert!(stderr.contains("streamed"), "{stderr}");
    let planned = plan(&["--memory", &memory, "--offload"]);
    let total = planned["adapters"][0]["total"].as_u64().expect("bytes");
    assert!(total <= memory.parse().expect("a number"), "within the budget: {total}");
    let streamed = planned["units"].as_array().expect("units").iter().filter(|unit| unit["residency"] == "streamed");
    assert!((2..8).contains(&streamed.count()), "some layers: {planned}");
}

#[test]
fn what_a_refusal_names_would_do() {
    let fixed = ["plan", "--checkpoint", STORIES, "--context-length", "64", "--adapters", "0,0", "--offload"];
    let (code, _, stderr) = run(&[&fixed[..], &["--memory", "1MiB"]].concat());
    assert_eq!(code, Some(1), "{stderr}");
    let flag = stderr.split("--memory ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it names budgets");
    assert!(flag.starts_with("0=") && flag.contains(",0="), "one for each use: {flag}");
    let (code, _, stderr) = run(&[&fixed[..], &["--memory", flag]].concat());
    assert_eq!(code, Some(0), "{flag}: {stderr}");
    let fixed = ["plan", "--checkpoint", STORIES];
    let short = plan(&[])["adapters"][0]["total"].as_u64().expect("bytes").to_string();
    let (_, _, stderr) = run(&[&fixed[..], &["--memory", &short]].concat());
    let context = stderr.split("--context-length ").nth(1).and_then(|rest| rest.split(' ').next());
    let context = context.expect("a shorter context is named");
    let (code, _, stderr) = run(&[&fixed[..], &["--memory", &short, "--context-length", context]].concat());
    assert_eq!(code, Some(0), "{context}: {stderr}");
}

#[test]
fn a_refusal_names_what_is_enough_and_no_more_than_that() {
    for memory in ["15MB", "12MB", "6MB"] {
        let (code, _, stderr) = run(&["plan", "--checkpoint", STORIES, "--memory", memory]);
        assert_eq!(code, Some(1), "{memory}: {stderr}");
        let named = |flag: &str| stderr.split(flag).nth(1).and_then(|rest| rest.split(' ').next());
        let with = |flags: &[&str]| run(&[&["plan", "--checkpoint", STORIES], flags].concat()).0;
        if let Some(larger) = named("--memory ") {
            let resident = with(&["--memory", larger]);
            match stderr.contains(&format!("--memory {larger} with --offload")) {
                true => {
                    assert_eq!(resident, Some(1), "{memory}: streaming is needed: {stderr}");
                    assert_eq!(with(&["--memory", larger, "--offload"]), Some(0), "{memory}: {stderr}");
                }
                false => assert_eq!(resident, Some(0), "{memory}: {stderr}"),
            }
        }
        if let Some(chunk) = named("--prefill-chunk ") {
            assert_eq!(with(&["--memory", memory, "--prefill-chunk", chunk]), Some(0), "{memory}: {stderr}");
        }
    }
    let whole = ["plan", "--checkpoint", STORIES, "--prefill-chunk", "512", "--memory", "20MB"];
    let (_, _, stderr) = run(&whole);
    assert!(stderr.contains("--prefill-chunk 256 or"), "half of it would do: {stderr}");
}

#[test]
fn a_model_that_fits_only_with_a_shorter_chunk_is_streamed_with_that() {
    let checkpoint = Checkpoint::open(&repository(STORIES)).expect("the checkpoint opens");
    let wish = ExecOptions { context_length: None, ..options(1, Offload::All) };
    let planned = |options: &ExecOptions| plan_checkpoint(&checkpoint, options).map(|(_, placed)| placed);
    let held = |chunk| {
        let placed = planned(&ExecOptions { prefill_chunk: Some(chunk), ..wish.clone() }).expect("there is a plan");
        placed.adapters[0].bytes.taken(placed.adapters[0].apart)
    };
    let (long, short) = (held(512), held(128));
    assert!(short < long * 3 / 4, "{short} and {long} bytes");
    for offload in [Offload::AsNeeded, Offload::All, Offload::Layers(8)] {
        let tight = ExecOptions { memory: MemoryLimit::Each(short), prefill_chunk: None, offload, ..wish.clone() };
        let placed = planned(&tight).unwrap_or_else(|error| panic!("{offload:?}: {error}"));
        assert_eq!(placed.extents.tokens, 128, "{offload:?}: the chunk that fits");
        assert!(placed.plan.streams(), "{offload:?}: {:?}", placed.plan);
    }
}

/// Adapters that bind no more than this at once.
fn binding(bytes: u64) -> DeviceOptions {
    DeviceOptions { max_binding: Some(bytes), ..DeviceOptions::default() }
}

#[test]
fn activations_that_an_adapter_can_t_bind_take_shorter_chunks() {
    let checkpoint = Checkpoint::open(&repository(STORIES)).expect("the checkpoint opens");
    // Of 512 tokens a layer's widest activation is more.
    let device = binding(1 << 20);
    let wish = ExecOptions { device, context_length: None, prefill_chunk: None, ..options(1, Offload::Never) };
    let (mut executor, report) = opened(&checkpoint, &wish);
    let chunk = report.placed.expect("it is on an adapter").extents.tokens;
    assert!((128..512).contains(&chunk), "{chunk} tokens");
    let tokens: Vec<u32> = (1..300).collect();
    let found = logits(&mut *executor, &tokens);
    let expected =
        logits(&mut *opened(&checkpoint, &ExecOptions { device: binding(1 << 30), ..wish.clone() }).0, &tokens);
    assert!(found == expected, "the same logits");
    let asked = ExecOptions { prefill_chunk: Some(512), ..wish };
    let error = plan_checkpoint(&checkpoint, &asked).expect_err("who asks for a chunk gets no other").to_string();
    for part in ["activations", "in one buffer", &format!("--prefill-chunk {chunk}")] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn keys_that_an_adapter_can_t_bind_need_a_shorter_context() {
    let checkpoint = Checkpoint::open(&repository(STORIES)).expect("the checkpoint opens");
    let wish = |context| ExecOptions {
        device: binding(128 << 10),
        context_length: Some(context),
        ..options(1, Offload::AsNeeded)
    };
    let error = plan_checkpoint(&checkpoint, &wish(512)).expect_err("keys of 192 KiB").to_string();
    assert!(error.contains("the keys or values of a layer need") && !error.contains("--prefill-chunk"), "{error}");
    let named = error.split("--context-length ").nth(1).and_then(|rest| rest.split(' ').next());
    let context: u32 = named.and_then(|number| number.parse().ok()).expect("it names a context");
    assert!(context >= 256, "the longest one: {error}");
    opened(&checkpoint, &wish(context));
}

#[test]
fn wrong_flags_are_refused_with_what_is_right() {
    let usage: &[(&[&str], &[&str])] = &[
        (&["--adapter", "0", "--adapters", "0,0"], &["cannot be used with"]),
        (&["--memory", "1GiB", "--memory-fraction", "0.5"], &["cannot be used with"]),
        (&["--memory", "much"], &["--memory", "20GiB"]),
        (&["--memory-fraction", "1.5"], &["at most 1"]),
        (&["--adapters", "0"], &["--adapters", "compute nothing"]),
        (&["--offload", "some"], &["--offload", "number of layers"]),
        (&["--adapter", "host", "--offload"], &["--adapter host"]),
        (&["--adapter", "0", "--memory", "0=1GiB,1=2GiB"], &["2 entries", "--adapter 0"]),
    ];
    for (flags, parts) in usage {
        fails(&[&["plan"][..], flags].concat(), 2, parts);
    }
    let refused: &[(&[&str], &[&str])] = &[
        (&["--adapters", "64"], &["not 64 adapters", "0,0"]),
        (&["--adapters", "0,Voodoo2"], &["Voodoo2", "there are"]),
        (&["--adapters", "0,host"], &["the host computes alone"]),
        (&["--adapter", "host"], &["nothing to plan"]),
        (&["--memory", "99=1GiB"], &["no adapter 99"]),
        (&["--offload", "9"], &["8 layers", "--offload all"]),
    ];
    for (flags, parts) in refused {
        fails(&[&["plan", "--checkpoint", STORIES][..], flags].concat(), 1, parts);
    }
}

#[test]
fn a_probe_is_remembered_and_used_by_plans() {
    let cache = tempfile::tempdir().expect("a scratch folder");
    let with_cache = |args: &[&str]| {
        let output = wgpt(args).env("XDG_CACHE_HOME", cache.path()).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("whole UTF-8")
    };
    let plan = ["plan", "--checkpoint", STORIES, "--adapter", "0"];
    let text = with_cache(&plan);
    assert!(text.contains("measured") && !text.contains("assumed"), "a plan measures what nobody did: {text}");
    let file = cache.path().join("wgpt/adapters.json");
    let kept = std::fs::read(&file).expect("and keeps it");
    with_cache(&plan);
    assert_eq!(std::fs::read(&file).expect("there"), kept, "what is known is not measured again");
    let list: Value = serde_json::from_str(&with_cache(&["adapters", "--probe", "--json"])).expect("JSON");
    assert_ne!(std::fs::read(&file).expect("there"), kept, "--probe measures again");
    let rates = &list[0]["rates"];
    let plausible = [
        ("memory", 1e8..1e14),
        ("unpacking", 1e8..1e14),
        ("bus", 1e7..1e13),
        ("flops", 1e8..1e16),
        ("dispatch", 1e-7..0.1),
        ("crossing", 1e-7..0.1),
    ];
    for (rate, range) in plausible {
        assert!(rates[rate].as_f64().is_some_and(|rate| range.contains(&rate)), "{rate} is plausible: {rates}");
    }
    std::fs::write(&file, "{").expect("damaged");
    assert!(with_cache(&plan).contains("measured"), "a damaged file is as good as none");
}

#[test]
fn a_plan_compares_streaming_with_the_host() {
    let planned = plan(&["--offload", "4"]);
    for figure in ["memory", "read_bytes", "host_seconds", "streaming_seconds"] {
        assert!(planned["host"][figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {}", planned["host"]);
    }
    assert!(plan(&[])["host"].is_null(), "nothing is streamed");
    let (code, text, _) = run(&["plan", "--checkpoint", STORIES, "--offload", "all"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("over the bus, on the host at least"), "{text}");
}

#[test]
fn a_plan_of_a_quantized_checkpoint_is_what_it_then_uses() {
    let checkpoint = Checkpoint::open(&repository(STORIES)).expect("the checkpoint opens");
    let plain = plan(&[])["adapters"][0]["bytes"]["weights"].as_u64().expect("bytes");
    let planned = plan(&["--quantize", "q8_0"])["adapters"][0]["bytes"]["weights"].as_u64().expect("bytes");
    let format = format_called("q8_0").expect("a format");
    let quantize = Quantize { format, head: None, requantize: false };
    let options = ExecOptions { quantize: Some(quantize), context_length: Some(64), ..options(1, Offload::Never) };
    let (executor, report) = opened(&checkpoint, &options);
    let placed = report.placed.expect("it is on an adapter");
    assert_eq!(placed.adapters[0].bytes.weights, planned, "the plan says what is loaded");
    let used = &executor.memory()[0];
    close("weights", used.weights, placed.adapters[0].bytes.weights + placed.adapters[0].bytes.vectors);
    assert!(planned < plain * 3 / 5, "{planned} bytes of {plain}");
}

#[test]
fn a_plan_says_where_what_and_how_fast() {
    let (code, text, _) = run(&["plan", "--checkpoint", STORIES, "--adapters", "0,0", "--offload", "4"]);
    assert_eq!(code, Some(0), "{text}");
    for part in ["embedding", "head", "streamed", "KV cache", "ring", "host", "decode", "prefill", "binds", "reads"] {
        assert!(text.contains(part), "{part:?} is shown: {text}");
    }
    let planned = plan(&["--adapters", "0,0", "--offload", "4"]);
    let units = planned["units"].as_array().expect("units");
    assert_eq!(units.len(), 10, "embedding, eight layers, head");
    assert_eq!(units.iter().filter(|unit| unit["residency"] == "streamed").count(), 4, "{planned}");
    assert!(
        planned["host_memory"]["weights"].as_u64().is_some_and(|bytes| bytes > 0),
        "streamed weights are on the host"
    );
    assert!(planned["decode"]["tokens_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{planned}");
}

#[test]
fn a_plan_says_where_streamed_weights_stay() {
    assert_eq!(plan(&[])["offload_mode"], Value::Null, "nothing is streamed");
    let pinned = plan(&["--offload", "all"]);
    assert_eq!(pinned["offload_mode"], "pinned", "this host has room for it: {pinned}");
    let streamed = pinned["adapters"][0]["streamed_bytes"].as_u64().expect("bytes");
    assert_eq!(pinned["host_memory"]["weights"].as_u64(), Some(streamed), "all of it is on the host");
    let mapped = plan(&["--offload", "all", "--offload-mode", "mapped"]);
    assert_eq!(mapped["offload_mode"], "mapped", "as it was asked for");
    assert_eq!(mapped["host_memory"]["weights"], 0, "the host keeps nothing: {mapped}");
    let staging = |plan: &Value| plan["adapters"][0]["bytes"]["staging"].as_u64().expect("bytes");
    assert!(staging(&mapped) >= staging(&pinned), "what is packed on the way needs room: {mapped}");
    for (mode, part) in [("pinned", "packed in host memory"), ("mapped", "left in the file")] {
        let args = ["plan", "--checkpoint", STORIES, "--offload", "all", "--offload-mode", mode];
        let (_, text, _) = run(&args);
        assert!(text.contains(mode) && text.contains(part), "{mode} is shown: {text}");
    }
    fails(&["plan", "--offload-mode", "tape"], 2, &["--offload-mode", "expected pinned or mapped"]);
}

#[test]
fn a_streamed_plan_takes_longer_chunks_where_the_bus_binds() {
    let checkpoint =
        Checkpoint::open(&repository("checkpoints/tiny-phi3-longrope-short")).expect("the checkpoint opens");
    let mut rates = MeasuredRates::default();
    let adapter = &adapters()[0];
    let slow_bus = Rates {
        memory: 1e12,
        unpacking: 1e12,
        bus: 1e9,
        in_place: 1e9,
        staging: 1e9,
        flops: 1e13,
        dispatch: 1e-7,
        crossing: 1e-6,
    };
    rates.insert(adapter, slow_bus);
    let plain = ExecOptions { context_length: None, prefill_chunk: None, rates, ..options(1, Offload::Never) };
    let chunk =
        |options: &ExecOptions| plan_checkpoint(&checkpoint, options).expect("there is a plan").1.extents.tokens;
    let streamed = ExecOptions { offload: Offload::All, ..plain.clone() };
    assert_eq!(chunk(&plain), 512, "a resident plan takes the usual chunk");
    assert_eq!(chunk(&streamed), 2048, "a streamed one as much as hides the bus");
    let short = ExecOptions { context_length: Some(700), ..streamed.clone() };
    assert_eq!(chunk(&short), 704, "room for no more than the context has, in whole groups of 16 rows");
    let narrow = ExecOptions { device: binding(640 << 10), ..streamed.clone() };
    assert_eq!(chunk(&narrow), 1024, "no more than the adapter binds the activations of");
    assert_eq!(chunk(&ExecOptions { prefill_chunk: Some(64), ..streamed }), 64, "who names a chunk gets it");
}

/// Options for `adapters` devices of the first adapter.
fn options(adapters: usize, offload: Offload) -> ExecOptions {
    let adapter = AdapterChoice::List(vec![AdapterChoice::Index(0); adapters]);
    ExecOptions { adapter, offload, context_length: Some(96), prefill_chunk: Some(16), ..ExecOptions::default() }
}

fn opened(checkpoint: &Checkpoint, options: &ExecOptions) -> (Box<dyn Executor>, LoadReport) {
    open(checkpoint, options, &mut |_| ()).expect("it loads")
}

fn close(what: &str, used: u64, planned: u64) {
    let error = (used as f64 - planned as f64).abs() / (planned as f64).max(1.0);
    assert!(error <= 0.03, "{what}: {used} bytes used, {planned} planned");
}

/// Every kind of memory on every adapter and the host is what the plan says.
fn used_is_planned(name: &str, checkpoint: &Checkpoint, options: &ExecOptions) {
    let (_, placed) = plan_checkpoint(checkpoint, options).expect("there is a plan");
    let (executor, report) = opened(checkpoint, options);
    assert_eq!(report.placed.expect("it is on adapters").plan, placed.plan, "{name}: the plan shown is the one made");
    let used = executor.memory();
    for (adapter, used) in placed.adapters.iter().zip(&used) {
        let bytes = adapter.bytes;
        close(&format!("{name} weights"), used.weights, bytes.weights + bytes.vectors + bytes.ring);
        close(&format!("{name} KV cache"), used.kv_cache, bytes.kv_cache);
        let other = bytes.activations + bytes.scratch + bytes.readback + bytes.crossing + bytes.staging;
        close(&format!("{name} other"), used.other, other);
        close(&format!("{name} total"), used.weights + used.kv_cache + used.other, bytes.total());
    }
    let host: u64 = placed.adapters.iter().map(|adapter| adapter.host_bytes).sum();
    let used_host: u64 = used[placed.adapters.len()..].iter().map(|place| place.weights).sum();
    close(&format!("{name} host"), used_host, host);
}

#[test]
fn what_is_used_is_what_was_planned() {
    let requests = [(1, Offload::Never), (2, Offload::Layers(1)), (1, Offload::All), (2, Offload::All)];
    let modes = [None, Some(OffloadMode::Pinned), Some(OffloadMode::Mapped)];
    for (index, folder) in committed_checkpoints().iter().enumerate() {
        let checkpoint = Checkpoint::open(folder).expect("the checkpoint opens");
        let (adapters, offload) = requests[index % requests.len()];
        let offload_mode = modes[index % modes.len()];
        let options = ExecOptions { offload_mode, ..options(adapters, offload) };
        used_is_planned(&folder.display().to_string(), &checkpoint, &options);
    }
}

#[test]
fn a_real_model_uses_what_was_planned() {
    let checkpoint = Checkpoint::open(&repository("checkpoints/smollm2")).expect("./checkpoints/fetch-smollm2");
    // In slices of 8 MiB, so that the embedding is several buffers.
    let device = DeviceOptions { max_binding: Some(8 << 20), ..DeviceOptions::default() };
    for (adapters, offload) in [(1, Offload::Never), (2, Offload::Layers(10))] {
        let options = ExecOptions { device, ..options(adapters, offload) };
        used_is_planned("smollm2", &checkpoint, &options);
    }
    let options = ExecOptions { kv_format: Some(KvFormat::Q4_0), ..options(1, Offload::Never) };
    used_is_planned("smollm2 q4_0 cache", &checkpoint, &options);
}

#[test]
fn smaller_caches_use_what_was_planned_and_what_their_blocks_take() {
    let folder = repository("checkpoints/wgpt-stories-4m");
    let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
    let planned = |format| {
        let options = ExecOptions { kv_format: Some(format), ..options(2, Offload::Layers(2)) };
        used_is_planned(&format!("stories {format}"), &checkpoint, &options);
        let (_, placed) = plan_checkpoint(&checkpoint, &options).expect("there is a plan");
        placed.adapters.iter().map(|adapter| adapter.bytes.kv_cache).sum::<u64>() as f64
    };
    let f16 = planned(KvFormat::F16);
    // Heads of 32 values have one scale each, in a word of its own.
    assert_eq!(planned(KvFormat::Q8_0) / f16, 9.0 / 16.0, "q8_0");
    assert_eq!(planned(KvFormat::Q4_0) / f16, 5.0 / 16.0, "q4_0");
}

/// Logits of a prompt of two chunks and more, and of three tokens after it.
fn logits(executor: &mut dyn Executor, tokens: &[u32]) -> Vec<Vec<f32>> {
    let prompt = tokens.len().min(40);
    let mut forward = |tokens: &[u32], position| {
        executor.forward(&Batch { tokens, position, logits: LogitRows::Last }).expect("it runs").values
    };
    let mut all = vec![forward(&tokens[..prompt], 0)];
    all.extend((0..3).map(|step| forward(&tokens[step..=step], (prompt + step) as u32)));
    all
}

#[test]
fn plans_of_the_planner_give_the_same_bits() {
    let names = ["tiny-llama-gqa", "tiny-llama-q4_k_m", "tiny-falcon-7b", "tiny-gemma2", "tiny-qwen3-moe", "tiny-gpt2"];
    for name in names {
        let folder = repository("checkpoints").join(name);
        let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
        let tokens = golden(&folder).tokens;
        let expected = logits(&mut *opened(&checkpoint, &options(1, Offload::Never)).0, &tokens);
        for (adapters, offload) in [(2, Offload::Never), (3, Offload::Layers(1)), (2, Offload::All)] {
            let (mut executor, report) = opened(&checkpoint, &options(adapters, offload));
            let found = logits(&mut *executor, &tokens);
            assert!(found == expected, "{name} on {adapters} adapters, {offload:?}: {:?}", report.placed);
        }
    }
}

#[test]
fn streamed_weights_give_the_same_bits_wherever_they_stay() {
    // One file and a folder, formats that are packed as they are and ones that are not, rows that lie in columns.
    let names = ["tiny-llama-gqa", "tiny-llama-gqa/model.gguf", "tiny-llama-q4_0/model.gguf", "tiny-gpt2"];
    for name in names {
        let checkpoint = Checkpoint::open(&repository("checkpoints").join(name)).expect("the checkpoint opens");
        for tier in [Tier::Full, Tier::NoFeatures] {
            let device = DeviceOptions { tier, ..DeviceOptions::default() };
            let with = |offload, offload_mode| {
                let options = ExecOptions { device, offload_mode, ..options(1, offload) };
                let mut executor = opened(&checkpoint, &options).0;
                let mut all = Vec::new();
                for length in [1u32, 7, 65] {
                    let tokens: Vec<u32> = (0..length).map(|token| token * 7 % 96).collect();
                    let prompt = Batch { tokens: &tokens, position: 0, logits: LogitRows::Last };
                    all.push(executor.forward(&prompt).expect("the prompt runs").values);
                    let next = Batch { tokens: &[3], position: length, logits: LogitRows::Last };
                    all.push(executor.forward(&next).expect("the token runs").values);
                }
                all
            };
            let resident = with(Offload::Never, None);
            for mode in [OffloadMode::Pinned, OffloadMode::Mapped] {
                assert!(with(Offload::All, Some(mode)) == resident, "{name}, {tier:?}, {mode}: logits differ");
            }
        }
    }
}

#[test]
fn a_checkpoint_cut_short_in_mid_run_ends_with_its_name() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for entry in std::fs::read_dir(repository(STORIES)).expect("the checkpoint").map(|entry| entry.expect("an entry")) {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
    }
    let path = folder.path().to_str().expect("UTF-8").to_owned();
    let args = ["generate", "--checkpoint", &path, "--prompt", "Once upon a time", "--temperature", "0"];
    let more = ["--max-new-tokens", "500", "--offload", "all", "--offload-mode", "mapped"];
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wgpt"));
    command.env("XDG_CACHE_HOME", common::cache_folder());
    let piped = || std::process::Stdio::piped();
    let mut child = command.args(args).args(more).stdout(piped()).stderr(piped()).spawn().expect("the program starts");
    let mut stdout = child.stdout.take().expect("it is piped");
    stdout.read_exact(&mut [0; 1]).expect("it writes");
    let weights = folder.path().join("model.safetensors");
    let length = std::fs::metadata(&weights).expect("it is there").len();
    std::fs::OpenOptions::new().write(true).open(&weights).and_then(|file| file.set_len(length / 4)).expect("cut");
    std::io::copy(&mut stdout, &mut std::io::sink()).expect("it ends");
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "no signal, no success: {stderr}");
    assert!(stderr.contains("model.safetensors") && stderr.contains("cut short"), "{stderr}");
}

#[test]
fn rows_that_are_put_together_are_not_read_through_a_mapping() {
    // Several tensors a linear, and rows that are stored as columns: a mapping cut short would end this process.
    let names = [
        "tiny-llama-gptq",
        "tiny-llama-gptq-act-order",
        "tiny-llama-awq",
        "tiny-llama-bnb-nf4",
        "tiny-llama-fp8",
        "tiny-gpt2",
    ];
    for name in names {
        let folder = tempfile::tempdir().expect("a scratch folder");
        for entry in std::fs::read_dir(repository("checkpoints").join(name)).expect("the checkpoint") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("copied");
        }
        let checkpoint = Checkpoint::open(folder.path()).expect("the checkpoint opens");
        let mapped = ExecOptions { offload_mode: Some(OffloadMode::Mapped), ..options(1, Offload::All) };
        let mut executor = opened(&checkpoint, &mapped).0;
        let batch = Batch { tokens: &[1, 2, 3], position: 0, logits: LogitRows::Last };
        executor.forward(&batch).expect("it runs");
        let weights = folder.path().join("model.safetensors");
        std::fs::OpenOptions::new().write(true).open(&weights).and_then(|file| file.set_len(64)).expect("cut");
        let error = executor.forward(&batch).expect_err("there is nothing left to read").to_string();
        for part in ["model.safetensors", "cut short"] {
            assert!(error.contains(part), "{name}: {part}: {error}");
        }
    }
}

#[test]
fn an_adapter_with_less_memory_than_it_said_gets_the_next_smaller_plan() {
    let checkpoint = Checkpoint::open(&repository(STORIES)).expect("the checkpoint opens");
    let tokens: Vec<u32> = (1..50).collect();
    let plain = options(1, Offload::AsNeeded);
    let expected = logits(&mut *opened(&checkpoint, &plain).0, &tokens);
    let (_, placed) = plan_checkpoint(&checkpoint, &plain).expect("there is a plan");
    // What the driver would say is the same, what it gives is less.
    let limit = placed.adapters[0].bytes.buffers() * 3 / 4;
    let device = DeviceOptions { max_memory: Some(limit), ..DeviceOptions::default() };
    let (mut executor, report) = opened(&checkpoint, &ExecOptions { device, ..plain.clone() });
    assert!(report.notices.iter().any(|notice| notice.contains("planning again")), "it says so: {:?}", report.notices);
    let plan = report.placed.expect("it is on an adapter").plan;
    assert!(plan.placements.iter().any(|p| p.residency == Residency::Streamed), "some of it is streamed: {plan:?}");
    assert!(logits(&mut *executor, &tokens) == expected, "the same logits");
    let never = ExecOptions { device, offload: Offload::Never, ..plain };
    let refused =
        |options: &ExecOptions| open(&checkpoint, options, &mut |_| ()).err().expect("it does not fit").to_string();
    let error = refused(&never);
    assert!(error.contains("does not fit") && error.contains("--offload"), "{error}");
    let tiny = DeviceOptions { max_memory: Some(limit / 20), ..DeviceOptions::default() };
    let error = refused(&ExecOptions { device: tiny, ..never });
    assert!(error.contains("planning again with") && error.contains("does not fit"), "what was refused: {error}");
    assert!(error.contains("on a larger adapter --memory "), "it has no more to give: {error}");
}

#[test]
fn a_budget_by_adapter_is_kept_by_each_use() {
    let checkpoint = Checkpoint::open(&repository(STORIES)).expect("the checkpoint opens");
    let whole = plan_checkpoint(&checkpoint, &options(1, Offload::Never)).expect("there is a plan").1.adapters[0].bytes;
    let limits = [whole.total(), whole.total() * 2 / 3];
    let memory = MemoryLimit::By(limits.iter().map(|bytes| (AdapterChoice::Index(0), *bytes)).collect());
    let (_, placed) =
        plan_checkpoint(&checkpoint, &ExecOptions { memory, ..options(2, Offload::Never) }).expect("there is a plan");
    let budgets: Vec<Option<u64>> = placed.adapters.iter().map(|adapter| adapter.budget).collect();
    assert_eq!(budgets, limits.map(Some), "the first entry is for the first use");
}

#[test]
fn a_cancelled_text_on_a_streamed_plan_goes_on_as_if_nothing_had_been() {
    let checkpoint = Checkpoint::open(&repository(STORIES)).expect("the checkpoint opens");
    let language = Language::of(&checkpoint).expect("it has a tokenizer");
    let (executor, _) = opened(&checkpoint, &options(2, Offload::All));
    let mut session = Session::new(executor, language.tokenizer, vec![]);
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let params = GenerateParams { max_new_tokens: Some(12), sampling: greedy, ..GenerateParams::default() };
    let prompt: Vec<u32> = (5..30).collect();
    let mut whole = session.generate(&prompt, &params).expect("it starts");
    whole.by_ref().for_each(|piece| drop(piece.expect("a piece")));
    let expected = whole.into_outcome().ids;
    let cancel = Arc::new(AtomicBool::new(false));
    let cancelled = GenerateParams { cancel: cancel.clone(), ..params.clone() };
    // Another beginning, so that the KV cache holds something else when the first prompt comes back.
    let mut stream = session.generate(&[7, 8, 9], &cancelled).expect("it starts");
    for piece in stream.by_ref().take(4) {
        piece.expect("a piece");
    }
    cancel.store(true, Ordering::Relaxed);
    stream.by_ref().for_each(|piece| drop(piece.expect("text that was held back")));
    assert_eq!(stream.into_outcome().finish, FinishReason::Cancelled, "it stopped");
    let mut again = session.generate(&prompt, &params).expect("it starts");
    again.by_ref().for_each(|piece| drop(piece.expect("a piece")));
    assert_eq!(again.into_outcome().ids, expected, "the same ids as before");
}

#[test]
fn a_forward_cancelled_in_its_middle_leaves_a_state_that_goes_on() {
    let checkpoint = Checkpoint::open(&repository(STORIES)).expect("the checkpoint opens");
    let (mut executor, _) = opened(&checkpoint, &options(2, Offload::All));
    let tokens: Vec<u32> = (1..80).collect();
    let start = Instant::now();
    let batch = Batch { tokens: &tokens, position: 0, logits: LogitRows::Last };
    let expected = executor.forward(&batch).expect("it runs").values;
    let whole = start.elapsed();
    let held = Batch { tokens: &tokens[..20], position: 0, logits: LogitRows::Last };
    executor.forward(&held).expect("it runs");
    let rest = Batch { tokens: &tokens[20..], position: 20, logits: LogitRows::Last };
    // How far a forward comes in so much time is the machine's to say: sooner, until it is cut.
    let cut = (1..12).any(|attempt| {
        let cancel = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(whole / 2u32.pow(attempt));
                cancel.store(true, Ordering::Relaxed);
            });
            executor.forward_unless(&rest, &cancel).expect("it runs or stops").is_none()
        })
    });
    assert!(cut, "a forward was cancelled");
    assert_eq!(executor.position(), 20, "what was held before is still held");
    let found = executor.forward(&rest).expect("it runs").values;
    let again = executor.forward(&batch).expect("it runs").values;
    assert!(again == expected, "from the beginning");
    let (mut fresh, _) = opened(&checkpoint, &options(2, Offload::All));
    fresh.forward(&held).expect("it runs");
    assert!(fresh.forward(&rest).expect("it runs").values == found, "as if nothing had been");
}

#[test]
fn a_checkpoint_cut_short_while_it_is_open_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for entry in std::fs::read_dir(repository(STORIES)).expect("the checkpoint").map(|entry| entry.expect("an entry")) {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
    }
    let checkpoint = Checkpoint::open(folder.path()).expect("the checkpoint opens");
    let weights = folder.path().join("model.safetensors");
    let length = std::fs::metadata(&weights).expect("it is there").len();
    std::fs::OpenOptions::new().write(true).open(&weights).and_then(|file| file.set_len(length / 2)).expect("cut");
    for adapter in [AdapterChoice::Host, AdapterChoice::Default] {
        let options = ExecOptions { adapter, ..ExecOptions::default() };
        let error = open(&checkpoint, &options, &mut |_| ()).err().expect("it is refused").to_string();
        for part in ["model.safetensors", "cut short", &length.to_string()] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
