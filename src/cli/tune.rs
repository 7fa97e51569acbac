//! `wgpt tune`: the fastest workgroup shapes of decode's matrix kernels on an adapter, found and kept.
//!
//! Chooses the matrices and prints; `exec::tune` looks. Invariant: what was found is kept as it is found, so that
//! stopping in the middle loses nothing.

use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{ExecError, ExecOptions, TuneEffort, TuneResult, WeightShape, lower_checkpoint, tune};
use wgpt::gpu::{AdapterChoice, AdapterInfo, Device, DeviceOptions, GpuError, choose};
use wgpt::ops::TuningKey;
use wgpt::quant::format;

use super::args::TuneArgs;
use super::output::{Notes, Text};
use super::{embedded, placement, rates, resolve, tuned};

/// Matrices of usual models: qkv, output, up, down and head of one of 3 billion weights, and of one of 8.
const USUAL: [(usize, usize); 9] = [
    (7680, 2560),
    (2560, 2560),
    (10240, 2560),
    (2560, 10240),
    (50432, 2560),
    (4096, 4096),
    (14336, 4096),
    (4096, 14336),
    (128_256, 4096),
];

/// What a CPU multiplies in reasonable time: those of SmolLM2-135M.
const SMALL: [(usize, usize); 4] = [(960, 576), (1536, 576), (576, 1536), (49152, 576)];

/// Shapes for tests.
const SMOKE: [(usize, usize); 2] = [(64, 256), (40, 512)];

/// Formats that most checkpoints are in.
const FORMATS: [&str; 5] = ["f16", "q8_0", "q4_0", "q4_k", "q6_k"];

pub(super) fn run(args: &TuneArgs) -> Result<()> {
    let notes = Notes::new(false);
    let choice = args.adapter.as_deref().map(placement::adapter).unwrap_or_default();
    if choice == AdapterChoice::Host {
        bail!("the host has no workgroups to tune; wgpt adapters lists what has");
    }
    let present = resolve::adapters();
    let info = choose(&choice, &present)?[0];
    let weights = weights(args, info)?;
    let reads = match args.smoke {
        true => None,
        false => rates::measured(&AdapterChoice::Index(info.index), false, notes).get(info).map(|rates| rates.memory),
    };
    let mut device = Device::open(info.index, DeviceOptions::default())?;
    if let Some(folder) = embedded::pipelines_folder() {
        device.keep_pipelines(&folder);
    }
    notes.line(format_args!("tuning adapter {} ({}) for {} matrices", info.index, info.name, weights.len()));
    let effort = if args.smoke { TuneEffort::Smoke } else { TuneEffort::Full };
    let (mut shapes, mut results, mut file) = (tuned::load().clone(), Vec::new(), None);
    let bar = notes.progress(weights.len() as u64);
    for weight in weights {
        match tune(&device, weight, effort, &mut |result| results.push(result)) {
            Err(ExecError::Gpu(error @ GpuError::OutOfMemory { .. })) => notes.line(format_args!("left out: {error}")),
            other => other?,
        }
        bar.inc(1);
        for result in &results {
            let WeightShape { format, rows, cols } = result.weight;
            shapes.keep(
                info,
                &TuningKey::of(result.kernel, format, rows, cols),
                result.tuned().map(|tuned| tuned.shape),
            );
        }
        file = Some(tuned::save(&shapes)?);
    }
    bar.finish_and_clear();
    device.save_pipelines();
    Text::new().show(&format!("{}\n", table(&results, reads)))?;
    let better = results.iter().filter(|result| result.best != result.default).count();
    let refused: usize = results.iter().map(|result| result.refused).sum();
    notes.line(format_args!("{better} of {} defaults were beaten", results.len()));
    if refused > 0 {
        notes.line(format_args!("{refused} shapes could not be made or computed something else, and were not taken"));
    }
    if let Some(file) = file {
        notes.line(format_args!("kept in {}; delete it to return to the defaults", file.display()));
    }
    Ok(())
}

/// The matrices to tune for.
fn weights(args: &TuneArgs, info: &AdapterInfo) -> Result<Vec<WeightShape>> {
    if let Some(path) = &args.checkpoint {
        let checkpoint = Checkpoint::open(&resolve::find(path)?)?;
        let (_, graph) = lower_checkpoint(&checkpoint, &ExecOptions::default())?;
        return Ok(WeightShape::of(&graph));
    }
    let sizes: &[(usize, usize)] = match (args.smoke, info.kind.as_str()) {
        (true, _) => &SMOKE,
        (_, "software") => &SMALL,
        _ => &USUAL,
    };
    let formats = FORMATS.iter().filter_map(|name| format(name));
    let all = formats.flat_map(|format| {
        sizes.iter().map(move |(rows, cols)| {
            // Rows of 576 are not whole blocks of 256.
            let cols = cols.next_multiple_of(format.block_len());
            WeightShape { format, rows: *rows, cols }
        })
    });
    Ok(WeightShape::distinct(all))
}

fn table(results: &[TuneResult], reads: Option<f64>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["kernel", "format", "matrix", "default", "best", "µs", "best µs", "GB/s", "of reads"]);
    for result in results {
        let WeightShape { format, rows, cols } = result.weight;
        let rate = result.bytes as f64 / result.seconds.1;
        let share = reads.map_or_else(String::new, |reads| format!("{:.0} %", 100.0 * rate / reads));
        table.add_row([
            result.kernel.source().to_owned(),
            format.name().to_owned(),
            format!("{rows}×{cols}"),
            result.default.to_string(),
            if result.best == result.default { "the same".to_owned() } else { result.best.to_string() },
            format!("{:.2}", result.seconds.0 * 1e6),
            format!("{:.2}", result.seconds.1 * 1e6),
            format!("{:.0}", rate / 1e9),
            share,
        ]);
    }
    for column in 5..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
