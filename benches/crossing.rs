//! What it costs that a hidden state crosses from one device to another, by size.
//!
//! `cargo bench --bench crossing -- [--adapters 0,1] [--smoke]`: devices of these adapters (the same one twice is two
//! devices), between which a state goes to and fro as the executor carries it: copied to a mapped readback, written
//! into the other device's queue ahead of a submission recorded before it came. Nothing is computed, so what is shown is
//! all crossing: what a token takes longer on two adapters than their own time.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

use wgpt::gpu::{Buffer, Device, DeviceOptions, GpuError, Readback, Usage};
use wgpt::ops::Step;

/// Rows of 2560, 4096 and 8192 values (models of 3B, 7B and 40B), then pieces of a prompt.
const SIZES: [u64; 6] = [10_240, 16_384, 32_768, 128 * 10_240, 128 * 16_384, 128 * 32_768];

const WARM_UP: Duration = Duration::from_millis(200);
const MEASURED: Duration = Duration::from_millis(300);

/// A device with room for a state, and the way out of it.
struct End {
    device: Device,
    state: Buffer,
    readback: Readback,
}

impl End {
    fn open(adapter: usize, sibling: bool) -> Result<Self, GpuError> {
        let device = Device::open(adapter, DeviceOptions { sibling, ..DeviceOptions::default() })?;
        let most = SIZES[SIZES.len() - 1];
        let state = device.buffer("state", most, Usage::Activations)?;
        let readback = device.readback("readback", most)?;
        Ok(Self { device, state, readback })
    }
}

/// Seconds of each crossing, fastest first, of as many as fill the time.
fn crossings(ends: &[End; 2], bytes: u64, least: Duration) -> Result<Vec<f64>, GpuError> {
    let step = Step::new(1, 0, 1);
    let record =
        |end: &End| end.device.record(step, std::iter::empty(), &[(&end.state, 0, bytes)], Some(&end.readback));
    let begin = Instant::now();
    let mut times = Vec::new();
    ends[0].device.submit_recorded(record(&ends[0]), Some(&ends[0].readback))?;
    let mut from = 0;
    while times.is_empty() || begin.elapsed() < least {
        let (here, there) = (&ends[from], &ends[1 - from]);
        let ahead = record(there);
        let start = Instant::now();
        here.device.read(&here.readback, bytes, |state| there.device.write(&there.state, 0, state))?;
        there.device.submit_recorded(ahead, Some(&there.readback))?;
        times.push(start.elapsed().as_secs_f64());
        from = 1 - from;
    }
    let end = &ends[from];
    end.device.read(&end.readback, bytes, |_| ())?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn main() -> Result<(), GpuError> {
    let arguments: Vec<String> = std::env::args().collect();
    let smoke = arguments.iter().any(|argument| argument == "--smoke");
    let value = arguments.iter().position(|argument| argument == "--adapters").and_then(|at| arguments.get(at + 1));
    let adapters: Vec<usize> = value.map_or("0,0", String::as_str).split(',').flat_map(str::parse).collect();
    let [first, second] = adapters[..] else { panic!("--adapters takes two indices of `wgpt adapters`, as 0,1") };
    let ends = [End::open(first, first == second)?, End::open(second, first == second)?];
    println!("{first}: {} to {second}: {}", ends[0].device.info.name, ends[1].device.info.name);
    let (warm_up, measured) = if smoke { (Duration::ZERO, Duration::ZERO) } else { (WARM_UP, MEASURED) };
    println!("{:>12} {:>12} {:>12} {:>12}", "bytes", "median µs", "best µs", "GB/s");
    for bytes in SIZES {
        crossings(&ends, bytes, warm_up)?;
        let times = crossings(&ends, bytes, measured)?;
        let median = times[times.len() / 2];
        if smoke {
            println!("{bytes:>12}          ran");
            continue;
        }
        println!("{bytes:>12} {:>12.1} {:>12.1} {:>12.2}", median * 1e6, times[0] * 1e6, bytes as f64 / median / 1e9);
    }
    Ok(())
}
