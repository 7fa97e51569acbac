//! q4_0: blocks of 32 weights, each a 4-bit quant minus 8, times the block's f16 scale.
//!
//! Stored block, 18 bytes: scale, then 16 bytes; byte `i` holds weight `i` in its low and weight `i + 16` in its
//! high nibble. Packed: region 0 a 16-byte chunk a block with the nibbles in the order of the weights (see
//! [`in_order`]), region 1 the row's scales, padded to whole words. Twin: `shaders/quant/q4_0.wgsl`.

use half::f16;

use super::{BlockFormat, PackedLayout, assert_blocks, read_f16};

/// Weights of a block; q4_1 has the same.
pub(super) const LEN: usize = 32;
const BYTES: usize = 2 + LEN / 2;

/// 4-bit quants, 32 a scale, no min: 4.5 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q4_0;

impl BlockFormat for Q4_0 {
    fn name(&self) -> &'static str {
        "q4_0"
    }

    fn ggml_type(&self) -> u32 {
        2
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
        vec![(cols.div_ceil(LEN) * 2).next_multiple_of(4)]
    }

    fn dequantize(&self, stored: &[u8], weights: &mut [f32]) {
        assert_blocks(self, stored, weights.len());
        for (block, weights) in stored.chunks_exact(BYTES).zip(weights.chunks_exact_mut(LEN)) {
            scale_quants(&in_order(&block[2..]), read_f16(block, 0), weights);
        }
    }

    fn quantize(&self, weights: &[f32], stored: &mut [u8]) {
        assert_blocks(self, stored, weights.len());
        for (block, weights) in stored.chunks_exact_mut(BYTES).zip(weights.chunks_exact(LEN)) {
            // The weight farthest from zero becomes quant 0, that is -8: the sign goes into the scale.
            let farthest =
                weights.iter().fold(0.0f32, |far, weight| if far.abs() < weight.abs() { *weight } else { far });
            let scale = farthest / -8.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            let quant = |weight: f32| quant4(weight * inverse + 8.5);
            for (i, byte) in block[2..].iter_mut().enumerate() {
                *byte = quant(weights[i]) | quant(weights[i + LEN / 2]) << 4;
            }
        }
    }

    fn repack_row(&self, stored: &[u8], layout: &PackedLayout, row: usize, packed: &mut [u8]) {
        assert_blocks(self, stored, layout.cols);
        repack_blocks::<BYTES, 2>(stored, layout, row, packed);
    }

    fn unpack_row(&self, packed: &[u8], layout: &PackedLayout, row: usize, weights: &mut [f32]) {
        assert!(weights.len() == layout.cols, "a row has {} weights, not {}", layout.cols, weights.len());
        let quants = layout.row(packed, 0, row).chunks_exact(LEN / 2);
        let scales = layout.row(packed, 1, row);
        for (i, (quants, weights)) in quants.zip(weights.chunks_exact_mut(LEN)).enumerate() {
            scale_quants(quants, read_f16(scales, 2 * i), weights);
        }
    }
}

/// Truncates to a quant, at most 15: ggml's rounding once the half is added.
pub(super) fn quant4(shifted: f32) -> u8 {
    // Saturates where C would be undefined (infinite and NaN weights); never negative otherwise.
    (shifted as i8).clamp(0, 15) as u8
}

/// A block's nibbles in the order of its weights: weight `2i` in the low, `2i + 1` in the high nibble of byte `i`,
/// so that weight `8w + i` sits in bits `4i..4i + 4` of little-endian word `w`.
pub(super) fn in_order(stored: &[u8]) -> [u8; LEN / 2] {
    std::array::from_fn(|i| {
        let nibble = |weight: usize| stored[weight % 16] >> (weight / 16 * 4) & 15;
        nibble(2 * i) | nibble(2 * i + 1) << 4
    })
}

/// Splits stored blocks of a `SIDE`-byte head and 16 bytes of nibbles into the two regions.
pub(super) fn repack_blocks<const BLOCK: usize, const SIDE: usize>(
    stored: &[u8],
    layout: &PackedLayout,
    row: usize,
    packed: &mut [u8],
) {
    let quants = layout.row_mut(packed, 0, row).chunks_exact_mut(LEN / 2);
    for (to, block) in quants.zip(stored.chunks_exact(BLOCK)) {
        to.copy_from_slice(&in_order(&block[SIDE..]));
    }
    let side = layout.row_mut(packed, 1, row).chunks_exact_mut(SIDE);
    for (to, block) in side.zip(stored.chunks_exact(BLOCK)) {
        to.copy_from_slice(&block[..SIDE]);
    }
}

fn scale_quants(in_order: &[u8], scale: f32, weights: &mut [f32]) {
    for (pair, byte) in weights.chunks_exact_mut(2).zip(in_order) {
        pair[0] = (f32::from(byte & 15) - 8.0) * scale;
        pair[1] = (f32::from(byte >> 4) - 8.0) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_weight_becomes_quant_0_and_the_other_end_is_capped_at_15() {
        let mut weights = [0.0; LEN];
        (weights[1], weights[17]) = (8.0, -8.0);
        let mut stored = [0; BYTES];
        Q4_0.quantize(&weights, &mut stored);
        assert_eq!(read_f16(&stored, 0), -1.0, "8 comes first, so the scale is 8 / -8");
        assert_eq!(stored[2..4], [0x88, 0xf0], "weights 1 and 17 share a byte: quants 0 and 15 (16 capped)");
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut stored = [0xaa; BYTES];
        Q4_0.quantize(&[0.0; LEN], &mut stored);
        assert_eq!(stored[..2], [0x00, 0x80], "0 / -8 is -0, which ggml stores as it is");
        assert_eq!(stored[2..], [0x88; 16], "quant 8 is zero");
    }

    #[test]
    fn packed_words_hold_eight_weights_in_order() {
        let mut stored = [0; BYTES];
        for i in 0..16 {
            stored[2 + i] = (i as u8) | (15 - i as u8) << 4;
        }
        let layout = Q4_0.layout(1, LEN);
        let mut packed = vec![0; layout.bytes as usize];
        Q4_0.repack_row(&stored, &layout, 0, &mut packed);
        let words: Vec<u32> = packed[..16].as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        assert_eq!(
            words,
            [0x7654_3210, 0xfedc_ba98, 0x89ab_cdef, 0x0123_4567],
            "weights 0 to 15 count up, 16 to 31 down"
        );
    }
}
