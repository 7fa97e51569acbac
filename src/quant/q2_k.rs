//! q2_k: blocks of 256 weights, each a 2-bit code; every 16 have a 4-bit scale and a 4-bit min, counted in the
//! block's f16 scale and f16 min.
//!
//! Stored block, 84 bytes: 16 bytes of group scales (low nibble) and mins (high nibble), 64 bytes of codes, scale,
//! min. In each half of 128 weights, bits `2g..2g + 2` of byte `i` of its 32 bytes are weight `32g + i`'s.
//!
//! Packed scales of a row: first the bytes of all blocks in order, then scale and min of each block, a word. Twin:
//! `shaders/quant/q2_k.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP, from_plane, to_plane};
use super::grouped::{Grouped, Scales};
use super::q4_k::largest;
use super::read_f16;
use super::search::{Tries, nearest, scale_and_min};

/// 2-bit codes, 16 a scale and min, 4 bits each: 2.625 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q2K;

const CODES: usize = SCALED;
const SCALE: usize = CODES + 64;

/// Runs of 16 weights, each with a scale and min.
const SCALED: usize = 16;

impl Grouped for Q2K {
    const NAME: &'static str = "q2_k";
    const GGML_TYPE: Option<u32> = Some(10);
    const LEN: usize = 256;
    const BYTES: usize = SCALE + 4;
    const LOW_BITS: usize = 2;

    fn codes(block: &[u8], group: usize) -> Codes {
        from_plane(&block[CODES + group / 4 * GROUP..], group % 4 * 2, 3)
    }

    fn value(code: u8) -> f32 {
        f32::from(code)
    }

    fn scale_bytes(blocks: usize) -> usize {
        (SCALED + 4) * blocks
    }

    fn pack_scales(block: &[u8], index: usize, blocks: usize, scales: &mut [u8]) {
        scales[SCALED * index..][..SCALED].copy_from_slice(&block[..SCALED]);
        scales[SCALED * blocks + 4 * index..][..4].copy_from_slice(&block[SCALE..]);
    }

    fn scales(scales: &[u8], blocks: usize, group: usize) -> Scales {
        let at = SCALED * blocks + group / 8 * 4;
        let (scale, min) = (read_f16(scales, at), read_f16(scales, at + 2));
        let units = [scales[2 * group], scales[2 * group + 1]];
        Scales {
            scale: units.map(|units| scale * f32::from(units & 15)),
            min: units.map(|units| min * f32::from(units >> 4)),
        }
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let mut codes = [0; 256];
        let (mut scales, mut mins) = ([0.0f32; SCALED], [0.0f32; SCALED]);
        let tries = Tries { first: -0.5, step: 0.1, tries: 15 };
        for (i, (weights, codes)) in weights.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
            let importance: [f32; 16] = std::array::from_fn(|i| weights[i].abs());
            (scales[i], mins[i]) = scale_and_min(weights, &importance, 3, &tries, f32::abs, codes);
        }
        let (max_scale, max_min) = (largest(&scales), largest(&mins));
        block[SCALE..SCALE + 2].copy_from_slice(&f16::from_f32(max_scale / 15.0).to_le_bytes());
        block[SCALE + 2..].copy_from_slice(&f16::from_f32(max_min / 15.0).to_le_bytes());
        let (block_scale, block_min) = (read_f16(block, SCALE), read_f16(block, SCALE + 2));
        let in_units = |value: f32, max: f32| {
            let inverse = if max > 0.0 { 15.0 / max } else { 0.0 };
            nearest(inverse * value).clamp(0, 15) as u8
        };
        for (i, (weights, codes)) in weights.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
            let (scale_units, min_units) = (in_units(scales[i], max_scale), in_units(mins[i], max_min));
            block[i] = scale_units | min_units << 4;
            let (scale, min) = (block_scale * f32::from(scale_units), block_min * f32::from(min_units));
            if scale != 0.0 {
                let code = |weight: f32| nearest((weight + min) / scale).clamp(0, 3) as u8;
                codes.iter_mut().zip(weights).for_each(|(to, weight)| *to = code(*weight));
            }
        }
        for (group, codes) in codes.chunks_exact(GROUP).enumerate() {
            to_plane(|i| codes[i], group % 4 * 2, &mut block[CODES + group / 4 * GROUP..]);
        }
    }
}
