//! The distribution that is drawn from, checked against exact probabilities.

use super::*;

fn params() -> SamplingParams {
    SamplingParams { temperature: 1.0, top_k: 0, ..SamplingParams::default() }
}

/// Shares of each token in many draws of one stream.
fn shares(params: SamplingParams, logits: &[f32], history: &[u32]) -> Vec<f64> {
    const DRAWS: u32 = 20_000;
    let mut sampler = Sampler::new(params, 0).expect("valid parameters");
    let mut counts = vec![0u32; logits.len()];
    for _ in 0..DRAWS {
        counts[sampler.sample(logits, history).expect("a token") as usize] += 1;
    }
    counts.iter().map(|&count| f64::from(count) / f64::from(DRAWS)).collect()
}

fn assert_shares(params: SamplingParams, logits: &[f32], history: &[u32], expected: &[f64]) {
    let found = shares(params, logits, history);
    for (token, (found, expected)) in found.iter().zip(expected).enumerate() {
        // four standard deviations of a share of 20 000 draws are at most 0.0142; what is filtered never occurs
        let near = if *expected == 0.0 { *found == 0.0 } else { (found - expected).abs() < 0.0142 };
        assert!(near, "token {token}: share {found}, expected {expected}, with {params:?}");
    }
}

/// Logits whose softmax is 0.4, 0.1, 0.3, 0.2.
fn known() -> [f32; 4] {
    [0.4f32.ln(), 0.1f32.ln(), 0.3f32.ln(), 0.2f32.ln()]
}

#[test]
fn unfiltered_draws_follow_the_softmax() {
    assert_shares(params(), &known(), &[], &[0.4, 0.1, 0.3, 0.2]);
}

#[test]
fn temperature_scales_logits() {
    let squares = [0.16 / 0.3, 0.01 / 0.3, 0.09 / 0.3, 0.04 / 0.3];
    assert_shares(SamplingParams { temperature: 0.5, ..params() }, &known(), &[], &squares);
}

#[test]
fn top_k_keeps_exactly_k_and_renormalises() {
    let two = [4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0];
    assert_shares(SamplingParams { top_k: 2, ..params() }, &known(), &[], &two);
    assert_shares(SamplingParams { top_k: 9, ..params() }, &known(), &[], &[0.4, 0.1, 0.3, 0.2]);
}

#[test]
fn ties_at_the_kth_place_go_to_the_lowest_index() {
    assert_shares(SamplingParams { top_k: 2, ..params() }, &[1.0; 5], &[], &[0.5, 0.5, 0.0, 0.0, 0.0]);
    assert_shares(SamplingParams { top_p: 0.35, ..params() }, &[1.0; 5], &[], &[0.5, 0.5, 0.0, 0.0, 0.0]);
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_p() {
    let with = |top_p| SamplingParams { top_p, ..params() };
    assert_shares(with(0.65), &known(), &[], &[4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
    assert_shares(with(0.75), &known(), &[], &[4.0 / 9.0, 0.0, 3.0 / 9.0, 2.0 / 9.0]);
    assert_shares(with(0.0), &known(), &[], &[1.0, 0.0, 0.0, 0.0]);
    assert_shares(with(1.0), &known(), &[], &[0.4, 0.1, 0.3, 0.2]);
}

#[test]
fn top_p_counts_mass_after_top_k() {
    // of the two that top-k keeps, 0.4 is 57 % of the mass
    let both = SamplingParams { top_k: 2, top_p: 0.5, ..params() };
    assert_shares(both, &known(), &[], &[1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn min_p_is_relative_to_the_most_probable() {
    let with = |min_p| SamplingParams { min_p, ..params() };
    assert_shares(with(0.6), &known(), &[], &[4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
    assert_shares(with(1.0), &known(), &[], &[1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn repetition_penalty_counts_each_token_once() {
    let logits = [2.0, -1.0, 0.5];
    let penalised = [1.0f64, -2.0, 0.5].map(f64::exp);
    let total: f64 = penalised.iter().sum();
    let expected = penalised.map(|weight| weight / total);
    let twice = SamplingParams { repetition_penalty: 2.0, ..params() };
    assert_shares(twice, &logits, &[0, 1, 0, 0, 1, 99], &expected);
}

#[test]
fn top_p_over_a_large_vocabulary_equals_a_full_sort() {
    // nearly flat, so that the nucleus needs several rounds of selection
    let logits: Vec<f32> = (0..5_000u32).map(|i| (i.wrapping_mul(2_654_435_761) % 1_009) as f32 / 500.0).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let mut sum = 0.0;
    let nucleus = 1 + order
        .iter()
        .position(|&i| {
            sum += f64::from(logits[i]).exp() / total;
            sum >= 0.9
        })
        .expect("the whole reaches 0.9");
    let mut expected: Vec<u32> = order[..nucleus].iter().map(|&i| i as u32).collect();
    expected.sort_unstable();

    let mut sampler = Sampler::new(SamplingParams { top_p: 0.9, ..params() }, 0).expect("valid");
    sampler.sample(&logits, &[]).expect("a token");
    let kept: Vec<u32> = sampler.candidates.iter().map(|candidate| candidate.token).collect();
    assert_eq!(kept, expected, "the nucleus, in index order");
}

#[test]
fn greedy_takes_the_lowest_index_of_the_largest() {
    let mut sampler = Sampler::new(SamplingParams::greedy(), 0).expect("valid");
    assert_eq!(sampler.sample(&[1.0, 3.0, 3.0, -2.0], &[]), Ok(1), "first of two equals");
    let penalised = SamplingParams { repetition_penalty: 1.5, ..SamplingParams::greedy() };
    let mut sampler = Sampler::new(penalised, 0).expect("valid");
    assert_eq!(sampler.sample(&[1.0, 3.0, 2.5], &[1]), Ok(2), "the penalty comes before argmax");
}

#[test]
fn masked_and_padded_tokens_are_never_chosen() {
    let masked = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
    assert_shares(params(), &masked, &[], &[0.0, 0.5, 0.0, 0.5]);
    let mut sampler = Sampler::new(SamplingParams::greedy(), 0).expect("valid").with_vocab_limit(2);
    assert_eq!(sampler.sample(&[0.0, 1.0, 9.0, f32::NAN], &[]), Ok(1), "rows from the limit on are not looked at");
}

#[test]
fn extremes_are_tokens_or_errors_never_hangs() {
    let mut sampler = Sampler::new(params(), 0).expect("valid");
    assert_eq!(sampler.sample(&[f32::MAX, f32::MIN], &[]), Ok(0), "differences beyond f32");
    assert_eq!(sampler.sample(&[-3.0e38], &[]), Ok(0), "a single token");
    let nan = sampler.sample(&[0.0, f32::NAN], &[]).expect_err("NaN");
    assert!(nan.to_string().contains("token 1"), "names the token: {nan}");
    assert!(sampler.sample(&[f32::INFINITY], &[]).is_err(), "plus infinity");
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3], &[]), Err(SampleError::NothingLeft(3)), "all masked");
    assert_eq!(sampler.sample(&[], &[]), Err(SampleError::NothingLeft(0)), "no logits");
    let tiny = SamplingParams { temperature: 1e-30, ..params() };
    let mut sampler = Sampler::new(tiny, 0).expect("valid");
    assert_eq!(sampler.sample(&[1.0, 1.1, 1.0], &[]), Ok(1), "as good as greedy");
    let strong = SamplingParams { repetition_penalty: 1e-30, ..params() };
    let mut sampler = Sampler::new(strong, 0).expect("valid");
    assert_eq!(sampler.sample(&[1e30, 1.0], &[0]), Ok(0), "a penalty that overflows stays finite");
}

#[test]
fn the_same_seed_and_stream_give_the_same_tokens() {
    let draw = |seed, stream| {
        let mut sampler = Sampler::new(SamplingParams { seed, ..params() }, stream).expect("valid");
        (0..32).map(|_| sampler.sample(&[0.0; 64], &[]).expect("a token")).collect::<Vec<_>>()
    };
    assert_eq!(draw(7, 0), draw(7, 0), "repeatable");
    assert_ne!(draw(7, 0), draw(8, 0), "another seed");
    assert_ne!(draw(7, 0), draw(7, 1), "another stream");
    // fixed for ever: a change here changes every user's seeded texts
    assert_eq!(draw(7, 0)[..6], [48, 29, 0, 19, 24, 21], "the first draws of seed 7");
}

#[test]
fn parameters_out_of_range_are_named() {
    let bad = [
        SamplingParams { temperature: -1.0, ..params() },
        SamplingParams { temperature: f32::NAN, ..params() },
        SamplingParams { top_p: 1.1, ..params() },
        SamplingParams { min_p: -0.1, ..params() },
        SamplingParams { repetition_penalty: 0.0, ..params() },
    ];
    for params in bad {
        let error = params.validate().expect_err("out of range").to_string();
        assert!(error.contains(" must be "), "says the range: {error}");
    }
}

#[test]
fn own_exp_equals_the_library_s() {
    for step in 0..70_000 {
        let x = -f64::from(step) / 100.0;
        let (own, library) = (exp(x), x.exp());
        assert!((own - library).abs() <= 1e-14 * library, "exp({x}): {own} against {library}");
    }
    assert_eq!(exp(0.0), 1.0, "exact at zero");
}
