//! q4_1: blocks of 32 weights, each a 4-bit quant times the block's f16 scale plus its f16 min.
//!
//! Stored block, 20 bytes: scale, min, then nibbles as in q4_0. Packed: region 0 as in q4_0, region 1 scale and min
//! of the row's blocks in order, one word a block. Twin: `shaders/quant/q4_1.wgsl`.

use half::f16;

use super::q4_0::{LEN, in_order, quant4, repack_blocks};
use super::{BlockFormat, PackedLayout, assert_blocks, read_f16};

const BYTES: usize = 4 + LEN / 2;

/// 4-bit quants, 32 a scale and min: 5 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q4_1;

impl BlockFormat for Q4_1 {
    fn name(&self) -> &'static str {
        "q4_1"
    }

    fn ggml_type(&self) -> u32 {
        3
    }

    fn block_len(&self) -> usize {
        LEN
    }

    fn block_bytes(&self) -> usize {
        BYTES
    }

    fn chunk_len(&self) -> usize {
        LEN
    }

    fn side_bytes_per_row(&self, cols: usize) -> Vec<usize> {
        vec![cols.div_ceil(LEN) * 4]
    }

    fn dequantize(&self, stored: &[u8], weights: &mut [f32]) {
        assert_blocks(self, stored, weights.len());
        for (block, weights) in stored.chunks_exact(BYTES).zip(weights.chunks_exact_mut(LEN)) {
            scale_quants(&in_order(&block[4..]), read_f16(block, 0), read_f16(block, 2), weights);
        }
    }

    fn quantize(&self, weights: &[f32], stored: &mut [u8]) {
        assert_blocks(self, stored, weights.len());
        for (block, weights) in stored.chunks_exact_mut(BYTES).zip(weights.chunks_exact(LEN)) {
            // Comparisons as ggml writes them: a later equal value (0 after -0) does not replace an earlier one.
            let min = weights.iter().fold(f32::MAX, |min, weight| if *weight < min { *weight } else { min });
            let max = weights.iter().fold(f32::MIN, |max, weight| if *weight > max { *weight } else { max });
            let scale = (max - min) / 15.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            block[2..4].copy_from_slice(&f16::from_f32(min).to_le_bytes());
            let quant = |weight: f32| quant4((weight - min) * inverse + 0.5);
            for (i, byte) in block[4..].iter_mut().enumerate() {
                *byte = quant(weights[i]) | quant(weights[i + LEN / 2]) << 4;
            }
        }
    }

    fn repack_row(&self, stored: &[u8], layout: &PackedLayout, row: usize, packed: &mut [u8]) {
        assert_blocks(self, stored, layout.cols);
        repack_blocks::<BYTES, 4>(stored, layout, row, packed);
    }

    fn unpack_row(&self, packed: &[u8], layout: &PackedLayout, row: usize, weights: &mut [f32]) {
        assert!(weights.len() == layout.cols, "a row has {} weights, not {}", layout.cols, weights.len());
        let quants = layout.row(packed, 0, row).chunks_exact(LEN / 2);
        let side = layout.row(packed, 1, row);
        for (i, (quants, weights)) in quants.zip(weights.chunks_exact_mut(LEN)).enumerate() {
            scale_quants(quants, read_f16(side, 4 * i), read_f16(side, 4 * i + 2), weights);
        }
    }
}

fn scale_quants(in_order: &[u8], scale: f32, min: f32, weights: &mut [f32]) {
    for (pair, byte) in weights.chunks_exact_mut(2).zip(in_order) {
        // The product of 4 and 11 bits is exact, so a fused multiply-add on an adapter gives the same bits.
        pair[0] = f32::from(byte & 15) * scale + min;
        pair[1] = f32::from(byte >> 4) * scale + min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_and_max_become_quants_0_and_15() {
        let mut weights = [2.0; LEN];
        (weights[0], weights[16]) = (-1.0, 14.0);
        let mut stored = [0; BYTES];
        Q4_1.quantize(&weights, &mut stored);
        assert_eq!((read_f16(&stored, 0), read_f16(&stored, 2)), (1.0, -1.0), "scale (14 + 1) / 15, min -1");
        assert_eq!(stored[4..6], [0xf0, 0x33], "ends of the range, then 2 = 3 × 1 - 1");
    }

    #[test]
    fn equal_weights_are_exact() {
        let (mut stored, mut back) = ([0; BYTES], [0.0; LEN]);
        Q4_1.quantize(&[0.25; LEN], &mut stored);
        Q4_1.dequantize(&stored, &mut back);
        assert_eq!(back, [0.25; LEN], "the min alone carries them");
    }
}
