//! Two matmuls of many rows in one dispatch on cooperative matrices, where neither waits for the other: their tiles fill the
//! last round of workgroups together. The bits are those of two dispatches in which no workgroups share columns.

use super::Matmul;
use super::matrix::{Cut, rows_of};
use crate::ops::{Bind, Call, Extent, Kernel, weight_bindings};
use crate::tensor::DType;

/// What two matmuls run instead of their own kernels.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The products of both, in the place of the first, bound as its own are.
    pub products: Kernel,
    /// What it binds of the second one's, as that one's kernels would.
    pub of_second: Vec<(&'static str, Bind)>,
    /// What makes the output of the second one's sums, in its place. They are in its scratch until then.
    pub sum: Kernel,
}

impl Matmul {
    /// This one and `second`, where that is faster: this one's sums are its output, those of the second go through a
    /// kernel of their own, and the weights are alike but for their rows.
    pub fn pair(&self, call: &Call<'_>, second: &Self, second_call: &Call<'_>) -> Option<Pair> {
        let cut = self.pair_cut(call, second, second_call)?;
        let rows = second_call.weight(1).rows as u32;
        let (sums, scratch) = (Bind::Scratch(0), vec![cut.bytes(rows, rows_of(second_call).1)]);
        let mut products = self.products(0, cut, (&self.inputs(call), Bind::Output(0)), call);
        let own = products.slots.iter_mut().find(|(slot, _)| *slot == "SECOND");
        own.expect("a slot of this kernel").1 = "lib/second_weight".into();
        let tiles = cut.tiles(call.weight(1).rows as u32);
        products.overrides.extend([("FIRST_TILES", f64::from(tiles)), ("SECOND_ROWS", f64::from(rows))]);
        products.workgroups[1] = Extent::Fixed(tiles + cut.tiles(rows));
        let mut sum = second.sum(0, cut, sums, second_call);
        products.scratch.clone_from(&scratch);
        sum.scratch = scratch;
        let mut bound = second.inputs(second_call).bindings;
        bound.extend(weight_bindings(1, second_call.weight(1), 0));
        bound.push(("sums", sums));
        let of_second = bound.into_iter().map(|(name, bind)| (of_second(name), bind)).collect();
        Some(Pair { products, of_second, sum })
    }

    fn pair_cut(&self, call: &Call<'_>, second: &Self, second_call: &Call<'_>) -> Option<Cut> {
        if ![(self, call), (second, second_call)].into_iter().all(|(op, call)| op.is_whole(call)) {
            return None;
        }
        let [own, other] = [call.weight(1), second_call.weight(1)];
        let alike = own.format.name() == other.format.name() && own.cols == other.cols;
        let direct = |op: &Self, call: &Call<'_>| op.direct(call.weight(1), 0, call.weight(1).rows as u32, call);
        // Apart its sums may be shared, and then made f16: direct ones are f32.
        let first = direct(self, call) && !call.outputs[0].is_f16();
        if !alike || !first || direct(second, second_call) {
            return None;
        }
        Cut::of_both([own.rows as u32, other.rows as u32], own.cols as u32)
    }

    /// Whether all of it is one multiplication of rows of f16 as they come.
    fn is_whole(&self, call: &Call<'_>) -> bool {
        let one = self.runs_on_matrices(call) && call.weight(1).slices.len() == 1 && !self.beside;
        one && call.inputs[0].dtype() == Some(DType::F16) && matches!(rows_of(call).0(1), Extent::Tokens { .. })
    }
}

/// The name in lib/second_weight of what is bound by this one otherwise.
fn of_second(name: &str) -> &'static str {
    const NAMES: [&str; 5] = ["second_narrowed", "second_sums", "second_quants", "second_scales", "second_high_bits"];
    let known = NAMES.into_iter().find(|known| known.strip_prefix("second_") == Some(name));
    known.unwrap_or_else(|| panic!("{name} is bound for one matmul only"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Activation, Operand, Phase, Traits, WeightType};
    use crate::quant::{BlockFormat, F16};
    use crate::tensor::{Dim, Extents, TensorType};

    #[test]
    fn only_f32_results_are_direct_sums() {
        let traits = Traits::large();
        let row = |columns: u32| TensorType::f32([Dim::Tokens, Dim::Fixed(columns)]);
        // Those of Falcon-7B: apart, several workgroups share the columns of the first.
        let [inputs, other] = [4672, 18176].map(|rows| {
            let slices = vec![(0, F16.layout(rows, 4544))];
            let weight = WeightType { format: &F16, rows, cols: 4544, slices };
            [Operand::Activation(row(4544).halved()), Operand::Weight(weight)]
        });
        let (whole, half) = (Operand::Activation(row(4672)), Operand::Activation(row(4672).halved()));
        let call = |inputs, outputs| Call {
            phase: Phase::Prefill,
            inputs,
            outputs,
            traits: &traits,
            largest: Extents { tokens: 512, logit_rows: 16 },
        };
        let (first, activated) = (Matmul::plain(), Matmul { activation: Activation::GeluErf, ..Matmul::plain() });
        let results = [Operand::Activation(row(18176).halved())];
        let pair =
            |output| first.pair(&call(&inputs, std::slice::from_ref(output)), &activated, &call(&other, &results));
        assert!(pair(&whole).is_some(), "f32 is what matrices of sums are stored as");
        assert!(pair(&half).is_none(), "f16 is made of sums by a kernel of its own");
    }
}
