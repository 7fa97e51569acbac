//! `f8_e4m3_g32` and `f8_e4m3_g128`: 8-bit floats (OCP FP8, the variant without infinities: 4 exponent bits, 3 fraction
//! bits), times an f32 scale.
//!
//! Checkpoints have one scale a tensor, a row or a square of weights; here each block of a row has its own copy, which
//! for 128 weights costs a quarter of a bit. A weight is one product, rounded once to f32, as the libraries compute it.
//!
//! Stored block: the f32 scale, then the codes in order. Packed: region 0 the codes of a row in order, the scales
//! behind each other, one word a block. Twins: `shaders/quant/f8_e4m3_g32.wgsl`, `f8_e4m3_g128.wgsl`.

use super::codes::{Codes, GROUP};
use super::grouped::{Grouped, Scales};
use super::search::{farthest, inverse};

/// 8-bit floats, `LEN` (32 or 128) a scale: 9 and 8.25 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct F8E4M3<const LEN: usize>;

/// Bytes of the scale.
const HEAD: usize = 4;

/// The largest number.
const MOST: f32 = 448.0;

/// The code of no number, but for its sign.
const NAN: u8 = 0x7f;

impl<const LEN: usize> F8E4M3<LEN> {
    /// Writes one block.
    ///
    /// # Panics
    /// When a length is not a block's.
    pub fn write(codes: &[u8], scale: f32, block: &mut [u8]) {
        block[..HEAD].copy_from_slice(&scale.to_le_bytes());
        block[HEAD..].copy_from_slice(codes);
    }
}

impl<const LEN: usize> Grouped for F8E4M3<LEN> {
    const NAME: &'static str = match LEN {
        32 => "f8_e4m3_g32",
        128 => "f8_e4m3_g128",
        _ => panic!("a length without a snippet"),
    };
    const GGML_TYPE: Option<u32> = None;
    const INTEGER: bool = false;
    const LEN: usize = LEN;
    const BYTES: usize = HEAD + LEN;
    const LOW_BITS: usize = 8;

    fn codes(block: &[u8], group: usize) -> Codes {
        let bytes = &block[HEAD + group * GROUP..][..GROUP];
        std::array::from_fn(|i| bytes[i])
    }

    fn value(code: u8) -> f32 {
        decode(code)
    }

    fn scale_bytes(blocks: usize) -> usize {
        HEAD * blocks
    }

    fn pack_scales(block: &[u8], index: usize, _blocks: usize, scales: &mut [u8]) {
        scales[HEAD * index..][..HEAD].copy_from_slice(&block[..HEAD]);
    }

    fn scales(scales: &[u8], _blocks: usize, group: usize) -> Scales {
        let scale = &scales[HEAD * (group * GROUP / LEN)..][..HEAD];
        Scales::one(f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]))
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let scale = farthest(weights).abs() / MOST;
        let inverse = inverse(scale);
        block[..HEAD].copy_from_slice(&scale.to_le_bytes());
        for (code, weight) in block[HEAD..].iter_mut().zip(weights) {
            *code = encode(weight * inverse);
        }
    }

    fn has_numbers(block: &[u8]) -> bool {
        block[HEAD..].iter().all(|code| code & NAN != NAN)
    }

    fn are_finite(scales: Scales) -> bool {
        // The largest code too must make a number.
        scales.scale.iter().all(|scale| (scale * MOST).is_finite())
    }
}

/// What a code stands for. A fraction without its leading one is made with it, and the one taken off again.
fn decode(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    if magnitude == u32::from(NAN) {
        return f32::NAN;
    }
    // An exponent counts from 127 in f32, from 7 here.
    let leading = f32::from_bits((magnitude << 20) + (120 << 23));
    let value = if magnitude < 8 { leading * 2.0 - 2f32.powi(-6) } else { leading };
    if code & 0x80 == 0 { value } else { -value }
}

/// The nearest code, of two equally near the even one; beyond the largest number that one.
fn encode(value: f32) -> u8 {
    if value.is_nan() {
        return NAN;
    }
    let sign = u8::from(value.is_sign_negative()) << 7;
    let magnitude = value.abs().min(MOST);
    // The step between numbers of this magnitude, 2^-9 at least: below 2^-6 the exponent stays.
    let exponent = (magnitude.to_bits() >> 23) as i32 - 127;
    let exponent = exponent.max(-6);
    let steps = (magnitude * 2f32.powi(3 - exponent)).round_ties_even() as u8;
    // Eight steps are the leading one; a carry out of the fraction goes into the exponent by itself.
    let code = (((exponent + 6) as u8) << 3) + steps;
    sign | code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    #[test]
    fn codes_stand_for_the_numbers_of_the_standard() {
        let table = [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ];
        for (code, value) in table {
            assert_eq!(decode(code), value, "{code:#x}");
        }
        assert!(decode(0x7f).is_nan() && decode(0xff).is_nan(), "no number");
        assert!(decode(0x80) == 0.0 && decode(0x80).is_sign_negative(), "-0");
    }

    #[test]
    fn every_number_is_its_own_nearest_and_ties_go_to_even() {
        for code in (0..=255u8).filter(|code| code & NAN != NAN) {
            assert_eq!(encode(decode(code)), code, "{code:#x}");
        }
        for code in 0..0x7eu8 {
            let middle = (decode(code) + decode(code + 1)) / 2.0;
            assert_eq!(encode(middle), code + code % 2, "between {code:#x} and the next");
        }
        assert_eq!((encode(1e9), encode(f32::NEG_INFINITY), encode(f32::NAN)), (0x7e, 0xfe, 0x7f), "beyond the ends");
    }

    #[test]
    fn codes_and_scales_that_are_no_numbers_are_found() {
        let mut stored = [0; 72];
        F8E4M3::<32>::write(&[0x38; 32], 1.0, &mut stored[..36]);
        F8E4M3::<32>::write(&[0x38; 32], 1.0, &mut stored[36..]);
        assert_eq!(F8E4M3::<32>.bad_block(&stored), None, "all ones");
        stored[50] = 0xff;
        assert_eq!(F8E4M3::<32>.bad_block(&stored), Some(1), "a NaN among the codes");
        for scale in [f32::NAN, f32::INFINITY, f32::MAX] {
            F8E4M3::<32>::write(&[0x38; 32], scale, &mut stored[..36]);
            assert_eq!(F8E4M3::<32>.bad_block(&stored), Some(0), "a scale of {scale}");
        }
    }
}
