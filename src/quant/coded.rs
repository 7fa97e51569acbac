//! Formats that hold what other libraries publish: codes, with a scale and an integer zero point for each block.
//!
//! The libraries' own layouts are read in `checkpoint/`; here only finished blocks are put together. Invariant: a
//! block written here dequantizes to `(code - zero) * scale`, exactly; in f16, rounded once.

use half::f16;

use super::codes::{GROUP, to_halves};
use super::zero_point::{HEAD, write_codes};
use super::{BlockFormat, F16, Q4_0, Q8_0, ZeroPoint};

/// A format whose blocks can be written from codes.
pub trait Coded: BlockFormat {
    /// Writes `(code - zero) * scale` of whole blocks' codes. Formats without a zero point take the middle code as
    /// theirs, whatever `zero` says.
    ///
    /// # Panics
    /// When the lengths disagree.
    fn write(&self, codes: &[u8], scale: f16, zero: u16, stored: &mut [u8]);
}

impl Coded for Q4_0 {
    fn write(&self, codes: &[u8], scale: f16, _zero: u16, stored: &mut [u8]) {
        let codes = codes.as_chunks::<GROUP>().0;
        for (codes, block) in codes.iter().zip(stored.chunks_exact_mut(self.block_bytes())) {
            block[..2].copy_from_slice(&scale.to_le_bytes());
            to_halves(codes, &mut block[2..]);
        }
    }
}

impl Coded for Q8_0 {
    fn write(&self, codes: &[u8], scale: f16, _zero: u16, stored: &mut [u8]) {
        for (codes, block) in codes.chunks_exact(GROUP).zip(stored.chunks_exact_mut(self.block_bytes())) {
            block[..2].copy_from_slice(&scale.to_le_bytes());
            for (code, byte) in codes.iter().zip(&mut block[2..]) {
                // 128 less, as a signed byte.
                *byte = code ^ 0x80;
            }
        }
    }
}

impl<const BITS: usize, const LEN: usize> Coded for ZeroPoint<BITS, LEN> {
    fn write(&self, codes: &[u8], scale: f16, zero: u16, stored: &mut [u8]) {
        for (codes, block) in codes.chunks_exact(LEN).zip(stored.chunks_exact_mut(self.block_bytes())) {
            block[..2].copy_from_slice(&scale.to_le_bytes());
            block[2..HEAD].copy_from_slice(&zero.to_le_bytes());
            write_codes::<BITS>(codes, &mut block[HEAD..]);
        }
    }
}

impl Coded for super::dense::Dense<f16> {
    fn write(&self, codes: &[u8], scale: f16, zero: u16, stored: &mut [u8]) {
        for (code, bytes) in codes.iter().zip(stored.chunks_exact_mut(2)) {
            let weight = (f32::from(*code) - f32::from(zero)) * scale.to_f32();
            F16.quantize(&[weight], bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_gives_the_same_weights() {
        let codes: Vec<u8> = (0..128).map(|i| (i * 7 % 16) as u8).collect();
        let scale = f16::from_f32(-0.375);
        let expected: Vec<f32> = codes.iter().map(|code| (f32::from(*code) - 8.0) * -0.375).collect();
        let formats: [&dyn Coded; 5] = [&Q4_0, &ZeroPoint::<4, 32>, &ZeroPoint::<4, 128>, &ZeroPoint::<8, 32>, &F16];
        for format in formats {
            let (mut stored, mut found) = (vec![0; format.row_bytes(128)], vec![0.0; 128]);
            format.write(&codes, scale, 8, &mut stored);
            format.dequantize(&stored, &mut found);
            assert_eq!(found, expected, "{}", format.name());
        }
    }

    #[test]
    fn q8_0_holds_codes_around_128() {
        let codes: Vec<u8> = (0..=255).collect();
        let (mut stored, mut found) = (vec![0; Q8_0.row_bytes(256)], vec![0.0; 256]);
        Q8_0.write(&codes, f16::ONE, 128, &mut stored);
        Q8_0.dequantize(&stored, &mut found);
        assert_eq!((found[0], found[128], found[255]), (-128.0, 0.0, 127.0), "the whole range");
    }
}
