//! What `matmul` is tested with: every format by every kernel, at odd sizes; every epilogue; x and output in parts and
//! rounded.

use super::{Columns, Matmul};
use crate::ops::{Activation, Case, CaseInput, Step};
use crate::quant::{BlockFormat, FORMATS};
use crate::tensor::{Dim, FEW_ROWS, TensorType};

pub(in crate::ops) fn cases() -> Vec<Case> {
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
            // All shapes for one format. Of few tokens every second one for the others, else two of three: of each format
            // others than of the one before.
            let one_in = if (2..=FEW_ROWS).contains(&tokens) { 2 } else { 3 };
            if format.name() != "f16" && (index + shape) % one_in == 1 {
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
pub(in crate::ops) fn whole_blocks(format: &dyn BlockFormat, cols: usize) -> usize {
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
