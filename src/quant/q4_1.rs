//! q4_1: blocks of 32 weights, each a 4-bit code times the block's f16 scale plus its f16 min.
//!
//! Stored block, 20 bytes: scale, min, then nibbles as in q4_0. Packed scales: scale and min of the row's blocks in
//! order, one word a block. Twin: `shaders/quant/q4_1.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP, from_halves, to_halves};
use super::grouped::{Grouped, Scales, is_finite_f16};
use super::q4_0::truncate;
use super::read_f16;
use super::search::{extremes, inverse};

/// 4-bit codes, 32 a scale and min: 5 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q4_1;

impl Grouped for Q4_1 {
    const NAME: &'static str = "q4_1";
    const GGML_TYPE: Option<u32> = Some(3);
    const LEN: usize = GROUP;
    const BYTES: usize = 4 + GROUP / 2;
    const LOW_BITS: usize = 4;

    fn codes(block: &[u8], _group: usize) -> Codes {
        from_halves(&block[4..])
    }

    fn halves(block: &[u8], _group: usize) -> Option<&[u8]> {
        Some(&block[4..])
    }

    fn has_finite_scales(block: &[u8]) -> bool {
        is_finite_f16(block, 0) && is_finite_f16(block, 2)
    }

    fn value(code: u8) -> f32 {
        f32::from(code)
    }

    fn scale_bytes(blocks: usize) -> usize {
        4 * blocks
    }

    fn pack_scales(block: &[u8], index: usize, _blocks: usize, scales: &mut [u8]) {
        scales[4 * index..][..4].copy_from_slice(&block[..4]);
    }

    fn scales(scales: &[u8], _blocks: usize, group: usize) -> Scales {
        // The min is stored as it is, to be added.
        Scales::with_min(read_f16(scales, 4 * group), -read_f16(scales, 4 * group + 2))
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let codes = quantize_range(weights, 15, block);
        to_halves(&codes, &mut block[4..]);
    }
}

/// Writes scale and min of codes `0..=most` to the head of a block and returns the codes; q5_1 has the same head.
pub(super) fn quantize_range(weights: &[f32], most: u8, block: &mut [u8]) -> Codes {
    let (min, max) = extremes(weights);
    let scale = (max - min) / f32::from(most);
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(min).to_le_bytes());
    let inverse = inverse(scale);
    std::array::from_fn(|i| truncate((weights[i] - min) * inverse + 0.5, most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    #[test]
    fn min_and_max_become_codes_0_and_15() {
        let mut weights = [2.0; GROUP];
        (weights[0], weights[16]) = (-1.0, 14.0);
        let mut stored = [0; Q4_1::BYTES];
        Q4_1.quantize(&weights, &mut stored);
        assert_eq!((read_f16(&stored, 0), read_f16(&stored, 2)), (1.0, -1.0), "scale (14 + 1) / 15, min -1");
        assert_eq!(stored[4..6], [0xf0, 0x33], "ends of the range, then 2 = 3 × 1 - 1");
    }

    #[test]
    fn equal_weights_are_exact() {
        let (mut stored, mut back) = ([0; Q4_1::BYTES], [0.0; GROUP]);
        Q4_1.quantize(&[0.25; GROUP], &mut stored);
        Q4_1.dequantize(&stored, &mut back);
        assert_eq!(back, [0.25; GROUP], "the min alone carries them");
    }
}
