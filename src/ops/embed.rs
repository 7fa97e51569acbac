//! `embed`: token ids to rows of the embedding.

use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Step, weight_bindings, weight_slot};
use crate::quant::FORMATS;
use crate::tensor::{DType, Dim, TensorType};

/// Inputs: token ids `(tokens)`, embedding weight `(vocab_size, hidden_size)`. Output: `(tokens, hidden_size)`.
#[derive(Debug, Clone)]
pub struct Embed {
    /// Rows are multiplied by it: 1 but for Gemma.
    pub scale: f32,
}

impl Op for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let weight = call.weight(1);
        let slices = weight.slices.iter().enumerate();
        // Each slice writes the tokens whose rows it holds and leaves the others alone.
        slices
            .map(|(slice, (first_row, layout))| {
                let mut bindings = vec![("tokens", Bind::Input(0)), ("output", Bind::Output(0))];
                bindings.extend(weight_bindings(1, weight, slice));
                Kernel {
                    source: "embed",
                    slots: vec![weight_slot(weight)],
                    overrides: vec![
                        ("COLS", weight.cols as f64),
                        ("ROWS", layout.rows as f64),
                        ("FIRST_ROW", *first_row as f64),
                        ("SCALE", f64::from(self.scale)),
                    ],
                    bindings,
                    workgroups: [Extent::Tokens { per: 1 }, Extent::Fixed(1), Extent::Fixed(1)],
                    scratch: vec![],
                }
            })
            .collect()
    }

    fn reference(&self, _step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let weight = inputs[1].weight();
        for (id, row) in inputs[0].u32().iter().zip(outputs[0].chunks_exact_mut(weight.cols)) {
            weight.row(*id as usize, row);
            row.iter_mut().for_each(|value| *value *= self.scale);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in FORMATS {
        for (tokens, rows, cols, slice_rows, scale) in [(1, 300, 64, 300, 1.0), (7, 301, 96, 100, 8.25)] {
            let cols = super::matmul::whole_blocks(*format, cols);
            cases.push(Case {
                label: format!("embed {} tokens {tokens} weight {rows}x{cols}/{slice_rows} by {scale}", format.name()),
                op: Box::new(Embed { scale }),
                inputs: vec![
                    CaseInput::Tokens { vocab_size: rows as u32 },
                    CaseInput::Weight { format: *format, rows, cols, slice_rows },
                ],
                outputs: vec![CaseInput::Activation(TensorType {
                    dtype: DType::F32,
                    shape: vec![Dim::Tokens, Dim::Fixed(cols as u32)],
                })],
                step: Step::new(tokens, 3, 1),
                max_nmse: 1e-12,
            });
        }
    }
    cases
}
