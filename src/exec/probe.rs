//! Measuring what an adapter does a second, for plans.
//!
//! A second or so of the work that decode and prefill are made of, on zeros. Invariant: every figure is taken after
//! a warm-up of the same work, since a GPU that has idled runs at a fraction of its clock.

use std::time::{Duration, Instant};

use super::ExecError;
use crate::gpu::{Buffer, Device, DeviceOptions, Dispatch, Usage};
use crate::ops::{Bind, Call, Matmul, Op, Operand, Phase, Step, WeightType};
use crate::plan::Rates;
use crate::quant::{BlockFormat, F16};
use crate::tensor::{Dim, TensorType};

/// Rows and columns of the matrices: those of a model of 7B, and what a CPU reads in reasonable time.
const SIZES: (usize, usize) = (4096, 1024);

/// Matrices that are read in turn, so that no cache holds them.
const MATRICES: usize = 8;

/// Tokens of the prefill measurement.
const TOKENS: u32 = 256;

const WARM_UP: Duration = Duration::from_millis(150);
const MEASURED: Duration = Duration::from_millis(100);

/// Measures the adapter at `index` of [`crate::gpu::adapters`].
///
/// # Errors
/// An adapter that can't be opened, lacks a few hundred MB, or is lost.
pub fn probe(index: usize) -> Result<Rates, ExecError> {
    let bench = Bench::new(Device::open(index, DeviceOptions::default())?)?;
    let weight = bench.weight.slices[0].1.bytes as f64;
    let decode = bench.dispatches(Phase::Decode, bench.size)?;
    let prefill = bench.dispatches(Phase::Prefill, bench.size)?;
    let tiny = bench.dispatches(Phase::Decode, 64)?;
    let one = |dispatches: &[Dispatch], tokens| bench.time(|| bench.submit(dispatches, tokens));
    // Bare starts of dispatches, by the difference that many of them make to one.
    let (few, many) = (one(&tiny[..1], 1)?, one(&[&tiny[..]; 32].concat(), 1)?);
    let dispatch = ((many - few) / (32 * MATRICES - 1) as f64).max(1e-7);
    let reading = (one(&decode, 1)? - few).max(1e-9) / MATRICES as f64 - dispatch;
    let computing = (one(&prefill[..1], TOKENS)? - few).max(1e-9);
    let bytes = vec![0u8; weight as usize];
    let uploading = bench.time(|| {
        bench.device.write(&bench.weights[0], 0, &bytes);
        Ok(bench.device.flush()?)
    })?;
    Ok(Rates {
        memory: weight / reading.max(1e-9),
        bus: weight / uploading,
        flops: 2.0 * (bench.size * bench.size) as f64 * f64::from(TOKENS) / computing,
        dispatch,
        crossing: few / 2.0,
    })
}

/// Matrices and vectors on a device.
struct Bench {
    device: Device,
    size: usize,
    weight: WeightType,
    weights: Vec<Buffer>,
    step: Buffer,
    input: Buffer,
    output: Buffer,
    readback: crate::gpu::Readback,
}

impl Bench {
    fn new(device: Device) -> Result<Self, ExecError> {
        let size = if device.traits.software { SIZES.1 } else { SIZES.0 };
        let weight = matrix(size);
        let bytes = weight.slices[0].1.bytes;
        let weights = (0..MATRICES).map(|_| device.buffer("probe weight", bytes, Usage::Weights));
        let weights = weights.collect::<Result<_, _>>()?;
        let rows = size as u64 * u64::from(TOKENS) * 4;
        let buffer = |label, bytes| device.buffer(label, bytes, Usage::Activations);
        let (input, output) = (buffer("probe input", rows)?, buffer("probe output", rows)?);
        let step = device.buffer("step", size_of::<Step>() as u64, Usage::Uniform)?;
        let readback = device.readback("probe", size as u64 * 4)?;
        Ok(Self { size, weight, weights, step, input, output, readback, device })
    }

    /// Matrix × vector or matrix × matrix, once with each matrix, of which the first `size` rows and columns.
    fn dispatches(&self, phase: Phase, size: usize) -> Result<Vec<Dispatch>, ExecError> {
        let weight = matrix(size);
        let layout = &weight.slices[0].1;
        let activation = || Operand::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(size as u32)]));
        let (inputs, outputs) = ([activation(), Operand::Weight(weight.clone())], [activation()]);
        let call = Call { phase, inputs: &inputs, outputs: &outputs, traits: &self.device.traits };
        let kernels = Matmul::plain().kernels(&call);
        let bytes = |n| kernels.iter().filter_map(|kernel| kernel.scratch.get(n)).max().copied();
        let scratch = (0..).map_while(bytes).map(|bytes| self.device.buffer("scratch", bytes, Usage::Activations));
        let scratch = scratch.collect::<Result<Vec<Buffer>, _>>()?;
        let mut made = Vec::new();
        for matrix in &self.weights {
            for kernel in &kernels {
                made.push(self.device.dispatch(kernel, &self.step, |bind| match bind {
                    Bind::Input(_) => self.input.whole(),
                    Bind::Output(_) => self.output.whole(),
                    Bind::Scratch(n) => scratch[n].whole(),
                    Bind::Weight { region, .. } => {
                        let range = &layout.regions[region];
                        matrix.part(range.start, range.end - range.start)
                    }
                })?);
            }
        }
        Ok(made)
    }

    /// Runs dispatches, waits, and reads a row back.
    fn submit(&self, dispatches: &[Dispatch], tokens: u32) -> Result<(), ExecError> {
        let step = Step::new(tokens, 0, 1);
        self.device.write(&self.step, 0, bytemuck::bytes_of(&step));
        let row = self.size as u64 * 4;
        self.device.submit(step, dispatches.iter(), &[(&self.output, 0, row)], Some(&self.readback))?;
        Ok(self.device.read(&self.readback, row, |_| ())?)
    }

    /// Seconds that `once` takes.
    fn time(&self, once: impl Fn() -> Result<(), ExecError>) -> Result<f64, ExecError> {
        let repeat = |least: Duration| {
            let start = Instant::now();
            let mut times = 0;
            while times == 0 || start.elapsed() < least {
                once()?;
                times += 1;
            }
            Ok::<f64, ExecError>(start.elapsed().as_secs_f64() / f64::from(times))
        };
        repeat(WARM_UP)?;
        repeat(MEASURED)
    }
}

fn matrix(size: usize) -> WeightType {
    WeightType { format: &F16, rows: size, cols: size, slices: vec![(0, F16.layout(size, size))] }
}
