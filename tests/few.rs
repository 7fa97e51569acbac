//! Forwards of few tokens: each token gets the bits that it gets alone, so that guesses of several tokens can be verified
//! in one forward.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{all_adapters, golden, repository};
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{Activations, Batch, ExecOptions, Executor, FilledCase, LogitRows, open};
use wgpt::gpu::{Device, DeviceOptions, Tier};
use wgpt::graph::Quantize;
use wgpt::ops::{Case, CaseInput, KvFormat, Phase, all_cases};
use wgpt::tensor::{Dim, TensorType};

/// Ops whose rows read what those before them wrote: tests/decode.rs.
const OTHERWISE: [&str; 1] = ["rope_attention"];

/// What differs between a case's rows together and each of them alone.
fn difference(device: &Device, case: &Case, filled: &FilledCase<'_>) -> Option<String> {
    let run = |filled: &FilledCase<'_>| filled.prepare(device).and_then(|prepared| prepared.run(device));
    let together = match run(filled) {
        Ok(found) => found,
        Err(error) => return Some(format!("{}: {error}", case.label)),
    };
    // The first, the last, and one of a tile that is not whole.
    for row in BTreeSet::from([0, filled.rows() / 2, filled.rows() - 1]) {
        let alone = match run(&filled.row(row)) {
            Ok(found) => found,
            Err(error) => return Some(format!("{}, row {row}: {error}", case.label)),
        };
        let outputs = case.outputs.iter().zip(together.outputs.iter().zip(&alone.outputs));
        for (number, (output, (together, alone))) in outputs.enumerate() {
            if !matches!(output, CaseInput::Activation(_)) {
                continue;
            }
            let same = &together[row as usize * alone.len()..][..alone.len()];
            let count = same.iter().zip(alone).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            if count > 0 {
                return Some(format!("{}, row {row}, output {number}: {count} of {} values", case.label, alone.len()));
            }
        }
    }
    None
}

fn check(tier: Tier) {
    let adapter = &all_adapters()[0];
    let device = Device::open(adapter.index, DeviceOptions { tier, ..DeviceOptions::default() });
    let device = device.expect("the adapter opens");
    let (mut ops, mut differences) = (BTreeMap::new(), Vec::new());
    for case in all_cases() {
        let filled = FilledCase::new(&case, 11);
        let of_tokens = |ty: &TensorType| !matches!(ty.shape[0], Dim::Fixed(_));
        let few = matches!(&case.outputs[0], CaseInput::Activation(ty) if of_tokens(ty))
            && Phase::of(filled.rows(), case.step.tokens) == Phase::Few;
        if few && !OTHERWISE.contains(&case.op.name()) {
            *ops.entry(case.op.name()).or_insert(0) += 1;
            differences.extend(difference(&device, &case, &filled));
        }
    }
    assert!(ops.len() >= 10 && ops["matmul"] > 60, "every op has cases of few rows, found {ops:?}");
    assert!(differences.is_empty(), "{tier:?}, {} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn rows_together_have_the_bits_they_have_alone() {
    check(Tier::Full);
}

#[test]
fn rows_together_have_the_bits_they_have_alone_in_the_kernels_of_gpus() {
    check(Tier::NoFeatures);
}

/// Families, and what they are quantized to: parallel layers, windows, soft caps, ALiBi, learned positions, experts; dense and quantized.
const CHECKPOINTS: [(&str, Option<&str>); 17] = [
    // Attention, which is part of a parallel layer, rounds what the MLP wrote too.
    ("tiny-gpt-neox-f16", Some("q4_0")),
    ("tiny-falcon-40b", Some("q8_0")),
    ("tiny-gpt-neox-f16", None),
    ("tiny-falcon-7b", None),
    ("tiny-falcon-rw", None),
    ("tiny-gpt2", None),
    ("tiny-mistral", None),
    ("tiny-gemma2", None),
    ("tiny-mixtral", None),
    ("tiny-qwen2-moe", None),
    ("tiny-llama-q8_0", None),
    ("tiny-llama-q4_0", None),
    ("tiny-llama-q4_k_m", None),
    ("tiny-llama-bnb-nf4", None),
    ("tiny-llama-gptq", None),
    ("tiny-llama-mixed", None),
    ("wgpt-stories-4m", None),
];

/// Tokens of the context before those that come together.
const BEFORE: usize = 3;

fn logits(executor: &mut dyn Executor, tokens: &[u32], position: usize) -> Vec<u32> {
    let batch = Batch { tokens, position: position as u32, logits: LogitRows::All };
    executor.forward(&batch).expect("it runs").values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn tokens_together_have_the_logits_they_have_alone() {
    for (index, (name, quantize)) in CHECKPOINTS.into_iter().enumerate() {
        let folder = repository("checkpoints").join(name);
        let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
        let tokens: Vec<u32> = golden(&folder).tokens.iter().copied().cycle().take(BEFORE + 16).collect();
        // Each of these with several checkpoints, not all of them with all.
        let mut activations = [Activations::F32, Activations::Q8];
        let mut kv_formats = [KvFormat::F16, KvFormat::F32];
        activations.rotate_left(index % 2);
        kv_formats.rotate_left(index / 2 % 2);
        let plans = [(Tier::Full, activations[0], kv_formats[0]), (Tier::NoFeatures, activations[1], kv_formats[1])];
        for (tier, activations, kv_format) in plans {
            let quantize = quantize.map(|format| {
                let format = wgpt::quant::format_called(format).expect("a format");
                Quantize { format, head: None, requantize: false }
            });
            let options = ExecOptions {
                quantize,
                device: DeviceOptions { tier, ..DeviceOptions::default() },
                activations: Some(activations),
                kv_format: Some(kv_format),
                context_length: Some(BEFORE as u32 + 16),
                ..ExecOptions::default()
            };
            let (mut executor, _) = open(&checkpoint, &options, &mut |_| ()).expect("the model loads");
            let before = |executor: &mut dyn Executor| logits(executor, &tokens[..BEFORE], 0);
            before(&mut *executor);
            let one = |position: usize| logits(&mut *executor, &tokens[position..=position], position);
            let alone: Vec<Vec<u32>> = (BEFORE..tokens.len()).map(one).collect();
            for count in 2..=16 {
                before(&mut *executor);
                let together = logits(&mut *executor, &tokens[BEFORE..BEFORE + count], BEFORE);
                assert!(
                    together == alone[..count].concat(),
                    "{name} {quantize:?} {tier:?} {activations:?} {kv_format}: {count} tokens together differ from each alone"
                );
            }
        }
    }
}
