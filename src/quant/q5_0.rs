//! q5_0: blocks of 32 weights, each a 5-bit code minus 16, times the block's f16 scale.
//!
//! Stored block, 22 bytes: scale, a word with the fifth bits (bit `i` is weight `i`'s), then nibbles as in q4_0.
//! Packed scales: as in q4_0. Twin: `shaders/quant/q5_0.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP, from_halves, to_halves};
use super::grouped::{Grouped, Scales, copy_f16, f16_bytes, is_finite_f16};
use super::q4_0::truncate;
use super::read_f16;
use super::search::{farthest, inverse};

/// 5-bit codes, 32 a scale, no min: 5.5 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q5_0;

impl Grouped for Q5_0 {
    const NAME: &'static str = "q5_0";
    const GGML_TYPE: Option<u32> = Some(6);
    const LEN: usize = GROUP;
    const BYTES: usize = 6 + GROUP / 2;
    const LOW_BITS: usize = 4;
    const HIGH_BITS: usize = 1;

    fn codes(block: &[u8], _group: usize) -> Codes {
        from_halves_and_bits(&block[2..])
    }

    fn halves(block: &[u8], _group: usize) -> Option<&[u8]> {
        Some(&block[6..])
    }

    fn has_finite_scales(block: &[u8]) -> bool {
        is_finite_f16(block, 0)
    }

    fn value(code: u8) -> f32 {
        f32::from(code) - 16.0
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
        let scale = farthest(weights) / -16.0;
        block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        let inverse = inverse(scale);
        let codes = std::array::from_fn(|i| truncate(weights[i] * inverse + 16.5, 31));
        to_halves_and_bits(&codes, &mut block[2..]);
    }
}

/// Codes of a word of fifth bits and 16 bytes of nibbles; q5_1 has the same.
pub(super) fn from_halves_and_bits(stored: &[u8]) -> Codes {
    let nibbles = from_halves(&stored[4..]);
    std::array::from_fn(|i| nibbles[i] | (stored[i / 8] >> (i % 8) & 1) << 4)
}

/// The inverse of [`from_halves_and_bits`], into zeros.
pub(super) fn to_halves_and_bits(codes: &Codes, stored: &mut [u8]) {
    to_halves(codes, &mut stored[4..]);
    for (i, code) in codes.iter().enumerate() {
        stored[i / 8] |= (code >> 4) << (i % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    #[test]
    fn the_fifth_bit_of_a_weight_is_the_word_s_bit_of_its_number() {
        let mut weights = [-16.0; GROUP];
        (weights[3], weights[20]) = (0.0, 15.0);
        let mut stored = [0; Q5_0::BYTES];
        Q5_0.quantize(&weights, &mut stored);
        assert_eq!(read_f16(&stored, 0), 1.0, "-16 becomes code 0");
        assert_eq!(stored[2..6], (1u32 << 3 | 1 << 20).to_le_bytes(), "codes 16 and 31 have the bit");
        assert_eq!(stored[6..11], [0, 0, 0, 0, 0xf0], "weight 20 is the high nibble of byte 4");
    }
}
