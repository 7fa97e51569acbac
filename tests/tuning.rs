//! Workgroup shapes: right results in every one, found shapes used on their adapter alone, the same bits by every plan.

mod common;

use std::path::Path;
use std::process::Command;

use common::{all_adapters, nmse, repository};
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{
    Batch, ExecOptions, FilledCase, LogitRows, TuneEffort, TunedShapes, WeightShape, lower_checkpoint, open, tune,
};
use wgpt::gpu::{AdapterChoice, AdapterInfo, Device, DeviceOptions, Tier};
use wgpt::ops::{Activation, Case, CaseInput, Matmul, Shape, Step, TunedKernel, TuningKey};
use wgpt::quant::{F16, Q4_0, format};
use wgpt::tensor::{Dim, TensorType};

/// Odd rows in two slices, more lanes than chunks and fewer.
const ROWS: usize = 67;
const COLS: usize = 768;

fn case(name: &str, quantized: bool) -> Case {
    let format = format(name).expect("a format");
    let op = Matmul { bias: true, activation: Activation::Silu, quantized, ..Matmul::plain() };
    let row = TensorType::f32([Dim::Tokens, Dim::Fixed(COLS as u32)]);
    let mut inputs = vec![
        CaseInput::Activation(row.clone()),
        CaseInput::Weight { format, rows: ROWS, cols: COLS, slice_rows: 40 },
        CaseInput::Vector(ROWS),
    ];
    inputs.extend(quantized.then(|| CaseInput::Activation(row.rounded())));
    Case {
        label: format!("{name} {quantized}"),
        op: Box::new(op),
        inputs,
        outputs: vec![CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(ROWS as u32)]))],
        step: Step::new(1, 0, 1),
        max_nmse: 1e-9,
    }
}

/// Shapes from the ends of what a search tries, and between.
fn shapes() -> impl Iterator<Item = Shape> {
    let teams = [(16, 4), (64, 16), (64, 64), (256, 128)].into_iter();
    teams.flat_map(|(workgroup, lanes)| [1, 2, 4].map(|rows| Shape { workgroup, lanes, rows }))
}

#[test]
fn every_shape_computes_the_same() {
    let adapter = &all_adapters()[0];
    // Few fat invocations, and the kernels of GPUs with the least that those have.
    for tier in [Tier::Full, Tier::Plain] {
        let options = DeviceOptions { tier, checks: true, ..DeviceOptions::default() };
        let device = Device::open(adapter.index, options).expect("the adapter opens");
        let (mut tried, mut failures) = (0, Vec::new());
        for case in [case("f16", false), case("q8_0", false), case("nf4", false), case("q4_k", true)] {
            let filled = FilledCase::new(&case, 5);
            let expected = filled.reference();
            let placed = filled.place(&device, 1).expect("it is uploaded");
            let CaseInput::Weight { format, .. } = &case.inputs[1] else { panic!("the second input is the weight") };
            let kernel = TunedKernel::of(placed.kernels(&device.traits)[0].source).expect("it has shapes");
            for shape in shapes().filter(|shape| shape.fits(kernel, *format, &device.traits)) {
                let mut traits = device.traits.clone();
                traits.tuning.insert(TuningKey::of(kernel, *format, ROWS, COLS), shape);
                let run = placed.prepare(&device, &traits).and_then(|prepared| prepared.run(&device));
                let found = run.unwrap_or_else(|error| panic!("{kernel:?} {shape} {tier:?}: {error}"));
                let error = nmse(&expected[0], &found.outputs[0]);
                let right = found.guards_intact && error <= case.max_nmse;
                failures.extend((!right).then(|| format!("{} {kernel:?} {shape}: nmse {error}", case.label)));
                tried += 1;
            }
        }
        assert!(tried > 35, "{tier:?}: many shapes fit, found {tried}");
        assert!(failures.is_empty(), "{tier:?}: {}", failures.join("\n"));
    }
}

const LLAMA: &str = "checkpoints/tiny-llama-gqa";

/// A shape that is no default for every matrix of a checkpoint.
fn found_for(info: &AdapterInfo, checkpoint: &Checkpoint) -> TunedShapes {
    let (_, graph) = lower_checkpoint(checkpoint, &ExecOptions::default()).expect("it lowers");
    let mut shapes = TunedShapes::default();
    for WeightShape { format, rows, cols } in WeightShape::of(&graph) {
        let shape = Shape { workgroup: 16, lanes: 2, rows: 1 };
        shapes.keep(info, &TuningKey::of(TunedKernel::Gemv, format, rows, cols), Some(shape));
    }
    shapes
}

/// Logits of a prompt and of a token after it.
fn logits(checkpoint: &Checkpoint, adapter: AdapterChoice, tuned: TunedShapes) -> Vec<f32> {
    let options = ExecOptions { adapter, tuned, ..ExecOptions::default() };
    let (mut executor, _) = open(checkpoint, &options, &mut |_| ()).expect("it loads");
    let mut forward = |tokens: &[u32], position| {
        executor.forward(&Batch { tokens, position, logits: LogitRows::Last }).expect("it runs").values
    };
    [forward(&[5, 6, 7], 0), forward(&[8], 3)].concat()
}

#[test]
fn shapes_are_used_on_their_adapter_alone_and_by_every_plan() {
    let info = &all_adapters()[0];
    let checkpoint = Checkpoint::open(&repository(LLAMA)).expect("it opens");
    let tuned = found_for(info, &checkpoint);
    let one = || AdapterChoice::Index(info.index);
    let default = logits(&checkpoint, one(), TunedShapes::default());
    let found = logits(&checkpoint, one(), tuned.clone());
    assert!(found != default, "sums add in another order");
    assert!(nmse(&default, &found) < 1e-9, "to the same but for rounding: {}", nmse(&default, &found));
    let twice = AdapterChoice::List(vec![one(), one()]);
    assert!(logits(&checkpoint, twice, tuned.clone()) == found, "two devices of one adapter use the same shapes");
    let options = ExecOptions { adapter: one(), tuned, ..ExecOptions::default() };
    let (mut executor, _) = open(&checkpoint, &options, &mut |_| ()).expect("it loads");
    for (position, token) in [5, 6, 7, 8].into_iter().enumerate() {
        let batch = Batch { tokens: &[token], position: position as u32, logits: LogitRows::Last };
        let one = executor.forward(&batch).expect("it runs").values;
        if position >= 2 {
            assert!(one == found[(position - 2) * one.len()..][..one.len()], "token {position} alone or beside others");
        }
    }
    let other = AdapterInfo { driver: "of another version".into(), ..info.clone() };
    let others = found_for(&other, &checkpoint);
    assert!(logits(&checkpoint, one(), others) == default, "what was found with another driver is not used");
}

#[test]
fn shapes_that_do_not_fit_the_device_are_not_used() {
    let info = &all_adapters()[0];
    let mut device = Device::open(info.index, DeviceOptions { tier: Tier::Plain, ..DeviceOptions::default() });
    let device = device.as_mut().expect("it opens");
    let before = device.traits.clone();
    let mut shapes = TunedShapes::default();
    let key = TuningKey::of(TunedKernel::Gemv, &F16, ROWS, COLS);
    for wrong in [(512, 32, 2), (128, 256, 2), (96, 32, 2), (128, 3, 2), (128, 32, 3), (0, 0, 0), (128, u32::MAX, 2)] {
        let (workgroup, lanes, rows) = wrong;
        shapes.keep(info, &key, Some(Shape { workgroup, lanes, rows }));
        shapes.apply(device);
        assert_eq!(device.traits, before, "{wrong:?} is left out");
    }
}

#[test]
fn a_search_tries_every_kernel_of_a_weight_and_finds_none_wrong() {
    let device = Device::open(all_adapters()[0].index, DeviceOptions::default()).expect("it opens");
    for effort in [TuneEffort::Smoke, TuneEffort::Full] {
        let mut results = Vec::new();
        let weight = WeightShape { format: &Q4_0, rows: 64, cols: 256 };
        tune(&device, weight, effort, &mut |result| results.push(result)).expect("it runs");
        let kernels: Vec<TunedKernel> = results.iter().map(|result| result.kernel).collect();
        assert!(kernels.contains(&TunedKernel::GemvInteger) && kernels.len() >= 2, "{kernels:?}");
        for result in &results {
            assert!(result.tried > 0 && result.refused == 0, "{result:?}");
            assert_eq!(result.tuned().is_some(), result.best != result.default, "only what is better is kept");
            assert!(effort == TuneEffort::Full || result.best != result.default, "a trial finds something: {result:?}");
            let faster = result.seconds.1 < result.seconds.0 || result.best == result.default;
            assert!(effort == TuneEffort::Smoke || faster, "what wins is faster: {result:?}");
        }
    }
}

/// Exit code, stdout and stderr of a run with a cache folder of its own.
fn run(cache: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    command.current_dir(repository("")).args(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WGPT_")) {
        command.env_remove(name);
    }
    let output = command.env("XDG_CACHE_HOME", cache).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("whole UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_keeps_what_it_finds_and_uses_it() {
    let cache = tempfile::tempdir().expect("a scratch folder");
    let run = |args: &[&str]| {
        let (code, stdout, stderr) = run(cache.path(), args);
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        (stdout, stderr)
    };
    let logits = |more: &[&str]| run(&[&["logits", "--checkpoint", LLAMA, "--tokens", "5,6,7"][..], more].concat());
    let (before, said) = logits(&[]);
    assert!(!said.contains("tune"), "nothing was found yet: {said}");
    let (table, said) = run(&["tune", "--smoke", "--checkpoint", LLAMA]);
    assert!(table.contains("gemv") && table.contains("best"), "{table}");
    let file = cache.path().join("wgpt/tuning.json");
    assert!(said.contains(&file.display().to_string()) && file.is_file(), "it says where: {said}");
    let (listed, _) = run(&["adapters", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert!(listed[0]["tuned"].as_u64().is_some_and(|count| count > 0), "{listed}");
    let said = logits(&[]).1;
    assert!(said.contains("wgpt tune found"), "a run says that it uses them: {said}");
    let (without, said) = logits(&["--no-tune"]);
    assert!(without == before && !said.contains("wgpt tune found"), "unless it is told not to: {said}");
    // More is found beside what was found before.
    let held = std::fs::read_to_string(&file).expect("readable");
    run(&["tune", "--smoke"]);
    assert!(std::fs::read_to_string(&file).expect("readable").len() > held.len(), "other matrices");

    std::fs::write(&file, held.replacen("gemv", "gemx", 1)).expect("written");
    let said = logits(&[]).1;
    let warnings = said.lines().filter(|line| line.contains("tuning.json")).count();
    assert!(warnings == 1 && said.contains("gemx"), "one line of warning: {said}");
    std::fs::write(&file, "garbage").expect("written");
    let (stdout, said) = logits(&[]);
    assert!(stdout == before && said.contains("tuning.json"), "as without a file, and said: {said}");
}

#[test]
fn the_host_and_absent_adapters_can_t_be_tuned() {
    let cache = tempfile::tempdir().expect("a scratch folder");
    for (adapter, words) in [("host", "no workgroups"), ("99", "no adapter 99")] {
        let (code, stdout, stderr) = run(cache.path(), &["tune", "--smoke", "--adapter", adapter]);
        assert!(code == Some(1) && stdout.is_empty() && stderr.contains(words), "{adapter}: {stderr}");
    }
    let (code, _, stderr) = run(cache.path(), &["tune", "--checkpoint", "nowhere"]);
    assert!(code == Some(1) && stderr.contains("nowhere"), "{stderr}");
}
