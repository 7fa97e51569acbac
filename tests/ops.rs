//! Every case of every op on every adapter, in every tier, against the op's reference.

mod common;

use std::collections::BTreeSet;
use std::sync::Mutex;

use common::{all_adapters, nmse};
use wgpt::exec::{FilledCase, PlacedCase};
use wgpt::gpu::{Device, DeviceOptions, Tier};
use wgpt::ops::{Activation, Bind, Call, Case, CaseInput, HostInput, Kernel, Matmul, Op, Step, all_cases};
use wgpt::quant::FORMATS;
use wgpt::tensor::{Dim, TensorType};

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
    const CHOICES: [&str; 9] =
        ["DIRECT", "BIAS", "RESIDUAL", "LOGIT_ROWS", "SCALED", "SCALED_BESIDE", "ALIBI", "SOFTCAP", "WINDOW"];
    let slots = kernel.slots.iter().filter(|(slot, _)| ["TILE", "INPUTS", "STORED"].contains(slot)).cloned();
    let chosen = kernel.overrides.iter().filter(|(name, value)| CHOICES.contains(name) && *value != 0.0);
    (kernel.source, slots.chain(chosen.map(|(name, _)| (*name, String::new()))).collect())
}

#[test]
fn kernels_on_emulated_matrices_match_their_references() {
    let options = DeviceOptions { tier: Tier::EmulatedMatrix, checks: true, ..DeviceOptions::default() };
    let (mut ways, mut large_heads) = (BTreeSet::new(), BTreeSet::new());
    // Drivers take seconds for each of these kernels: one case of each way through them.
    check_some(options, |_, case, kernels| {
        let large = case.inputs.iter().any(|input| matches!(input, CaseInput::Large(..)));
        // The smallest heads there are in every way, since the kernel grows with them; of larger ones one case each.
        let head_dim = |kernel: &Kernel| {
            let known = kernel.overrides.iter().find(|(name, _)| *name == "HEAD_DIM");
            known.map_or(0, |(_, value)| *value as u32)
        };
        let follows = |source: &str| source.ends_with("_matrix") || source == "sum_parts_f16";
        let on_matrices = kernels.iter().filter(|kernel| follows(kernel.source));
        let new = |kernel: &Kernel| match head_dim(kernel) {
            ..=48 => ways.insert((way(kernel), large)),
            larger => large_heads.insert(larger),
        };
        on_matrices.map(new).fold(false, |any, new| any | new)
    });
    // Their factors are half floats.
    let able = all_adapters().iter().any(|adapter| adapter.features.iter().any(|name| name == "f16"));
    for kernel in ["gemm_matrix", "attention_matrix"].into_iter().filter(|_| able) {
        assert!(ways.iter().filter(|(way, _)| way.0 == kernel).count() >= 4, "ways through {kernel} among {ways:?}");
    }
    assert!(!able || !large_heads.is_empty(), "larger heads too, where workgroup memory holds them");
}

/// Two matmuls, in one dispatch where they can: the operands of the first, then those of the second, each with a bias.
#[derive(Debug)]
struct Both([Matmul; 2]);

impl Both {
    /// Operands of one.
    const INPUTS: usize = 3;

    fn with<R>(&self, call: &Call<'_>, with: impl FnOnce([(&Matmul, &Call<'_>); 2]) -> R) -> R {
        let calls = [0, 1].map(|at| Call {
            inputs: &call.inputs[at * Self::INPUTS..][..Self::INPUTS],
            outputs: &call.outputs[at..=at],
            ..call.clone()
        });
        with([(&self.0[0], &calls[0]), (&self.0[1], &calls[1])])
    }

    fn of_second(bind: Bind) -> Bind {
        match bind {
            Bind::Input(n) => Bind::Input(n + Self::INPUTS),
            Bind::Output(n) => Bind::Output(n + 1),
            Bind::Weight { input, slice, region } => Bind::Weight { input: input + Self::INPUTS, slice, region },
            other => other,
        }
    }
}

impl Op for Both {
    fn name(&self) -> &'static str {
        "both"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        self.with(call, |[(first, call), (second, second_call)]| {
            let (mut kernels, mut of_second) = match first.pair(call, second, second_call) {
                Some(mut pair) => {
                    let bound = pair.of_second.into_iter().map(|(name, bind)| (name, Self::of_second(bind)));
                    pair.products.bindings.extend(bound);
                    (vec![pair.products], vec![pair.sum])
                }
                None => (first.kernels(call), second.kernels(second_call)),
            };
            for (_, bind) in of_second.iter_mut().flat_map(|kernel| &mut kernel.bindings) {
                *bind = Self::of_second(*bind);
            }
            kernels.append(&mut of_second);
            kernels
        })
    }

    fn reads_f16(&self, input: usize, call: &Call<'_>) -> bool {
        self.with(call, |calls| {
            let (op, call) = calls[input / Self::INPUTS];
            op.reads_f16(input % Self::INPUTS, call)
        })
    }

    fn writes_f16(&self, output: usize, call: &Call<'_>) -> bool {
        self.with(call, |calls| calls[output].0.writes_f16(0, calls[output].1))
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        for (at, op) in self.0.iter().enumerate() {
            op.reference(step, &inputs[at * Self::INPUTS..][..Self::INPUTS], &mut outputs[at..=at]);
        }
    }
}

#[test]
fn matmuls_in_one_dispatch_match_their_references() {
    let plain = Matmul { bias: true, ..Matmul::plain() };
    let activated = Matmul { activation: Activation::GeluErf, ..plain.clone() };
    let row = |columns: usize| TensorType::f32([Dim::Tokens, Dim::Fixed(columns as u32)]);
    // Dense, of three regions, through a table with scales that another file reads.
    let formats = ["f16", "q6_k", "nf4_dq"];
    let mut joined = 0;
    for adapter in all_adapters() {
        let options = DeviceOptions { tier: Tier::EmulatedMatrix, checks: true, ..DeviceOptions::default() };
        let device = Device::open(adapter.index, options).expect("the adapter opens");
        for format in FORMATS.iter().filter(|format| formats.contains(&format.name())) {
            let cols = 256usize.next_multiple_of(format.block_len());
            let inputs = [48, 272].map(|rows| {
                let weight = CaseInput::Weight { format: *format, rows, cols, slice_rows: rows };
                [CaseInput::Activation(row(cols).halved()), weight, CaseInput::Vector(rows)]
            });
            let case = Case {
                label: format!("{} by 48 and 272 rows", format.name()),
                op: Box::new(Both([plain.clone(), activated.clone()])),
                inputs: inputs.concat(),
                outputs: vec![CaseInput::Activation(row(48)), CaseInput::Activation(row(272).halved())],
                step: Step::new(131, 0, 1),
                max_nmse: 1e-6,
            };
            let filled = FilledCase::new(&case, 7);
            let placed = filled.place(&device, 1).expect("the device has room for a case");
            let kernels = placed.kernels(&device.traits);
            joined += usize::from(kernels[0].slots.iter().any(|(_, file)| file == "lib/second_weight"));
            assert_eq!(failure(&device, &case, &filled, &placed), None, "{}", adapter.name);
        }
    }
    let able = |features: &[String]| features.iter().any(|name| name == "f16");
    let able = all_adapters().iter().filter(|adapter| able(&adapter.features)).count();
    assert_eq!(joined, able * formats.len(), "each has them in one dispatch");
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
