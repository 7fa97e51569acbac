//! q4_0: blocks of 32 weights, each a 4-bit code minus 8, times the block's f16 scale.
//!
//! Stored block, 18 bytes: scale, then 16 bytes; byte `i` holds weight `i` in its low and weight `i + 16` in its
//! high nibble. Packed scales: the row's in order, padded to whole words. Twin: `shaders/quant/q4_0.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP, from_halves, to_halves};
use super::grouped::{Grouped, Scales, copy_f16, f16_bytes, is_finite_f16};
use super::read_f16;
use super::search::{farthest, inverse};

/// 4-bit codes, 32 a scale, no min: 4.5 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q4_0;

impl Grouped for Q4_0 {
    const NAME: &'static str = "q4_0";
    const GGML_TYPE: Option<u32> = Some(2);
    const LEN: usize = GROUP;
    const BYTES: usize = 2 + GROUP / 2;
    const LOW_BITS: usize = 4;

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
        f32::from(code) - 8.0
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
        // The weight farthest from zero becomes code 0, that is -8: the sign goes into the scale.
        let scale = farthest(weights) / -8.0;
        block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        let inverse = inverse(scale);
        to_halves(&std::array::from_fn(|i| truncate(weights[i] * inverse + 8.5, 15)), &mut block[2..]);
    }
}

/// Truncates to a code, at most `most`: ggml's rounding once the half is added.
pub(super) fn truncate(shifted: f32, most: u8) -> u8 {
    // Saturates where C would be undefined (infinite and NaN weights); never negative otherwise.
    (shifted as i8).clamp(0, most as i8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    #[test]
    fn the_farthest_weight_becomes_code_0_and_the_other_end_is_capped_at_15() {
        let mut weights = [0.0; GROUP];
        (weights[1], weights[17]) = (8.0, -8.0);
        let mut stored = [0; Q4_0::BYTES];
        Q4_0.quantize(&weights, &mut stored);
        assert_eq!(read_f16(&stored, 0), -1.0, "8 comes first, so the scale is 8 / -8");
        assert_eq!(stored[2..4], [0x88, 0xf0], "weights 1 and 17 share a byte: codes 0 and 15 (16 capped)");
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut stored = [0xaa; Q4_0::BYTES];
        Q4_0.quantize(&[0.0; GROUP], &mut stored);
        assert_eq!(stored[..2], [0x00, 0x80], "0 / -8 is -0, which ggml stores as it is");
        assert_eq!(stored[2..], [0x88; 16], "code 8 is zero");
    }
}
