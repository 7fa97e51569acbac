//! `matmul_experts` and `combine_experts`: the feed-forward part of a mixture of experts.
//!
//! For one token and for few only the chosen experts' rows are read, by the same kernel; at prefill every expert's rows
//! are read once for all tokens that chose it. A software adapter takes the first kernel for all, as in `matmul`.

use super::{
    Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Phase, Shape, Step, TunedKernel, WeightType,
    reduce_slot, weight_bindings, weight_slot,
};
use crate::quant::{FORMATS, PackedLayout};
use crate::tensor::{Dim, TensorType};

/// Inputs: x `(tokens, cols)`, or `(tokens, top_k · cols)` with a row for each choice; weight
/// `(experts · expert_rows, cols)`, one expert after the other; selection `(tokens, top_k · 2)` as
/// [`super::Route`] writes it. Output: `(tokens, top_k · expert_rows)`.
#[derive(Debug, Clone)]
pub struct MatmulExperts {
    /// All experts.
    pub experts: u32,
    /// Experts that compute a token.
    pub top_k: u32,
    /// Whether all of a token's choices read its one row.
    pub shared_input: bool,
}

impl MatmulExperts {
    fn overrides(&self, weight: &WeightType, first_row: usize, layout: &PackedLayout) -> Vec<(&'static str, f64)> {
        vec![
            ("COLS", weight.cols as f64),
            ("ROWS", layout.rows as f64),
            ("FIRST_ROW", first_row as f64),
            ("EXPERT_ROWS", f64::from(self.expert_rows(weight.rows))),
            ("TOP_K", f64::from(self.top_k)),
            ("SHARED_INPUT", f64::from(u8::from(self.shared_input))),
        ]
    }

    fn expert_rows(&self, rows: usize) -> u32 {
        rows as u32 / self.experts
    }

    fn gemv(&self, weight: &WeightType, call: &Call<'_>) -> Kernel {
        let chunks = weight.cols.div_ceil(weight.format.chunk_len()) as u32;
        // As in gemv where nothing was measured.
        let class = call.traits.tuning.class;
        let Shape { workgroup, lanes, rows } = class.default_shape(TunedKernel::Gemv, chunks);
        let groups = self.expert_rows(weight.rows).div_ceil(rows * workgroup / lanes);
        let mut overrides = vec![("WORKGROUP", f64::from(workgroup)), ("LANES", f64::from(lanes))];
        let reduce = reduce_slot(call.traits, workgroup, &mut overrides);
        Kernel {
            source: "gemv_experts",
            slots: vec![reduce, ("TILE", format!("lib/rows_{rows}x1"))],
            overrides,
            bindings: vec![],
            workgroups: [Extent::Fixed(groups), Extent::Fixed(self.top_k), Extent::Tokens { per: 1 }],
            scratch: vec![],
        }
    }

    fn gemm(&self, weight: &WeightType) -> Kernel {
        // Few choices fall on each expert, and the tile must fit 16 KiB beside the list of them.
        const CHOICES: u32 = 32;
        const ROWS: u32 = 64;
        Kernel {
            source: "gemm_experts",
            slots: vec![("TILE", "lib/tile_2x4".into())],
            overrides: vec![],
            bindings: vec![],
            workgroups: [
                // An expert can be the choice of every token.
                Extent::Tokens { per: CHOICES },
                Extent::Fixed(self.expert_rows(weight.rows).div_ceil(ROWS)),
                Extent::Fixed(self.experts),
            ],
            scratch: vec![],
        }
    }
}

impl Op for MatmulExperts {
    fn name(&self) -> &'static str {
        "matmul_experts"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let weight = call.weight(1);
        let slices = weight.slices.iter().enumerate();
        slices
            .map(|(slice, (first_row, layout))| {
                let mut kernel = match call.phase {
                    Phase::Prefill if !call.traits.software => self.gemm(weight),
                    _ => self.gemv(weight, call),
                };
                kernel.overrides.extend(self.overrides(weight, *first_row, layout));
                kernel.slots.push(weight_slot(weight));
                kernel.bindings =
                    vec![("input", Bind::Input(0)), ("selection", Bind::Input(2)), ("output", Bind::Output(0))];
                kernel.bindings.extend(weight_bindings(1, weight, slice));
                kernel
            })
            .collect()
    }

    fn reference(&self, _step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let (x, weight, selection) = (inputs[0].f32(), inputs[1].weight(), inputs[2].f32());
        let expert_rows = self.expert_rows(weight.rows) as usize;
        let top_k = self.top_k as usize;
        // An expert's rows are unpacked once for all its choices.
        for expert in 0..self.experts as usize {
            let choices: Vec<usize> =
                (0..selection.len() / 2).filter(|choice| selection[2 * choice] as usize == expert).collect();
            if choices.is_empty() {
                continue;
            }
            let parts = super::fan_out(expert_rows, |rows| {
                let mut row_values = vec![0.0; weight.cols];
                let mut products = Vec::with_capacity(rows.len() * choices.len());
                for row in rows.clone() {
                    weight.row(expert * expert_rows + row, &mut row_values);
                    for choice in &choices {
                        let input = if self.shared_input { choice / top_k } else { *choice };
                        let x = &x[input * weight.cols..][..weight.cols];
                        products.push(x.iter().zip(&row_values).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum());
                    }
                }
                (rows, products)
            });
            for (rows, products) in parts {
                let products: Vec<f64> = products;
                for (row, of_row) in rows.zip(products.chunks_exact(choices.len())) {
                    for (choice, product) in choices.iter().zip(of_row) {
                        outputs[0][choice * expert_rows + row] = *product as f32;
                    }
                }
            }
        }
    }
}

/// Inputs: experts' outputs `(tokens, top_k · cols)`, selection `(tokens, top_k · 2)`, residual `(tokens, cols)`, then
/// the shared expert's output `(tokens, cols)` and its gate's score `(tokens, 1)` where there are any. Output:
/// `(tokens, cols)`, residual + Σ weight · expert + sigmoid(gate) · shared.
#[derive(Debug, Clone)]
pub struct CombineExperts {
    /// Experts that compute a token.
    pub top_k: u32,
    /// There is a shared expert.
    pub shared: bool,
    /// And its output is scaled by a gate.
    pub gated: bool,
}

impl Op for CombineExperts {
    fn name(&self) -> &'static str {
        "combine_experts"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        const INVOCATIONS: u32 = 64;
        let cols = call.columns(2);
        // An absent shared expert or gate is bound to the residual, never read.
        let (shared, gate) = (if self.shared { 3 } else { 2 }, if self.gated { 4 } else { 2 });
        vec![Kernel {
            source: "combine_experts",
            slots: vec![],
            overrides: vec![
                ("COLS", f64::from(cols)),
                ("TOP_K", f64::from(self.top_k)),
                ("SHARED", f64::from(u8::from(self.shared))),
                ("GATED", f64::from(u8::from(self.gated))),
            ],
            bindings: vec![
                ("experts", Bind::Input(0)),
                ("selection", Bind::Input(1)),
                ("residual", Bind::Input(2)),
                ("shared_expert", Bind::Input(shared)),
                ("gate", Bind::Input(gate)),
                ("output", Bind::Output(0)),
            ],
            workgroups: [Extent::Fixed((cols / 4).div_ceil(INVOCATIONS)), Extent::Tokens { per: 1 }, Extent::Fixed(1)],
            scratch: vec![],
        }]
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let (experts, selection, residual) = (inputs[0].f32(), inputs[1].f32(), inputs[2].f32());
        let top_k = self.top_k as usize;
        let cols = outputs[0].len() / step.tokens as usize;
        for (at, output) in outputs[0].iter_mut().enumerate() {
            let (token, column) = (at / cols, at % cols);
            let mut sum = f64::from(residual[at]);
            for choice in token * top_k..(token + 1) * top_k {
                sum += f64::from(selection[2 * choice + 1]) * f64::from(experts[choice * cols + column]);
            }
            if self.shared {
                let gate = if self.gated { 1.0 / (1.0 + (-f64::from(inputs[4].f32()[token])).exp()) } else { 1.0 };
                sum += gate * f64::from(inputs[3].f32()[at]);
            }
            *output = sum as f32;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // (tokens, experts, top_k, rows of an expert, cols, rows of a slice): slices that cut through experts
    let shapes = [
        (1, 4, 2, 33, 3, 132, true),
        (1, 8, 3, 20, 2, 50, false),
        (7, 4, 2, 33, 2, 50, true),
        (70, 3, 2, 67, 2, 201, false),
        (150, 2, 1, 65, 3, 100, true),
    ];
    for (index, format) in FORMATS.iter().enumerate() {
        // Two of three shapes, of each format others than of the one before.
        let shapes = shapes.into_iter().enumerate().filter(|(shape, _)| (index + shape) % 3 != 1);
        for (_, (tokens, experts, top_k, rows, blocks, slice_rows, shared_input)) in shapes {
            let cols = (blocks * format.block_len().max(32)) as u32;
            let op = MatmulExperts { experts, top_k, shared_input };
            let inputs_per_token = if shared_input { 1 } else { top_k };
            cases.push(Case {
                label: format!("{} {tokens}x{cols} by {rows}/{slice_rows} {op:?}", format.name()),
                op: Box::new(op),
                inputs: vec![
                    CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(inputs_per_token * cols)])),
                    CaseInput::Weight {
                        format: *format,
                        rows: (experts * rows) as usize,
                        cols: cols as usize,
                        slice_rows,
                    },
                    CaseInput::Selection { experts, top_k },
                ],
                outputs: vec![CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(top_k * rows)]))],
                step: Step::new(tokens, 2, 1),
                max_nmse: if format.name() == "f32" { 1e-10 } else { 1e-6 },
            });
        }
    }
    cases.extend([(1, 2, 100, false, false), (5, 4, 260, true, true), (3, 1, 64, true, false)].map(combine_case));
    cases
}

fn combine_case((tokens, top_k, cols, shared, gated): (u32, u32, u32, bool, bool)) -> Case {
    let op = CombineExperts { top_k, shared, gated };
    let rows = |cols| CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(cols)]));
    let mut inputs = vec![rows(top_k * cols), CaseInput::Selection { experts: 8, top_k }, rows(cols)];
    inputs.extend(shared.then(|| rows(cols)));
    inputs.extend(gated.then(|| rows(1)));
    Case {
        label: format!("{tokens} tokens of {cols} {op:?}"),
        op: Box::new(op),
        inputs,
        outputs: vec![rows(cols)],
        step: Step::new(tokens, 3, 1),
        max_nmse: 1e-11,
    }
}
