//! How keys and values are held in the cache: formats, sizes, and the bytes of a row.
//!
//! The host's caches hold f32 values as their format rounds them; only tests and benches make the bytes here, adapters
//! make their own. Invariant: rounding a row is encoding and decoding it. Twins: shaders/lib/append_*, kv_*
//! and turn. Blocks are ggml's q8_0 and q4_0, along a head; the last one of a head may be short.

use half::f16;

/// Values of a block.
const BLOCK: usize = 32;

/// Farther from 0 no value of a block goes: the largest code times a scale rounded up stays in f16's range, which
/// matrix kernels compute in.
const BOUND: f32 = 65000.0;

/// How keys and values are held in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// Two values a word; half the memory, what others do by default.
    F16,
    /// Exact; for checkpoints whose weights are f32.
    F32,
    /// Signed bytes, an f16 scale for 32: 8.5 bits a value.
    Q8_0,
    /// Four bits, an f16 scale for 32: 4.5 bits a value.
    Q4_0,
}

impl KvFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::F16, Self::F32, Self::Q8_0, Self::Q4_0];

    /// Its name, as typed and printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// The snippet that reads it: fills the slot `KV`.
    pub(super) fn reader(self) -> String {
        format!("lib/kv_{}", self.name())
    }

    /// The snippet that writes it: fills the slot `APPEND`.
    pub(super) fn writer(self) -> String {
        format!("lib/append_{}", self.name())
    }

    /// Lanes of `rope_append` that a head takes: one a quad, and for blocks whole pairs of blocks, whose scales share
    /// a word.
    pub(super) const fn head_lanes(self, head_dim: u32) -> u32 {
        if self.has_blocks() { (head_dim / 4).next_multiple_of(16) } else { head_dim / 4 }
    }

    pub(super) const fn has_blocks(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q4_0)
    }

    /// Bytes of a row's values or codes, and of its scales.
    const fn row_bytes(self, head_dim: u32) -> [u64; 2] {
        let (values, scales) = (head_dim as u64, head_dim.div_ceil(64) as u64 * 4);
        match self {
            Self::F16 => [values * 2, 0],
            Self::F32 => [values * 4, 0],
            Self::Q8_0 => [values.next_multiple_of(16), scales],
            Self::Q4_0 => [values.next_multiple_of(16) / 2, scales],
        }
    }

    /// Values of a head that are mixed with one another before they are rounded: the largest power of two that divides
    /// it, at most 64; 1 where none are.
    pub(super) fn span(self, head_dim: u32) -> u32 {
        if self.has_blocks() { 1 << head_dim.trailing_zeros().min(6) } else { 1 }
    }

    /// What shaders/lib/turn.wgsl is specialised by.
    pub(super) fn turn_overrides(self, head_dim: u32) -> Vec<(&'static str, f64)> {
        let span = f64::from(self.span(head_dim));
        vec![("SPAN", span), ("SPAN_SCALE", span.sqrt().recip())]
    }

    /// Turns a head's values by a Hadamard matrix, span by span, and back: it is its own inverse. An outlier becomes
    /// a little of every value of its span, and no longer decides the scale of its block alone (Ashkboos et al. 2024,
    /// QuaRot); products of heads that are both turned stay as they were.
    pub fn turn(self, head: &mut [f32]) {
        let span = self.span(head.len() as u32) as usize;
        if span == 1 {
            return;
        }
        for values in head.chunks_exact_mut(span) {
            let from: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
            for (row, value) in values.iter_mut().enumerate() {
                let signed = |(col, from): (usize, &f64)| if (row & col).count_ones() % 2 == 1 { -from } else { *from };
                *value = (from.iter().enumerate().map(signed).sum::<f64>() / (span as f64).sqrt()) as f32;
            }
        }
    }

    /// Rounds one head's values to what the cache holds of them.
    pub fn round_row(self, row: &mut [f32]) {
        match self {
            Self::F32 => {}
            Self::F16 => row.iter_mut().for_each(|value| *value = in_f16(*value).to_f32()),
            Self::Q8_0 | Self::Q4_0 => row.chunks_mut(BLOCK).for_each(|values| {
                let (scale, codes) = self.block(values);
                values.iter_mut().zip(codes).for_each(|(value, code)| *value = self.value(code, scale));
            }),
        }
    }

    /// Scale and codes of at most [`BLOCK`] values.
    fn block(self, values: &[f32]) -> (f16, Vec<u8>) {
        let values: Vec<f32> = values.iter().map(|value| value.clamp(-BOUND, BOUND)).collect();
        let far = values.iter().fold(0.0f32, |far, value| if value.abs() > far.abs() { *value } else { far });
        let scale = if self == Self::Q8_0 { far.abs() / 127.0 } else { far / -8.0 };
        let inverse = if scale.abs() < 1e-30 { 0.0 } else { 1.0 / scale };
        let code = |value: f32| match self {
            // f32's round takes halves away from zero, as ggml does.
            Self::Q8_0 => ((value * inverse).round() as i32 + 128) as u8,
            _ => ((value * inverse + 8.5) as i32).clamp(0, 15) as u8,
        };
        (f16::from_f32(scale), values.into_iter().map(code).collect())
    }

    fn value(self, code: u8, scale: f16) -> f32 {
        let zero = if self == Self::Q8_0 { 128.0 } else { 8.0 };
        (f32::from(code) - zero) * scale.to_f32()
    }
}

impl std::fmt::Display for KvFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Beyond f16's range the nearest number in it, as the kernels do.
fn in_f16(value: f32) -> f16 {
    f16::from_f32(value.clamp(-65504.0, 65504.0))
}

/// The shape of one layer's key or value cache: `(kv_heads, context_length, head_dim)`, row-major.
///
/// Values of f16 and f32 follow one another. Of formats with blocks the codes of all rows come first, each row padded
/// to a multiple of 16 values; then the scales of all rows, each row padded to pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateType {
    /// Key/value heads.
    pub kv_heads: u32,
    /// Positions there is room for.
    pub context_length: u32,
    /// Values of a head.
    pub head_dim: u32,
    /// How values are held.
    pub format: KvFormat,
}

impl StateType {
    /// Values in all.
    pub const fn elements(self) -> u64 {
        self.rows() * self.head_dim as u64
    }

    /// Bytes in all; whole 16-byte words, which kernels read.
    pub const fn bytes(self) -> u64 {
        let [codes, scales] = self.format.row_bytes(self.head_dim);
        (self.rows() * (codes + scales)).next_multiple_of(16)
    }

    const fn rows(self) -> u64 {
        self.kv_heads as u64 * self.context_length as u64
    }

    /// The bytes of a cache with these values.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes() as usize];
        let [row_bytes, row_scales] = self.format.row_bytes(self.head_dim).map(|bytes| bytes as usize);
        let scales_at = self.rows() as usize * row_bytes;
        for (index, row) in values.chunks_exact(self.head_dim as usize).enumerate() {
            let codes = index * row_bytes;
            match self.format {
                KvFormat::F32 => bytes[codes..codes + row_bytes].copy_from_slice(bytemuck::cast_slice(row)),
                KvFormat::F16 => {
                    let halves: Vec<f16> = row.iter().map(|value| in_f16(*value)).collect();
                    bytes[codes..codes + row_bytes].copy_from_slice(bytemuck::cast_slice(&halves));
                }
                KvFormat::Q8_0 | KvFormat::Q4_0 => {
                    for (block, values) in row.chunks(BLOCK).enumerate() {
                        let (scale, of_block) = self.format.block(values);
                        let at = scales_at + index * row_scales + 2 * block;
                        bytes[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                        for (i, code) in of_block.into_iter().enumerate() {
                            let i = block * BLOCK + i;
                            match self.format {
                                KvFormat::Q8_0 => bytes[codes + i] = code,
                                _ => bytes[codes + i / 2] |= code << (i % 2 * 4),
                            }
                        }
                    }
                }
            }
        }
        bytes
    }

    /// The values of a cache of these bytes.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let [row_bytes, row_scales] = self.format.row_bytes(self.head_dim).map(|bytes| bytes as usize);
        let scales_at = self.rows() as usize * row_bytes;
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let value = |row: usize, i: usize| {
            let (codes, scale) = (row * row_bytes, scales_at + row * row_scales + 2 * (i / BLOCK));
            match self.format {
                KvFormat::F32 => {
                    let at = codes + 4 * i;
                    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
                }
                KvFormat::F16 => half(codes + 2 * i).to_f32(),
                KvFormat::Q8_0 => self.format.value(bytes[codes + i], half(scale)),
                KvFormat::Q4_0 => self.format.value((bytes[codes + i / 2] >> (i % 2 * 4)) & 15, half(scale)),
            }
        };
        let rows = 0..self.rows() as usize;
        rows.flat_map(|row| (0..self.head_dim as usize).map(move |i| (row, i))).map(|(row, i)| value(row, i)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format_called;

    fn values(count: usize) -> Vec<f32> {
        let value = |i: usize| ((i * 37 + 11) % 101) as f32 / 25.0 - 2.0;
        (0..count).map(|i| if i % 45 == 44 { -11.3 } else { value(i) }).collect()
    }

    #[test]
    fn rounding_is_encoding_and_decoding_and_happens_once() {
        for format in KvFormat::ALL {
            for head_dim in [4, 12, 20, 64, 80, 96, 100, 256] {
                let state = StateType { kv_heads: 2, context_length: 3, head_dim, format };
                let values = values(state.elements() as usize);
                let bytes = state.encode(&values);
                assert_eq!(bytes.len() as u64, state.bytes(), "{state:?} has its bytes");
                let mut rounded = values.clone();
                rounded.chunks_exact_mut(head_dim as usize).for_each(|row| format.round_row(row));
                assert_eq!(state.decode(&bytes), rounded, "{state:?}");
                assert_eq!(state.encode(&rounded), bytes, "{state:?} again");
            }
        }
    }

    #[test]
    fn blocks_are_ggml_s() {
        let values = values(64);
        for (format, block_bytes) in [(KvFormat::Q8_0, 34), (KvFormat::Q4_0, 18)] {
            let mut stored = vec![0; 2 * block_bytes];
            format_called(format.name()).expect("a weight format too").quantize(&values, &mut stored);
            for (block, stored) in values.chunks(BLOCK).zip(stored.chunks_exact(block_bytes)) {
                let (scale, codes) = format.block(block);
                assert_eq!(scale.to_le_bytes(), stored[..2], "{format}: scale");
                let expected: Vec<u8> = match format {
                    KvFormat::Q8_0 => stored[2..].iter().map(|code| code.wrapping_add(128)).collect(),
                    _ => stored[2..].iter().map(|b| b & 15).chain(stored[2..].iter().map(|b| b >> 4)).collect(),
                };
                assert_eq!(codes, expected, "{format}: codes");
            }
        }
    }

    #[test]
    fn turning_twice_is_nothing_and_keeps_products() {
        for (head_dim, span) in [(4, 4), (12, 4), (80, 16), (96, 32), (64, 64), (128, 64), (256, 64)] {
            assert_eq!(KvFormat::Q8_0.span(head_dim), span, "{head_dim}");
            let (a, b) = (values(head_dim as usize), values(2 * head_dim as usize)[head_dim as usize..].to_vec());
            let (mut turned_a, mut turned_b) = (a.clone(), b.clone());
            KvFormat::Q8_0.turn(&mut turned_a);
            KvFormat::Q8_0.turn(&mut turned_b);
            let product =
                |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let (before, after) = (product(&a, &b), product(&turned_a, &turned_b));
            assert!((before - after).abs() < 1e-3, "{head_dim}: {before} and {after}");
            assert!(turned_a != a, "{head_dim}: something happens");
            KvFormat::Q8_0.turn(&mut turned_a);
            let error = a.iter().zip(&turned_a).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error < 1e-5, "{head_dim}: back but for {error}");
        }
        let mut same = values(64);
        KvFormat::F16.turn(&mut same);
        assert_eq!(same, values(64), "f16 is not turned");
    }

    #[test]
    fn outliers_and_zeros_stay_finite() {
        for format in [KvFormat::Q8_0, KvFormat::Q4_0] {
            let mut row = [0.0; 40];
            format.round_row(&mut row);
            assert_eq!(row, [0.0; 40], "{format}: zeros");
            (row[1], row[2], row[35]) = (1e30, -70000.0, 1e-38);
            format.round_row(&mut row);
            assert!(row[1] > 64000.0 && row[2] < -56000.0, "{format}: {row:?}");
            assert!(row.iter().all(|value| f16::from_f32(*value).is_finite()), "{format}: {row:?} fits f16");
        }
    }

    #[test]
    fn blocks_take_eight_and_a_half_and_four_and_a_half_bits() {
        let bytes = |format, head_dim| {
            StateType { kv_heads: 8, context_length: 4096, head_dim, format }.bytes() * 8 / (8 * 4096)
        };
        assert_eq!(bytes(KvFormat::F16, 128), 128 * 16, "f16");
        assert_eq!(bytes(KvFormat::Q8_0, 128), 128 * 17 / 2, "q8_0");
        assert_eq!(bytes(KvFormat::Q4_0, 64), 64 * 9 / 2, "q4_0");
        assert_eq!(bytes(KvFormat::Q8_0, 80), 80 * 8 + 64, "a head of two and a half blocks: scales in pairs");
    }
}
