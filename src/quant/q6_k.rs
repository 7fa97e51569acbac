//! q6_k: blocks of 256 weights, each a 6-bit code minus 32; every 16 have a signed 8-bit scale, counted in the
//! block's f16 scale.
//!
//! Stored block, 210 bytes: 128 bytes of nibbles, 64 bytes of upper 2 bits, 16 group scales, scale. In each half of
//! 128 weights, byte `32h + i` of its 64 bytes of nibbles holds weight `32h + i` in its low and `64 + 32h + i` in its
//! high nibble, and bits `2g..2g + 2` of byte `i` of its 32 bytes of upper bits are weight `32g + i`'s.
//!
//! Packed scales of a row: first the bytes of all blocks in order, then the f16 scales, padded to whole words. Twin:
//! `shaders/quant/q6_k.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP, from_plane, to_plane};
use super::grouped::{Grouped, Scales, copy_f16, f16_bytes};
use super::read_f16;
use super::search::{EPSILON, farthest, nearest, scale_of};

/// 6-bit codes, 16 a scale of 8 bits: 6.5625 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q6K;

const HIGH: usize = 128;
const SCALES: usize = HIGH + 64;
const SCALE: usize = SCALES + SCALED;

/// Runs of 16 weights, each with a scale.
const SCALED: usize = 16;

impl Grouped for Q6K {
    const NAME: &'static str = "q6_k";
    const GGML_TYPE: Option<u32> = Some(14);
    const LEN: usize = 256;
    const BYTES: usize = SCALE + 2;
    const LOW_BITS: usize = 4;
    const HIGH_BITS: usize = 2;

    fn codes(block: &[u8], group: usize) -> Codes {
        let (half, group) = (group / 4, group % 4);
        let low = from_plane(&block[half * 64 + group % 2 * GROUP..], group / 2 * 4, 15);
        let high = from_plane(&block[HIGH + half * GROUP..], 2 * group, 3);
        std::array::from_fn(|i| low[i] | high[i] << 4)
    }

    fn value(code: u8) -> f32 {
        f32::from(code) - 32.0
    }

    fn scale_bytes(blocks: usize) -> usize {
        SCALED * blocks + f16_bytes(blocks)
    }

    fn pack_scales(block: &[u8], index: usize, blocks: usize, scales: &mut [u8]) {
        scales[SCALED * index..][..SCALED].copy_from_slice(&block[SCALES..SCALE]);
        copy_f16(block, SCALE, &mut scales[SCALED * blocks..], index);
    }

    fn scales(scales: &[u8], blocks: usize, group: usize) -> Scales {
        let scale = read_f16(scales, SCALED * blocks + group / 8 * 2);
        let of = |half: usize| scale * f32::from(scales[2 * group + half] as i8);
        Scales { scale: [of(0), of(1)], min: [0.0; 2] }
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let mut codes = [0; 256];
        let mut scales = [0.0f32; SCALED];
        for ((scale, weights), codes) in scales.iter_mut().zip(weights.chunks_exact(16)).zip(codes.chunks_exact_mut(16))
        {
            *scale = scale_of(weights, 32, codes);
        }
        let max = farthest(&scales);
        if max.abs() < EPSILON {
            return;
        }
        // The largest scale becomes -128: its sign goes into the block's scale.
        let inverse = -128.0 / max;
        block[SCALE..].copy_from_slice(&f16::from_f32(1.0 / inverse).to_le_bytes());
        let block_scale = read_f16(block, SCALE);
        for (i, (weights, codes)) in weights.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
            let units = nearest(inverse * scales[i]).min(127) as i8;
            block[SCALES + i] = units as u8;
            let scale = block_scale * f32::from(units);
            if scale != 0.0 {
                let code = |weight: f32| (nearest(weight / scale).clamp(-32, 31) + 32) as u8;
                codes.iter_mut().zip(weights).for_each(|(to, weight)| *to = code(*weight));
            }
        }
        for (group, codes) in codes.chunks_exact(GROUP).enumerate() {
            let (half, group) = (group / 4, group % 4);
            to_plane(|i| codes[i] & 15, group / 2 * 4, &mut block[half * 64 + group % 2 * GROUP..]);
            to_plane(|i| codes[i] >> 4, 2 * group, &mut block[HIGH + half * GROUP..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    #[test]
    fn an_odd_number_of_block_scales_is_padded_to_a_whole_word() {
        let layout = Q6K.layout(2, 3 * 256);
        assert_eq!(layout.row_bytes, [3 * 128, 3 * 16 + 8, 3 * 64], "two regions as stored, one two bytes longer");
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut stored = [0xaa; Q6K::BYTES];
        Q6K.quantize(&[0.0; 256], &mut stored);
        assert_eq!(stored, [0; Q6K::BYTES], "scale 0, not a division by it");
    }
}
