//! q5_k: as q4_k, with codes of 5 bits.
//!
//! Stored block, 176 bytes: scale, min and group scales as in q4_k, then 32 bytes of fifth bits (bit `g` of byte `i`
//! is weight `32g + i`'s), then nibbles as in q4_k. Packed scales: as in q4_k. Twin: `shaders/quant/q5_k.wgsl`.

use super::codes::{Codes, GROUP, from_plane, to_plane};
use super::grouped::{Grouped, Scales};
use super::q4_k::{HEAD, Q4K, quantize_groups};
use super::search::Tries;

/// 5-bit codes, 32 a scale and min, 6 bits each: 5.5 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q5K;

/// Where the nibbles start.
const NIBBLES: usize = HEAD + 32;

impl Grouped for Q5K {
    const NAME: &'static str = "q5_k";
    const GGML_TYPE: Option<u32> = Some(13);
    const LEN: usize = 256;
    const BYTES: usize = NIBBLES + 128;
    const LOW_BITS: usize = 4;
    const HIGH_BITS: usize = 1;

    fn codes(block: &[u8], group: usize) -> Codes {
        let nibbles = from_plane(&block[NIBBLES + group / 2 * GROUP..], group % 2 * 4, 15);
        let bits = from_plane(&block[HEAD..], group, 1);
        std::array::from_fn(|i| nibbles[i] | bits[i] << 4)
    }

    fn value(code: u8) -> f32 {
        f32::from(code)
    }

    fn scale_bytes(blocks: usize) -> usize {
        Q4K::scale_bytes(blocks)
    }

    fn pack_scales(block: &[u8], index: usize, blocks: usize, scales: &mut [u8]) {
        Q4K::pack_scales(block, index, blocks, scales);
    }

    fn scales(scales: &[u8], blocks: usize, group: usize) -> Scales {
        Q4K::scales(scales, blocks, group)
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let codes = quantize_groups(weights, 31, &Tries { first: -0.5, step: 0.1, tries: 15 }, block);
        for (group, codes) in codes.chunks_exact(GROUP).enumerate() {
            to_plane(|i| codes[i] >> 4, group, &mut block[HEAD..]);
            to_plane(|i| codes[i] & 15, group % 2 * 4, &mut block[NIBBLES + group / 2 * GROUP..]);
        }
    }
}
