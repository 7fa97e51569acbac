//! q5_1: blocks of 32 weights, each a 5-bit code times the block's f16 scale plus its f16 min.
//!
//! Stored block, 24 bytes: scale, min, then fifth bits and nibbles as in q5_0. Packed scales: as in q4_1. Twin:
//! `shaders/quant/q5_1.wgsl`.

use super::codes::{Codes, GROUP};
use super::grouped::{Grouped, Scales, is_finite_f16};
use super::q4_1::{Q4_1, quantize_range};
use super::q5_0::{from_halves_and_bits, to_halves_and_bits};

/// 5-bit codes, 32 a scale and min: 6 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q5_1;

impl Grouped for Q5_1 {
    const NAME: &'static str = "q5_1";
    const GGML_TYPE: Option<u32> = Some(7);
    const LEN: usize = GROUP;
    const BYTES: usize = 8 + GROUP / 2;
    const LOW_BITS: usize = 4;
    const HIGH_BITS: usize = 1;

    fn codes(block: &[u8], _group: usize) -> Codes {
        from_halves_and_bits(&block[4..])
    }

    fn halves(block: &[u8], _group: usize) -> Option<&[u8]> {
        Some(&block[8..])
    }

    fn has_finite_scales(block: &[u8]) -> bool {
        is_finite_f16(block, 0) && is_finite_f16(block, 2)
    }

    fn value(code: u8) -> f32 {
        f32::from(code)
    }

    fn scale_bytes(blocks: usize) -> usize {
        Q4_1::scale_bytes(blocks)
    }

    fn pack_scales(block: &[u8], index: usize, blocks: usize, scales: &mut [u8]) {
        Q4_1::pack_scales(block, index, blocks, scales);
    }

    fn scales(scales: &[u8], blocks: usize, group: usize) -> Scales {
        Q4_1::scales(scales, blocks, group)
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let codes = quantize_range(weights, 31, block);
        to_halves_and_bits(&codes, &mut block[4..]);
    }
}
