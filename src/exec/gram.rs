//! `XᵀX`, summed over batches of rows: on an adapter by the matmul of the models, or on the host.
//!
//! A batch's transpose is multiplied with itself, as activations and as f32 weights at once, and the sum so far is the
//! residual; so there is no kernel of its own. Invariant: the sums stay where they are made until they are asked for.

use rayon::prelude::*;

use super::ExecError;
use crate::gpu::{Buffer, Device, Dispatch, Usage};
use crate::ops::{Bind, Call, Matmul, Op, Operand, Phase, Step, WeightType};
use crate::quant::{BlockFormat, F32};
use crate::tensor::{Dim, TensorType};

/// Sums of products of columns.
#[derive(Debug)]
pub struct Gram {
    width: usize,
    rows: usize,
    sums: Sums,
}

#[derive(Debug)]
enum Sums {
    /// `(width, width)`, the lower half.
    Host(Vec<f32>),
    Adapter(Box<OnAdapter>),
}

/// Two buffers take turns: a dispatch reads the sums of one and writes those of the other.
#[derive(Debug)]
struct OnAdapter {
    step: (Buffer, Step),
    transposed: Buffer,
    batch: usize,
    sums: [Buffer; 2],
    /// By the buffer that is read.
    dispatches: [Vec<Dispatch>; 2],
    latest: usize,
}

/// Columns that a thread of the host takes at once.
const COLUMNS: usize = 16;

impl Gram {
    /// Whether sums of this width are made faster on the adapter, and fit it.
    pub fn suits(device: &Device, width: usize) -> bool {
        !device.traits.software && (width * width * 4) as u64 <= device.max_binding
    }

    /// Sums on the host.
    pub fn on_host(width: usize) -> Self {
        Self { width, rows: 0, sums: Sums::Host(vec![0.0; width * width]) }
    }

    /// Sums on an adapter, over batches of `batch` rows, a multiple of four.
    ///
    /// # Errors
    /// A device that refuses a buffer or the kernel.
    pub fn on_adapter(device: &Device, width: usize, batch: usize) -> Result<Self, ExecError> {
        assert!(batch.is_multiple_of(4), "{batch} rows are no whole chunks of f32 weights");
        let step = Step::new(width as u32, 0, 0);
        let step_buffer = device.buffer("step", size_of::<Step>() as u64, Usage::Uniform)?;
        device.write(&step_buffer, 0, bytemuck::bytes_of(&step));
        let transposed = device.buffer("transposed rows", (width * batch * 4) as u64, Usage::Activations)?;
        let sum = || device.buffer("sums of products", (width * width * 4) as u64, Usage::Activations);
        let sums = [sum()?, sum()?];
        let layout = F32.layout(width, batch);
        let weight = WeightType { format: &F32, rows: width, cols: batch, slices: vec![(0, layout)] };
        let row = |cols: usize| Operand::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(cols as u32)]));
        let (inputs, outputs) = ([row(batch), Operand::Weight(weight), row(width)], [row(width)]);
        let call = Call {
            phase: Phase::Prefill,
            inputs: &inputs,
            outputs: &outputs,
            traits: &device.traits,
            largest: step.extents(),
        };
        let kernels = Matmul { residual: true, ..Matmul::plain() }.kernels(&call);
        let dispatches = |from: usize| {
            let bind = |bind| match bind {
                Bind::Input(2) => sums[from].whole(),
                Bind::Output(_) => sums[1 - from].whole(),
                _ => transposed.whole(),
            };
            kernels.iter().map(|kernel| device.dispatch(kernel, &step_buffer, bind)).collect::<Result<Vec<_>, _>>()
        };
        let dispatches = [dispatches(0)?, dispatches(1)?];
        let step = (step_buffer, step);
        let on_adapter = OnAdapter { step, transposed, batch, sums, dispatches, latest: 0 };
        Ok(Self { width, rows: 0, sums: Sums::Adapter(Box::new(on_adapter)) })
    }

    /// Adds rows `(batch, width)`; `device` is the one it was made on.
    ///
    /// # Errors
    /// A lost device.
    ///
    /// # Panics
    /// If an adapter's batch has another size, or its device is missing: a caller's mistake.
    pub fn add(&mut self, device: Option<&Device>, rows: &[f32]) -> Result<(), ExecError> {
        let batch = rows.len() / self.width;
        let transposed = transpose(rows, self.width);
        self.rows += batch;
        match &mut self.sums {
            Sums::Host(sums) => add_on_host(sums, &transposed, self.width, batch),
            Sums::Adapter(on) => {
                let device = device.expect("the device that it was made on");
                assert_eq!(batch, on.batch, "rows of a batch");
                device.write(&on.transposed, 0, bytemuck::cast_slice(&transposed));
                device.submit(on.step.1, on.dispatches[on.latest].iter(), &[], None)?;
                // Writes are staged: without waiting they would pile up.
                device.flush()?;
                on.latest = 1 - on.latest;
            }
        }
        Ok(())
    }

    /// Rows added so far.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The sums, `(width, width)`.
    ///
    /// # Errors
    /// A lost device, or one without the memory to copy from.
    ///
    /// # Panics
    /// If an adapter's device is missing.
    pub fn finish(self, device: Option<&Device>) -> Result<Vec<f32>, ExecError> {
        match self.sums {
            Sums::Host(mut sums) => {
                for row in 0..self.width {
                    for column in 0..row {
                        sums[column * self.width + row] = sums[row * self.width + column];
                    }
                }
                Ok(sums)
            }
            Sums::Adapter(on) => {
                let device = device.expect("the device that it was made on");
                let (latest, step) = (&on.sums[on.latest], on.step.1);
                let bytes = (self.width * self.width * 4) as u64;
                let readback = device.readback("sums of products", bytes)?;
                device.submit(step, [].iter(), &[(latest, 0, bytes)], Some(&readback))?;
                Ok(device.read(&readback, bytes, bytemuck::pod_collect_to_vec)?)
            }
        }
    }
}

fn transpose(rows: &[f32], width: usize) -> Vec<f32> {
    let batch = rows.len() / width;
    let mut transposed = vec![0.0; rows.len()];
    transposed.par_chunks_mut(batch * COLUMNS).enumerate().for_each(|(block, columns)| {
        for (row, values) in rows.chunks_exact(width).enumerate() {
            for (column, value) in values[block * COLUMNS..].iter().take(columns.len() / batch).enumerate() {
                columns[column * batch + row] = *value;
            }
        }
    });
    transposed
}

fn add_on_host(sums: &mut [f32], transposed: &[f32], width: usize, batch: usize) {
    let column = |at: usize| &transposed[at * batch..(at + 1) * batch];
    sums.par_chunks_mut(width * COLUMNS).enumerate().for_each(|(block, sums)| {
        let first = block * COLUMNS;
        let count = sums.len() / width;
        for other in 0..first + count {
            for at in other.saturating_sub(first)..count {
                sums[at * width + other] += dot(column(first + at), column(other));
            }
        }
    });
}

/// Over sixteen running sums, so that the compiler can use vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const WIDTH: usize = 16;
    let mut sums = [0.0f32; WIDTH];
    let (a, a_rest) = a.as_chunks::<WIDTH>();
    let (b, b_rest) = b.as_chunks::<WIDTH>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..WIDTH {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{DeviceOptions, Tier, adapters};

    fn plain(batches: &[Vec<f32>], width: usize) -> Vec<f64> {
        let mut sums = vec![0.0; width * width];
        for row in batches.iter().flat_map(|rows| rows.chunks_exact(width)) {
            for (i, a) in row.iter().enumerate() {
                row.iter().enumerate().for_each(|(j, b)| sums[i * width + j] += f64::from(a * b));
            }
        }
        sums
    }

    fn check(found: &[f32], expected: &[f64], what: &str) {
        let worst = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-4, "{what}: off by {worst}");
    }

    #[test]
    fn host_and_adapters_sum_the_same_products() {
        const WIDTH: usize = 84;
        let value = |at: usize| ((at * 7919 + 13) % 1009) as f32 / 1009.0 - 0.4;
        let batches: Vec<Vec<f32>> =
            (0..3).map(|batch| (0..20 * WIDTH).map(|at| value(at + 77 * batch)).collect()).collect();
        let expected = plain(&batches, WIDTH);
        let mut host = Gram::on_host(WIDTH);
        batches.iter().for_each(|rows| host.add(None, rows).expect("the host adds"));
        assert_eq!(host.rows(), 60, "three batches of twenty");
        check(&host.finish(None).expect("the sums"), &expected, "host");
        for adapter in adapters() {
            for tier in [Tier::Full, Tier::Plain] {
                let options = DeviceOptions { tier, checks: true, ..DeviceOptions::default() };
                let device = Device::open(adapter.index, options).expect("it opens");
                let mut gram = Gram::on_adapter(&device, WIDTH, 20).expect("it is made");
                batches.iter().for_each(|rows| gram.add(Some(&device), rows).expect("the adapter adds"));
                let found = gram.finish(Some(&device)).expect("the sums");
                check(&found, &expected, &format!("{} as {tier:?}", adapter.name));
            }
        }
    }
}
