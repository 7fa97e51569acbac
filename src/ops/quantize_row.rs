//! `quantize_row`: an activation rounded to 8 bits, for integer dot products.
//!
//! Only decode and forwards of few tokens read rounded rows: with many rows the matmuls read the activation itself, and
//! nothing is rounded.

use super::gemv::logit_rows;
use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Phase, Step};
use crate::tensor::{DType, Dim, TensorType};

/// Input: x `(rows, cols)`. Output: the same rounded, `(rows, cols)` of [`DType::Q8`]; cols is a multiple of 32.
#[derive(Debug, Clone, Copy)]
pub struct QuantizeRow;

/// The slot binding of `QUANTIZED`: what a kernel also writes rounded.
pub(super) fn quantized_slot(wanted: bool) -> (&'static str, String) {
    ("QUANTIZED", if wanted { "lib/quantized_row" } else { "lib/quantized_none" }.into())
}

/// Values of [`DType::Q8`]: each block's largest magnitude is 127 of its scale.
#[derive(Debug)]
pub struct Q8Block {
    /// What a code is worth.
    pub scale: f32,
    /// The rounded values, counted in it.
    pub codes: [i8; DType::Q8_BLOCK],
}

impl Q8Block {
    /// A block's values, rounded. Twin: shaders/lib/quantized_row.wgsl.
    pub fn round(values: &[f32]) -> Self {
        let most = values.iter().fold(0f32, |most, value| most.max(value.abs()));
        let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
        let codes = std::array::from_fn(|i| (values[i] * inverse).round_ties_even() as i8);
        Self { scale: most / 127.0, codes }
    }

    /// The values its codes stand for.
    pub fn values(&self) -> impl Iterator<Item = f32> + '_ {
        self.codes.iter().map(|code| f32::from(*code) * self.scale)
    }

    /// The sum of them.
    pub fn sum(&self) -> f32 {
        self.scale * self.codes.iter().map(|code| i32::from(*code)).sum::<i32>() as f32
    }
}

/// Rounds whole rows in place.
pub(super) fn round_rows(values: &mut [f32]) {
    for block in values.chunks_exact_mut(DType::Q8_BLOCK) {
        let rounded = Q8Block::round(block);
        for (value, rounded) in block.iter_mut().zip(rounded.values()) {
            *value = rounded;
        }
    }
}

/// Rows of `cols` values, rounded already, as an adapter holds them: codes, then scales and sums.
pub fn encode_q8(values: &[f32], cols: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 3 / 2);
    for row in values.chunks_exact(cols) {
        let blocks: Vec<Q8Block> = row.chunks_exact(DType::Q8_BLOCK).map(Q8Block::round).collect();
        bytes.extend(blocks.iter().flat_map(|block| block.codes.map(|code| code as u8)));
        bytes.extend(blocks.iter().flat_map(|block| [block.scale, block.sum()]).flat_map(f32::to_le_bytes));
    }
    bytes
}

/// The inverse of [`encode_q8`].
pub fn decode_q8(bytes: &[u8], cols: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(bytes.len() / 3 * 2);
    for row in bytes.chunks_exact(cols / 2 * 3) {
        let (codes, sides) = row.split_at(cols);
        for (codes, side) in codes.chunks_exact(DType::Q8_BLOCK).zip(sides.chunks_exact(8)) {
            let scale = f32::from_le_bytes([side[0], side[1], side[2], side[3]]);
            values.extend(codes.iter().map(|code| f32::from(*code as i8) * scale));
        }
    }
    values
}

impl Op for QuantizeRow {
    fn name(&self) -> &'static str {
        "quantize_row"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        const WORKGROUP: u32 = 64;
        if call.phase == Phase::Prefill {
            return vec![];
        }
        let cols = call.columns(0);
        let rows = if logit_rows(call) { Extent::LogitRows { per: 1 } } else { Extent::Tokens { per: 1 } };
        vec![Kernel {
            source: "quantize_row",
            slots: vec![quantized_slot(true)],
            overrides: vec![("COLS", f64::from(cols)), ("WORKGROUP", f64::from(WORKGROUP))],
            bindings: vec![("x", Bind::Input(0)), ("quantized", Bind::Output(0))],
            workgroups: [Extent::Fixed((cols / 4).div_ceil(WORKGROUP)), rows, Extent::Fixed(1)],
            scratch: vec![],
        }]
    }

    fn reads_f16(&self, _input: usize, call: &Call<'_>) -> bool {
        // Many rows are not read at all.
        call.phase == Phase::Prefill
    }

    fn reference(&self, _step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        // There is no room for many rows, since nobody reads them.
        let x = inputs[0].f32();
        if outputs[0].len() == x.len() {
            outputs[0].copy_from_slice(x);
            round_rows(outputs[0]);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |(tokens, cols): (u32, u32)| {
        let row = TensorType::f32([Dim::Tokens, Dim::Fixed(cols)]);
        Case {
            label: format!("quantize_row, {tokens} of {cols}"),
            op: Box::new(QuantizeRow),
            inputs: vec![CaseInput::Activation(row.clone())],
            outputs: vec![CaseInput::Activation(row.rounded())],
            step: Step::new(tokens, 3, 1),
            // A value half-way between two codes may fall to either side.
            max_nmse: 1e-6,
        }
    };
    [(1, 32), (1, 288), (1, 2560), (2, 32), (7, 288), (16, 1056)].map(case).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_again_changes_nothing() {
        let mut values: Vec<f32> =
            (0..64).map(|i| (i as f32 * 0.7).sin() * if i == 40 { 300.0 } else { 2.0 }).collect();
        values[..16].fill(0.0);
        round_rows(&mut values);
        let bytes = encode_q8(&values, 32);
        assert_eq!(bytes.len() as u64, DType::Q8.bytes(64), "as long as the type says");
        for (again, value) in decode_q8(&bytes, 32).iter().zip(&values) {
            assert!((again - value).abs() <= 1e-6 * value.abs(), "{value} came back as {again}");
        }
    }
}
