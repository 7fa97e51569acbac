//! mxfp4: blocks of 32 weights, each a 4-bit float (e2m1), times a power of two: the OCP microscaling format.
//!
//! Stored block, 17 bytes: the exponent of the scale (e8m0), then nibbles as in q4_0. Codes count in halves here, so
//! that they are whole numbers, and scales are half of what the exponent says. Packed scales: the exponents of the
//! row's blocks, padded to whole words. Twin: `shaders/quant/mxfp4.wgsl`.

use super::codes::{Codes, GROUP, from_halves, to_halves};
use super::grouped::{Grouped, Scales};

/// 4-bit float codes, 32 a power of two: 4.25 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Mxfp4;

/// What the codes are worth, in halves. Twin: `MXFP4_VALUES` in `shaders/quant/mxfp4.wgsl`.
const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl Grouped for Mxfp4 {
    const NAME: &'static str = "mxfp4";
    const GGML_TYPE: Option<u32> = Some(39);
    const LEN: usize = GROUP;
    const BYTES: usize = 1 + GROUP / 2;
    const LOW_BITS: usize = 4;
    const TABLE: bool = true;

    fn codes(block: &[u8], _group: usize) -> Codes {
        from_halves(&block[1..])
    }

    fn halves(block: &[u8], _group: usize) -> Option<&[u8]> {
        Some(&block[1..])
    }

    fn value(code: u8) -> f32 {
        f32::from(VALUES[usize::from(code & 15)])
    }

    fn scale_bytes(blocks: usize) -> usize {
        blocks.next_multiple_of(4)
    }

    fn pack_scales(block: &[u8], index: usize, _blocks: usize, scales: &mut [u8]) {
        scales[index] = block[0];
    }

    fn scales(scales: &[u8], _blocks: usize, group: usize) -> Scales {
        Scales::one(half_scale(scales[group]))
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let largest = weights.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
        // The largest weight lands in the codes of the largest exponent, 4 to 6.
        let exponent = if largest > 0.0 { (largest.log2().floor() - 2.0 + 127.0) as u8 } else { 0 };
        block[0] = exponent;
        let scale = half_scale(exponent);
        let code = |weight: f32| {
            let error = |code: u8| (Self::value(code) * scale - weight).abs();
            (1..16).fold(0, |best, code| if error(code) < error(best) { code } else { best })
        };
        to_halves(&std::array::from_fn(|i| code(weights[i])), &mut block[1..]);
    }

    fn are_finite(scales: Scales) -> bool {
        // The topmost exponents leave no room for the larger codes; 255 says that the block is not a number.
        scales.scale.iter().all(|scale| (scale * 12.0).is_finite())
    }
}

/// Half of 2^(exponent - 127); the lowest two are subnormal.
fn half_scale(exponent: u8) -> f32 {
    let bits = if exponent < 2 { 0x0020_0000 << exponent } else { u32::from(exponent - 1) << 23 };
    f32::from_bits(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    #[test]
    fn e2m1_values_of_exponent_127_are_exact() {
        let mut weights = [0.0; GROUP];
        weights[..8].copy_from_slice(&[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        weights[16..24].copy_from_slice(&[-0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]);
        let (mut stored, mut back) = ([0; Mxfp4::BYTES], [0.0; GROUP]);
        Mxfp4.quantize(&weights, &mut stored);
        Mxfp4.dequantize(&stored, &mut back);
        assert_eq!((stored[0], back), (127, weights), "scale 2^0");
    }

    #[test]
    fn a_scale_that_is_not_a_number_or_leaves_f32_is_found() {
        let mut stored = [0; 2 * Mxfp4::BYTES];
        for (exponent, bad) in [(0, None), (252, None), (253, Some(1)), (255, Some(1))] {
            stored[Mxfp4::BYTES] = exponent;
            assert_eq!(Mxfp4.bad_block(&stored), bad, "exponent {exponent}");
        }
    }
}
