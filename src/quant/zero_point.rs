//! Codes less an integer zero point, times an f16 scale: `u4_g32`, `u4_g128` and `u8_g32`, what GPTQ and AWQ publish
//! where their zero points differ from the middle code (where they don't, that is q4_0 or q8_0).
//!
//! Both products of `code * scale - zero * scale` are exact in f32, and so is their difference: a weight is exactly
//! what its file says, where the libraries that wrote it round to f16.
//!
//! Stored block: the f16 scale, the zero point as u16 (at most 256), then the codes, of 4 bits as in q4_0, of 8 in
//! order. Packed scales: these four bytes of the row's blocks in order, one word a block. Twins:
//! `shaders/quant/u4_g32.wgsl`, `u4_g128.wgsl`, `u8_g32.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP, from_halves, to_halves};
use super::grouped::{Grouped, Scales};
use super::read_f16;
use super::search::inverse;

/// Codes of `BITS` bits (4 or 8), `LEN` (32 or 128) a scale and zero point: 5, 4.25 and 9 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct ZeroPoint<const BITS: usize, const LEN: usize>;

/// Bytes of scale and zero point.
pub(super) const HEAD: usize = 4;

impl<const BITS: usize, const LEN: usize> Grouped for ZeroPoint<BITS, LEN> {
    const NAME: &'static str = match (BITS, LEN) {
        (4, 32) => "u4_g32",
        (4, 128) => "u4_g128",
        (8, 32) => "u8_g32",
        _ => panic!("a length without a snippet"),
    };
    const GGML_TYPE: Option<u32> = None;
    const LEN: usize = LEN;
    const BYTES: usize = HEAD + LEN * BITS / 8;
    const LOW_BITS: usize = BITS;

    fn codes(block: &[u8], group: usize) -> Codes {
        let bytes = &block[HEAD + group * 4 * BITS..][..4 * BITS];
        if BITS == 4 { from_halves(bytes) } else { std::array::from_fn(|i| bytes[i]) }
    }

    fn value(code: u8) -> f32 {
        f32::from(code)
    }

    fn scale_bytes(blocks: usize) -> usize {
        HEAD * blocks
    }

    fn pack_scales(block: &[u8], index: usize, _blocks: usize, scales: &mut [u8]) {
        scales[HEAD * index..][..HEAD].copy_from_slice(&block[..HEAD]);
    }

    fn scales(scales: &[u8], _blocks: usize, group: usize) -> Scales {
        let head = &scales[HEAD * (group * GROUP / LEN)..][..HEAD];
        let scale = read_f16(head, 0);
        Scales::with_min(scale, f32::from(u16::from_le_bytes([head[2], head[3]])) * scale)
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let most = f32::from(most(BITS));
        // The range reaches zero, so that the zero point is a code and zeros stay zeros.
        let (min, max) =
            weights.iter().fold((0.0f32, 0.0f32), |(min, max), weight| (min.min(*weight), max.max(*weight)));
        let scale = f16::from_f32((max - min) / most);
        let inverse = inverse(scale.to_f32());
        let zero = (-min * inverse).round_ties_even().clamp(0.0, most);
        block[..2].copy_from_slice(&scale.to_le_bytes());
        block[2..HEAD].copy_from_slice(&(zero as u16).to_le_bytes());
        let code = |weight: &f32| ((weight * inverse).round_ties_even() + zero).clamp(0.0, most) as u8;
        let codes: [u8; LEN] = std::array::from_fn(|i| code(&weights[i]));
        write_codes::<BITS>(&codes, &mut block[HEAD..]);
    }
}

/// The largest code.
const fn most(bits: usize) -> u8 {
    if bits == 4 { 15 } else { 255 }
}

/// Codes as a stored block has them.
pub(super) fn write_codes<const BITS: usize>(codes: &[u8], stored: &mut [u8]) {
    if BITS == 8 {
        stored.copy_from_slice(codes);
        return;
    }
    for (codes, stored) in codes.as_chunks::<GROUP>().0.iter().zip(stored.chunks_exact_mut(GROUP / 2)) {
        to_halves(codes, stored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    #[test]
    fn weights_are_exact_products() {
        let mut stored = [0; 20];
        let scale = f16::from_f32(0.1);
        stored[..2].copy_from_slice(&scale.to_le_bytes());
        stored[2] = 16;
        stored[4..].fill(0xf3);
        let mut weights = [0.0; 32];
        ZeroPoint::<4, 32>.dequantize(&stored, &mut weights);
        assert_eq!(weights[..16], [-13.0 * scale.to_f32(); 16], "low nibbles: (3 - 16) scales");
        assert_eq!(weights[16..], [-scale.to_f32(); 16], "high nibbles: (15 - 16) scales");
    }

    #[test]
    fn the_ends_of_the_range_and_zero_are_kept() {
        let mut weights = [0.0; 128];
        (weights[0], weights[127]) = (-5.0, 10.0);
        let (mut stored, mut back) = ([0; 68], [0.0; 128]);
        ZeroPoint::<4, 128>.quantize(&weights, &mut stored);
        assert_eq!((read_f16(&stored, 0), stored[2]), (1.0, 5), "a step is (10 + 5) / 15, zero five steps up");
        ZeroPoint::<4, 128>.dequantize(&stored, &mut back);
        assert_eq!(back, weights, "all three are codes");
    }

    #[test]
    fn zero_points_of_eight_bits_reach_256() {
        let mut stored = [0; 36];
        stored[..4].copy_from_slice(&[0x00, 0x3c, 0x00, 0x01]);
        stored[35] = 255;
        let mut weights = [0.0; 32];
        ZeroPoint::<8, 32>.dequantize(&stored, &mut weights);
        assert_eq!((weights[0], weights[31]), (-256.0, -1.0), "scale 1, codes 0 and 255");
    }
}
