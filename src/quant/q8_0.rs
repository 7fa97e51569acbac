//! q8_0: blocks of 32 weights, each a signed byte times the block's f16 scale.
//!
//! Stored block, 34 bytes: scale, then 32 codes in order. Packed: region 0 the codes of a row in order (two
//! 16-byte chunks a block), the scales as in q4_0. Twin: `shaders/quant/q8_0.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP};
use super::grouped::{Grouped, Scales, copy_f16, f16_bytes, is_finite_f16};
use super::read_f16;
use super::search::{farthest, inverse};

/// 8-bit codes, 32 a scale: 8.5 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q8_0;

impl Grouped for Q8_0 {
    const NAME: &'static str = "q8_0";
    const GGML_TYPE: Option<u32> = Some(8);
    const LEN: usize = GROUP;
    const BYTES: usize = 2 + GROUP;
    const LOW_BITS: usize = 8;

    fn codes(block: &[u8], _group: usize) -> Codes {
        std::array::from_fn(|i| block[2 + i])
    }

    fn has_finite_scales(block: &[u8]) -> bool {
        is_finite_f16(block, 0)
    }

    fn value(code: u8) -> f32 {
        f32::from(code as i8)
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
        let scale = farthest(weights).abs() / 127.0;
        block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        let inverse = inverse(scale);
        for (code, weight) in block[2..].iter_mut().zip(weights) {
            // ggml divides by the scale before it is rounded to f16, and rounds halves away from zero.
            *code = (weight * inverse).round() as i8 as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    #[test]
    fn the_largest_weight_becomes_127_and_halves_round_away_from_zero() {
        let mut weights = [0.0; GROUP];
        weights[..4].copy_from_slice(&[127.0, -127.0, 0.5, -0.5]);
        let mut stored = [0; Q8_0::BYTES];
        Q8_0.quantize(&weights, &mut stored);
        assert_eq!(read_f16(&stored, 0), 1.0, "127 / 127");
        assert_eq!(stored[2..6], [127, 129, 1, 255], "signed bytes 127, -127, 1, -1");
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut stored = [0xaa; Q8_0::BYTES];
        Q8_0.quantize(&[0.0; GROUP], &mut stored);
        assert_eq!(stored, [0; Q8_0::BYTES], "scale 0, not a division by it");
    }

    #[test]
    fn an_odd_number_of_scales_is_padded_to_a_whole_word() {
        let layout = Q8_0.layout(3, 96);
        assert_eq!(layout.row_bytes, [96, 8], "three f16 scales take two words");
    }
}
