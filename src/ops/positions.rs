//! `add_positions`: learned position embedding, a row of a table for every position.

use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Step, weight_bindings, weight_slot};
use crate::quant::{BF16, BlockFormat, F16, F32};
use crate::tensor::{Dim, TensorType};

/// Inputs: x `(tokens, hidden_size)`, table weight `(positions, hidden_size)`. Output: `(tokens, hidden_size)`, x plus
/// the rows from `step.position` on (Radford et al. 2019).
#[derive(Debug, Clone)]
pub struct AddPositions;

impl Op for AddPositions {
    fn name(&self) -> &'static str {
        "add_positions"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let weight = call.weight(1);
        let slices = weight.slices.iter().enumerate();
        slices
            .map(|(slice, (first_row, layout))| {
                let mut bindings = vec![("x", Bind::Input(0)), ("output", Bind::Output(0))];
                bindings.extend(weight_bindings(1, weight, slice));
                Kernel {
                    source: "add_positions",
                    slots: vec![weight_slot(weight)],
                    overrides: vec![
                        ("COLS", weight.cols as f64),
                        ("ROWS", layout.rows as f64),
                        ("FIRST_ROW", *first_row as f64),
                    ],
                    bindings,
                    workgroups: [Extent::Tokens { per: 1 }, Extent::Fixed(1), Extent::Fixed(1)],
                    scratch: vec![],
                }
            })
            .collect()
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let weight = inputs[1].weight();
        let rows = inputs[0].f32().chunks_exact(weight.cols).zip(outputs[0].chunks_exact_mut(weight.cols));
        for (token, (x, output)) in rows.enumerate() {
            weight.row(step.position as usize + token, output);
            output.iter_mut().zip(x).for_each(|(output, x)| *output += x);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let formats: [&dyn BlockFormat; 3] = [&F32, &F16, &BF16];
    let case = |format: &'static dyn BlockFormat, tokens: u32, cols: u32| {
        let row = CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(cols)]));
        Case {
            label: format!("add_positions {} tokens {tokens} cols {cols}", format.name()),
            op: Box::new(AddPositions),
            inputs: vec![row.clone(), CaseInput::Weight { format, rows: 40, cols: cols as usize, slice_rows: 13 }],
            outputs: vec![row],
            step: Step::new(tokens, 7, 1),
            max_nmse: 1e-12,
        }
    };
    formats.into_iter().flat_map(|format| [case(format, 1, 64), case(format, 20, 100)]).collect()
}
