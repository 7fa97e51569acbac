//! What `matmul` is tested with: every format by every kernel, at odd sizes; every epilogue; x and output in parts and
//! rounded.

use super::{Columns, Matmul};
use crate::ops::{Activation, Case, CaseInput, Step};
use crate::quant::{BlockFormat, FORMATS};
use crate::tensor::{DType, Dim, FEW_ROWS, TensorType};

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
                cases.push(case(op, *format, (tokens, rows, cols, slice_rows)));
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
    cases.extend(halved_cases());
    cases.extend(large_cases());
    cases
}

/// Rows of f16 in and out, for cooperative matrices: whole, in two tensors of which one or both are f16; sums that are
/// shared, and several slices.
fn halved_cases() -> Vec<Case> {
    let (plain, f16) = (Matmul::plain(), &crate::quant::F16);
    let gelu = Matmul { bias: true, activation: Activation::GeluErf, ..plain.clone() };
    let beside = Matmul { residual: true, beside: true, ..plain.clone() };
    let mut cases = vec![
        case(Matmul { bias: true, ..plain.clone() }, f16, (40, 96, 160, 96)),
        case(gelu.clone(), called("q4_0"), (130, 160, 96, 160)),
        case(gelu.clone(), f16, (40, 96, 64, 32)),
        case(gelu, f16, (21, 160, 1664, 160)),
        beside_case(beside.clone(), f16, (40, 64, &[64, 160], 64)),
        beside_case(beside, called("q8_0"), (40, 64, &[96, 64], 64)),
    ];
    cases.iter_mut().for_each(|case| case.halve_outputs());
    cases.iter_mut().for_each(|case| case.halve_input(0, DType::F16));
    cases[4].halve_input(3, DType::F16);
    cases
}

/// Values beyond f16 for cooperative matrices: as they come, beside those that are not, and in rows that no f16 tensor
/// holds.
fn large_cases() -> Vec<Case> {
    let (plain, f16) = (Matmul::plain(), &crate::quant::F16);
    let beside = Matmul { residual: true, beside: true, ..plain.clone() };
    let mut whole = case(Matmul { bias: true, ..plain.clone() }, f16, (40, 96, 160, 96));
    let mut first = beside_case(beside.clone(), called("q8_0"), (40, 64, &[96, 64], 64));
    let mut second = beside_case(beside, called("q4_0"), (40, 64, &[96, 64], 64));
    let mut narrowed = case(plain, f16, (21, 37, 100, 37));
    for (case, large, other) in [(&mut whole, 0, None), (&mut first, 0, Some(3)), (&mut second, 3, Some(0))] {
        case.enlarge_input(large, 3e4);
        case.halve_input(large, DType::F16Scaled);
        other.into_iter().for_each(|other| case.halve_input(other, DType::F16));
    }
    narrowed.enlarge_input(0, 3e4);
    vec![whole, first, second, narrowed]
}

/// A case of so many tokens, rows, columns, and rows of a slice, with the inputs and outputs that the op has.
fn case(op: Matmul, format: &'static dyn BlockFormat, shape: (u32, usize, usize, usize)) -> Case {
    let (tokens, rows, cols, slice_rows) = shape;
    beside_case(op, format, (tokens, rows, &[cols], slice_rows))
}

/// As [`case`] for columns in one tensor or in two.
fn beside_case(
    op: Matmul,
    format: &'static dyn BlockFormat,
    (tokens, rows, parts, slice_rows): (u32, usize, &[usize], usize),
) -> Case {
    let row = |columns: usize| TensorType::f32([Dim::Tokens, Dim::Fixed(columns as u32)]);
    let output = row(op.columns(rows).of as usize);
    let cols = parts.iter().sum();
    let mut inputs = vec![CaseInput::Activation(row(parts[0])), CaseInput::Weight { format, rows, cols, slice_rows }];
    inputs.extend(op.bias.then_some(CaseInput::Vector(rows)));
    inputs.extend(op.residual.then(|| CaseInput::Activation(output.clone())));
    inputs.extend(parts[1..].iter().map(|columns| CaseInput::Activation(row(*columns))));
    let rounded = parts.iter().filter(|_| op.quantized).map(|columns| CaseInput::Activation(row(*columns).rounded()));
    inputs.extend(rounded);
    let mut outputs = vec![CaseInput::Activation(output.clone())];
    outputs.extend(op.rounds.then(|| CaseInput::Activation(output.rounded())));
    Case {
        label: format!("{} {tokens}x{parts:?} by {rows}/{slice_rows} {op:?}", format.name()),
        op: Box::new(op),
        inputs,
        outputs,
        step: Step::new(tokens, 2, 1),
        max_nmse: if format.name() == "f32" { 1e-10 } else { 1e-6 },
    }
}

fn called(name: &str) -> &'static dyn BlockFormat {
    crate::quant::format(name).expect("a format")
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
            let op = Matmul { bias: true, residual: true, quantized: true, ..Matmul::plain() };
            let case = case(op, *format, (tokens, rows, whole_blocks(*format, cols), slice_rows));
            let max_nmse = if tokens <= FEW_ROWS { 1e-10 } else { case.max_nmse };
            cases.push(Case { max_nmse, ..case });
        }
    }
    cases
}

/// x in two tensors, as it is and rounded: by every kernel that reads rows.
fn beside_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in ["f16", "f32", "q8_0", "q4_0", "q4_k", "nf4", "mxfp4"].map(called) {
        let unit = if format.block_len() > 32 { format.block_len() / 32 } else { 1 };
        for (tokens, rows, first, behind) in [(1, 67, 96, 224), (1, 34, 1024, 64), (5, 19, 160, 96), (40, 67, 64, 160)]
        {
            for quantized in [false, true].into_iter().filter(|quantized| !quantized || format.integer()) {
                let op = Matmul { residual: true, beside: true, quantized, ..Matmul::plain() };
                cases.push(beside_case(op, format, (tokens, rows, &[first * unit, behind * unit], rows)));
            }
        }
    }
    cases
}

/// What comes out is rounded too: by the workgroups that finish it, and by a kernel behind them.
fn rounding_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (format, quantized) in [("q4_0", true), ("q8_0", true), ("q6_k", true), ("q4_0", false), ("f16", false)] {
        let format = called(format);
        for (tokens, rows, cols, slice_rows) in [
            (1, 32, 96, 32),
            (1, 416, 1024, 416),
            (1, 96, 4352, 96),
            (1, 96, 64, 48),
            (5, 96, 288, 96),
            (40, 64, 96, 64),
        ] {
            let op = Matmul { bias: true, activation: Activation::GeluErf, quantized, rounds: true, ..Matmul::plain() };
            let case = case(op, format, (tokens, rows, whole_blocks(format, cols), slice_rows));
            // A value half-way between two codes may fall to either side.
            cases.push(Case { max_nmse: 5e-6, ..case });
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
    case(Matmul::plain(), &crate::quant::F16, (tokens, 33, 60, 33))
}

/// Shapes for which the cooperative matrix kernel takes its wider tile, and shares columns between workgroups.
fn cut_cases() -> [Case; 3] {
    [(10_240, 40), (2560, 1100), (160, 1664)].map(|(rows, cols)| {
        let op = Matmul { bias: true, residual: true, activation: Activation::GeluErf, ..Matmul::plain() };
        case(op, &crate::quant::F16, (130, rows, cols, rows))
    })
}

/// Shapes whose sums the cooperative matrix kernel writes to the output itself: whole matrices of rows, aligned columns;
/// several slices, tiles that are not whole, and tokens that do not fill their last matrix.
fn direct_cases() -> [Case; 4] {
    let plain = Matmul::plain();
    let columns = Some(Columns { start: 8, of: 212 });
    [
        (Matmul { bias: true, residual: true, ..plain.clone() }, (130, 320, 96, 320)),
        (Matmul { residual: true, ..plain.clone() }, (17, 96, 64, 32)),
        (Matmul { bias: true, columns, ..plain.clone() }, (21, 160, 40, 160)),
        (plain, (300, 10_240, 32, 10_240)),
    ]
    .map(|(op, shape)| case(op, &crate::quant::F16, shape))
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
    case(op, &crate::quant::F32, (tokens, 40, 64, 40))
}
