//! Workgroup shapes of the kernels that multiply a row by a matrix: a default for every class of adapter, and what was measured on this one.
//!
//! Data and look-ups; `wgpt tune` (room `exec`) measures. Invariant: a shape depends on the weight and the adapter alone,
//! never on the phase or the plan, so that all plans on one adapter add in the same order.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Traits;
use crate::quant::BlockFormat;

/// A kernel whose shape is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunedKernel {
    /// Few rows × weightᵀ.
    Gemv,
    /// One row × weightᵀ, activations through workgroup memory.
    GemvStaged,
    /// One row × weightᵀ by integer dot products.
    GemvInteger,
}

impl TunedKernel {
    const ALL: [Self; 3] = [Self::Gemv, Self::GemvStaged, Self::GemvInteger];

    /// Its file in `shaders/`.
    pub const fn source(self) -> &'static str {
        match self {
            Self::Gemv => "gemv",
            Self::GemvStaged => "gemv_staged",
            Self::GemvInteger => "gemv_integer",
        }
    }

    /// The one of this file, where it has shapes.
    pub fn of(source: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kernel| kernel.source() == source)
    }
}

/// How a kernel's invocations share a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Invocations of a workgroup.
    pub workgroup: u32,
    /// Invocations that share a row, a power of two.
    pub lanes: u32,
    /// Weight rows that such a team computes.
    pub rows: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.workgroup, self.lanes, self.rows)
    }
}

impl Shape {
    /// Whether the kernel can be made in this shape, for this format, within an adapter's limits.
    pub fn fits(self, kernel: TunedKernel, format: &dyn BlockFormat, traits: &Traits) -> bool {
        let Self { workgroup, lanes, rows } = self;
        if workgroup > traits.invocations {
            return false;
        }
        // The files lib/rows_*x1.
        let known = [1, 2, 4].contains(&rows) && workgroup.is_power_of_two() && lanes.is_power_of_two();
        // A few rows take as many lanes in workgroups of 128, and then stage one quad of each of eight tokens or more:
        // what that leaves of 16 KiB is enough for 64 lanes. All workgroups must add through subgroups, or none.
        let most = if kernel == TunedKernel::GemvStaged { 64 } else { 128 };
        let whole = traits.subgroup.is_none_or(|subgroup| workgroup.is_multiple_of(subgroup));
        if !known || !whole || !(2..=workgroup.min(most)).contains(&lanes) {
            return false;
        }
        // What lib/sums_workgroup takes; through subgroups it is less.
        let sums = 4 * workgroup * (rows / 2).max(1);
        let stage = match kernel {
            // A table of 16 values may lie beside the stage.
            TunedKernel::GemvStaged => 4 * (lanes + 1) * format.chunk_len() as u32 + 64,
            _ => 0,
        };
        sums + stage <= traits.workgroup_storage
    }
}

/// Who made an adapter, as far as kernels are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Vendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
    /// Intel.
    Intel,
    /// Apple.
    Apple,
    /// A CPU.
    Software,
    /// Anyone else, and whoever is not to be told from others.
    #[default]
    Other,
}

/// What default shapes are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdapterClass {
    /// Who made it.
    pub vendor: Vendor,
    /// Its subgroup size, where there is one.
    pub subgroup: Option<u32>,
}

/// A default: invocations, rows of a team, and lanes by the least number of chunks of a row that they are for.
struct Line {
    kernel: TunedKernel,
    workgroup: u32,
    rows: u32,
    lanes: &'static [(u32, u32)],
}

/// Measured on an H100 (docs/speed.md). Four subgroups of 32 on a row read fastest, short rows want fewer; chunks of 32
/// weights about five rounds a row: fewer leave lanes idle in the last one, more leave processors idle. One row a team is
/// enough where activations take no more room than weights.
const NVIDIA: [Line; 3] = [
    Line { kernel: TunedKernel::Gemv, workgroup: 128, rows: 2, lanes: &[(0, 32), (96, 128)] },
    Line { kernel: TunedKernel::GemvStaged, workgroup: 128, rows: 2, lanes: &[(0, 16), (85, 32), (165, 64)] },
    Line { kernel: TunedKernel::GemvInteger, workgroup: 128, rows: 1, lanes: &[(0, 16), (85, 32), (165, 64)] },
];

/// Not measured: as NVIDIA's, but no row is shared by more lanes than a subgroup has, since sums across subgroups cost
/// barriers everywhere. `wgpt tune` finds what is better.
const WITHIN_SUBGROUPS: [Line; 3] = [
    Line { kernel: TunedKernel::Gemv, workgroup: 128, rows: 2, lanes: &[(0, 32), (192, 64)] },
    Line { kernel: TunedKernel::GemvStaged, workgroup: 128, rows: 2, lanes: &[(0, 16), (85, 32), (165, 64)] },
    Line { kernel: TunedKernel::GemvInteger, workgroup: 128, rows: 1, lanes: &[(0, 16), (85, 32), (165, 64)] },
];

/// Measured on llvmpipe: lanes of a CPU's vector register, no barriers; its loads are scalar, so several rows share each.
/// `gemv` takes its lanes from the register's width.
const SOFTWARE: [Line; 3] = [
    Line { kernel: TunedKernel::Gemv, workgroup: 32, rows: 4, lanes: &[(0, 8)] },
    Line { kernel: TunedKernel::GemvStaged, workgroup: 32, rows: 2, lanes: &[(0, 8)] },
    Line { kernel: TunedKernel::GemvInteger, workgroup: 32, rows: 2, lanes: &[(0, 8)] },
];

impl AdapterClass {
    /// The shape that adapters of this class start with, for rows of so many chunks.
    pub fn default_shape(self, kernel: TunedKernel, chunks: u32) -> Shape {
        let (lines, most_lanes) = match (self.vendor, self.subgroup) {
            (Vendor::Software, _) => (&SOFTWARE, u32::MAX),
            (Vendor::Amd | Vendor::Intel | Vendor::Apple, Some(subgroup)) => (&WITHIN_SUBGROUPS, subgroup.max(8)),
            // Not measured on others, where NVIDIA's are known to work.
            _ => (&NVIDIA, u32::MAX),
        };
        let line = lines.iter().find(|line| line.kernel == kernel).expect("every class has a line for each kernel");
        if let (Vendor::Software, TunedKernel::Gemv, Some(subgroup)) = (self.vendor, kernel, self.subgroup) {
            let lanes = subgroup.clamp(2, 16);
            return Shape { workgroup: lanes * 4, lanes, rows: line.rows };
        }
        let (_, lanes) = line.lanes.iter().rfind(|(least, _)| *least <= chunks).expect("the first step is from 0");
        Shape { workgroup: line.workgroup, lanes: (*lanes).min(most_lanes), rows: line.rows }
    }
}

/// The matrices that a measured shape is for: of one format, of as many rows and columns as these or up to twice as many.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TuningKey {
    /// The kernel.
    pub kernel: TunedKernel,
    /// The format's name.
    pub format: String,
    /// Rows, a power of two.
    pub rows: usize,
    /// Columns, a power of two.
    pub cols: usize,
}

impl TuningKey {
    /// The one that a matrix falls under.
    pub fn of(kernel: TunedKernel, format: &dyn BlockFormat, rows: usize, cols: usize) -> Self {
        let floor = |size: usize| 1 << size.max(1).ilog2();
        Self { kernel, format: format.name().into(), rows: floor(rows), cols: floor(cols) }
    }
}

/// The shapes of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tuning {
    /// What its defaults are those of.
    pub class: AdapterClass,
    measured: BTreeMap<TuningKey, Shape>,
}

impl Tuning {
    /// The defaults of a class.
    pub const fn of(class: AdapterClass) -> Self {
        Self { class, measured: BTreeMap::new() }
    }

    /// Uses a shape for these matrices from now on. The caller has seen that it [fits](Shape::fits).
    pub fn insert(&mut self, key: TuningKey, shape: Shape) {
        self.measured.insert(key, shape);
    }

    /// The shape of a kernel for a weight `(rows, cols)`, measured or else the default. How the weight is cut into slices
    /// does not matter.
    pub fn shape(&self, kernel: TunedKernel, format: &dyn BlockFormat, rows: usize, cols: usize) -> Shape {
        let measured = self.measured.get(&TuningKey::of(kernel, format, rows, cols)).copied();
        let chunks = cols.div_ceil(format.chunk_len()) as u32;
        measured.unwrap_or_else(|| self.class.default_shape(kernel, chunks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{F16, Q4_0};

    fn class(vendor: Vendor, subgroup: u32) -> AdapterClass {
        AdapterClass { vendor, subgroup: Some(subgroup) }
    }

    #[test]
    fn chunks_are_shared_in_about_five_rounds() {
        let lanes = |kernel, chunks| class(Vendor::Nvidia, 32).default_shape(kernel, chunks).lanes;
        for chunks in 1..1000u32 {
            let five = (chunks / 5).max(1).next_power_of_two().clamp(16, 64);
            assert_eq!(lanes(TunedKernel::GemvStaged, chunks), five, "{chunks} chunks");
            assert_eq!(lanes(TunedKernel::GemvInteger, chunks), five, "{chunks} chunks");
            assert_eq!(lanes(TunedKernel::Gemv, chunks), if chunks >= 96 { 128 } else { 32 }, "{chunks} chunks");
        }
    }

    #[test]
    fn lanes_of_unmeasured_vendors_stay_within_a_subgroup() {
        for (vendor, subgroup) in [(Vendor::Amd, 64), (Vendor::Amd, 32), (Vendor::Intel, 16), (Vendor::Apple, 32)] {
            for chunks in [1, 50, 100, 200, 5000] {
                let shape = class(vendor, subgroup).default_shape(TunedKernel::Gemv, chunks);
                assert!(shape.lanes <= subgroup, "{vendor:?} {subgroup}: {shape}");
            }
        }
        let software = class(Vendor::Software, 8).default_shape(TunedKernel::Gemv, 5000);
        assert_eq!(software, Shape { workgroup: 32, lanes: 8, rows: 4 }, "a register of eight");
    }

    #[test]
    fn measured_shapes_are_for_matrices_of_about_the_size() {
        let mut tuning = Tuning::of(class(Vendor::Nvidia, 32));
        let measured = Shape { workgroup: 64, lanes: 16, rows: 4 };
        tuning.insert(TuningKey::of(TunedKernel::Gemv, &F16, 2560, 2560), measured);
        let shape = |kernel, format: &dyn BlockFormat, rows, cols| tuning.shape(kernel, format, rows, cols);
        assert_eq!(shape(TunedKernel::Gemv, &F16, 2048, 4095), measured, "the same powers of two");
        for (rows, cols) in [(2047, 2560), (4096, 2560), (2560, 4096), (2560, 2047)] {
            assert_ne!(shape(TunedKernel::Gemv, &F16, rows, cols), measured, "{rows} by {cols}");
        }
        assert_ne!(shape(TunedKernel::Gemv, &Q4_0, 2560, 2560), measured, "another format");
        assert_ne!(shape(TunedKernel::GemvStaged, &F16, 2560, 2560), measured, "another kernel");
    }
}
