//! q8_0: blocks of 32 weights, each a signed byte times the block's f16 scale.
//!
//! Stored block, 34 bytes: scale, then 32 quants in order. Packed: region 0 the quants of a row in order (two
//! 16-byte chunks a block), region 1 the row's scales, padded to whole words. Twin: `shaders/quant/q8_0.wgsl`.

use half::f16;

use super::{BlockFormat, PackedLayout, assert_blocks, read_f16};

const LEN: usize = 32;
const BYTES: usize = 2 + LEN;

/// 8-bit quants, 32 a scale: 8.5 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q8_0;

impl BlockFormat for Q8_0 {
    fn name(&self) -> &'static str {
        "q8_0"
    }

    fn ggml_type(&self) -> u32 {
        8
    }

    fn block_len(&self) -> usize {
        LEN
    }

    fn block_bytes(&self) -> usize {
        BYTES
    }

    fn chunk_len(&self) -> usize {
        16
    }

    fn side_bytes_per_row(&self, cols: usize) -> Vec<usize> {
        vec![(cols.div_ceil(LEN) * 2).next_multiple_of(4)]
    }

    fn dequantize(&self, stored: &[u8], weights: &mut [f32]) {
        assert_blocks(self, stored, weights.len());
        for (block, weights) in stored.chunks_exact(BYTES).zip(weights.chunks_exact_mut(LEN)) {
            scale_quants(&block[2..], read_f16(block, 0), weights);
        }
    }

    fn quantize(&self, weights: &[f32], stored: &mut [u8]) {
        assert_blocks(self, stored, weights.len());
        for (block, weights) in stored.chunks_exact_mut(BYTES).zip(weights.chunks_exact(LEN)) {
            let largest = weights.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
            let scale = largest / 127.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            for (quant, weight) in block[2..].iter_mut().zip(weights) {
                // ggml divides by the scale before it is rounded to f16, and rounds halves away from zero.
                *quant = (weight * inverse).round() as i8 as u8;
            }
        }
    }

    fn repack_row(&self, stored: &[u8], layout: &PackedLayout, row: usize, packed: &mut [u8]) {
        assert_blocks(self, stored, layout.cols);
        let quants = layout.row_mut(packed, 0, row).chunks_exact_mut(LEN);
        for (to, block) in quants.zip(stored.chunks_exact(BYTES)) {
            to.copy_from_slice(&block[2..]);
        }
        let scales = layout.row_mut(packed, 1, row).chunks_exact_mut(2);
        for (to, block) in scales.zip(stored.chunks_exact(BYTES)) {
            to.copy_from_slice(&block[..2]);
        }
    }

    fn unpack_row(&self, packed: &[u8], layout: &PackedLayout, row: usize, weights: &mut [f32]) {
        assert!(weights.len() == layout.cols, "a row has {} weights, not {}", layout.cols, weights.len());
        let quants = layout.row(packed, 0, row).chunks_exact(LEN);
        let scales = layout.row(packed, 1, row);
        for (i, (quants, weights)) in quants.zip(weights.chunks_exact_mut(LEN)).enumerate() {
            scale_quants(quants, read_f16(scales, 2 * i), weights);
        }
    }
}

fn scale_quants(quants: &[u8], scale: f32, weights: &mut [f32]) {
    for (weight, quant) in weights.iter_mut().zip(quants) {
        *weight = f32::from(*quant as i8) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_weight_becomes_127_and_halves_round_away_from_zero() {
        let mut weights = [0.0; LEN];
        weights[..4].copy_from_slice(&[127.0, -127.0, 0.5, -0.5]);
        let mut stored = [0; BYTES];
        Q8_0.quantize(&weights, &mut stored);
        assert_eq!(read_f16(&stored, 0), 1.0, "127 / 127");
        assert_eq!(stored[2..6], [127, 129, 1, 255], "signed bytes 127, -127, 1, -1");
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut stored = [0xaa; BYTES];
        Q8_0.quantize(&[0.0; LEN], &mut stored);
        assert_eq!(stored, [0; BYTES], "scale 0, not a division by it");
    }

    #[test]
    fn an_odd_number_of_scales_is_padded_to_a_whole_word() {
        let layout = Q8_0.layout(3, 96);
        assert_eq!(layout.row_bytes, [96, 8], "three f16 scales take two words");
    }
}
