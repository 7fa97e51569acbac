//! iq4_xs: blocks of 256 weights of iq4_nl's values; every 32 have a 6-bit scale minus 32, counted in the block's
//! f16 scale.
//!
//! Stored block, 136 bytes: scale, a half-word with the upper 2 bits of the group scales (group `g`'s at bit `2g`),
//! 4 bytes with their low nibbles (group `g`'s at bit `4g`), then 16 bytes of nibbles a group as in q4_0. Packed
//! scales: the first two words of the stored blocks. Twin: `shaders/quant/iq4_xs.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP, from_halves, to_halves};
use super::grouped::{Grouped, Scales};
use super::iq4_nl::{Iq4Nl, nearest_code, search_scale};
use super::read_f16;
use super::search::{farthest, inverse, nearest};

/// 4-bit codes of a table, 32 a scale of 6 bits: 4.25 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Iq4Xs;

/// Bytes of scales.
const HEAD: usize = 8;

const GROUPS: usize = 8;

impl Grouped for Iq4Xs {
    const NAME: &'static str = "iq4_xs";
    const GGML_TYPE: Option<u32> = Some(23);
    const LEN: usize = 256;
    const BYTES: usize = HEAD + 128;
    const LOW_BITS: usize = 4;
    const TABLE: bool = true;

    fn codes(block: &[u8], group: usize) -> Codes {
        from_halves(&block[HEAD + 16 * group..])
    }

    fn value(code: u8) -> f32 {
        Iq4Nl::value(code)
    }

    fn scale_bytes(blocks: usize) -> usize {
        HEAD * blocks
    }

    fn pack_scales(block: &[u8], index: usize, _blocks: usize, scales: &mut [u8]) {
        scales[HEAD * index..][..HEAD].copy_from_slice(&block[..HEAD]);
    }

    fn scales(scales: &[u8], _blocks: usize, group: usize) -> Scales {
        let (packed, group) = (&scales[HEAD * (group / GROUPS)..][..HEAD], group % GROUPS);
        let units = packed[4 + group / 2] >> (group % 2 * 4) & 15 | (packed[2 + group / 4] >> (group % 4 * 2) & 3) << 4;
        Scales::one(read_f16(packed, 0) * (f32::from(units) - 32.0))
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let scales: [f32; GROUPS] = std::array::from_fn(|group| search_scale(&weights[GROUP * group..][..GROUP]));
        // The largest scale becomes -32: its sign goes into the block's scale.
        let block_scale = -farthest(&scales) / 32.0;
        block[..2].copy_from_slice(&f16::from_f32(block_scale).to_le_bytes());
        let in_units = inverse(block_scale);
        for (group, weights) in weights.chunks_exact(GROUP).enumerate() {
            let units = nearest(in_units * scales[group]).clamp(-32, 31);
            let code = (units + 32) as u8;
            block[2 + group / 4] |= code >> 4 << (group % 4 * 2);
            block[4 + group / 2] |= (code & 15) << (group % 2 * 4);
            // By the scale before it was rounded to f16, as ggml has it.
            let inverse = inverse(block_scale * units as f32);
            let codes = std::array::from_fn(|i| nearest_code(inverse * weights[i]));
            to_halves(&codes, &mut block[HEAD + 16 * group..]);
        }
    }
}
