//! Every case of every op on every adapter, in every tier, against the op's reference.

mod common;

use common::{all_adapters, nmse};
use wgpt::exec::FilledCase;
use wgpt::gpu::{Device, DeviceOptions, Tier};
use wgpt::ops::{Case, all_cases};

/// Runs a case and returns what is wrong with it.
fn failure(device: &Device, case: &Case, filled: &FilledCase<'_>, expected: &[Vec<f32>]) -> Option<String> {
    let found = match filled.prepare(device).and_then(|prepared| prepared.run(device)) {
        Ok(found) => found,
        Err(error) => return Some(format!("{}: {error}", case.label)),
    };
    if !found.guards_intact {
        return Some(format!("{}: wrote behind an output", case.label));
    }
    let errors: Vec<f64> = expected.iter().zip(&found.outputs).map(|(a, b)| nmse(a, b)).collect();
    let bad = errors.iter().any(|error| error.is_nan() || *error > case.max_nmse);
    bad.then(|| format!("{}: nmse {errors:?}, at most {}", case.label, case.max_nmse))
}

fn check(options: DeviceOptions) {
    for adapter in all_adapters() {
        let device = Device::open(adapter.index, options).expect("the adapter opens");
        let mut failures = Vec::new();
        for case in all_cases() {
            let filled = FilledCase::new(&case, 7);
            failures.extend(failure(&device, &case, &filled, &filled.reference()));
        }
        assert!(failures.is_empty(), "{} {options:?}:\n{}", adapter.name, failures.join("\n"));
    }
}

#[test]
fn kernels_match_their_references_with_all_features() {
    check(DeviceOptions { tier: Tier::Full, checks: true, ..DeviceOptions::default() });
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
