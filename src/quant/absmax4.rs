//! nf4, fp4, nf4_dq, fp4_dq: blocks of 64 weights, each one of 16 values within ±1, times the block's largest
//! magnitude (absmax), as bitsandbytes defines them (Dettmers et al. 2023, QLoRA).
//!
//! Stored block, 36 bytes: absmax as f32, then nibbles, the first of two weights in the upper one; those are
//! bitsandbytes' bytes. Packed scales: the row's absmaxes in order.
//!
//! `_dq` (double quantized) rounds the absmaxes of 256 blocks to 8-bit steps around their mean. Stored block, 41
//! bytes: mean and step as f32, the block's steps as i8, then the nibbles. Packed scales: mean and step of every 256
//! blocks of the row, then the steps of its blocks, padded to whole words. bitsandbytes counts its 256 blocks across
//! rows and spaces its steps unevenly; evenly they are finer where absmaxes are far from the mean, and need no table.
//! Steps keep 16 bits, so that their multiples are exact and only the mean's addition rounds.
//!
//! The blocks of one run of 256 share mean and step: stored rows are taken apart at no other place. Twins:
//! `shaders/quant/<name>.wgsl`.

use std::fmt::{self, Debug};
use std::marker::PhantomData;

use super::codes::{Codes, GROUP};
use super::grouped::{Grouped, Scales};
use super::search::inverse;

/// Weights of a block.
const LEN: usize = 64;

/// Bytes of a block's nibbles.
const NIBBLES: usize = LEN / 2;

/// Blocks that share mean and step.
const RUN: usize = 256;

/// Bytes before the nibbles: mean, step, steps.
const DOUBLE_HEAD: usize = 9;

/// Most steps from the mean.
const MOST_STEPS: f32 = 127.0;

/// 4-bit codes of equal probability under a normal distribution, 64 a scale: 4.5 bits per weight.
pub const NF4: Absmax<NormalFloat> = Absmax(PhantomData);

/// 4-bit floats, 64 a scale: 4.5 bits per weight.
pub const FP4: Absmax<Float> = Absmax(PhantomData);

/// nf4 with 8-bit scales: a little more than 4.125 bits per weight.
pub const NF4_DQ: DoubleQuantized<NormalFloat> = DoubleQuantized(PhantomData);

/// fp4 with 8-bit scales: a little more than 4.125 bits per weight.
pub const FP4_DQ: DoubleQuantized<Float> = DoubleQuantized(PhantomData);

/// Codes of a table times an f32 absmax.
#[derive(Clone, Copy)]
pub struct Absmax<T>(PhantomData<T>);

/// Codes of a table times an absmax that is rounded itself.
#[derive(Clone, Copy)]
pub struct DoubleQuantized<T>(PhantomData<T>);

/// What codes are worth.
pub trait Table: Send + Sync {
    #[doc(hidden)]
    const NAME: &'static str;
    #[doc(hidden)]
    const DOUBLE_NAME: &'static str;
    /// In parts of absmax, by code. Twin: the table in the WGSL snippets.
    const VALUES: [f32; 16];
    /// The code nearest to a weight within ±1, of two the one nearer to zero or, for nf4, the smaller.
    fn nearest(weight: f32) -> u8;
}

/// nf4: the quantiles of a normal distribution, made to hold 0 and ±1.
#[derive(Clone, Copy)]
pub struct NormalFloat;

impl Table for NormalFloat {
    const NAME: &'static str = "nf4";
    const DOUBLE_NAME: &'static str = "nf4_dq";
    #[expect(clippy::excessive_precision, reason = "as published; each is the f32 nearest to it")]
    const VALUES: [f32; 16] = [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ];

    fn nearest(weight: f32) -> u8 {
        let borders = Self::VALUES.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        borders.filter(|border| weight > *border).count() as u8
    }
}

/// fp4: sign, two bits of exponent, one of fraction, scaled so that the largest is 1.
#[derive(Clone, Copy)]
pub struct Float;

/// The codes of fp4 from 0 upwards.
const RISING: [u8; 8] = [0, 1, 6, 7, 4, 5, 2, 3];

impl Table for Float {
    const NAME: &'static str = "fp4";
    const DOUBLE_NAME: &'static str = "fp4_dq";
    const VALUES: [f32; 16] = {
        const fn parts(twelfths: f32) -> f32 {
            twelfths / 12.0
        }
        let half = [0.0, parts(0.0625), parts(8.0), 1.0, parts(4.0), 0.5, parts(2.0), 0.25];
        let mut values = [0.0; 16];
        let mut code = 0;
        while code < 8 {
            values[code] = half[code];
            values[code + 8] = -half[code];
            code += 1;
        }
        values
    };

    fn nearest(weight: f32) -> u8 {
        let value = |code: u8| Self::VALUES[usize::from(code)];
        let borders = RISING.windows(2).map(|pair| (value(pair[0]) + value(pair[1])) / 2.0);
        let code = RISING[borders.filter(|border| weight.abs() > *border).count()];
        if weight < 0.0 && code > 0 { code | 8 } else { code }
    }
}

impl<T: Table> Debug for Absmax<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::NAME)
    }
}

impl<T: Table> Debug for DoubleQuantized<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::DOUBLE_NAME)
    }
}

impl<T: Table> Grouped for Absmax<T> {
    const NAME: &'static str = T::NAME;
    const GGML_TYPE: Option<u32> = None;
    const INTEGER: bool = false;
    const TABLE: bool = true;
    const LEN: usize = LEN;
    const BYTES: usize = 4 + NIBBLES;
    const LOW_BITS: usize = 4;

    fn codes(block: &[u8], group: usize) -> Codes {
        from_pairs(&block[4..], group)
    }

    fn value(code: u8) -> f32 {
        T::VALUES[usize::from(code & 15)]
    }

    fn scale_bytes(blocks: usize) -> usize {
        4 * blocks
    }

    fn pack_scales(block: &[u8], index: usize, _blocks: usize, scales: &mut [u8]) {
        scales[4 * index..][..4].copy_from_slice(&block[..4]);
    }

    fn scales(scales: &[u8], _blocks: usize, group: usize) -> Scales {
        Scales::one(read_f32(scales, group * GROUP / LEN * 4))
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let absmax = absmax(weights);
        block[..4].copy_from_slice(&absmax.to_le_bytes());
        to_pairs::<T>(weights, absmax, &mut block[4..]);
    }
}

impl<T: Table> Grouped for DoubleQuantized<T> {
    const NAME: &'static str = T::DOUBLE_NAME;
    const GGML_TYPE: Option<u32> = None;
    const INTEGER: bool = false;
    const TABLE: bool = true;
    const LEN: usize = LEN;
    const BYTES: usize = DOUBLE_HEAD + NIBBLES;
    const RUN: usize = RUN;
    const LOW_BITS: usize = 4;

    fn codes(block: &[u8], group: usize) -> Codes {
        from_pairs(&block[DOUBLE_HEAD..], group)
    }

    fn value(code: u8) -> f32 {
        T::VALUES[usize::from(code & 15)]
    }

    fn scale_bytes(blocks: usize) -> usize {
        8 * blocks.div_ceil(RUN) + blocks.next_multiple_of(4)
    }

    fn pack_scales(block: &[u8], index: usize, blocks: usize, scales: &mut [u8]) {
        scales[index / RUN * 8..][..8].copy_from_slice(&block[..8]);
        scales[8 * blocks.div_ceil(RUN) + index] = block[8];
    }

    fn scales(scales: &[u8], blocks: usize, group: usize) -> Scales {
        let index = group * GROUP / LEN;
        let run = index / RUN * 8;
        let steps = f32::from(scales[8 * blocks.div_ceil(RUN) + index] as i8);
        Scales::one(steps * read_f32(scales, run + 4) + read_f32(scales, run))
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        Self::quantize_run(weights, block);
    }

    fn quantize_run(weights: &[f32], stored: &mut [u8]) {
        let runs = weights.chunks(RUN * LEN).zip(stored.chunks_mut(RUN * Self::BYTES));
        for (weights, stored) in runs {
            let absmaxes: Vec<f32> = weights.chunks_exact(LEN).map(absmax).collect();
            let (mean, step) = mean_and_step(&absmaxes);
            let inverse = inverse(step);
            let blocks = weights.chunks_exact(LEN).zip(stored.chunks_exact_mut(Self::BYTES));
            for ((weights, block), absmax) in blocks.zip(&absmaxes) {
                block[..4].copy_from_slice(&mean.to_le_bytes());
                block[4..8].copy_from_slice(&step.to_le_bytes());
                let steps = ((absmax - mean) * inverse).round_ties_even().clamp(-MOST_STEPS, MOST_STEPS);
                block[8] = steps as i8 as u8;
                to_pairs::<T>(weights, *absmax, &mut block[DOUBLE_HEAD..]);
            }
        }
    }
}

/// The mean of some absmaxes, and a step of which at most 127 lead from it to any of them.
fn mean_and_step(absmaxes: &[f32]) -> (f32, f32) {
    let mean = absmaxes.iter().map(|absmax| f64::from(*absmax)).sum::<f64>() / absmaxes.len().max(1) as f64;
    let mean = mean as f32;
    let farthest = absmaxes.iter().fold(0.0f32, |most, absmax| most.max((absmax - mean).abs()));
    let step = farthest / MOST_STEPS;
    // Rounded up to 16 bits. Infinite weights have no finite step; any will do, none is worth anything.
    let rounded = f32::from_bits(step.to_bits().saturating_add(0xff) & !0xff);
    (mean, if rounded.is_finite() { rounded } else { 0.0 })
}

fn absmax(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |most, weight| most.max(weight.abs()))
}

fn to_pairs<T: Table>(weights: &[f32], absmax: f32, nibbles: &mut [u8]) {
    let inverse = inverse(absmax);
    let code = |weight: f32| T::nearest(weight * inverse);
    for (pair, byte) in weights.chunks_exact(2).zip(nibbles) {
        *byte = code(pair[0]) << 4 | code(pair[1]);
    }
}

fn from_pairs(nibbles: &[u8], group: usize) -> Codes {
    let nibbles = &nibbles[group * GROUP / 2..][..GROUP / 2];
    std::array::from_fn(|weight| if weight % 2 == 0 { nibbles[weight / 2] >> 4 } else { nibbles[weight / 2] & 15 })
}

fn read_f32(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    /// The inverse of the normal distribution function, by bisection on its series: an independent way to nf4.
    fn quantile(probability: f64) -> f64 {
        let distribution = |x: f64| {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x * f64::from(2 * n - 1) / f64::from(2 * n * (2 * n + 1));
                sum += term;
            }
            0.5 + sum / (2.0 * std::f64::consts::PI).sqrt()
        };
        let (mut low, mut high) = (-4.0, 4.0);
        for _ in 0..100 {
            let middle = (low + high) / 2.0;
            if distribution(middle) < probability { low = middle } else { high = middle }
        }
        low
    }

    #[test]
    fn nf4_is_made_of_the_quantiles_of_the_normal_distribution() {
        // QLoRA: 8 quantiles above zero and 7 below, from the tail left at (1/30 + 1/32) / 2, scaled to ±1.
        let offset = 1.0 - (1.0 / 30.0 + 1.0 / 32.0) / 2.0;
        let even = |count: usize, i: usize| offset + (0.5 - offset) * i as f64 / count as f64;
        let largest = quantile(offset);
        let mut expected: Vec<f64> = (0..8).map(|i| quantile(even(8, i)) / largest).collect();
        expected.extend((0..7).map(|i| -quantile(even(7, i)) / largest));
        expected.push(0.0);
        expected.sort_by(f64::total_cmp);
        for (code, (value, expected)) in NormalFloat::VALUES.iter().zip(&expected).enumerate() {
            assert!((f64::from(*value) - expected).abs() < 1e-6, "code {code}: {value}, the quantile is {expected}");
        }
    }

    #[test]
    fn every_value_has_its_own_code() {
        for code in 0..16u8 {
            let (nf4, fp4) = (NormalFloat::VALUES[usize::from(code)], Float::VALUES[usize::from(code)]);
            assert_eq!(NormalFloat::nearest(nf4), code, "nf4 {nf4}");
            // Minus zero is zero.
            assert_eq!(Float::nearest(fp4), if code == 8 { 0 } else { code }, "fp4 {fp4}");
        }
    }

    #[test]
    fn steps_reach_every_absmax_and_are_exact_in_f32() {
        for absmaxes in [vec![0.5], vec![0.1, 0.9, 0.30001], vec![0.0; 3], vec![1e-39, 3e-39], vec![3e38, 1e38]] {
            let (mean, step) = mean_and_step(&absmaxes);
            for absmax in &absmaxes {
                assert!((absmax - mean).abs() <= step * MOST_STEPS, "{absmax} of {absmaxes:?}: {mean} ± 127 × {step}");
            }
            let product = f64::from(step) * 127.0;
            assert_eq!(product, f64::from(product as f32), "127 steps of {step}");
        }
    }

    #[test]
    fn double_quantized_scales_are_near_and_zeros_stay() {
        let weights: Vec<f32> = (0..300 * LEN)
            .map(|i| if i / LEN == 7 { 0.0 } else { ((i * 37 % 101) as f32 - 50.0) * (1.0 + (i / LEN) as f32 * 1e-3) })
            .collect();
        let (mut stored, mut back) = (vec![0; NF4_DQ.row_bytes(weights.len())], vec![0.0; weights.len()]);
        let (mut plain, mut expected) = (vec![0; NF4.row_bytes(weights.len())], vec![0.0; weights.len()]);
        NF4_DQ.quantize(&weights, &mut stored);
        NF4_DQ.dequantize(&stored, &mut back);
        NF4.quantize(&weights, &mut plain);
        NF4.dequantize(&plain, &mut expected);
        for (i, (found, expected)) in back.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() <= 0.3, "weight {i}: {found}, nf4 has {expected}");
        }
        assert!(back[7 * LEN..8 * LEN].iter().all(|weight| *weight == 0.0), "a block of zeros in a run of others");
        assert_ne!(stored[..8], stored[256 * NF4_DQ.block_bytes()..][..8], "the 257th block is of another run");
    }
}
