//! q3_k: blocks of 256 weights, each a 3-bit code minus 4; every 16 have a 6-bit scale minus 32, counted in the
//! block's f16 scale.
//!
//! Stored block, 110 bytes: 32 bytes of third bits (bit `g` of byte `i` is weight `32g + i`'s), 64 bytes of lower 2
//! bits as q2_k's, 12 bytes of group scales, scale. The 12 bytes: byte `s` of the first 8 holds the low nibbles of
//! scales `s` and `8 + s`; bits `2q..2q + 2` of byte `8 + s` are the upper bits of scale `4q + s`.
//!
//! Packed scales: four words a block, so that one 16-byte load has them all: low nibbles of scales 0 to 7, of 8 to
//! 15, the upper 2 bits of all, and the block's scale (two bytes more than stored). Twin: `shaders/quant/q3_k.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP, from_plane, to_plane};
use super::grouped::{Grouped, Scales};
use super::read_f16;
use super::search::{farthest, nearest, scale_by_exchange};

/// 3-bit codes, 16 a scale of 6 bits: 3.4375 bits per weight, 3.5 packed.
#[derive(Debug, Clone, Copy)]
pub struct Q3K;

const LOW: usize = 32;
const SCALES: usize = LOW + 64;
const SCALE: usize = SCALES + 12;

/// Packed bytes of scales.
const HEAD: usize = 16;

impl Grouped for Q3K {
    const NAME: &'static str = "q3_k";
    const GGML_TYPE: Option<u32> = Some(11);
    const LEN: usize = 256;
    const BYTES: usize = SCALE + 2;
    const LOW_BITS: usize = 2;
    const HIGH_BITS: usize = 1;

    fn codes(block: &[u8], group: usize) -> Codes {
        let low = from_plane(&block[LOW + group / 4 * GROUP..], group % 4 * 2, 3);
        let high = from_plane(block, group, 1);
        std::array::from_fn(|i| low[i] | high[i] << 2)
    }

    fn value(code: u8) -> f32 {
        f32::from(code) - 4.0
    }

    fn scale_bytes(blocks: usize) -> usize {
        HEAD * blocks
    }

    fn pack_scales(block: &[u8], index: usize, _blocks: usize, scales: &mut [u8]) {
        let packed = &mut scales[HEAD * index..][..HEAD];
        packed.fill(0);
        for scale in 0..16 {
            let code = group_scale(&block[SCALES..SCALE], scale);
            packed[scale / 2] |= (code & 15) << (scale % 2 * 4);
            packed[8 + scale / 4] |= code >> 4 << (scale % 4 * 2);
        }
        packed[12..14].copy_from_slice(&block[SCALE..]);
    }

    fn scales(scales: &[u8], _blocks: usize, group: usize) -> Scales {
        let packed = &scales[HEAD * (group / 8)..][..HEAD];
        let of = |half: usize| {
            let scale = 2 * (group % 8) + half;
            let code = packed[scale / 2] >> (scale % 2 * 4) & 15 | (packed[8 + scale / 4] >> (scale % 4 * 2) & 3) << 4;
            read_f16(packed, 12) * (f32::from(code) - 32.0)
        };
        Scales { scale: [of(0), of(1)], min: [0.0; 2] }
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let mut codes = [0; 256];
        let mut scales = [0.0f32; 16];
        for ((scale, weights), codes) in scales.iter_mut().zip(weights.chunks_exact(16)).zip(codes.chunks_exact_mut(16))
        {
            *scale = scale_by_exchange(weights, 4, codes);
        }
        // The largest scale becomes -32: its sign goes into the block's scale.
        let max = farthest(&scales);
        let inverse = if max == 0.0 { 0.0 } else { -32.0 / max };
        let scale = if max == 0.0 { 0.0 } else { 1.0 / inverse };
        block[SCALE..].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        let block_scale = read_f16(block, SCALE);
        for (i, (weights, codes)) in weights.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
            let units = nearest(inverse * scales[i]).clamp(-32, 31);
            // A block of zeros has zero bytes.
            if max != 0.0 {
                put_group_scale((units + 32) as u8, i, &mut block[SCALES..SCALE]);
            }
            let scale = block_scale * units as f32;
            if scale != 0.0 {
                let code = |weight: f32| (nearest(weight / scale).clamp(-4, 3) + 4) as u8;
                codes.iter_mut().zip(weights).for_each(|(to, weight)| *to = code(*weight));
            }
        }
        for (group, codes) in codes.chunks_exact(GROUP).enumerate() {
            to_plane(|i| codes[i] >> 2, group, block);
            to_plane(|i| codes[i] & 3, group % 4 * 2, &mut block[LOW + group / 4 * GROUP..]);
        }
    }
}

/// The 6 bits of a scale in the 12 stored bytes.
fn group_scale(stored: &[u8], scale: usize) -> u8 {
    stored[scale % 8] >> (scale / 8 * 4) & 15 | (stored[8 + scale % 4] >> (scale / 4 * 2) & 3) << 4
}

/// Adds the 6 bits of a scale to the 12 stored bytes.
fn put_group_scale(code: u8, scale: usize, stored: &mut [u8]) {
    stored[scale % 8] |= (code & 15) << (scale / 8 * 4);
    stored[8 + scale % 4] |= code >> 4 << (scale / 4 * 2);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    #[test]
    fn group_scales_survive_the_stored_and_the_packed_order() {
        let mut block = [0; Q3K::BYTES];
        block[SCALE..].copy_from_slice(&f16::from_f32(1.0).to_le_bytes());
        let of = |scale: usize| 63 - 3 * scale as u8;
        for scale in 0..16 {
            put_group_scale(of(scale), scale, &mut block[SCALES..SCALE]);
        }
        let layout = Q3K.layout(1, 256);
        let mut packed = vec![0; layout.bytes as usize];
        Q3K.repack_row(&block, &layout, 0, &mut packed);
        for scale in 0..16 {
            assert_eq!(group_scale(&block[SCALES..SCALE], scale), of(scale), "stored scale {scale}");
            let found = Q3K::scales(layout.row(&packed, 1, 0), 1, scale / 2).scale[scale % 2];
            assert_eq!(found, f32::from(of(scale)) - 32.0, "packed scale {scale}");
        }
    }
}
