//! Matmuls of several rows on cooperative matrices: activations narrowed to f16, tiles multiplied, and parts added
//! where several workgroups share the columns of a tile.

use super::{Columns, Matmul, logit_rows, values_slot};
use crate::ops::{Activation, Bind, Call, Extent, Kernel, Traits, WeightType, weight_bindings, weight_slot};

/// Tokens of a tile.
const TILE_TOKENS: u32 = 128;
/// Columns that pass through workgroup memory at a time; narrowed rows are padded to whole slabs.
const SLAB: u32 = 32;
/// Workgroup memory of the largest tile, bytes.
const MEMORY: u32 = (160 + TILE_TOKENS) * (SLAB + 8) * 2 + 16 * 4;
/// Tiles of tokens of the prompts that tiles are chosen for.
const TYPICAL: u32 = 4;
/// Workgroups that a large GPU runs at a time: two on each of an H100's 132 processors.
const RESIDENT: u32 = 264;

/// Whether the adapter multiplies these weights on cooperative matrices.
pub(super) fn suits(weight: &WeightType, traits: &Traits) -> bool {
    // Half precision products would lose what f32 weights carry.
    traits.cooperative_matrix && traits.workgroup_storage >= MEMORY && weight.format.name() != "f32"
}

/// How a weight is cut: rows of a tile, and the workgroups that share its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    tile: u32,
    parts: u32,
}

impl Cut {
    /// The cut that leaves the fewest processors idle; [`Self::cost`] was within a quarter of what trials measured.
    fn choose(rows: u32, cols: u32, direct: bool) -> Self {
        let cuts = [128, 160].into_iter().flat_map(|tile| (1..=4).map(move |parts| Self { tile, parts }));
        let cuts = cuts.filter(|cut| cut.parts == 1 || cols.div_ceil(SLAB) / cut.parts >= 16);
        cuts.min_by(|a, b| a.cost(rows, cols, direct).total_cmp(&b.cost(rows, cols, direct)))
            .expect("the undivided ones are always there")
    }

    /// Time of a typical prompt, in that of a slab of 128 rows while all processors are busy (1.1 µs on an H100).
    fn cost(self, rows: u32, cols: u32, direct: bool) -> f64 {
        let slabs = f64::from(cols.div_ceil(SLAB)) / f64::from(self.parts);
        // As measured.
        let slab = if self.tile == 160 { 1.3 } else { 1.0 };
        let workgroups = TYPICAL * rows.div_ceil(self.tile) * self.parts;
        // A processor with one workgroup instead of two has it done sooner.
        let rest = match workgroups % RESIDENT {
            0 => 0.0,
            rest if rest <= RESIDENT / 2 => 0.62,
            _ => 1.0,
        };
        let rounds = f64::from(workgroups / RESIDENT) + rest;
        // Parts are written, read and added.
        let sum =
            if self.parts == 1 && direct { 0.0 } else { f64::from(2 * self.parts + 1) * f64::from(rows) * 0.0007 };
        rounds * slabs * slab + sum
    }
}

impl Matmul {
    /// The kernels for one slice of the weight.
    pub(super) fn on_matrices(&self, weight: &WeightType, slice: usize, call: &Call<'_>) -> Vec<Kernel> {
        let (first_row, layout) = &weight.slices[slice];
        let (rows, cols) = (layout.rows as u32, weight.cols as u32);
        let direct = self.direct(weight, *first_row as u32, rows, call);
        let Cut { tile, parts } = Cut::choose(rows, cols, direct);
        let direct = direct && parts == 1;
        let logit_rows = logit_rows(call);
        let (per, most): (fn(u32) -> Extent, u32) = match logit_rows {
            true => (|per| Extent::LogitRows { per }, call.largest.logit_rows),
            false => (|per| Extent::Tokens { per }, call.largest.tokens),
        };
        let mut scratch = vec![u64::from(most) * u64::from(cols.next_multiple_of(SLAB)) * 2];
        let part_rows = rows.next_multiple_of(tile);
        if !direct {
            scratch.push(u64::from(parts * most.next_multiple_of(TILE_TOKENS)) * u64::from(part_rows) * 4);
        }
        let flag = |name, value| (name, f64::from(u8::from(value)));
        let kernel = |source, slots, overrides, bindings, workgroups| {
            let scratch = scratch.clone();
            Kernel { source, slots, overrides, bindings, workgroups, scratch }
        };
        let mut kernels = Vec::new();
        // Every slice reads the same rows.
        if slice == 0 {
            kernels.push(kernel(
                "narrow",
                vec![self.row_slot(false)],
                self.row_overrides(call)
                    .into_iter()
                    .chain([("COLS", f64::from(cols)), flag("LOGIT_ROWS", logit_rows)])
                    .collect(),
                self.row_bindings(false).into_iter().chain([("narrowed", Bind::Scratch(0))]).collect(),
                [Extent::Fixed((cols.next_multiple_of(SLAB) / 8).div_ceil(64)), per(1), Extent::Fixed(1)],
            ));
        }
        let epilogue = self.epilogue_bindings();
        let sums = if direct { Bind::Output(0) } else { Bind::Scratch(1) };
        let mut bindings = vec![("narrowed", Bind::Scratch(0)), ("sums", sums)];
        bindings.extend(epilogue.into_iter().filter(|(name, _)| *name != "output"));
        bindings.extend(weight_bindings(1, weight, slice));
        let common = self.overrides(weight, *first_row, layout);
        let mut overrides: Vec<_> = common.iter().copied().filter(|(name, _)| *name != "ACTIVATION").collect();
        overrides.extend([("PARTS", f64::from(parts)), flag("DIRECT", direct), flag("LOGIT_ROWS", logit_rows)]);
        kernels.push(kernel(
            "gemm_matrix",
            vec![("TILE", format!("lib/matrix_{tile}")), weight_slot(weight), values_slot(weight)],
            overrides,
            bindings,
            [per(TILE_TOKENS), Extent::Fixed(rows.div_ceil(tile)), Extent::Fixed(parts)],
        ));
        if !direct {
            let mut overrides: Vec<_> = common.into_iter().filter(|(name, _)| *name != "COLS").collect();
            overrides.extend([("PARTS", f64::from(parts)), ("PART_ROWS", f64::from(part_rows))]);
            overrides.push(flag("LOGIT_ROWS", logit_rows));
            kernels.push(kernel(
                "sum_parts",
                vec![],
                overrides,
                epilogue.into_iter().chain([("parts", Bind::Scratch(1))]).collect(),
                [Extent::Fixed(rows.div_ceil(256)), per(1), Extent::Fixed(1)],
            ));
        }
        kernels
    }

    /// Whether sums may go to the output as they are, 16 rows of 16 at a time and aligned to 16 bytes.
    fn direct(&self, weight: &WeightType, first_row: u32, rows: u32, call: &Call<'_>) -> bool {
        let Columns { start, of } = self.columns(weight.rows);
        let room = if logit_rows(call) { call.largest.logit_rows } else { call.largest.tokens };
        self.activation == Activation::Identity
            && room.is_multiple_of(16)
            && rows.is_multiple_of(16)
            && (start + first_row).is_multiple_of(4)
            && of.is_multiple_of(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_fill_the_processors() {
        // Weights of GPT-NeoX 2.8B and Falcon-7B; the fastest as measured.
        for (rows, cols, tile) in [(7680, 2560, 128), (10240, 2560, 160), (12288, 4096, 128), (9216, 8192, 160)] {
            assert_eq!(Cut::choose(rows, cols, true), Cut { tile, parts: 1 }, "{rows}×{cols}");
        }
        assert!(Cut::choose(2560, 12800, true).parts > 1, "80 tiles do not fill 132 processors");
        assert_eq!(Cut::choose(64, 64, true).parts, 1, "nothing is gained by dividing a few columns");
    }
}
