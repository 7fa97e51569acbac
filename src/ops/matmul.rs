//! `matmul`: activations × weightᵀ, with bias, activation and residual in its epilogue.
//!
//! One row runs `gemv` (bound by reading weights), by integer dot products where the row was rounded before; a few run
//! the same with several tokens a lane, to the same bits; many run a tiled `gemm`: on cooperative matrices where the
//! adapter has them and the weights carry no more than 16 bits, else in f32.

use super::gemv::{gemv, gemv_integer, gemv_staged, keeps_rows, logit_rows, stages, values_slot};
use super::quantize_row::round_rows;
use super::{
    Activation, Bind, Call, Case, CaseInput, Extent, HostInput, HostWeight, Kernel, Op, Phase, QuantizeRow, Step,
    WeightType, fan_out, weight_bindings, weight_slot,
};
use crate::quant::{BlockFormat, FORMATS, PackedLayout};
use crate::tensor::{Dim, FEW_ROWS, TensorType};

mod matrix;

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
    /// are [`BlockFormat::integer`].
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
                Phase::Prefill if matrix::suits(weight, call.traits) => {
                    return self.on_matrices(weight, slice, call);
                }
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

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // (tokens, rows, cols, rows of a slice): odd sizes, one row, several tiles, several slices; rows that more lanes
    // share than there are chunks, and fewer; tiles of tokens that are whole and that are not.
    let shapes = [
        (1, 67, 96, 67),
        (1, 130, 1024, 64),
        (1, 5, 4352, 3),
        (2, 67, 96, 67),
        (7, 130, 160, 64),
        (8, 5, 4352, 3),
        (16, 37, 1024, 20),
        (19, 67, 96, 67),
        (70, 130, 160, 64),
        (129, 131, 64, 131),
    ];
    let epilogues =
        [(false, false, Activation::Identity), (true, false, Activation::GeluErf), (true, true, Activation::Identity)];
    for (index, format) in FORMATS.iter().enumerate() {
        for (shape, (tokens, rows, cols, slice_rows)) in shapes.into_iter().enumerate() {
            // Few tokens: every second shape, of each format others than of the one before.
            if format.name() != "f16" && (2..=FEW_ROWS).contains(&tokens) && (index + shape) % 2 == 1 {
                continue;
            }
            let cols = whole_blocks(*format, cols);
            // The epilogue does not know the format: all of them for one, for the others in turn.
            let first = (index + shape) % epilogues.len();
            let epilogues = if format.name() == "f16" { &epilogues[..] } else { &epilogues[first..=first] };
            for &(bias, residual, activation) in epilogues {
                let op = Matmul { bias, residual, activation, ..Matmul::plain() };
                let label = format!("{} {tokens}x{cols} by {rows}/{slice_rows} {op:?}", format.name());
                let output = TensorType::f32([Dim::Tokens, Dim::Fixed(rows as u32)]);
                let mut inputs = vec![
                    CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(cols as u32)])),
                    CaseInput::Weight { format: *format, rows, cols, slice_rows },
                ];
                inputs.extend(bias.then_some(CaseInput::Vector(rows)));
                inputs.extend(residual.then(|| CaseInput::Activation(output.clone())));
                cases.push(Case {
                    label,
                    op: Box::new(op),
                    inputs,
                    outputs: vec![CaseInput::Activation(output)],
                    step: Step::new(tokens, 2, 1),
                    max_nmse: if format.name() == "f32" { 1e-10 } else { 1e-6 },
                });
            }
        }
    }
    cases.extend(integer_cases());
    cases.extend(beside_cases());
    cases.extend(rounding_cases());
    cases.extend([1, 4, 21].map(column_case));
    cases.extend([(5, 3), (9, 9), (40, 19)].map(logit_case));
    cases.extend([1, 3, 11, 18].map(odd_columns_case));
    cases.extend(cut_cases());
    cases.extend(direct_cases());
    cases
}

/// Every format whose codes are integers, times a rounded row: rows that more lanes share than there are chunks, and
/// fewer; several slices; a few tokens; and many, which read the row as it is.
fn integer_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, format) in FORMATS.iter().filter(|format| format.integer()).enumerate() {
        let ones = [(1, 67, 96, 67), (1, 130, 1024, 64), (1, 5, 4352, 3)];
        let more = [(2, 67, 96, 67), (7, 130, 1024, 64), (8, 5, 4352, 3), (16, 19, 288, 19), (18, 33, 64, 33)];
        // Few tokens: every second shape, of each format others than of the one before.
        let more = more.into_iter().enumerate().filter(|(shape, _)| (index + shape) % 2 == 0).map(|(_, shape)| shape);
        for (tokens, rows, cols, slice_rows) in ones.into_iter().chain(more) {
            let cols = whole_blocks(*format, cols);
            let op = Matmul { bias: true, residual: true, quantized: true, ..Matmul::plain() };
            let row = TensorType::f32([Dim::Tokens, Dim::Fixed(cols as u32)]);
            let output = CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(rows as u32)]));
            cases.push(Case {
                label: format!("{} {tokens}x{cols} by {rows}/{slice_rows} {op:?}", format.name()),
                op: Box::new(op),
                inputs: vec![
                    CaseInput::Activation(row.clone()),
                    CaseInput::Weight { format: *format, rows, cols, slice_rows },
                    CaseInput::Vector(rows),
                    output.clone(),
                    CaseInput::Activation(row.rounded()),
                ],
                outputs: vec![output],
                step: Step::new(tokens, 2, 1),
                max_nmse: if tokens <= FEW_ROWS { 1e-10 } else { 1e-6 },
            });
        }
    }
    cases
}

/// x in two tensors, as it is and rounded: by every kernel that reads rows.
fn beside_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in ["f16", "f32", "q8_0", "q4_0", "q4_k", "nf4", "mxfp4"] {
        let format = *FORMATS.iter().find(|known| known.name() == format).expect("a format");
        for (tokens, rows, first, behind) in [(1, 67, 96, 224), (1, 34, 1024, 64), (5, 19, 160, 96), (40, 67, 64, 160)]
        {
            let unit = if format.block_len() > 32 { format.block_len() / 32 } else { 1 };
            let (first, behind) = (first * unit as u32, behind * unit as u32);
            for quantized in [false, true].into_iter().filter(|quantized| !quantized || format.integer()) {
                let row = |columns| TensorType::f32([Dim::Tokens, Dim::Fixed(columns)]);
                let op = Matmul { residual: true, beside: true, quantized, ..Matmul::plain() };
                let output = CaseInput::Activation(row(rows));
                let mut inputs = vec![
                    CaseInput::Activation(row(first)),
                    CaseInput::Weight {
                        format,
                        rows: rows as usize,
                        cols: (first + behind) as usize,
                        slice_rows: rows as usize,
                    },
                    output.clone(),
                    CaseInput::Activation(row(behind)),
                ];
                if quantized {
                    inputs.extend([first, behind].map(|columns| CaseInput::Activation(row(columns).rounded())));
                }
                cases.push(Case {
                    label: format!("{} {tokens}x{first}+{behind} by {rows} {op:?}", format.name()),
                    op: Box::new(op),
                    inputs,
                    outputs: vec![output],
                    step: Step::new(tokens, 0, 1),
                    max_nmse: if format.name() == "f32" { 1e-10 } else { 1e-6 },
                });
            }
        }
    }
    cases
}

/// What comes out is rounded too: by the workgroups that finish it, and by a kernel behind them.
fn rounding_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (format, quantized) in [("q4_0", true), ("q8_0", true), ("q6_k", true), ("q4_0", false), ("f16", false)] {
        let format = *FORMATS.iter().find(|known| known.name() == format).expect("a format");
        for (tokens, rows, cols, slice_rows) in [
            (1, 32, 96, 32),
            (1, 416, 1024, 416),
            (1, 96, 4352, 96),
            (1, 96, 64, 48),
            (5, 96, 288, 96),
            (40, 64, 96, 64),
        ] {
            let cols = whole_blocks(format, cols);
            let activation = Activation::GeluErf;
            let op = Matmul { bias: true, activation, quantized, rounds: true, ..Matmul::plain() };
            let row = |columns: usize| TensorType::f32([Dim::Tokens, Dim::Fixed(columns as u32)]);
            let mut inputs = vec![
                CaseInput::Activation(row(cols)),
                CaseInput::Weight { format, rows, cols, slice_rows },
                CaseInput::Vector(rows),
            ];
            inputs.extend(quantized.then(|| CaseInput::Activation(row(cols).rounded())));
            cases.push(Case {
                label: format!("{} {tokens}x{cols} by {rows}/{slice_rows} {op:?}", format.name()),
                op: Box::new(op),
                inputs,
                outputs: vec![CaseInput::Activation(row(rows)), CaseInput::Activation(row(rows).rounded())],
                step: Step::new(tokens, 0, 1),
                // A value half-way between two codes may fall to either side.
                max_nmse: 5e-6,
            });
        }
    }
    cases
}

/// So many weights, or as many blocks as they are groups of 32 where blocks are longer: odd numbers stay odd.
pub(super) fn whole_blocks(format: &dyn BlockFormat, cols: usize) -> usize {
    if cols.is_multiple_of(format.block_len()) { cols } else { cols.div_ceil(32) * format.block_len() }
}

/// A weight row that does not fill its last chunk.
fn odd_columns_case(tokens: u32) -> Case {
    Case {
        label: format!("{tokens} tokens, f16 rows of 60, half a chunk short"),
        op: Box::new(Matmul::plain()),
        inputs: vec![
            CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(60)])),
            CaseInput::Weight { format: &crate::quant::F16, rows: 33, cols: 60, slice_rows: 33 },
        ],
        outputs: vec![CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(33)]))],
        step: Step::new(tokens, 0, 1),
        max_nmse: 1e-6,
    }
}

/// Shapes for which the cooperative matrix kernel takes its wider tile, and shares columns between workgroups.
fn cut_cases() -> [Case; 3] {
    [(10_240, 40), (2560, 1100), (160, 1664)].map(|(rows, cols)| {
        let op = Matmul { bias: true, residual: true, activation: Activation::GeluErf, ..Matmul::plain() };
        let output = CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(rows as u32)]));
        Case {
            label: format!("f16 {cols} by {rows}"),
            op: Box::new(op),
            inputs: vec![
                CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(cols as u32)])),
                CaseInput::Weight { format: &crate::quant::F16, rows, cols, slice_rows: rows },
                CaseInput::Vector(rows),
                output.clone(),
            ],
            outputs: vec![output],
            step: Step::new(130, 0, 1),
            max_nmse: 1e-6,
        }
    })
}

/// Shapes whose sums the cooperative matrix kernel writes to the output itself: whole matrices of rows, aligned columns;
/// several slices, tiles that are not whole, and tokens that do not fill their last matrix.
fn direct_cases() -> [Case; 4] {
    let plain = Matmul::plain();
    let columns = Some(Columns { start: 8, of: 212 });
    [
        (130, 320, 96, 320, Matmul { bias: true, residual: true, ..plain.clone() }),
        (17, 96, 64, 32, Matmul { residual: true, ..plain.clone() }),
        (21, 160, 40, 160, Matmul { bias: true, columns, ..plain.clone() }),
        (300, 10_240, 32, 10_240, plain),
    ]
    .map(|(tokens, rows, cols, slice_rows, op)| {
        let width = op.columns(rows).of;
        let output = CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(width)]));
        let mut inputs = vec![
            CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(cols as u32)])),
            CaseInput::Weight { format: &crate::quant::F16, rows, cols, slice_rows },
        ];
        inputs.extend(op.bias.then_some(CaseInput::Vector(rows)));
        inputs.extend(op.residual.then(|| output.clone()));
        Case {
            label: format!("f16 {tokens}x{cols} by {rows}/{slice_rows} {op:?}"),
            op: Box::new(op),
            inputs,
            outputs: vec![output],
            step: Step::new(tokens, 0, 1),
            max_nmse: 1e-6,
        }
    })
}

/// Logits of the last ones of some tokens.
fn logit_case((tokens, rows): (u32, u32)) -> Case {
    Case {
        label: format!("logit rows, {rows} of {tokens}"),
        op: Box::new(Matmul::plain()),
        inputs: vec![
            CaseInput::Activation(TensorType::f32([Dim::LogitRows, Dim::Fixed(64)])),
            CaseInput::Weight { format: &crate::quant::F16, rows: 90, cols: 64, slice_rows: 40 },
        ],
        outputs: vec![CaseInput::Activation(TensorType::f32([Dim::LogitRows, Dim::Fixed(90)]))],
        step: Step::new(tokens, 0, rows),
        max_nmse: 1e-6,
    }
}

/// A column range of an output whose other columns keep what is in them.
fn column_case(tokens: u32) -> Case {
    let op = Matmul { columns: Some(Columns { start: 7, of: 61 }), ..Matmul::plain() };
    Case {
        label: format!("a column range of {tokens} tokens"),
        op: Box::new(op),
        inputs: vec![
            CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(64)])),
            CaseInput::Weight { format: &crate::quant::F32, rows: 40, cols: 64, slice_rows: 40 },
        ],
        outputs: vec![CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(61)]))],
        step: Step::new(tokens, 0, 1),
        max_nmse: 1e-10,
    }
}
