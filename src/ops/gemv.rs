//! How `matmul` computes one row or a few: lanes that share weight rows and read them once for several tokens.
//!
//! Only shapes and slots; which of the kernels a node takes is `matmul`'s to say. Invariant: how many lanes share a row
//! does not depend on the phase, so that a token is added up in the same order alone and beside others.

use super::{Call, Extent, Kernel, Operand, Phase, Shape, TunedKernel, WeightType, reduce_slot};
use crate::quant::PackedLayout;
use crate::tensor::{DType, Dim, TensorType};

/// Invocations of a workgroup where lanes compute several tokens.
const FEW_WORKGROUP: u32 = 128;

/// A shape, and the activation rows that each lane accumulates.
#[derive(Clone, Copy)]
struct Tile {
    shape: Shape,
    tokens: u32,
}

impl Tile {
    /// The adapter's shape for a row. A few rows are shared by as many lanes, which compute `few_rows` weight rows each.
    fn choose(kernel: TunedKernel, weight: &WeightType, few_rows: u32, call: &Call<'_>) -> Self {
        let shape = call.traits.tuning.shape(kernel, weight.format, weight.rows, weight.cols);
        let few = Shape { rows: few_rows, ..shape };
        match call.phase {
            Phase::Decode => Self { shape, tokens: 1 },
            _ if call.traits.software => Self { shape: few, tokens: 4 },
            // Two tiles of eight are a forward of few tokens.
            _ => Self { shape: Shape { workgroup: FEW_WORKGROUP, ..few }, tokens: 8 },
        }
    }

    /// A kernel of this shape, whose bindings and other constants are the op's to add.
    fn kernel(self, source: &'static str, layout: &PackedLayout, call: &Call<'_>) -> Kernel {
        let Self { shape: Shape { workgroup, lanes, rows }, tokens } = self;
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
            slots: vec![
                ("SUMS", reduce.replace("reduce", "sums")),
                ("TILE", format!("lib/rows_{rows}x{tokens}")),
                ("KEEP", "lib/keep_none".into()),
            ],
            overrides,
            bindings: vec![],
            workgroups: [per, Extent::Fixed(y), Extent::Fixed(groups.div_ceil(y))],
            scratch: vec![],
        }
    }
}

/// Any format, activations as they are.
pub(super) fn gemv(weight: &WeightType, layout: &PackedLayout, call: &Call<'_>) -> Kernel {
    // Eight tokens' activations are more than two rows of weights are worth reading for.
    Tile::choose(TunedKernel::Gemv, weight, 4, call).kernel("gemv", layout, call)
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
    let tile = Tile::choose(TunedKernel::GemvStaged, weight, 2, call);
    let mut kernel = tile.kernel("gemv_staged", layout, call);
    let quads = weight.format.chunk_len() as u32 / 4;
    // What is staged of eight tokens takes as much workgroup memory as all of one: at most 8.7 KB.
    let staged = if call.phase == Phase::Decode { quads } else { quads.min(64 / tile.shape.lanes) };
    kernel.overrides.push(("STAGED", f64::from(staged)));
    kernel.slots.push(values_slot(weight));
    kernel
}

/// Formats whose codes are integers, activations rounded; `keeps`: finished rows are rounded too, where [`keeps_rows`].
pub(super) fn gemv_integer(weight: &WeightType, layout: &PackedLayout, keeps: bool, call: &Call<'_>) -> Kernel {
    let mut tile = Tile::choose(TunedKernel::GemvInteger, weight, 2, call);
    if keeps {
        tile.shape = block_shape(tile.shape);
    }
    let mut kernel = tile.kernel("gemv_integer", layout, call);
    // A software adapter pays for barriers and gains nothing.
    let held = weight.format.table() && !call.traits.software;
    kernel.slots.push(("CODES_OF", if held { "lib/codes_held" } else { "lib/codes_plain" }.into()));
    if keeps {
        kernel.slots.retain(|(slot, _)| *slot != "KEEP");
        kernel.slots.push(("KEEP", "lib/keep_rounded".into()));
    }
    kernel
}

/// Whether one workgroup may finish all rows of a block of the output, so as to round it.
pub(super) fn keeps_rows(weight: &WeightType, call: &Call<'_>) -> bool {
    let Tile { shape, tokens } = Tile::choose(TunedKernel::GemvInteger, weight, 2, call);
    let shape = block_shape(shape);
    let Shape { workgroup, lanes, rows } = shape;
    // The kept rows, beside what lib/sums_workgroup takes.
    let memory = 4 * tokens * rows * workgroup / lanes + 4 * workgroup * (tokens * rows / 2).max(1);
    let fits = workgroup <= call.traits.invocations && memory <= call.traits.workgroup_storage;
    !logit_rows(call) && weight.slices.len() == 1 && fits
}

/// A shape whose workgroups finish whole blocks of rows. As many lanes share a row as before, so the bits are the same.
fn block_shape(shape: Shape) -> Shape {
    let block = shape.lanes * (DType::Q8_BLOCK as u32).div_ceil(shape.rows);
    Shape { workgroup: shape.workgroup.max(block), ..shape }
}

/// Whether the output has a row for each wanted row of logits, not for each token.
pub(super) fn logit_rows(call: &Call<'_>) -> bool {
    matches!(&call.outputs[0],
        Operand::Activation(TensorType { shape, .. }) if shape.first() == Some(&Dim::LogitRows))
}
