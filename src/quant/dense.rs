//! Plain floats: f32, f16 and bf16, one weight a block.
//!
//! Packed rows are the stored rows, padded with zeros to whole 16-byte chunks; there is no side data. Twins:
//! `shaders/quant/f32.wgsl`, `f16.wgsl`, `bf16.wgsl`. Rounding is to nearest, ties to even, as ggml does.

use std::fmt;
use std::marker::PhantomData;

use half::{bf16, f16};

use super::{BlockFormat, CHUNK_BYTES, PackedLayout, assert_blocks};

/// 32-bit floats.
pub const F32: Dense<f32> = Dense(PhantomData);

/// IEEE half precision: 5 exponent bits, 10 fraction bits.
pub const F16: Dense<f16> = Dense(PhantomData);

/// bfloat16: the upper half of an f32.
pub const BF16: Dense<bf16> = Dense(PhantomData);

/// The format of plain values of one type.
#[derive(Clone, Copy)]
pub struct Dense<V>(PhantomData<V>);

/// What tells the three apart.
trait Plain: Send + Sync {
    const NAME: &'static str;
    const GGML_TYPE: Option<u32>;
    const BYTES: usize;
    fn read(bytes: &[u8]) -> f32;
    fn write(weight: f32, bytes: &mut [u8]);
}

impl Plain for f32 {
    const NAME: &'static str = "f32";
    const GGML_TYPE: Option<u32> = Some(0);
    const BYTES: usize = 4;

    fn read(bytes: &[u8]) -> f32 {
        Self::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn write(weight: f32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&weight.to_le_bytes());
    }
}

impl Plain for f16 {
    const NAME: &'static str = "f16";
    const GGML_TYPE: Option<u32> = Some(1);
    const BYTES: usize = 2;

    fn read(bytes: &[u8]) -> f32 {
        Self::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }

    fn write(weight: f32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&Self::from_f32(weight).to_le_bytes());
    }
}

impl Plain for bf16 {
    const NAME: &'static str = "bf16";
    const GGML_TYPE: Option<u32> = Some(30);
    const BYTES: usize = 2;

    fn read(bytes: &[u8]) -> f32 {
        Self::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }

    fn write(weight: f32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&Self::from_f32(weight).to_le_bytes());
    }
}

impl<V: Plain> fmt::Debug for Dense<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(V::NAME)
    }
}

impl<V: Plain> BlockFormat for Dense<V> {
    fn name(&self) -> &'static str {
        V::NAME
    }

    fn ggml_type(&self) -> Option<u32> {
        V::GGML_TYPE
    }

    fn block_len(&self) -> usize {
        1
    }

    fn block_bytes(&self) -> usize {
        V::BYTES
    }

    fn chunk_len(&self) -> usize {
        CHUNK_BYTES / V::BYTES
    }

    fn side_bytes_per_row(&self, _cols: usize) -> Vec<usize> {
        Vec::new()
    }

    fn dequantize(&self, stored: &[u8], weights: &mut [f32]) {
        assert_blocks(self, stored, weights.len());
        for (bytes, weight) in stored.chunks_exact(V::BYTES).zip(weights) {
            *weight = V::read(bytes);
        }
    }

    fn quantize(&self, weights: &[f32], stored: &mut [u8]) {
        assert_blocks(self, stored, weights.len());
        for (bytes, weight) in stored.chunks_exact_mut(V::BYTES).zip(weights) {
            V::write(*weight, bytes);
        }
    }

    fn repack_row(&self, stored: &[u8], layout: &PackedLayout, row: usize, packed: &mut [u8]) {
        assert_blocks(self, stored, layout.cols);
        layout.row_mut(packed, 0, row)[..stored.len()].copy_from_slice(stored);
    }

    fn unpack_row(&self, packed: &[u8], layout: &PackedLayout, row: usize, weights: &mut [f32]) {
        self.dequantize(&layout.row(packed, 0, row)[..layout.cols * V::BYTES], weights);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_ties_to_even() {
        let mut stored = [0; 2];
        F16.quantize(&[2049.0], &mut stored);
        assert_eq!(f16::from_le_bytes(stored).to_f32(), 2048.0, "halfway between 2048 and 2050: the even one");
        BF16.quantize(&[f32::from_bits(0x3f81_8000)], &mut stored);
        assert_eq!(u16::from_le_bytes(stored), 0x3f82, "halfway: the even fraction");
    }

    #[test]
    fn rows_are_padded_with_zeros_to_whole_chunks() {
        let layout = F16.layout(2, 9);
        assert_eq!((layout.chunks_per_row, layout.bytes), (2, 64), "nine weights take two chunks of eight");
        let mut packed = vec![0; layout.bytes as usize];
        F16.repack_row(&[0xff; 18], &layout, 1, &mut packed);
        assert_eq!(packed[32..50], [0xff; 18], "row 1 starts after row 0's chunks");
        assert_eq!(packed[50..], [0; 14], "the padding is untouched");
    }
}
