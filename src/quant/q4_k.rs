//! q4_k: blocks of 256 weights; eight groups of 32, each with a 6-bit scale and a 6-bit min, counted in the block's
//! f16 scale and f16 min.
//!
//! Stored block, 144 bytes: scale, min, 12 bytes of group scales and mins, then 128 bytes of nibbles: byte `32p + i`
//! holds weight `64p + i` in its low and weight `64p + 32 + i` in its high nibble. The 12 bytes: byte `g < 4` is
//! group `g`'s scale and byte `4 + g` its min, in their low 6 bits; byte `8 + g` holds the low nibbles of group
//! `4 + g`'s scale and min, whose upper 2 bits fill bytes `g` and `4 + g`.
//!
//! Packed scales: four words a block, so that one 16-byte load has them all and group `g` is a shift by `4g` away:
//! scale and min, the low nibbles of the group scales, those of the mins, and nibbles of the upper 2 bits of a
//! scale and the upper 2 bits of its min. Twin: `shaders/quant/q4_k.wgsl`.

use half::f16;

use super::codes::{Codes, GROUP, from_plane, to_plane};
use super::grouped::{Grouped, Scales};
use super::read_f16;
use super::search::{Tries, nearest, scale_and_min};

/// 4-bit codes, 32 a scale and min, 6 bits each: 4.5 bits per weight.
#[derive(Debug, Clone, Copy)]
pub struct Q4K;

/// Bytes of scales, stored and packed; q5_k has the same.
pub(super) const HEAD: usize = 16;

const GROUPS: usize = 8;

impl Grouped for Q4K {
    const NAME: &'static str = "q4_k";
    const GGML_TYPE: Option<u32> = Some(12);
    const LEN: usize = 256;
    const BYTES: usize = HEAD + 128;
    const LOW_BITS: usize = 4;

    fn codes(block: &[u8], group: usize) -> Codes {
        from_plane(&block[HEAD + group / 2 * GROUP..], group % 2 * 4, 15)
    }

    fn value(code: u8) -> f32 {
        f32::from(code)
    }

    fn scale_bytes(blocks: usize) -> usize {
        HEAD * blocks
    }

    fn pack_scales(block: &[u8], index: usize, _blocks: usize, scales: &mut [u8]) {
        let packed = &mut scales[HEAD * index..][..HEAD];
        packed[..4].copy_from_slice(&block[..4]);
        let mut words = [0u32; 3];
        for group in 0..GROUPS {
            let (scale, min) = group_scale(&block[4..HEAD], group);
            for (word, bits) in words.iter_mut().zip([scale & 15, min & 15, scale >> 4 | min >> 4 << 2]) {
                *word |= u32::from(bits) << (4 * group);
            }
        }
        for (to, word) in packed[4..].chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }

    fn scales(scales: &[u8], _blocks: usize, group: usize) -> Scales {
        let packed = &scales[HEAD * (group / GROUPS)..][..HEAD];
        let nibble = |word: usize| packed[4 * word + group % GROUPS / 2] >> (group % 2 * 4) & 15;
        let (scale, min) = (nibble(1) | (nibble(3) & 3) << 4, nibble(2) | (nibble(3) >> 2) << 4);
        Scales::with_min(read_f16(packed, 0) * f32::from(scale), read_f16(packed, 2) * f32::from(min))
    }

    fn quantize_block(weights: &[f32], block: &mut [u8]) {
        let codes = quantize_groups(weights, 15, &Tries { first: -1.0, step: 0.1, tries: 20 }, block);
        for (group, codes) in codes.chunks_exact(GROUP).enumerate() {
            to_plane(|i| codes[i], group % 2 * 4, &mut block[HEAD + group / 2 * GROUP..]);
        }
    }
}

/// Scale and min of a group in the 12 stored bytes.
fn group_scale(stored: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (stored[group] & 63, stored[group + 4] & 63);
    }
    let low = stored[group + 4];
    (low & 15 | stored[group - 4] >> 6 << 4, low >> 4 | stored[group] >> 6 << 4)
}

/// Adds scale and min of a group to the 12 stored bytes.
fn put_group_scale(scale: u8, min: u8, group: usize, stored: &mut [u8]) {
    if group < 4 {
        stored[group] |= scale;
        stored[group + 4] |= min;
    } else {
        stored[group + 4] |= scale & 15 | min << 4;
        stored[group - 4] |= scale >> 4 << 6;
        stored[group] |= min >> 4 << 6;
    }
}

/// Writes a block's head for codes `0..=most` and returns its codes.
pub(super) fn quantize_groups(weights: &[f32], most: u8, tries: &Tries, block: &mut [u8]) -> [u8; 256] {
    let mut codes = [0; 256];
    let (mut scales, mut mins) = ([0.0f32; GROUPS], [0.0f32; GROUPS]);
    for group in 0..GROUPS {
        let weights = &weights[GROUP * group..][..GROUP];
        let squares = weights.iter().fold(0.0, |sum, weight| sum + weight * weight);
        let typical = (squares / GROUP as f32).sqrt();
        let importance: [f32; GROUP] = std::array::from_fn(|i| typical + weights[i].abs());
        (scales[group], mins[group]) =
            scale_and_min(weights, &importance, most, tries, |d| d * d, &mut codes[GROUP * group..][..GROUP]);
    }
    let (scale, min) = (largest(&scales) / 63.0, largest(&mins) / 63.0);
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(min).to_le_bytes());
    let in_units = |values: &[f32; GROUPS], group: usize| {
        let most = largest(values);
        // Truncated like a C cast, so that a negative one becomes the largest.
        let units = nearest(if most > 0.0 { 63.0 / most } else { 0.0 } * values[group]) as u8;
        units.min(63)
    };
    for group in 0..GROUPS {
        let (scale_units, min_units) = (in_units(&scales, group), in_units(&mins, group));
        put_group_scale(scale_units, min_units, group, &mut block[4..HEAD]);
        let scale = read_f16(block, 0) * f32::from(scale_units);
        let min = read_f16(block, 2) * f32::from(min_units);
        // What the rounded scale and min make of the weights; without a scale, the search's codes stay.
        if scale != 0.0 {
            let at = GROUP * group..GROUP * (group + 1);
            for (code, weight) in codes[at.clone()].iter_mut().zip(&weights[at]) {
                *code = nearest((weight + min) / scale).clamp(0, most.into()) as u8;
            }
        }
    }
    codes
}

/// The largest of some numbers, 0 if none is positive.
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| if *value > largest { *value } else { largest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::BlockFormat;

    #[test]
    fn group_scales_survive_the_stored_and_the_packed_order() {
        let mut block = [0; Q4K::BYTES];
        block[..2].copy_from_slice(&f16::from_f32(1.0).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(1.0).to_le_bytes());
        let of = |group: usize| (63 - 7 * group as u8, 5 + 8 * group as u8);
        for group in 0..GROUPS {
            put_group_scale(of(group).0, of(group).1, group, &mut block[4..HEAD]);
        }
        let layout = Q4K.layout(1, 256);
        let mut packed = vec![0; layout.bytes as usize];
        Q4K.repack_row(&block, &layout, 0, &mut packed);
        for group in 0..GROUPS {
            assert_eq!(group_scale(&block[4..HEAD], group), of(group), "stored group {group}");
            let found = Q4K::scales(layout.row(&packed, 1, 0), 1, group);
            assert_eq!((found.scale[0], found.min[0]), (of(group).0.into(), of(group).1.into()), "packed {group}");
        }
    }

    #[test]
    fn a_packed_row_is_as_long_as_a_stored_one() {
        let layout = Q4K.layout(1, 512);
        assert_eq!(layout.row_bytes, [256, 32], "4.5 bits per weight");
    }
}
