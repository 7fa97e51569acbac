//! iq4_nl: blocks of 32 weights, each one of 16 unevenly spaced values, times the block's f16 scale.
//!
//! Stored block, 18 bytes, and packed scales: as in q4_0. Twin: `shaders/quant/iq4_nl.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP, from_halves, to_halves};
use super::grouped::{Grouped, Scales, copy_f16, f16_bytes, is_finite_f16};
use super::read_f16;
use super::search::{EPSILON, farthest, inverse};

/// 4-bit codes of a table, 32 a scale: 4.5 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Iq4Nl;

/// What the codes are worth, for iq4_xs too. Twin: `IQ4_VALUES` in `shaders/lib/iq4_values.wgsl`.
pub(super) const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl Grouped for Iq4Nl {
    const NAME: &'static str = "iq4_nl";
    const GGML_TYPE: Option<u32> = Some(20);
    const LEN: usize = GROUP;
    const BYTES: usize = 2 + GROUP / 2;
    const LOW_BITS: usize = 4;
    const TABLE: bool = true;

    fn codes(block: &[u8], _group: usize) -> Codes {
        from_halves(&block[2..])
    }

    fn halves(block: &[u8], _group: usize) -> Option<&[u8]> {
        Some(&block[2..])
    }

    fn has_finite_scales(block: &[u8]) -> bool {
        is_finite_f16(block, 0)
    }

    fn value(code: u8) -> f32 {
        f32::from(VALUES[usize::from(code & 15)])
    }

    fn scale_bytes(blocks: usize) -> usize {
        f16_bytes(blocks)
    }

    fn pack_scales(block: &[u8], index: usize, _blocks: usize, scales: &mut [u8]) {
        copy_f16(block, 0, scales, index);
    }

    fn scales(scales: &[u8], _blocks: usize, group: usize) -> Scales {
        Scales::one(read_f16(scales, 2 * group))
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let scale = search_scale(weights);
        block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        let inverse = inverse(scale);
        to_halves(&std::array::from_fn(|i| nearest_code(weights[i] * inverse)), &mut block[2..]);
    }
}

/// The code whose value is nearest, the larger one of two.
pub(super) fn nearest_code(target: f32) -> u8 {
    let above = VALUES.iter().position(|value| target < f32::from(*value)).unwrap_or(VALUES.len());
    if above == 0 || above == VALUES.len() {
        return above.min(VALUES.len() - 1) as u8;
    }
    let (lower, upper) = (f32::from(VALUES[above - 1]), f32::from(VALUES[above]));
    if target - lower < upper - target { above as u8 - 1 } else { above as u8 }
}

/// The scale that brings the table's values closest to the weights, errors weighted by the squares of the weights.
pub(super) fn search_scale(weights: &[f32]) -> f32 {
    let max = farthest(weights);
    if max.abs() < EPSILON {
        return 0.0;
    }
    let fit = |inverse: f32| {
        weights.iter().fold((0.0, 0.0), |(sum_xq, sum_q2), x| {
            let (q, w) = (Iq4Nl::value(nearest_code(inverse * x)), x * x);
            (sum_xq + w * q * x, sum_q2 + w * q * q)
        })
    };
    // First the weight farthest from zero at the end of the table's longer side, then values about that.
    let lowest = f32::from(VALUES[0]);
    let (sum_xq, sum_q2) = fit(1.0 / (-max / lowest));
    let mut scale = if sum_q2 > 0.0 { sum_xq / sum_q2 } else { 0.0 };
    let mut best = scale * sum_xq;
    for i in -7i8..=7 {
        let (sum_xq, sum_q2) = fit((f32::from(i) + lowest) / max);
        if sum_q2 > 0.0 && sum_xq * sum_xq > best * sum_q2 {
            scale = sum_xq / sum_q2;
            best = scale * sum_xq;
        }
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_code_of_a_value_is_its_own_and_the_larger_one_halfway() {
        for (code, value) in VALUES.iter().enumerate() {
            assert_eq!(usize::from(nearest_code(f32::from(*value))), code, "{value} is in the table");
        }
        assert_eq!(nearest_code(-115.5), 1, "halfway between -127 and -104");
        assert_eq!((nearest_code(-1e9), nearest_code(1e9)), (0, 15), "the ends hold what lies beyond");
    }
}
