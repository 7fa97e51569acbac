//! Every case of every op on every adapter, in every tier, against the op's reference.

mod common;

use std::collections::BTreeSet;
use std::sync::Mutex;

use common::{all_adapters, nmse};
use wgpt::exec::{FilledCase, PlacedCase};
use wgpt::gpu::{Device, DeviceOptions, Tier};
use wgpt::ops::{Case, Kernel, all_cases};

/// Runs a case and returns what is wrong with it.
fn failure(device: &Device, case: &Case, filled: &FilledCase<'_>, placed: &PlacedCase<'_>) -> Option<String> {
    let found = match placed.prepare(device, &device.traits).and_then(|prepared| prepared.run(device)) {
        Ok(found) => found,
        Err(error) => return Some(format!("{}: {error}", case.label)),
    };
    if !found.guards_intact {
        return Some(format!("{}: wrote behind an output", case.label));
    }
    let errors: Vec<f64> = filled.reference().iter().zip(&found.outputs).map(|(a, b)| nmse(a, b)).collect();
    let bad = errors.iter().any(|error| error.is_nan() || *error > case.max_nmse);
    bad.then(|| format!("{}: nmse {errors:?}, at most {}", case.label, case.max_nmse))
}

/// Checks the cases that are asked for, by the kernels that they run.
fn check_some(options: DeviceOptions, mut asked_for: impl FnMut(&Device, &Case, &[Kernel]) -> bool) {
    for adapter in all_adapters() {
        let device = Device::open(adapter.index, options).expect("the adapter opens");
        let mut failures = Vec::new();
        for case in all_cases() {
            let filled = FilledCase::new(&case, 7);
            let placed = filled.place(&device, 1).expect("the device has room for a case");
            if asked_for(&device, &case, &placed.kernels(&device.traits)) {
                failures.extend(failure(&device, &case, &filled, &placed));
            }
        }
        assert!(failures.is_empty(), "{} {options:?}:\n{}", adapter.name, failures.join("\n"));
    }
}

/// Cases with the kernels they run, each tried once: tiers of an adapter have many in common, and compiling them is most
/// of the work.
static TRIED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn check(options: DeviceOptions) {
    check_some(options, |device, case, kernels| {
        let tried = format!("{} {} {kernels:?}", device.info.index, case.label);
        TRIED.lock().expect("no test panics while it holds it").insert(tried)
    });
}

#[test]
fn kernels_match_their_references_with_all_features() {
    check(DeviceOptions { tier: Tier::Full, checks: true, ..DeviceOptions::default() });
}

/// What a kernel on matrices does besides multiplying: its file, and which of its choices are taken. Weight formats are
/// not among them: they come through the same snippets as in other kernels, which are checked with all of them.
fn way(kernel: &Kernel) -> (&'static str, Vec<(&'static str, String)>) {
    const CHOICES: [&str; 7] = ["DIRECT", "BIAS", "RESIDUAL", "LOGIT_ROWS", "ALIBI", "SOFTCAP", "WINDOW"];
    let slots = kernel.slots.iter().filter(|(slot, _)| ["TILE", "INPUTS", "STORED"].contains(slot)).cloned();
    let chosen = kernel.overrides.iter().filter(|(name, value)| CHOICES.contains(name) && *value != 0.0);
    (kernel.source, slots.chain(chosen.map(|(name, _)| (*name, String::new()))).collect())
}

#[test]
fn kernels_on_emulated_matrices_match_their_references() {
    let options = DeviceOptions { tier: Tier::EmulatedMatrix, checks: true, ..DeviceOptions::default() };
    let mut ways = BTreeSet::new();
    // Drivers take seconds for each of these kernels: one case of each way through them.
    check_some(options, |_, _, kernels| {
        // The smallest heads there are in every way, since the kernel grows with them.
        let small =
            |kernel: &&Kernel| kernel.overrides.iter().all(|(name, value)| *name != "HEAD_DIM" || *value <= 48.0);
        let follows = |source: &str| source.ends_with("_matrix") || source == "sum_parts_f16";
        let on_matrices = kernels.iter().filter(|kernel| follows(kernel.source)).filter(small);
        on_matrices.map(|kernel| ways.insert(way(kernel))).fold(false, |any, new| any | new)
    });
    // Their factors are half floats.
    let able = all_adapters().iter().any(|adapter| adapter.features.iter().any(|name| name == "f16"));
    for kernel in ["gemm_matrix", "attention_matrix"].into_iter().filter(|_| able) {
        assert!(ways.iter().filter(|way| way.0 == kernel).count() >= 4, "ways through {kernel} among {ways:?}");
    }
}

#[test]
fn kernels_match_their_references_without_cooperative_matrices() {
    check(DeviceOptions { tier: Tier::NoMatrix, checks: false, ..DeviceOptions::default() });
}

#[test]
fn kernels_match_their_references_without_features() {
    check(DeviceOptions { tier: Tier::NoFeatures, checks: false, ..DeviceOptions::default() });
}

#[test]
fn kernels_match_their_references_on_plain_webgpu() {
    check(DeviceOptions { tier: Tier::Plain, checks: true, ..DeviceOptions::default() });
}
