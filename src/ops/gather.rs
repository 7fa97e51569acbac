//! `gather_columns`: an activation with its columns in another order, for weights whose columns are in that order.

use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, Op, Step};
use crate::tensor::{Dim, TensorType};

/// Inputs: x `(rows, cols)`, order vector `(cols)` of whole numbers below `cols`. Output: `(rows, cols)`, whose column
/// `i` is column `order[i]` of x.
#[derive(Debug, Clone)]
pub struct GatherColumns {
    /// Rows are those whose logits are wanted, not all tokens.
    pub logit_rows_only: bool,
}

const INVOCATIONS: u32 = 64;

impl Op for GatherColumns {
    fn name(&self) -> &'static str {
        "gather_columns"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let cols = call.columns(0);
        let rows = if self.logit_rows_only { Extent::LogitRows { per: 1 } } else { Extent::Tokens { per: 1 } };
        vec![Kernel {
            source: "gather_columns",
            slots: vec![],
            overrides: vec![("COLS", f64::from(cols))],
            bindings: vec![("x", Bind::Input(0)), ("order", Bind::Input(1)), ("output", Bind::Output(0))],
            workgroups: [Extent::Fixed(cols.div_ceil(INVOCATIONS)), rows, Extent::Fixed(1)],
            scratch: vec![],
        }]
    }

    fn reference(&self, _step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let order = inputs[1].f32();
        let rows = inputs[0].f32().chunks_exact(order.len()).zip(outputs[0].chunks_exact_mut(order.len()));
        for (x, output) in rows {
            output.iter_mut().zip(order).for_each(|(output, column)| *output = x[*column as usize]);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |tokens, cols: u32, logit_rows_only| {
        let rows = if logit_rows_only { Dim::LogitRows } else { Dim::Tokens };
        let row = CaseInput::Activation(TensorType::f32([rows, Dim::Fixed(cols)]));
        Case {
            label: format!("gather_columns tokens {tokens} cols {cols} {rows:?}"),
            op: Box::new(GatherColumns { logit_rows_only }),
            inputs: vec![row.clone(), CaseInput::Order(cols as usize)],
            outputs: vec![row],
            step: Step::new(tokens, 3, 2.min(tokens)),
            max_nmse: 0.0,
        }
    };
    vec![case(1, 67, false), case(7, 4096, false), case(5, 100, true)]
}
