//! Looking for the best workgroup shapes of the kernels that multiply a row by a matrix.
//!
//! Lanes and workgroups first, at the default's rows, then rows: a dozen shapes a kernel and matrix. Weights are read in
//! turn from as many copies as no cache holds, as a model's are. Stores nothing (`tuned` does). Invariant: a shape whose
//! result is not the default's, but for rounding, never wins, and one that wins was faster twice.

use std::time::Instant;

use super::single::{FilledCase, PlacedCase, PreparedCase};
use super::tuned::TunedShape;
use super::{ExecError, WeightShape};
use crate::gpu::{Device, GpuError};
use crate::ops::{Case, CaseInput, Matmul, Shape, Step, Traits, TunedKernel, TuningKey};
use crate::tensor::{Dim, TensorType};

/// More than the last cache of an adapter holds, and copies of a small weight at most.
const UNCACHED: u64 = 256 << 20;
const COPIES: u64 = 32;

/// Seconds of each timed run, and how many of them a figure is the median of.
const RUN: f64 = 0.003;
const RUNS: usize = 5;

/// Runs of one submission at most.
const SUBMITTED: usize = 200;

/// What a shape must save to be worth keeping: less is within what runs differ by.
const WORTH: f64 = 0.97;

/// Sums in another order differ by roundings of f32: Σ(a−b)²/Σa² of far less than this.
const MAX_NMSE: f64 = 1e-9;

/// How thoroughly to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TuneEffort {
    /// Every candidate, timed.
    Full,
    /// Every candidate once, to show that it works; the first that is right wins, so that there is something to keep.
    Smoke,
}

/// What was found for one kernel and weight.
#[derive(Debug, Clone, PartialEq)]
pub struct TuneResult {
    /// The kernel.
    pub kernel: TunedKernel,
    /// The weight.
    pub weight: WeightShape,
    /// What it starts with.
    pub default: Shape,
    /// What was fastest, the default where nothing is worth keeping.
    pub best: Shape,
    /// Seconds of the default and of the best.
    pub seconds: (f64, f64),
    /// Bytes of the packed weight.
    pub bytes: u64,
    /// Shapes that were tried beside the default, and those that computed something else or could not be made.
    pub tried: usize,
    /// See there.
    pub refused: usize,
}

impl TuneResult {
    /// What to keep of it, where it found something better.
    pub fn tuned(&self) -> Option<TunedShape> {
        let key = TuningKey::of(self.kernel, self.weight.format, self.weight.rows, self.weight.cols);
        (self.best != self.default).then_some(TunedShape { key, shape: self.best })
    }
}

/// Looks for the best shapes of every kernel that reads such a weight; `found` is told of each.
///
/// # Errors
/// A device that lacks memory for it, or is lost.
pub fn tune(
    device: &Device,
    weight: WeightShape,
    effort: TuneEffort,
    found: &mut dyn FnMut(TuneResult),
) -> Result<(), ExecError> {
    let bytes = weight.format.layout(weight.rows, weight.cols).bytes;
    // What one buffer holds, less guard words and what lies between regions.
    let slice_rows = device.max_binding.saturating_sub(1 << 16) / (bytes / weight.rows as u64 + 1);
    let case = |quantized| case(weight, slice_rows.max(1) as usize, quantized);
    let mut cases = vec![case(false)];
    cases.extend(weight.format.integer().then(|| case(true)));
    for case in cases {
        let filled = FilledCase::new(&case, 1);
        let copies = if device.traits.software { 1 } else { UNCACHED.div_ceil(bytes).min(COPIES) };
        let placed = filled.place(device, copies as usize)?;
        let kernel = placed.kernels(&device.traits).first().and_then(|kernel| TunedKernel::of(kernel.source));
        if let Some(kernel) = kernel {
            found(Search::new(device, &placed, kernel, weight, effort)?.run()?);
        }
    }
    Ok(())
}

fn case(WeightShape { format, rows, cols }: WeightShape, slice_rows: usize, quantized: bool) -> Case {
    let row = TensorType::f32([Dim::Tokens, Dim::Fixed(cols as u32)]);
    let slice_rows = slice_rows.min(rows);
    let mut inputs = vec![CaseInput::Activation(row.clone()), CaseInput::Weight { format, rows, cols, slice_rows }];
    inputs.extend(quantized.then(|| CaseInput::Activation(row.rounded())));
    Case {
        label: format!("{} {cols} by {rows}", format.name()),
        op: Box::new(Matmul { quantized, ..Matmul::plain() }),
        inputs,
        outputs: vec![CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(rows as u32)]))],
        step: Step::new(1, 0, 1),
        max_nmse: MAX_NMSE,
    }
}

/// One kernel and weight.
struct Search<'s> {
    device: &'s Device,
    placed: &'s PlacedCase<'s>,
    kernel: TunedKernel,
    weight: WeightShape,
    effort: TuneEffort,
    /// The adapter's, without what was measured before.
    traits: Traits,
    default: Shape,
    /// The default's outputs.
    expected: Vec<Vec<f32>>,
    tried: usize,
    refused: usize,
}

impl<'s> Search<'s> {
    fn new(
        device: &'s Device,
        placed: &'s PlacedCase<'s>,
        kernel: TunedKernel,
        weight: WeightShape,
        effort: TuneEffort,
    ) -> Result<Self, ExecError> {
        let mut traits = device.traits.clone();
        traits.tuning = crate::ops::Tuning::of(traits.tuning.class);
        let default = traits.tuning.shape(kernel, weight.format, weight.rows, weight.cols);
        let expected = placed.prepare(device, &traits)?.run(device)?.outputs;
        Ok(Self { device, placed, kernel, weight, effort, traits, default, expected, tried: 0, refused: 0 })
    }

    fn run(mut self) -> Result<TuneResult, ExecError> {
        let default = self.prepare(self.default)?;
        let mut best = (self.seconds(&default)?, self.default);
        for candidates in [Self::lanes_and_workgroups, Self::rows] {
            let candidates = candidates(&self, best.1);
            self.compile(&candidates)?;
            for shape in candidates {
                let Some(prepared) = self.right(shape)? else { continue };
                let seconds = self.seconds(&prepared)?;
                if seconds < best.0 || (self.effort == TuneEffort::Smoke && best.1 == self.default) {
                    best = (seconds, shape);
                }
            }
        }
        // Both again: the fastest of many is the luckiest too.
        let again = (self.seconds(&default)?, self.seconds(&self.prepare(best.1)?)?);
        let worth = again.1 < again.0 * WORTH || self.effort == TuneEffort::Smoke;
        let (best, seconds) = if worth { (best.1, again) } else { (self.default, (again.0, again.0)) };
        let bytes = self.weight.format.layout(self.weight.rows, self.weight.cols).bytes;
        let Self { kernel, weight, default, tried, refused, .. } = self;
        Ok(TuneResult { kernel, weight, default, best, seconds, bytes, tried, refused })
    }

    fn with(&self, shape: Shape) -> Traits {
        let WeightShape { format, rows, cols } = self.weight;
        let mut traits = self.traits.clone();
        traits.tuning.insert(TuningKey::of(self.kernel, format, rows, cols), shape);
        traits
    }

    fn prepare(&self, shape: Shape) -> Result<PreparedCase, ExecError> {
        self.placed.prepare(self.device, &self.with(shape))
    }

    /// Compiles in parallel; what a driver refuses is found out by each shape's own turn.
    fn compile(&self, shapes: &[Shape]) -> Result<(), ExecError> {
        let kernels: Vec<_> = shapes.iter().flat_map(|shape| self.placed.kernels(&self.with(*shape))).collect();
        match self.device.compile(&kernels) {
            Err(GpuError::Pipeline { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The kernel in this shape, where it can be made and computes what the default does.
    fn right(&mut self, shape: Shape) -> Result<Option<PreparedCase>, ExecError> {
        self.tried += 1;
        let prepared = match self.prepare(shape) {
            Ok(prepared) => prepared,
            Err(ExecError::Gpu(GpuError::Pipeline { .. })) => {
                self.refused += 1;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let found = prepared.run(self.device)?;
        let right =
            found.guards_intact && self.expected.iter().zip(&found.outputs).all(|(a, b)| nmse(a, b) <= MAX_NMSE);
        self.refused += usize::from(!right);
        Ok(right.then_some(prepared))
    }

    /// Seconds of one run: the median of several, each of as many as take a while.
    fn seconds(&self, prepared: &PreparedCase) -> Result<f64, ExecError> {
        let timed = |times: usize| -> Result<f64, ExecError> {
            let start = Instant::now();
            for first in (0..times).step_by(SUBMITTED) {
                prepared.submit(self.device, SUBMITTED.min(times - first))?;
            }
            self.device.flush()?;
            Ok(start.elapsed().as_secs_f64() / times as f64)
        };
        let estimate = timed(2)?;
        if self.effort == TuneEffort::Smoke {
            return Ok(estimate);
        }
        let times = (RUN / timed((RUN / 4.0 / estimate).clamp(1.0, 1000.0) as usize)?).clamp(1.0, 5000.0) as usize;
        let mut runs = (0..RUNS).map(|_| timed(times)).collect::<Result<Vec<_>, _>>()?;
        runs.sort_by(f64::total_cmp);
        Ok(runs[RUNS / 2])
    }

    /// Shapes with the rows of this one.
    fn lanes_and_workgroups(&self, shape: Shape) -> Vec<Shape> {
        let (workgroups, lanes): (&[u32], &[u32]) = match self.traits.software {
            true => (&[16, 32, 64], &[4, 8, 16]),
            false => (&[64, 128, 256], &[8, 16, 32, 64, 128]),
        };
        let chunks = self.weight.cols.div_ceil(self.weight.format.chunk_len()) as u32;
        // More lanes than chunks have nothing to do.
        let lanes = lanes.iter().filter(|lanes| **lanes <= chunks.next_power_of_two());
        let all = lanes.flat_map(|lanes| {
            workgroups.iter().map(|workgroup| Shape { workgroup: *workgroup, lanes: *lanes, ..shape })
        });
        self.keep_fitting(all.collect(), shape)
    }

    /// Shapes with the lanes and the workgroup of this one.
    fn rows(&self, shape: Shape) -> Vec<Shape> {
        self.keep_fitting([1, 2, 4].map(|rows| Shape { rows, ..shape }).into(), shape)
    }

    fn keep_fitting(&self, mut shapes: Vec<Shape>, but: Shape) -> Vec<Shape> {
        shapes.retain(|shape| *shape != but && shape.fits(self.kernel, self.weight.format, &self.traits));
        shapes
    }
}

/// Σ(a−b)²/Σa².
fn nmse(expected: &[f32], found: &[f32]) -> f64 {
    let error: f64 = expected.iter().zip(found).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let scale: f64 = expected.iter().map(|a| f64::from(*a).powi(2)).sum();
    // What is not a number is no small error.
    if error.is_nan() { f64::INFINITY } else { error / scale.max(f64::MIN_POSITIVE) }
}
