//! How `matmul` computes one row or a few: lanes that share weight rows and read them once for several tokens.
//!
//! Only shapes and slots; which of the kernels a node takes is `matmul`'s to say. Invariant: how many lanes share a row
//! does not depend on the phase, so that a token is added up in the same order alone and beside others.

use super::{Call, Extent, Kernel, Operand, Phase, WeightType, reduce_slot};
use crate::quant::PackedLayout;
use crate::tensor::{Dim, TensorType};

/// How many lanes share a weight row, and how many weight and activation rows each lane accumulates.
#[derive(Clone, Copy)]
struct Shape {
    workgroup: u32,
    lanes: u32,
    rows: u32,
    tokens: u32,
}

impl Shape {
    /// A kernel of this shape, whose bindings and other constants are the op's to add.
    fn kernel(self, source: &'static str, layout: &PackedLayout, call: &Call<'_>) -> Kernel {
        let Self { workgroup, lanes, rows, tokens } = self;
        let groups = (layout.rows as u32).div_ceil(rows * workgroup / lanes);
        // One axis holds at most 65 535 workgroups: large vocabularies wrap into the third.
        let y = groups.min(32768);
        let logit_rows = logit_rows(call);
        let per = if logit_rows { Extent::LogitRows { per: tokens } } else { Extent::Tokens { per: tokens } };
        let mut overrides = vec![
            ("WORKGROUP", f64::from(workgroup)),
            ("LANES", f64::from(lanes)),
            ("LOGIT_ROWS", f64::from(u8::from(logit_rows))),
        ];
        let (_, reduce) = reduce_slot(call.traits, workgroup, &mut overrides);
        Kernel {
            source,
            slots: vec![("SUMS", reduce.replace("reduce", "sums")), ("TILE", format!("lib/rows_{rows}x{tokens}"))],
            overrides,
            bindings: vec![],
            workgroups: [per, Extent::Fixed(y), Extent::Fixed(groups.div_ceil(y))],
            scratch: vec![],
        }
    }
}

/// Tokens that a lane computes together: two tiles are a forward of few tokens on a GPU.
const fn tokens(call: &Call<'_>) -> u32 {
    match call.phase {
        Phase::Decode => 1,
        _ if call.traits.software => 4,
        _ => 8,
    }
}

/// Chunks of a row.
fn chunks(weight: &WeightType) -> u32 {
    weight.cols.div_ceil(weight.format.chunk_len()) as u32
}

/// Lanes of rows whose chunks hold many weights: about five rounds a row. Fewer leave lanes idle in the last one, more
/// leave processors idle.
fn lanes_of_five_rounds(weight: &WeightType) -> u32 {
    (chunks(weight) / 5).max(1).next_power_of_two().clamp(16, 64)
}

/// Any format, activations as they are.
pub(super) fn gemv(weight: &WeightType, layout: &PackedLayout, call: &Call<'_>) -> Kernel {
    let tokens = tokens(call);
    let shape = if call.traits.software {
        // Lanes of a CPU's vector register, no barriers; its loads are scalar, so several rows share each.
        let lanes = call.traits.subgroup.unwrap_or(8).min(16);
        Shape { workgroup: lanes * 4, lanes, rows: 4, tokens }
    } else {
        // Four subgroups of 32 on a row read fastest on large GPUs (see docs/speed.md); short rows want fewer. Eight
        // tokens' activations are more than two rows of weights are worth reading for.
        let rows = if call.phase == Phase::Decode { 2 } else { 4 };
        Shape { workgroup: 128, lanes: if chunks(weight) >= 96 { 128 } else { 32 }, rows, tokens }
    };
    shape.kernel("gemv", layout, call)
}

/// Whether the activations of neighbouring chunks lie so far apart that they go through workgroup memory.
pub(super) fn stages(weight: &WeightType, call: &Call<'_>) -> bool {
    weight.format.chunk_len() >= 16 && !call.traits.software
}

/// How values of a chunk are made: formats with a table have it in workgroup memory.
pub(super) fn values_slot(weight: &WeightType) -> (&'static str, String) {
    ("VALUES_OF", if weight.format.table() { "lib/values_held" } else { "lib/values_plain" }.into())
}

/// Formats of many weights a chunk, activations as they are.
pub(super) fn gemv_staged(weight: &WeightType, layout: &PackedLayout, call: &Call<'_>) -> Kernel {
    let lanes = lanes_of_five_rounds(weight);
    let shape = Shape { workgroup: 128, lanes, rows: 2, tokens: tokens(call) };
    let mut kernel = shape.kernel("gemv_staged", layout, call);
    let quads = weight.format.chunk_len() as u32 / 4;
    // What is staged of eight tokens takes as much workgroup memory as all of one: at most 8.7 KB.
    let staged = if call.phase == Phase::Decode { quads } else { quads.min(64 / lanes) };
    kernel.overrides.push(("STAGED", f64::from(staged)));
    kernel.slots.push(values_slot(weight));
    kernel
}

/// Formats whose codes are integers, activations rounded.
pub(super) fn gemv_integer(weight: &WeightType, layout: &PackedLayout, call: &Call<'_>) -> Kernel {
    // One row a team is enough where activations take no more room than weights.
    let (workgroup, lanes, rows) = match (call.traits.software, call.phase) {
        (true, _) => (32, 8, 2),
        (false, Phase::Decode) => (128, lanes_of_five_rounds(weight), 1),
        (false, _) => (128, lanes_of_five_rounds(weight), 2),
    };
    Shape { workgroup, lanes, rows, tokens: tokens(call) }.kernel("gemv_integer", layout, call)
}

/// Whether the output has a row for each wanted row of logits, not for each token.
pub(super) fn logit_rows(call: &Call<'_>) -> bool {
    matches!(&call.outputs[0],
        Operand::Activation(TensorType { shape, .. }) if shape.first() == Some(&Dim::LogitRows))
}
