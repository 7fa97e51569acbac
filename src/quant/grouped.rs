//! Block formats: codes of a few bits, in groups of 32 weights, with scales.
//!
//! A format says what is its own ([`Grouped`]: where the codes of a group lie in a stored block, what a code is
//! worth, how scales are packed, how a block is quantized); the rest of [`BlockFormat`] follows from it here. Every
//! weight is `value(code) * scale - min`. The products of our formats are exact in f32, so that only the subtraction
//! rounds, with a fused multiply-add on an adapter too; those of nf4, fp4 and f8_e4m3 round, but nothing is subtracted.
//!
//! Packed regions: 0 the low bits of the codes (`quants`), 1 the scales of a row (`scales`, each format's own
//! layout, whole words), 2 the further bits of codes of 3, 5 and 6 bits (`high_bits`).

use std::fmt::Debug;

use super::codes::{Codes, GROUP, pack, pack_halves, unpack};
use super::{BlockFormat, CHUNK_BYTES, PackedLayout, assert_blocks};

/// What the weights of a group are computed with: scale and min of its first and of its second 16 weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scales {
    pub(super) scale: [f32; 2],
    pub(super) min: [f32; 2],
}

impl Scales {
    /// One scale for the group, no min: subtracting +0 changes nothing, not even the sign of a zero.
    pub(super) const fn one(scale: f32) -> Self {
        Self::with_min(scale, 0.0)
    }

    /// One scale and min for the group.
    pub(super) const fn with_min(scale: f32, min: f32) -> Self {
        Self { scale: [scale; 2], min: [min; 2] }
    }
}

/// What a block format says of itself.
pub(super) trait Grouped: Debug + Send + Sync {
    const NAME: &'static str;
    /// None for a format that GGUF has no name for.
    const GGML_TYPE: Option<u32>;
    /// Weights of a stored block: whole groups.
    const LEN: usize;
    /// Bytes of a stored block.
    const BYTES: usize;
    /// Blocks that have something in common, counted from the row's first.
    const RUN: usize = 1;
    /// Bits of a code in region 0: 8, 4 or 2.
    const LOW_BITS: usize;
    /// Bits of a code in region 2, above those.
    const HIGH_BITS: usize = 0;
    /// Whether codes are worth whole numbers that a signed byte holds: see [`BlockFormat::integer`].
    const INTEGER: bool = true;
    /// Whether codes stand for places in a table of floats: see [`BlockFormat::table`].
    const TABLE: bool = false;

    /// The codes of a block's group.
    fn codes(block: &[u8], group: usize) -> Codes;

    /// The 16 bytes that hold the low nibbles of a group's codes as [`super::codes::from_halves`] reads them, where the
    /// format has such: they are packed without looking at single codes.
    fn halves(_block: &[u8], _group: usize) -> Option<&[u8]> {
        None
    }

    /// What a code is worth, in scales.
    fn value(code: u8) -> f32;

    /// Bytes of the packed scales of a row of `blocks`: whole words.
    fn scale_bytes(blocks: usize) -> usize;

    /// Puts the scales of a stored block into those of a row, as its block `index` of `blocks`.
    fn pack_scales(block: &[u8], index: usize, blocks: usize, scales: &mut [u8]);

    /// The scales of the row's group `group`.
    fn scales(scales: &[u8], blocks: usize, group: usize) -> Scales;

    /// Quantizes a block, as the format's reference does; `block` is zeroed.
    fn quantize_block(weights: &[f32], block: &mut [u8]);

    /// Quantizes blocks that follow one another in a row, for formats whose blocks have something in common.
    fn quantize_run(weights: &[f32], stored: &mut [u8]) {
        for (block, weights) in stored.chunks_exact_mut(Self::BYTES).zip(weights.chunks_exact(Self::LEN)) {
            Self::quantize_block(weights, block);
        }
    }

    /// Whether every code of a block is worth a number.
    fn has_numbers(_block: &[u8]) -> bool {
        true
    }

    /// Whether a block's scales are numbers.
    fn has_finite_scales(block: &[u8]) -> bool
    where
        Self: Sized,
    {
        stored_scales::<Self>(block).all(Self::are_finite)
    }

    /// Whether every weight these scales can give is a number.
    fn are_finite(scales: Scales) -> bool {
        scales.scale.iter().chain(&scales.min).all(|number| number.is_finite())
    }
}

/// The weights of a group.
fn dequantize<F: Grouped>(codes: &Codes, scales: Scales, weights: &mut [f32]) {
    for (half, (weights, codes)) in weights.chunks_exact_mut(GROUP / 2).zip(codes.chunks_exact(GROUP / 2)).enumerate() {
        let (scale, min) = (scales.scale[half], scales.min[half]);
        for (weight, code) in weights.iter_mut().zip(codes) {
            *weight = F::value(*code) * scale - min;
        }
    }
}

/// The scales of one stored block's groups.
fn stored_scales<F: Grouped>(block: &[u8]) -> impl Iterator<Item = Scales> {
    // No format has more than 20 bytes of scales a block.
    let mut scales = [0; 32];
    F::pack_scales(block, 0, 1, &mut scales[..F::scale_bytes(1)]);
    (0..F::LEN / GROUP).map(move |group| F::scales(&scales[..F::scale_bytes(1)], 1, group))
}

/// Hands every group of a stored row to `pack`: its block, its number there, and where `bits` of its codes belong.
#[inline(always)]
fn each_group<F: Grouped>(stored: &[u8], region: &mut [u8], bits: usize, pack: impl Fn(&[u8], usize, &mut [u8])) {
    let packed = region.chunks_exact_mut(4 * bits * (F::LEN / GROUP));
    for (block, packed) in stored.chunks_exact(F::BYTES).zip(packed) {
        packed.chunks_exact_mut(4 * bits).enumerate().for_each(|(group, packed)| pack(block, group, packed));
    }
}

impl<F: Grouped> BlockFormat for F {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn ggml_type(&self) -> Option<u32> {
        F::GGML_TYPE
    }

    fn block_len(&self) -> usize {
        F::LEN
    }

    fn block_bytes(&self) -> usize {
        F::BYTES
    }

    fn run_len(&self) -> usize {
        F::RUN * F::LEN
    }

    fn chunk_len(&self) -> usize {
        (CHUNK_BYTES * 8 / F::LOW_BITS).min(GROUP)
    }

    fn chunk_bytes(&self) -> usize {
        self.chunk_len() * F::LOW_BITS / 8
    }

    fn integer(&self) -> bool {
        F::INTEGER
    }

    fn table(&self) -> bool {
        F::TABLE
    }

    fn side_bytes_per_row(&self, cols: usize) -> Vec<usize> {
        let mut side = vec![F::scale_bytes(cols.div_ceil(F::LEN))];
        if F::HIGH_BITS > 0 {
            side.push(cols.div_ceil(GROUP) * GROUP * F::HIGH_BITS / 8);
        }
        side
    }

    fn dequantize(&self, stored: &[u8], weights: &mut [f32]) {
        assert_blocks(self, stored, weights.len());
        for (block, weights) in stored.chunks_exact(F::BYTES).zip(weights.chunks_exact_mut(F::LEN)) {
            for ((group, scales), weights) in stored_scales::<F>(block).enumerate().zip(weights.chunks_exact_mut(GROUP))
            {
                dequantize::<F>(&F::codes(block, group), scales, weights);
            }
        }
    }

    fn quantize(&self, weights: &[f32], stored: &mut [u8]) {
        assert_blocks(self, stored, weights.len());
        stored.fill(0);
        F::quantize_run(weights, stored);
    }

    fn bad_block(&self, stored: &[u8]) -> Option<usize> {
        let bad = |block: &[u8]| !F::has_finite_scales(block) || !F::has_numbers(block);
        stored.chunks_exact(F::BYTES).position(bad)
    }

    fn repack_row(&self, stored: &[u8], layout: &PackedLayout, row: usize, packed: &mut [u8]) {
        assert_blocks(self, stored, layout.cols);
        let blocks = layout.cols / F::LEN;
        // Region by region, since streamed weights are packed again for every token.
        let scales = layout.row_mut(packed, 1, row);
        for (index, block) in stored.chunks_exact(F::BYTES).enumerate() {
            F::pack_scales(block, index, blocks, scales);
        }
        each_group::<F>(stored, layout.row_mut(packed, 0, row), F::LOW_BITS, |block, group, packed| {
            match F::halves(block, group) {
                Some(halves) => pack_halves(halves, packed),
                None => pack(&F::codes(block, group), 0, F::LOW_BITS, packed),
            }
        });
        if F::HIGH_BITS > 0 {
            each_group::<F>(stored, layout.row_mut(packed, 2, row), F::HIGH_BITS, |block, group, packed| {
                pack(&F::codes(block, group), F::LOW_BITS, F::HIGH_BITS, packed);
            });
        }
    }

    fn unpack_row(&self, packed: &[u8], layout: &PackedLayout, row: usize, weights: &mut [f32]) {
        assert!(weights.len() == layout.cols, "a row has {} weights, not {}", layout.cols, weights.len());
        let blocks = layout.cols / F::LEN;
        let (quants, scales) = (layout.row(packed, 0, row), layout.row(packed, 1, row));
        for (group, weights) in weights.chunks_exact_mut(GROUP).enumerate() {
            let mut codes = [0; GROUP];
            unpack(&quants[group * 4 * F::LOW_BITS..], 0, F::LOW_BITS, &mut codes);
            if F::HIGH_BITS > 0 {
                let high = &layout.row(packed, 2, row)[group * 4 * F::HIGH_BITS..];
                unpack(high, F::LOW_BITS, F::HIGH_BITS, &mut codes);
            }
            dequantize::<F>(&codes, F::scales(scales, blocks, group), weights);
        }
    }
}

/// Whether the f16 at byte `at` of a stored block is a number.
pub(super) fn is_finite_f16(block: &[u8], at: usize) -> bool {
    half::f16::from_le_bytes([block[at], block[at + 1]]).is_finite()
}

/// Bytes of `count` f16 numbers, padded to whole words.
pub(super) const fn f16_bytes(count: usize) -> usize {
    (2 * count).next_multiple_of(4)
}

/// Copies the f16 number at byte `at` of a stored block to place `index` of packed ones.
pub(super) fn copy_f16(block: &[u8], at: usize, packed: &mut [u8], index: usize) {
    packed[2 * index..][..2].copy_from_slice(&block[at..at + 2]);
}
