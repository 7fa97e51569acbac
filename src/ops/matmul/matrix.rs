//! Matmuls of several rows on cooperative matrices: activations narrowed to f16, tiles multiplied, and parts added
//! where several workgroups share the columns of a tile.

use super::{Columns, Matmul, logit_rows, values_slot};
use crate::ops::{Activation, Bind, Call, Extent, Kernel, Phase, Traits, WeightType, weight_bindings, weight_slot};
use crate::quant::PackedLayout;
use crate::tensor::DType;

/// Tokens of a tile.
const TILE_TOKENS: u32 = 128;
/// Columns that pass through workgroup memory at a time; narrowed rows are padded to whole slabs.
pub(super) const SLAB: u32 = DType::F16_SLAB as u32;
/// Workgroup memory of the largest tile, bytes.
const MEMORY: u32 = (160 + TILE_TOKENS) * (SLAB + 8) * 2 + 16 * 4;
/// Rows of a tile: the choices.
const TILE_ROWS: [u32; 2] = [128, 160];
/// Tiles of tokens of the prompts that tiles are chosen for.
const TYPICAL: u32 = 4;
/// Workgroups that a large GPU runs at a time: two on each of an H100's 132 processors.
const RESIDENT: u32 = 264;

/// How a weight is cut: rows of a tile, and the workgroups that share its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    tile: u32,
    parts: u32,
}

impl Cut {
    /// The cut that leaves the fewest processors idle; [`Self::cost`] was within a quarter of what trials measured.
    fn choose(rows: u32, cols: u32, direct: bool) -> Self {
        let cuts = TILE_ROWS.into_iter().flat_map(|tile| (1..=4).map(move |parts| Self { tile, parts }));
        let cuts = cuts.filter(|cut| cut.parts == 1 || cols.div_ceil(SLAB) / cut.parts >= 16);
        cuts.min_by(|a, b| a.cost(rows, cols, direct).total_cmp(&b.cost(rows, cols, direct)))
            .expect("the undivided ones are always there")
    }

    /// Time of a typical prompt, in that of a slab of 128 rows while all processors are busy (1.1 µs on an H100).
    fn cost(self, rows: u32, cols: u32, direct: bool) -> f64 {
        // Parts are written, read and added.
        let sum =
            if self.parts == 1 && direct { 0.0 } else { f64::from(2 * self.parts + 1) * f64::from(rows) * 0.0007 };
        self.cost_of_tiles(self.tiles(rows), cols) + sum
    }

    /// Time of so many tiles of rows, of a typical prompt.
    fn cost_of_tiles(self, tiles: u32, cols: u32) -> f64 {
        let slabs = f64::from(cols.div_ceil(SLAB)) / f64::from(self.parts);
        // As measured.
        let slab = if self.tile == 160 { 1.3 } else { 1.0 };
        let workgroups = TYPICAL * tiles * self.parts;
        // A processor with one workgroup instead of two has it done sooner.
        let rest = match workgroups % RESIDENT {
            0 => 0.0,
            rest if rest <= RESIDENT / 2 => 0.62,
            _ => 1.0,
        };
        (f64::from(workgroups / RESIDENT) + rest) * slabs * slab
    }

    /// The cut with which two weights are done sooner by one dispatch than by one each, clearly: the first one's sums
    /// direct, those of the second not.
    pub(super) fn of_both([first, second]: [u32; 2], cols: u32) -> Option<Self> {
        let cost = |rows, direct| Self::choose(rows, cols, direct).cost(rows, cols, direct);
        let apart = cost(first, true) + cost(second, false);
        let together = |cut: &Self| {
            cut.cost_of_tiles(cut.tiles(first) + cut.tiles(second), cols) + cut.cost(second, cols, false)
                - cut.cost(second, cols, true)
        };
        let cuts = TILE_ROWS.map(|tile| Self { tile, parts: 1 });
        let best = cuts.into_iter().min_by(|a, b| together(a).total_cmp(&together(b)))?;
        (together(&best) < 0.97 * apart).then_some(best)
    }

    /// Workgroups along a weight's rows.
    pub(super) const fn tiles(self, rows: u32) -> u32 {
        rows.div_ceil(self.tile)
    }

    /// Bytes of the sums of so many tokens, in whole tiles.
    pub(super) fn bytes(self, rows: u32, tokens: u32) -> u64 {
        u64::from(self.parts * tokens.next_multiple_of(TILE_TOKENS)) * u64::from(rows.next_multiple_of(self.tile)) * 4
    }
}

/// Where a matmul's rows come from as f16.
pub(super) struct Inputs {
    /// Kernels that make them, where they are not so already.
    pub(super) kernels: Vec<Kernel>,
    slot: &'static str,
    pub(super) bindings: Vec<(&'static str, Bind)>,
    overrides: Vec<(&'static str, f64)>,
    /// Bytes of the scratch buffers they are made in.
    scratch: Vec<u64>,
}

impl Inputs {
    /// Adds a tensor of [`DType::F16`] or [`DType::F16Scaled`].
    fn bind(&mut self, bind: Bind, dtype: DType) {
        let at = self.bindings.len();
        self.bindings.push((["narrowed", "narrowed_beside"][at], bind));
        self.overrides.push(flag(["SCALED", "SCALED_BESIDE"][at], dtype == DType::F16Scaled));
    }
}

impl Matmul {
    /// Whether these rows go through cooperative matrices.
    pub(super) fn runs_on_matrices(&self, call: &Call<'_>) -> bool {
        let Traits { cooperative_matrix, software, workgroup_storage, .. } = call.traits;
        let able = *cooperative_matrix && !software && *workgroup_storage >= MEMORY;
        // Half precision products would lose what f32 weights carry.
        call.phase == Phase::Prefill && able && call.weight(1).format.name() != "f32"
    }

    /// Columns of each tensor that x is in.
    pub(super) fn parts(&self, call: &Call<'_>) -> Vec<u32> {
        let cols = call.weight(1).cols as u32;
        let first = if self.beside { call.columns(0) } else { cols };
        [first, cols - first].into_iter().filter(|cols| *cols > 0).collect()
    }

    /// Whether all sums go through `sum_parts`, whole octets of them, to be an input and nothing else.
    pub(super) fn sums_to_f16(&self, call: &Call<'_>) -> bool {
        let weight = call.weight(1);
        let octets = |slice: &(usize, PackedLayout)| slice.0.is_multiple_of(8) && slice.1.rows.is_multiple_of(8);
        let whole = |slice| !self.cut(weight, slice, call).1 && octets(slice);
        self.columns.is_none() && !self.residual && weight.slices.iter().all(whole)
    }

    /// How a slice is cut, and whether its sums go to the output as they are.
    fn cut(&self, weight: &WeightType, (first_row, layout): &(usize, PackedLayout), call: &Call<'_>) -> (Cut, bool) {
        let rows = layout.rows as u32;
        let direct = self.direct(weight, *first_row as u32, rows, call);
        let cut = Cut::choose(rows, weight.cols as u32, direct);
        (cut, direct && cut.parts == 1)
    }

    /// The kernels for one slice of the weight.
    pub(super) fn on_matrices(&self, slice: usize, call: &Call<'_>) -> Vec<Kernel> {
        let weight = call.weight(1);
        let (cut, direct) = self.cut(weight, &weight.slices[slice], call);
        let inputs = self.inputs(call);
        let mut scratch = inputs.scratch.clone();
        let sums = if direct { Bind::Output(0) } else { Bind::Scratch(scratch.len()) };
        // Every slice reads the same rows.
        let mut kernels = if slice == 0 { inputs.kernels.clone() } else { vec![] };
        kernels.push(self.products(slice, cut, (&inputs, sums), call));
        if !direct {
            scratch.push(cut.bytes(weight.slices[slice].1.rows as u32, rows_of(call).1));
            kernels.push(self.sum(slice, cut, sums, call));
        }
        kernels.iter_mut().for_each(|kernel| kernel.scratch = scratch.clone());
        kernels
    }

    /// The kernel that multiplies tiles, to the output or to sums.
    pub(super) fn products(&self, slice: usize, cut: Cut, (inputs, sums): (&Inputs, Bind), call: &Call<'_>) -> Kernel {
        let weight = call.weight(1);
        let (first_row, layout) = &weight.slices[slice];
        let epilogue = self.epilogue_bindings().into_iter().filter(|(name, _)| *name != "output");
        let mut bindings = [inputs.bindings.clone(), vec![("sums", sums)]].concat();
        bindings.extend(epilogue.chain(weight_bindings(1, weight, slice)));
        let common = self.overrides(weight, *first_row, layout).into_iter();
        let mut overrides: Vec<_> = common.filter(|(name, _)| *name != "ACTIVATION").collect();
        overrides.extend(inputs.overrides.clone());
        overrides.extend([
            ("PARTS", f64::from(cut.parts)),
            flag("DIRECT", sums == Bind::Output(0)),
            flag("LOGIT_ROWS", logit_rows(call)),
        ]);
        let tiles = Extent::Fixed(cut.tiles(layout.rows as u32));
        Kernel {
            source: "gemm_matrix",
            slots: vec![
                ("TILE", format!("lib/matrix_{}", cut.tile)),
                ("INPUTS", inputs.slot.into()),
                ("SECOND", "lib/second_none".into()),
                weight_slot(weight),
                values_slot(weight),
            ],
            overrides,
            bindings,
            workgroups: [rows_of(call).0(TILE_TOKENS), tiles, Extent::Fixed(cut.parts)],
            scratch: vec![],
        }
    }

    /// The kernel that makes the output of sums.
    pub(super) fn sum(&self, slice: usize, cut: Cut, sums: Bind, call: &Call<'_>) -> Kernel {
        let weight = call.weight(1);
        let (first_row, layout) = &weight.slices[slice];
        let rows = layout.rows as u32;
        let halves = call.outputs[0].is_f16();
        let unknown = if halves { ["COLS", "RESIDUAL", "FIRST_COLUMN"].as_slice() } else { &["COLS"] };
        let common = self.overrides(weight, *first_row, layout).into_iter();
        let mut overrides: Vec<_> = common.filter(|(name, _)| !unknown.contains(name)).collect();
        let part_rows = rows.next_multiple_of(cut.tile);
        overrides.extend([("PARTS", f64::from(cut.parts)), ("PART_ROWS", f64::from(part_rows))]);
        overrides.push(flag("LOGIT_ROWS", logit_rows(call)));
        let bound = self.epilogue_bindings().into_iter().filter(|(name, _)| !halves || *name != "residual");
        Kernel {
            source: if halves { "sum_parts_f16" } else { "sum_parts" },
            slots: vec![],
            overrides,
            bindings: bound.chain([("parts", sums)]).collect(),
            workgroups: [
                Extent::Fixed(rows.div_ceil(if halves { 8 * 256 } else { 256 })),
                rows_of(call).0(1),
                Extent::Fixed(1),
            ],
            scratch: vec![],
        }
    }

    /// x as f16: as it comes, or made so; each of its tensors by itself where one comes so, else all of it as one.
    pub(super) fn inputs(&self, call: &Call<'_>) -> Inputs {
        let bindings = self.row_bindings(false);
        let f16 = |bind: &Bind| match bind {
            Bind::Input(input) => call.inputs[*input].dtype().filter(|dtype| dtype.is_f16()),
            _ => None,
        };
        let apart = bindings.len() > 1 && bindings.iter().any(|(_, bind)| f16(bind).is_some());
        let parts = self.parts(call);
        let mut inputs = Inputs {
            kernels: vec![],
            slot: if apart { "lib/inputs_beside" } else { "lib/inputs_whole" },
            bindings: vec![],
            overrides: apart.then(|| ("FIRST_SLABS", f64::from(parts[0] / SLAB))).into_iter().collect(),
            scratch: vec![],
        };
        if !apart && f16(&bindings[0].1).is_none() {
            let mut kernel = narrow(self.row_slot(false), bindings, (parts.iter().sum(), &mut inputs), call);
            kernel.overrides.extend(self.row_overrides(call));
            inputs.kernels.push(kernel);
            return inputs;
        }
        for ((_, bind), cols) in bindings.into_iter().zip(parts) {
            if let Some(dtype) = f16(&bind) {
                inputs.bind(bind, dtype);
            } else {
                let row = ("ROW", "lib/row_whole".into());
                let kernel = narrow(row, vec![("input", bind)], (cols, &mut inputs), call);
                inputs.kernels.push(kernel);
            }
        }
        inputs
    }

    /// Whether sums may go to the output as they are, 16 rows of 16 at a time and aligned to 16 bytes.
    pub(super) fn direct(&self, weight: &WeightType, first_row: u32, rows: u32, call: &Call<'_>) -> bool {
        let Columns { start, of } = self.columns(weight.rows);
        self.activation == Activation::Identity
            && rows_of(call).1.is_multiple_of(16)
            && rows.is_multiple_of(16)
            && (start + first_row).is_multiple_of(4)
            && of.is_multiple_of(4)
    }
}

/// Workgroups for all rows by how many each takes, and the rows of the largest forward.
pub(super) fn rows_of(call: &Call<'_>) -> (fn(u32) -> Extent, u32) {
    match logit_rows(call) {
        true => (|per| Extent::LogitRows { per }, call.largest.logit_rows),
        false => (|per| Extent::Tokens { per }, call.largest.tokens),
    }
}

/// The kernel that makes rows of `cols` f16, in a scratch buffer that becomes one of the inputs.
fn narrow(
    row: (&'static str, String),
    mut bindings: Vec<(&'static str, Bind)>,
    (cols, inputs): (u32, &mut Inputs),
    call: &Call<'_>,
) -> Kernel {
    let made = Bind::Scratch(inputs.scratch.len());
    inputs.scratch.push(u64::from(rows_of(call).1) * u64::from(cols.next_multiple_of(SLAB)) * 2);
    // Of what it is made of nothing is known.
    inputs.bind(made, DType::F16Scaled);
    bindings.push(("narrowed", made));
    Kernel {
        source: "narrow",
        slots: vec![row],
        overrides: vec![("COLS", f64::from(cols)), flag("LOGIT_ROWS", logit_rows(call))],
        bindings,
        workgroups: [
            Extent::Fixed((cols.next_multiple_of(SLAB) / 8).div_ceil(64)),
            rows_of(call).0(1),
            Extent::Fixed(1),
        ],
        scratch: vec![],
    }
}

fn flag(name: &'static str, value: bool) -> (&'static str, f64) {
    (name, f64::from(u8::from(value)))
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

    #[test]
    fn tiles_of_two_weights_share_a_dispatch_where_they_fill_the_processors_better() {
        // qkv and up of Falcon-40B and 7B, of GPT-NeoX 2.8B, and of a model that fills no processor at all.
        let cut = Some(Cut { tile: 128, parts: 1 });
        assert_eq!(Cut::of_both([9216, 32768], 8192), cut, "5 rounds instead of 2 and 4");
        assert_eq!(Cut::of_both([4672, 18176], 4544), cut, "3 rounds instead of 1 and 3");
        assert_eq!(Cut::of_both([7680, 10240], 2560), None, "each fills one round by itself");
        assert_eq!(Cut::of_both([192, 256], 64), cut, "one round of a few instead of two");
    }
}
