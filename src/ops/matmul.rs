//! `matmul`: activations × weightᵀ, with bias, activation and residual in its epilogue.
//!
//! One row runs `gemv` (bound by reading weights), by integer dot products where the row was rounded before; a few run
//! the same with several tokens a lane, to the same bits; many run a tiled `gemm`: on cooperative matrices where the
//! adapter has them and the weights carry no more than 16 bits, else in f32.

use super::gemv::{gemv, gemv_integer, gemv_staged, keeps_rows, logit_rows, stages, values_slot};
use super::quantize_row::round_rows;
use super::{
    Activation, Bind, Call, Extent, HostInput, HostWeight, Kernel, Op, Phase, QuantizeRow, Step, WeightType, fan_out,
    weight_bindings, weight_slot,
};
use crate::quant::PackedLayout;

mod cases;
mod matrix;
mod pair;

pub(super) use cases::{cases, whole_blocks};
use matrix::SLAB;
pub use pair::Pair;

/// Where an op's result lands in a wider tensor: columns from `start` on of rows `of` wide. Attention and
/// gated activation write quads: for them both are multiples of 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// First column.
    pub start: u32,
    /// Columns of the whole output.
    pub of: u32,
}

impl Columns {
    /// All of a tensor this wide.
    pub const fn whole(of: u32) -> Self {
        Self { start: 0, of }
    }
}

/// `output = activation(x · weightᵀ + bias) + residual`.
///
/// Inputs: x `(tokens, cols)`, weight `(rows, cols)`, then the bias vector `(rows)` and the residual `(tokens, rows)`
/// where there are any; x's last columns, where they are a tensor of their own; then x (and those columns) rounded to
/// 8-bit blocks where one row and few are to read that. Output: `(tokens, rows)`, or a column range of a wider tensor;
/// few rows also rounded, where wanted.
#[derive(Debug, Clone)]
pub struct Matmul {
    /// A bias vector follows the weight.
    pub bias: bool,
    /// A residual follows; it has the output's shape.
    pub residual: bool,
    /// Applied before the residual is added.
    pub activation: Activation,
    /// Set where the output is part of a wider tensor.
    pub columns: Option<Columns>,
    /// Another tensor follows: the columns behind x's. With `quantized` both are multiples of 32 wide.
    pub beside: bool,
    /// x rounded follows, which one row and few multiply by integer dot products; for formats whose codes
    /// are [`crate::quant::BlockFormat::integer`].
    pub quantized: bool,
    /// A second output holds the same in 8-bit blocks, as [`super::QuantizeRow`] makes it; written where rows are few.
    pub rounds: bool,
}

impl Matmul {
    /// x · weightᵀ and nothing else.
    pub const fn plain() -> Self {
        Self {
            bias: false,
            residual: false,
            activation: Activation::Identity,
            columns: None,
            beside: false,
            quantized: false,
            rounds: false,
        }
    }

    /// Which input x's last columns are, where they are one.
    fn beside_input(&self) -> usize {
        2 + usize::from(self.bias) + usize::from(self.residual)
    }

    /// Which input x rounded is.
    fn quantized_input(&self) -> usize {
        self.beside_input() + usize::from(self.beside)
    }

    fn columns(&self, rows: usize) -> Columns {
        self.columns.unwrap_or(Columns::whole(rows as u32))
    }

    /// What every variant but those of matrices binds.
    fn bindings(&self, weight: &WeightType, slice: usize, rounded: bool) -> Vec<(&'static str, Bind)> {
        let mut bindings = self.row_bindings(rounded);
        bindings.extend(self.epilogue_bindings());
        bindings.extend(weight_bindings(1, weight, slice));
        bindings
    }

    /// x, as it is or rounded.
    fn row_bindings(&self, rounded: bool) -> Vec<(&'static str, Bind)> {
        let (x, beside) = match rounded {
            true => (self.quantized_input(), self.quantized_input() + 1),
            false => (0, self.beside_input()),
        };
        let mut bindings = vec![("input", Bind::Input(x))];
        bindings.extend(self.beside.then_some(("beside", Bind::Input(beside))));
        bindings
    }

    /// How x is read, as it is or rounded.
    fn row_slot(&self, rounded: bool) -> (&'static str, String) {
        let file = match (rounded, self.beside) {
            (false, false) => "lib/row_whole",
            (false, true) => "lib/row_beside",
            (true, false) => "lib/rounded_whole",
            (true, true) => "lib/rounded_beside",
        };
        ("ROW", file.into())
    }

    /// Where x's last columns begin, where they are a tensor of their own.
    fn row_overrides(&self, call: &Call<'_>) -> Option<(&'static str, f64)> {
        self.beside.then(|| ("FIRST_COLS", f64::from(call.columns(0))))
    }

    /// What becomes of sums. An absent bias or residual is bound to x, never read.
    fn epilogue_bindings(&self) -> [(&'static str, Bind); 3] {
        let bias = if self.bias { 2 } else { 0 };
        let residual = if self.residual { 2 + usize::from(self.bias) } else { 0 };
        [("bias", Bind::Input(bias)), ("residual", Bind::Input(residual)), ("output", Bind::Output(0))]
    }

    /// What every variant is specialised by.
    fn overrides(&self, weight: &WeightType, first_row: usize, layout: &PackedLayout) -> Vec<(&'static str, f64)> {
        let columns = self.columns(weight.rows);
        vec![
            ("COLS", weight.cols as f64),
            ("ROWS", layout.rows as f64),
            ("FIRST_ROW", first_row as f64),
            ("FIRST_COLUMN", columns.start.into()),
            ("COLUMNS", columns.of.into()),
            ("BIAS", f64::from(u8::from(self.bias))),
            ("RESIDUAL", f64::from(u8::from(self.residual))),
            self.activation.constant(),
        ]
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let weight = call.weight(1);
        let slices = weight.slices.iter().enumerate();
        let rounded = self.quantized && call.phase != Phase::Prefill;
        let keeps = rounded && self.rounds && keeps_rows(weight, call);
        let kernels = slices.flat_map(|(slice, (first_row, layout))| {
            let mut kernels = match call.phase {
                Phase::Decode | Phase::Few if self.quantized => vec![gemv_integer(weight, layout, keeps, call)],
                Phase::Decode | Phase::Few if stages(weight, call) => vec![gemv_staged(weight, layout, call)],
                Phase::Decode | Phase::Few => vec![gemv(weight, layout, call)],
                // A CPU gains nothing from tiles in workgroup memory and pays for their barriers.
                Phase::Prefill if call.traits.software => vec![gemv(weight, layout, call)],
                Phase::Prefill if self.runs_on_matrices(call) => return self.on_matrices(slice, call),
                Phase::Prefill => vec![gemm(layout, call)],
            };
            for kernel in &mut kernels {
                kernel.overrides.extend(self.overrides(weight, *first_row, layout));
                kernel.overrides.extend(self.row_overrides(call));
                kernel.bindings = self.bindings(weight, slice, rounded);
                kernel.bindings.extend(keeps.then_some(("rounded", Bind::Output(1))));
                kernel.slots.extend([weight_slot(weight), self.row_slot(rounded)]);
            }
            kernels
        });
        kernels.chain((self.rounds && !keeps).then(|| rounding(call)).into_iter().flatten()).collect()
    }

    fn as_matmul(&self) -> Option<&Matmul> {
        Some(self)
    }

    fn reads_f16(&self, input: usize, call: &Call<'_>) -> bool {
        let is_x = input == 0 || self.beside && input == self.beside_input();
        is_x && self.runs_on_matrices(call) && self.parts(call).iter().all(|cols| cols.is_multiple_of(SLAB))
            // Many rows are not read rounded.
            || self.quantized && input >= self.quantized_input() && call.phase == Phase::Prefill
    }

    fn writes_f16(&self, output: usize, call: &Call<'_>) -> bool {
        output == 0 && self.runs_on_matrices(call) && self.sums_to_f16(call)
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let weight = inputs[1].weight();
        let rows = outputs[0].len() / self.columns(weight.rows).of as usize;
        let few = Phase::of(rows as u32, step.tokens) != Phase::Prefill;
        let [first, behind] = match self.quantized && few {
            true => [self.quantized_input(), self.quantized_input() + 1],
            false => [0, self.beside_input()],
        };
        let x = match self.beside {
            true => &*side_by_side([inputs[first].f32(), inputs[behind].f32()], rows),
            false => inputs[first].f32(),
        };
        let bias = self.bias.then(|| inputs[2].f32());
        let residual = self.residual.then(|| inputs[2 + usize::from(self.bias)].f32());
        let Columns { start, of } = self.columns(weight.rows);
        let (start, of) = (start as usize, of as usize);
        let tokens = x.len() / weight.cols;
        let parts = fan_out(weight.rows, |rows| (rows.clone(), products(weight, x, rows)));
        for (rows, values) in parts {
            for (token, values) in values.chunks_exact(rows.len()).enumerate().take(tokens) {
                for (row, value) in rows.clone().zip(values) {
                    let at = token * of + start + row;
                    let biased = value + bias.map_or(0.0, |bias| f64::from(bias[row]));
                    let activated = self.activation.apply(biased);
                    outputs[0][at] = (activated + residual.map_or(0.0, |residual| f64::from(residual[at]))) as f32;
                }
            }
        }
        if self.rounds && few {
            let (whole, rounded) = outputs.split_at_mut(1);
            rounded[0].copy_from_slice(whole[0]);
            round_rows(rounded[0]);
        }
    }
}

/// Rows of two tensors as one.
fn side_by_side(parts: [&[f32]; 2], rows: usize) -> Vec<f32> {
    let of = |part: &'_ [f32], row: usize| {
        let width = part.len() / rows;
        row * width..(row + 1) * width
    };
    (0..rows).flat_map(|row| parts.map(|part| &part[of(part, row)])).flatten().copied().collect()
}

/// What rounds the first output into the second.
fn rounding(call: &Call<'_>) -> Vec<Kernel> {
    let mut kernels =
        QuantizeRow.kernels(&Call { inputs: &call.outputs[..1], outputs: &call.outputs[1..], ..call.clone() });
    for (_, bind) in kernels.iter_mut().flat_map(|kernel| &mut kernel.bindings) {
        *bind = if *bind == Bind::Input(0) { Bind::Output(0) } else { Bind::Output(1) };
    }
    kernels
}

/// `(tokens, rows)` products of a range of the weight's rows; each row is unpacked once for all tokens.
fn products(weight: &HostWeight<'_>, x: &[f32], rows: std::ops::Range<usize>) -> Vec<f64> {
    let tokens = x.len() / weight.cols;
    let mut values = vec![0.0; tokens * rows.len()];
    let mut row_values = vec![0.0; weight.cols];
    for (column, row) in rows.clone().enumerate() {
        weight.row(row, &mut row_values);
        for (token, x) in x.chunks_exact(weight.cols).enumerate() {
            values[token * rows.len() + column] = dot(x, &row_values);
        }
    }
    values
}

/// f64 dot product over eight running sums, so that the compiler can use vector registers.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const WIDTH: usize = 8;
    let mut sums = [0.0f64; WIDTH];
    let (a_chunks, b_chunks) = (a.chunks_exact(WIDTH), b.chunks_exact(WIDTH));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let tail: f64 = rest.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..WIDTH {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    sums.iter().sum::<f64>() + tail
}

fn gemm(layout: &PackedLayout, call: &Call<'_>) -> Kernel {
    let logit_rows = logit_rows(call);
    let per = |per| if logit_rows { Extent::LogitRows { per } } else { Extent::Tokens { per } };
    let rows_per = |tile: u32| Extent::Fixed((layout.rows as u32).div_ceil(tile));
    let overrides = vec![("LOGIT_ROWS", f64::from(u8::from(logit_rows)))];
    // An 8×8 register tile needs 32 KiB for its 128×128 workgroup tile.
    let wide = call.traits.workgroup_storage >= 32 << 10;
    let (tile, size) = if wide { ("lib/tile_8x8", 128) } else { ("lib/tile_4x4", 64) };
    Kernel {
        source: "gemm",
        slots: vec![("TILE", tile.into())],
        overrides,
        bindings: vec![],
        workgroups: [per(size), rows_per(size), Extent::Fixed(1)],
        scratch: vec![],
    }
}
