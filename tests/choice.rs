//! The token chosen on an adapter is the one the host's sampler chooses, or the adapter says that it did not choose.

mod common;

use common::all_adapters;
use wgpt::exec::FilledCase;
use wgpt::gpu::{Device, DeviceOptions, Tier};
use wgpt::ops::{Case, CaseInput, Choose, Chosen, Step};
use wgpt::sampler::{Rule, SampleError, SamplingParams};
use wgpt::tensor::{Dim, TensorType};

/// Numbers in `[0, 1)` (xorshift, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Logits as models make them: nearly normal, of this standard deviation, common tokens first.
    fn logits(&mut self, vocab: usize, deviation: f64) -> Vec<f32> {
        let normal = |random: &mut Self| (0..12).map(|_| random.next()).sum::<f64>() - 6.0;
        let common = |token: usize| 2.0 * deviation * (-(token as f64) / (vocab as f64 / 8.0)).exp();
        (0..vocab).map(|token| (deviation * normal(self) + common(token)) as f32).collect()
    }
}

fn devices() -> Vec<Device> {
    let tiers = [Tier::Full, Tier::NoFeatures, Tier::Plain];
    let open = |(adapter, tier)| {
        Device::open(adapter, DeviceOptions { tier, checks: true, ..DeviceOptions::default() }).expect("it opens")
    };
    let indices: Vec<usize> = all_adapters().iter().map(|adapter| adapter.index).collect();
    indices.into_iter().flat_map(|index| tiers.map(|tier| (index, tier))).map(open).collect()
}

fn on_device(device: &Device, rule: &Rule, logits: &[f32]) -> Chosen {
    let row = |width| CaseInput::Activation(TensorType::f32([Dim::Fixed(width)]));
    let case = Case {
        label: "a choice".into(),
        op: Box::new(Choose),
        inputs: vec![
            CaseInput::Values(logits.to_vec()),
            CaseInput::Values(Choose::numbers(rule, logits.len()).to_vec()),
        ],
        outputs: vec![row(4), row(1)],
        step: Step::new(1, 0, 1),
        max_nmse: 0.0,
    };
    let prepared = FilledCase::new(&case, 1).prepare(device).expect("it fits");
    let result = prepared.run(device).expect("it runs");
    let numbers: [f32; 4] = result.outputs[0].clone().try_into().expect("four numbers");
    let chosen = Chosen::from_numbers(numbers, rule.limit);
    let next = result.outputs[1][0].to_bits();
    assert_eq!(next, if let Chosen::Token(token) = chosen { token } else { 0 }, "the next forward's token");
    chosen
}

fn rule(temperature: f32, top_k: usize, top_p: f32, min_p: f32, limit: usize, uniform: f64) -> Rule {
    let params = SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() };
    Rule { params, limit, uniform }
}

/// `BREADTH` of choose.wgsl: candidates that are listed at least, where no top-k says how many.
const BREADTH: usize = 384;

/// Tokens that top-p or min-p keeps, the fewer of the two.
fn kept(rule: &Rule, logits: &[f32]) -> usize {
    let mut sorted: Vec<f64> = logits[..rule.limit].iter().map(|logit| f64::from(*logit)).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let best = sorted[0];
    let weights: Vec<f64> =
        sorted.iter().map(|logit| ((logit - best) / f64::from(rule.params.temperature)).exp()).collect();
    let wanted = f64::from(rule.params.top_p) * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let reaching = weights.iter().position(|weight| {
        sum += weight;
        sum >= wanted
    });
    let likely = weights.iter().take_while(|weight| **weight >= f64::from(rule.params.min_p)).count();
    likely.min(reaching.map_or(weights.len(), |last| last + 1))
}

#[test]
fn adapters_choose_as_the_sampler_does() {
    let filters = [(0, 1.0, 0.0), (40, 1.0, 0.0), (200, 0.95, 0.0), (0, 0.9, 0.0), (0, 1.0, 0.05), (20, 0.8, 0.1)];
    for device in devices() {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for (vocab, deviation) in [(256, 1.0), (1025, 2.0), (32_000, 3.0), (152_064, 2.5)] {
            let limit = vocab - vocab / 50;
            let logits = random.logits(vocab, deviation);
            for (top_k, top_p, min_p) in filters {
                for temperature in [0.0, 0.7, 1.0] {
                    let rule = rule(temperature, top_k, top_p, min_p, limit, random.next());
                    let expected = Chosen::from(rule.choose(&logits));
                    let found = on_device(&device, &rule, &logits);
                    assert!(Choose::takes(&rule), "kernels take {rule:?}");
                    let listed = temperature == 0.0 || top_k > 0 || top_p == 1.0 && min_p == 0.0;
                    if found == Chosen::Undecided && !listed && kept(&rule, &logits) > BREADTH {
                        continue;
                    }
                    assert_eq!(found, expected, "{} of {vocab}, {rule:?}", device.info.name);
                }
            }
        }
    }
}

#[test]
fn a_nucleus_too_wide_to_rank_is_left_to_the_host() {
    for device in devices() {
        let flat = Random(7).logits(32_000, 0.1);
        let found = on_device(&device, &rule(1.0, 0, 0.9, 0.0, 32_000, 0.5), &flat);
        assert_eq!(found, Chosen::Undecided, "nearly all tokens are in the nucleus");
        let found = on_device(&device, &rule(1.0, 0, 1.0, 0.01, 32_000, 0.5), &flat);
        assert_eq!(found, Chosen::Undecided, "nearly all tokens pass min-p");
        let equal = vec![1.0; 32_000];
        let found = on_device(&device, &rule(1.0, 40, 1.0, 0.0, 32_000, 0.5), &equal);
        assert_eq!(found, Chosen::Undecided, "all are as good as the 40th");
        // What needs no ranking is drawn from any distribution.
        let plain = rule(1.0, 0, 1.0, 0.0, 32_000, 0.5);
        assert_eq!(on_device(&device, &plain, &flat), plain.choose(&flat).into(), "no filter");
        assert_eq!(on_device(&device, &plain, &equal), plain.choose(&equal).into(), "all equal");
    }
    assert!(!Choose::takes(&rule(1.0, 5_000, 1.0, 0.0, 32_000, 0.5)), "so many are not ranked");
    assert!(Choose::takes(&rule(0.0, 5_000, 1.0, 0.0, 32_000, 0.5)), "greedy ranks nothing");
}

#[test]
fn what_is_no_logit_is_said_and_what_is_masked_is_never_chosen() {
    let rules =
        [rule(0.0, 0, 1.0, 0.0, 3000, 0.0), rule(1.0, 50, 0.9, 0.0, 3000, 0.3), rule(1.0, 0, 1.0, 0.0, 3000, 0.9)];
    for device in devices() {
        for rule in rules {
            let mut logits = Random(3).logits(3_100, 2.0);
            logits[3_050] = f32::NAN;
            assert_eq!(on_device(&device, &rule, &logits), rule.choose(&logits).into(), "NaN above the limit");
            let masked: Vec<f32> =
                logits.iter().enumerate().map(|(i, x)| if i % 7 == 3 { *x } else { f32::NEG_INFINITY }).collect();
            assert_eq!(on_device(&device, &rule, &masked), rule.choose(&masked).into(), "masked by minus infinity");
            logits[2_000] = f32::INFINITY;
            logits[2_500] = f32::NAN;
            let infinite = Chosen::Failed(SampleError::NotANumber { token: 2_000, value: f32::INFINITY });
            assert_eq!(on_device(&device, &rule, &logits), infinite, "the first that is none, {rule:?}");
            let nothing = vec![f32::NEG_INFINITY; 3_100];
            let left = Chosen::Failed(SampleError::NothingLeft(3_000));
            assert_eq!(on_device(&device, &rule, &nothing), left, "all masked, {rule:?}");
            let mut signs = vec![-0.0; 3_100];
            signs[77] = 0.0;
            if rule.params.top_k == 0 {
                assert_eq!(on_device(&device, &rule, &signs), rule.choose(&signs).into(), "zeros of both signs");
            }
        }
    }
}
