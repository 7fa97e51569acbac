//! The same tokens whatever the plan: one adapter, split, streamed and mixed give the same bits, and the host nearly.

mod common;

use std::path::Path;

use common::{Devices, Golden, committed_checkpoints, golden, nmse, repository};
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{
    Activations, Batch, ExecOptions, Executor, GpuOptions, HostExecutor, LogitRows, WeightSource, lower_checkpoint,
};
use wgpt::graph::Graph;
use wgpt::ops::KvFormat;
use wgpt::plan::{OffloadMode, Placement, Plan, Residency};

fn placement(adapter: usize, streamed: bool) -> Placement {
    Placement { adapter, residency: if streamed { Residency::Streamed } else { Residency::Resident } }
}

fn embedding_below(unit: usize, streamed: bool) -> Placement {
    match unit {
        0 => Placement { adapter: 0, residency: Residency::InPlace },
        _ => placement(0, streamed),
    }
}

/// How streamed weights come: read in place, copied from host memory, or packed from the file each time.
const IN_PLACE: (OffloadMode, bool) = (OffloadMode::Pinned, true);
const COPIED: (OffloadMode, bool) = (OffloadMode::Pinned, false);
const MAPPED: (OffloadMode, bool) = (OffloadMode::Mapped, false);

/// Plans of every shape for this many units, each with its prefill chunk.
fn plans(units: usize) -> Vec<(&'static str, Plan, u32)> {
    let make = |place: &dyn Fn(usize) -> Placement, ring_slots, (offload_mode, in_place)| Plan {
        placements: (0..units).map(place).collect(),
        ring_slots,
        offload_mode,
        in_place,
    };
    let second = |unit: usize| usize::from(unit * 2 >= units);
    vec![
        ("split over two", make(&|unit| placement(second(unit), false), 2, COPIED), 16),
        ("split over three", make(&|unit| placement(unit * 3 / units, false), 2, COPIED), 16),
        ("all streamed, read in place", make(&|_| placement(0, true), 2, IN_PLACE), 16),
        ("all streamed, mapped, a longer chunk", make(&|_| placement(0, true), 2, MAPPED), 64),
        ("all streamed, ring of one", make(&|_| placement(0, true), 1, COPIED), 16),
        ("every second streamed", make(&|unit| placement(0, unit % 2 == 1), 2, COPIED), 16),
        ("embedding in place", make(&|unit| embedding_below(unit, false), 2, COPIED), 16),
        ("embedding in place, all else streamed", make(&|unit| embedding_below(unit, true), 2, MAPPED), 16),
        ("split, the second streams", make(&|unit| placement(second(unit), second(unit) == 1), 2, MAPPED), 16),
    ]
}

/// Plans whose layers come back to an adapter that they have left.
fn turns(units: usize) -> Vec<(&'static str, Plan)> {
    let make = |place: &dyn Fn(usize) -> Placement, offload_mode| Plan {
        placements: (0..units).map(place).collect(),
        ring_slots: 2,
        offload_mode,
        in_place: false,
    };
    vec![
        ("three in turns, all copied", make(&|unit| placement(unit / 2 % 3, true), OffloadMode::Pinned)),
        ("three in turns, all packed", make(&|unit| placement(unit / 2 % 3, true), OffloadMode::Mapped)),
        ("two in turns, all resident", make(&|unit| placement(unit % 2, false), OffloadMode::Pinned)),
    ]
}

/// How a graph is asked to compute; by default as it would without being asked.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    kv_format: Option<KvFormat>,
    activations: Option<Activations>,
}

fn cached(format: KvFormat) -> Asked {
    Asked { kv_format: Some(format), ..Asked::default() }
}

/// Room for the longest prompt and what follows it.
fn lowered(checkpoint: &Checkpoint, asked: Asked) -> Graph {
    let Asked { kv_format, activations } = asked;
    let context_length = Some(PROMPT + FOLLOWING);
    let options = ExecOptions { context_length, kv_format, activations, ..ExecOptions::default() };
    lower_checkpoint(checkpoint, &options).expect("it lowers").1
}

fn greedy(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("logits are not empty").0 as u32
}

/// Tokens of the longest prompt, and tokens that are generated after each.
const PROMPT: u32 = 65;
const FOLLOWING: u32 = 2;

/// Prompts that are tried: with chunks of 16 the last one goes over several and ends in one of a single token.
const LENGTHS: [usize; 3] = [1, 7, PROMPT as usize];

/// As many tokens as the longest prompt has: the golden ones, over and over.
fn prompt(golden: &Golden) -> Vec<u32> {
    golden.tokens.iter().copied().cycle().take(PROMPT as usize).collect()
}

/// Logits of each prompt, with 2 greedy tokens after it.
fn run(executor: &mut dyn Executor, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for length in LENGTHS {
        let batch = Batch { tokens: &tokens[..length], position: 0, logits: LogitRows::Last };
        let mut logits = executor.forward(&batch).expect("the prompt runs").values;
        for position in length as u32..length as u32 + FOLLOWING {
            let next = greedy(&logits);
            all.push(logits);
            let batch = Batch { tokens: &[next], position, logits: LogitRows::Last };
            logits = executor.forward(&batch).expect("the token runs").values;
        }
        all.push(logits);
    }
    all
}

/// Every plan on one device's bits; returns those.
fn same_bits(folder: &Path, asked: Asked) -> Vec<Vec<f32>> {
    let tokens = prompt(&golden(folder));
    let checkpoint = Checkpoint::open(folder).expect("the checkpoint opens");
    let units = lowered(&checkpoint, asked).units.len();
    let mut devices = Devices::default();
    let mut logits = |plan: &Plan, prefill_chunk| {
        let options = GpuOptions { prefill_chunk, least_piece: 16 };
        devices.with_executor(lowered(&checkpoint, asked), plan, &checkpoint, options, |gpu| run(gpu, &tokens))
    };
    let expected = logits(&Plan::single(units), 16);
    for (name, plan, chunk) in plans(units) {
        let found = logits(&plan, chunk);
        assert!(found == expected, "{} {asked:?} {name}: logits differ from one adapter's", folder.display());
    }
    expected
}

/// The host's logits are nearly those of one adapter.
fn host_agrees(folder: &Path, asked: Asked, most: f64) {
    let tokens = prompt(&golden(folder));
    let checkpoint = Checkpoint::open(folder).expect("the checkpoint opens");
    let graph = lowered(&checkpoint, asked);
    let (plan, options) = (Plan::single(graph.units.len()), GpuOptions { prefill_chunk: 64, least_piece: 64 });
    let mut devices = Devices::default();
    let on_gpu =
        devices.with_executor(lowered(&checkpoint, asked), &plan, &checkpoint, options, |gpu| run(gpu, &tokens));
    let mut host = HostExecutor::new(graph, WeightSource::new(&checkpoint), &mut |_| ()).expect("it loads");
    for (a, b) in run(&mut host, &tokens).iter().zip(&on_gpu) {
        let error = nmse(a, b);
        assert!(error <= most, "{} {asked:?}: nmse {error}", folder.display());
    }
}

#[test]
fn every_plan_gives_the_same_bits() {
    for folder in committed_checkpoints() {
        same_bits(&folder, Asked::default());
    }
}

/// Logits of every row of a prompt, then of the last row of one that goes a little over two pieces of 16.
fn score(executor: &mut dyn Executor, tokens: &[u32]) -> [Vec<f32>; 2] {
    let mut forward =
        |tokens, logits| executor.forward(&Batch { tokens, position: 0, logits }).expect("it runs").values;
    [forward(tokens, LogitRows::All), forward(&tokens[..35], LogitRows::Last)]
}

#[test]
fn pieces_of_a_chunk_give_the_bits_of_the_whole() {
    // Sliding windows, ALiBi, experts, quantized weights, an f16 cache.
    let names =
        ["tiny-mistral", "tiny-falcon-rw", "tiny-mixtral", "tiny-llama-q4_k_m", "tiny-gemma2", "wgpt-stories-4m"];
    for name in names {
        let folder = repository("checkpoints").join(name);
        let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
        let graph = || lowered(&checkpoint, Asked::default());
        let units = graph().units.len();
        let tokens = prompt(&golden(&folder));
        let mut devices = Devices::default();
        let mut logits = |plan: &Plan, least_piece| {
            let options = GpuOptions { prefill_chunk: 64, least_piece };
            devices.with_executor(graph(), plan, &checkpoint, options, |gpu| (run(gpu, &tokens), score(gpu, &tokens)))
        };
        let expected = logits(&Plan::single(units), 64);
        let several = plans(units).into_iter().filter(|(_, plan, _)| plan.adapters() > 1);
        for (shape, plan) in several.map(|(shape, plan, _)| (shape, plan)).chain(turns(units)) {
            // A chunk of 64 in pieces of 16, and of as few tokens as can be.
            for least_piece in [16, 4] {
                let found = logits(&plan, least_piece);
                assert!(found == expected, "{name} {shape}, pieces of {least_piece}: logits differ from the whole's");
            }
        }
    }
}

#[test]
fn the_host_executor_agrees() {
    for folder in committed_checkpoints() {
        host_agrees(&folder, Asked::default(), 1e-5);
    }
}

/// Heads of one whole block and of less than one; with as many key/value heads as queries, fewer, and one.
const WITH_KV_FORMATS: [&str; 3] = ["tiny-llama-gptq", "tiny-llama-gqa", "tiny-falcon-7b"];

#[test]
fn every_plan_gives_the_same_bits_with_every_kv_format() {
    for name in WITH_KV_FORMATS {
        let folder = repository("checkpoints").join(name);
        let exact = same_bits(&folder, cached(KvFormat::F32));
        for (format, most) in [(KvFormat::F16, 1e-5), (KvFormat::Q8_0, 1e-2), (KvFormat::Q4_0, 0.5)] {
            let found = same_bits(&folder, cached(format));
            // The first logits only: tokens that are chosen by them may differ.
            let error = nmse(&exact[0], &found[0]);
            assert!(error <= most && error > 0.0, "{name} {format}: nmse {error} from an f32 cache");
        }
    }
}

#[test]
fn the_host_executor_agrees_with_every_kv_format() {
    for name in WITH_KV_FORMATS {
        let folder = repository("checkpoints").join(name);
        for format in KvFormat::ALL {
            host_agrees(&folder, cached(format), if format == KvFormat::Q4_0 { 1e-3 } else { 1e-4 });
        }
    }
}

#[test]
fn rows_rounded_to_8_bits_give_the_same_bits_too() {
    // Blocks with and without mins, mixed formats, matrices side by side.
    for name in ["tiny-llama-q4_0", "tiny-llama-q4_k_m", "tiny-llama-gptq", "tiny-llama-mixed"] {
        let folder = repository("checkpoints").join(name);
        let asked = Asked { activations: Some(Activations::Q8), ..Asked::default() };
        let (exact, rounded) = (same_bits(&folder, Asked::default()), same_bits(&folder, asked));
        // The first logits only, those of a single token: tokens that are chosen by them may differ.
        let error = nmse(&exact[0], &rounded[0]);
        assert!(error < 1e-3 && error > 0.0, "{name}: nmse {error} from rows as they are");
        // A value half-way between two codes falls to either side, and a prompt of few tokens has more of them than one.
        host_agrees(&folder, asked, 3e-4);
    }
}
