//! Measuring what an adapter does a second, for plans.
//!
//! A second or so of the work that decode and prefill are made of, on zeros. Invariant: the first figure is taken after
//! a warm-up, since a GPU that has idled runs at a fraction of its clock, and none waits for anything after it.

use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::ExecError;
use crate::gpu::{Buffer, Device, DeviceOptions, Dispatch, HostBuffer, HostCopy, HostUse, Usage};
use crate::ops::{Bind, Call, Kernel, Matmul, Norm, NormKind, Op, Operand, Phase, Step, WeightType};
use crate::plan::Rates;
use crate::quant::{BlockFormat, F16, Q4_0};
use crate::tensor::{Dim, TensorType};

/// Rows and columns of the matrices: those of a model of 7B, and what a CPU reads in reasonable time.
const SIZES: (usize, usize) = (4096, 1024);

/// Matrices that are read in turn, so that no cache holds them.
const MATRICES: usize = 8;

/// Tokens of the prefill measurement.
const TOKENS: u32 = 256;

const WARM_UP: Duration = Duration::from_millis(150);
const MEASURED: Duration = Duration::from_millis(80);
const SPANS: u32 = 4;

/// Norms in a row.
const NORMS: usize = 256;

/// What a core writes to a host buffer at a time.
const FILLED_AT_ONCE: usize = 512 << 10;

/// What is read of the host's memory, more than its caches hold, and how often.
const HOST_BYTES: usize = 256 << 20;
const HOST_TIMES: usize = 5;

/// Measures the adapter at `index` of [`crate::gpu::adapters`].
///
/// # Errors
/// An adapter that can't be opened, lacks a few hundred MB, or is lost.
pub fn probe(index: usize) -> Result<Rates, ExecError> {
    let bench = Bench::new(Device::open(index, DeviceOptions::default())?)?;
    let size = bench.size as f64;
    let weight = matrix(&F16, bench.size).slices[0].1.bytes as f64;
    let decode = bench.matmuls(&F16, Phase::Decode)?;
    let quantized = bench.matmuls(&Q4_0, Phase::Decode)?;
    let prefill = bench.matmuls(&F16, Phase::Prefill)?;
    let norm = bench.norm()?;
    let one = |dispatches: &[Dispatch], tokens| bench.time(|| bench.submit(dispatches, tokens));
    bench.repeat(WARM_UP, &|| bench.submit(&decode, 1))?;
    // A small dispatch that waits for the one before, by the difference that many of them make to one.
    let (few, many) = (one(&norm[..1], 1)?, one(&norm, 1)?);
    let dispatch = ((many - few) / (norm.len() - 1) as f64).max(1e-7);
    let matmul = |seconds: f64| ((seconds - few) / MATRICES as f64 - dispatch).max(1e-9);
    let reading = matmul(one(&decode, 1)?);
    let unpacking = matmul(one(&quantized, 1)?);
    let computing = (one(&prefill[..prefill.len() / MATRICES], TOKENS)? - few).max(1e-9);
    let host = bench.device.host_buffer("probe", weight as u64, HostUse::Weights)?;
    let packing = fill(&bench.device, &host)?;
    let bus = weight * MATRICES as f64 / bench.time(|| bench.copy(&host))?;
    let in_place = if bench.device.reads_host {
        let dispatches = bench.matmul(&F16, Phase::Decode, host.buffer())?;
        weight / (one(&dispatches, 1)? - few).max(1e-9)
    } else {
        bus
    };
    Ok(Rates {
        memory: weight / reading,
        unpacking: size * size / unpacking,
        bus,
        in_place,
        staging: weight / packing,
        flops: 2.0 * size * size * f64::from(TOKENS) / computing,
        dispatch,
        crossing: few / 2.0,
    })
}

/// Seconds that all cores together need for filling a host buffer. Leaves it to the adapter.
fn fill(device: &Device, host: &HostBuffer) -> Result<f64, ExecError> {
    let bytes = vec![1u8; FILLED_AT_ONCE];
    let ranges: Vec<_> = (0..host.bytes()).step_by(FILLED_AT_ONCE).collect();
    let range = |start: &u64| *start..(start + FILLED_AT_ONCE as u64).min(host.bytes());
    let ranges: Vec<_> = ranges.iter().map(range).collect();
    device.map_new(std::slice::from_ref(host))?;
    let mut best = f64::INFINITY;
    for _ in 0..HOST_TIMES {
        let start = Instant::now();
        host.write_parts(&ranges, |parts| {
            let filled = parts.into_par_iter().zip(&ranges);
            filled.for_each(|(mut part, range)| part.write(&bytes[..(range.end - range.start) as usize]));
        })?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    host.unmap();
    Ok(best)
}

/// Bytes a second that all cores together read of the host's memory.
pub fn probe_host() -> f64 {
    let words = vec![1u64; HOST_BYTES / size_of::<u64>()];
    let read = || {
        let start = Instant::now();
        let sum: u64 = words.par_chunks(1 << 16).map(|words| words.iter().sum::<u64>()).sum();
        std::hint::black_box(sum);
        HOST_BYTES as f64 / start.elapsed().as_secs_f64()
    };
    // The best of a few: what disturbs it only ever slows it down.
    (0..HOST_TIMES).map(|_| read()).fold(0.0, f64::max)
}

/// Matrices and vectors on a device.
struct Bench {
    device: Device,
    /// Rows and columns of its matrices.
    size: usize,
    weights: Vec<Buffer>,
    step: Buffer,
    input: Buffer,
    output: Buffer,
    readback: crate::gpu::Readback,
}

impl Bench {
    fn new(device: Device) -> Result<Self, ExecError> {
        let size = if device.traits.software { SIZES.1 } else { SIZES.0 };
        let bytes = matrix(&F16, size).slices[0].1.bytes;
        let weights = (0..MATRICES).map(|_| device.buffer("probe weight", bytes, Usage::Weights));
        let weights = weights.collect::<Result<_, _>>()?;
        let rows = size as u64 * u64::from(TOKENS) * 4;
        let buffer = |label, bytes| device.buffer(label, bytes, Usage::Activations);
        let (input, output) = (buffer("probe input", rows)?, buffer("probe output", rows)?);
        let step = device.buffer("step", size_of::<Step>() as u64, Usage::Uniform)?;
        let readback = device.readback("probe", size as u64 * 4)?;
        Ok(Self { size, weights, step, input, output, readback, device })
    }

    /// Matrix × vector or matrix × matrix, once with each matrix.
    fn matmuls(&self, format: &'static dyn BlockFormat, phase: Phase) -> Result<Vec<Dispatch>, ExecError> {
        let made = self.weights.iter().map(|weight| self.matmul(format, phase, weight));
        Ok(made.collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn matmul(
        &self,
        format: &'static dyn BlockFormat,
        phase: Phase,
        weight: &Buffer,
    ) -> Result<Vec<Dispatch>, ExecError> {
        let inputs = [self.row(), Operand::Weight(matrix(format, self.size))];
        let outputs = [self.row()];
        let call = Call {
            phase,
            inputs: &inputs,
            outputs: &outputs,
            traits: &self.device.traits,
            largest: Step::new(TOKENS, 0, 1).extents(),
        };
        self.dispatches(&Matmul::plain().kernels(&call), weight, &call)
    }

    /// Copies from the host into every matrix, and waits.
    fn copy(&self, from: &HostBuffer) -> Result<(), ExecError> {
        let copy = |to| HostCopy { from, at: 0, to, offset: 0, bytes: from.bytes() };
        self.device.copy(&self.weights.iter().map(copy).collect::<Vec<_>>())?;
        Ok(self.device.flush()?)
    }

    /// Many norms of a row, each waiting for the one before since they write to one place.
    fn norm(&self) -> Result<Vec<Dispatch>, ExecError> {
        let norm = Norm::plain(NormKind::Rms, 1e-5);
        let (inputs, outputs) = ([self.row(), Operand::Vector(self.size)], [self.row()]);
        let call = Call {
            phase: Phase::Decode,
            inputs: &inputs,
            outputs: &outputs,
            traits: &self.device.traits,
            largest: Step::new(1, 0, 1).extents(),
        };
        let one = self.dispatches(&norm.kernels(&call), &self.weights[0], &call)?;
        Ok(vec![one; NORMS].concat())
    }

    fn row(&self) -> Operand {
        Operand::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(self.size as u32)]))
    }

    fn dispatches(&self, kernels: &[Kernel], weight: &Buffer, call: &Call<'_>) -> Result<Vec<Dispatch>, ExecError> {
        let bytes = |n| kernels.iter().filter_map(|kernel| kernel.scratch.get(n)).max().copied();
        let scratch = (0..).map_while(bytes).map(|bytes| self.device.buffer("scratch", bytes, Usage::Activations));
        let scratch = scratch.collect::<Result<Vec<Buffer>, _>>()?;
        let bind = |bind| match bind {
            Bind::Input(0) => self.input.whole(),
            // The weights of a norm.
            Bind::Input(_) => weight.part(0, self.size as u64 * 4),
            Bind::Output(_) => self.output.whole(),
            Bind::Scratch(n) => scratch[n].whole(),
            Bind::Tensor(tensor) | Bind::TensorWeight { tensor, .. } => {
                panic!("tensor {tensor} of no graph is bound")
            }
            Bind::Weight { input, slice, region } => {
                let range = &call.weight(input).slices[slice].1.regions[region];
                weight.part(range.start, range.end - range.start)
            }
        };
        let made = kernels.iter().map(|kernel| self.device.dispatch(kernel, &self.step, bind));
        Ok(made.collect::<Result<_, _>>()?)
    }

    /// Runs dispatches, waits, and reads a row back.
    fn submit(&self, dispatches: &[Dispatch], tokens: u32) -> Result<(), ExecError> {
        let step = Step::new(tokens, 0, 1);
        self.device.write(&self.step, 0, bytemuck::bytes_of(&step));
        let row = self.size as u64 * 4;
        self.device.submit(step, dispatches.iter(), &[(&self.output, 0, row)], Some(&self.readback))?;
        Ok(self.device.read(&self.readback, row, |_| ())?)
    }

    /// Seconds that `once` takes, after the first time.
    fn time(&self, once: impl Fn() -> Result<(), ExecError>) -> Result<f64, ExecError> {
        once()?;
        self.repeat(MEASURED, &once)
    }

    /// Seconds of one run, of as many as fill this time: in the best of a few spans, since what disturbs one only ever
    /// slows it down.
    fn repeat(&self, least: Duration, once: &dyn Fn() -> Result<(), ExecError>) -> Result<f64, ExecError> {
        let mut best = f64::INFINITY;
        for _ in 0..SPANS {
            let (start, mut times) = (Instant::now(), 0);
            while times == 0 || start.elapsed() < least / SPANS {
                once()?;
                times += 1;
            }
            best = best.min(start.elapsed().as_secs_f64() / f64::from(times));
        }
        Ok(best)
    }
}

/// As many rows as columns.
fn matrix(format: &'static dyn BlockFormat, size: usize) -> WeightType {
    WeightType { format, rows: size, cols: size, slices: vec![(0, format.layout(size, size))] }
}
