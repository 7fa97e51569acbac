//! `wgpt plan`: where a model would go and how fast it would be.
//!
//! Reads headers, asks drivers what is free, and measures adapters it has no figures of; loads nothing. Invariant: what is shown is what
//! the commands that compute would allocate with the same flags.

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;
use wgpt::exec::{Placed, PlacedAdapter};
use wgpt::graph::Graph;
use wgpt::ops::KvFormat;
use wgpt::plan::{AdapterBytes, Estimate, HostCost, OffloadMode, Plan, Rates, Residency};

use super::args::PlanArgs;
use super::output::{Notes, Text, bytes};
use super::resolve;

/// Everything that is shown.
#[derive(Debug, Serialize)]
struct Report {
    checkpoint: String,
    context_length: u32,
    /// Tokens of a prefill chunk.
    prefill_chunk: u32,
    /// How keys and values are held.
    kv_format: Option<&'static str>,
    units: Vec<UnitPlace>,
    adapters: Vec<AdapterPart>,
    /// What the host's memory holds: packed weights that it keeps for streaming, and what adapters with memory of their
    /// own exchange with it.
    host_memory: HostPart,
    /// Where streamed weights stay between forwards; `None` where nothing is streamed.
    offload_mode: Option<OffloadMode>,
    /// Whether single tokens read them there.
    in_place: bool,
    decode: Estimate,
    prefill: Estimate,
    /// What the streamed layers would cost computed on the host; `None` where nothing is streamed.
    host: Option<HostCost>,
    notices: Vec<String>,
}

/// What the host's memory gets, bytes.
#[derive(Debug, Clone, Copy, Serialize)]
struct HostPart {
    weights: u64,
    staging: u64,
    readback: u64,
    total: u64,
}

/// Where one unit goes.
#[derive(Debug, Serialize)]
struct UnitPlace {
    name: String,
    /// Its place in `adapters`.
    adapter: usize,
    residency: Residency,
    /// Bytes of weights and vectors.
    bytes: u64,
    kv_bytes: u64,
}

/// What one adapter gets.
#[derive(Debug, Serialize)]
struct AdapterPart {
    /// Its place in `wgpt adapters`.
    index: usize,
    name: String,
    /// Bytes it may hold; `None` where no one knows a limit.
    budget: Option<u64>,
    bytes: AdapterBytes,
    /// What its memory holds of them: all, or all but what the host fills and reads.
    total: u64,
    /// Bytes of its streamed weights.
    streamed_bytes: u64,
    /// What it does a second.
    rates: Rates,
    /// Whether that was measured, now or before; else it is assumed.
    measured: bool,
}

pub(super) fn run(args: &PlanArgs) -> Result<()> {
    let notes = Notes::new(args.model.quiet);
    let (opened, graph, placed) = resolve::plan(&args.model, &args.context, notes)?;
    let report = report(opened.path.display().to_string(), &graph, &placed);
    let mut stdout = Text::new();
    if args.json {
        stdout.show(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        return Ok(());
    }
    stdout.show(&describe(&report, &placed))?;
    report.notices.iter().for_each(|notice| notes.line(notice));
    Ok(())
}

/// Whether there is more to say than the adapter's name.
pub(super) fn is_worth_telling(placed: &Placed) -> bool {
    placed.adapters.len() > 1 || placed.plan.placements.iter().any(|p| p.residency != Residency::Resident)
}

/// One line for each run of neighbouring units on one adapter: `layers 0-11 on …, 4 of 12 streamed`.
pub(super) fn runs(placed: &Placed) -> Vec<String> {
    let placements = &placed.plan.placements;
    let last = placements.len() - 1;
    let one = |adapter: usize| {
        let units: Vec<usize> = (0..=last).filter(|unit| placements[*unit].adapter == adapter).collect();
        let layers: Vec<usize> = units.iter().filter(|unit| (1..last).contains(*unit)).map(|unit| unit - 1).collect();
        let streamed = |unit: &&usize| placements[**unit].residency == Residency::Streamed;
        let count = layers.iter().map(|layer| layer + 1).filter(|unit| streamed(&unit)).count();
        let mut parts = Vec::new();
        let end = |unit: usize, name: &str| {
            let how = match placements[unit].residency {
                Residency::Resident => "",
                Residency::Streamed => " (streamed)",
                Residency::InPlace => " (read from host memory)",
            };
            units.contains(&unit).then(|| format!("{name}{how}"))
        };
        parts.extend(end(0, "embedding"));
        if let (Some(first), Some(last)) = (layers.first(), layers.last()) {
            let how = match count {
                0 => String::new(),
                all if all == layers.len() => " (streamed)".to_owned(),
                some => format!(" ({some} of {} streamed)", layers.len()),
            };
            let neighbours = last - first + 1 == layers.len();
            parts.push(match first == last {
                true => format!("layer {first}{how}"),
                false if neighbours => format!("layers {first}-{last}{how}"),
                false => format!("{} of layers {first}-{last}, in turns{how}", layers.len()),
            });
        }
        parts.extend(end(last, "head"));
        let PlacedAdapter { info, .. } = &placed.adapters[adapter];
        format!("adapter {} ({}): {}", info.index, info.name, parts.join(", "))
    };
    (0..placed.adapters.len()).map(one).collect()
}

fn report(checkpoint: String, graph: &Graph, placed: &Placed) -> Report {
    let place = graph.units.iter().zip(&placed.plan.placements);
    let units = place.map(|(unit, placement)| UnitPlace {
        name: unit.name.clone(),
        adapter: placement.adapter,
        residency: placement.residency,
        bytes: unit.bytes,
        kv_bytes: unit.kv_bytes,
    });
    let adapters = placed.adapters.iter().map(|adapter| AdapterPart {
        index: adapter.info.index,
        name: adapter.info.name.clone(),
        budget: adapter.budget,
        bytes: adapter.bytes,
        total: adapter.bytes.taken(adapter.apart),
        streamed_bytes: adapter.streamed_bytes,
        rates: adapter.rates,
        measured: adapter.measured,
    });
    Report {
        checkpoint,
        context_length: graph.context_length,
        prefill_chunk: placed.extents.tokens,
        kv_format: graph.kv_format().map(KvFormat::name),
        units: units.collect(),
        adapters: adapters.collect(),
        host_memory: host_part(placed),
        offload_mode: placed.plan.streams().then_some(placed.plan.offload_mode),
        in_place: reads_in_place(&placed.plan),
        decode: placed.decode,
        prefill: placed.prefill,
        host: placed.host,
        notices: placed.notices.clone(),
    }
}

fn host_part(placed: &Placed) -> HostPart {
    let weights = placed.adapters.iter().map(|adapter| adapter.host_bytes).sum();
    let apart = || placed.adapters.iter().filter(|adapter| adapter.apart).map(|adapter| adapter.bytes);
    let staging = apart().map(|bytes| bytes.staging).sum();
    let readback = apart().map(|bytes| bytes.readback + bytes.crossing).sum();
    HostPart { weights, staging, readback, total: weights + staging + readback }
}

fn describe(report: &Report, placed: &Placed) -> String {
    let mut text = runs(placed).join("\n") + "\n\n";
    text += &format!("{}\n\n", memory(report));
    let speed = |what: &str, estimate: &Estimate| {
        let (rate, bound) = (estimate.tokens_per_second, estimate.bound);
        format!("{what:<8} about {rate:.digits$} tokens/s, {bound} binds\n", digits = if rate < 10.0 { 2 } else { 0 })
    };
    text += &speed("decode", &report.decode);
    text += &speed("prefill", &report.prefill);
    text += &report.offload_mode.map(|mode| offload(mode, report.in_place)).unwrap_or_default();
    text += &report.host.map(|cost| streamed(cost, &report.decode)).unwrap_or_default();
    let kept = report.kv_format.map_or_else(String::new, |format| format!(", keys and values in {format}"));
    text +=
        &format!("context  {} tokens{kept}, prompts in chunks of {}\n", report.context_length, report.prefill_chunk);
    for AdapterPart { index, rates, measured, .. } in &report.adapters {
        let how = if *measured { "measured" } else { "assumed " };
        let (memory, bus) = (bytes(rates.memory as u64), bytes(rates.bus as u64));
        let compute = match rates.flops {
            flops if flops < 1e12 => format!("{:.1} GFLOP/s", flops / 1e9),
            flops => format!("{:.1} TFLOP/s", flops / 1e12),
        };
        text += &format!("{how} adapter {index} reads {memory}/s, receives {bus}/s and computes {compute}\n");
    }
    text
}

fn reads_in_place(plan: &Plan) -> bool {
    plan.streams() && plan.offload_mode == OffloadMode::Pinned && plan.in_place
}

/// How streamed layers come to the adapters.
fn offload(mode: OffloadMode, in_place: bool) -> String {
    let how = match (mode, in_place) {
        (OffloadMode::Pinned, true) => "packed in host memory, where single tokens read them; prompts copy them",
        (OffloadMode::Pinned, false) => "packed in host memory, from where they are copied",
        (OffloadMode::Mapped, _) => "left in the file, or packed in the cache folder, and read and copied each time",
    };
    format!("offload  {mode}: streamed layers are {how}\n")
}

/// What the streamed layers cost a token, and what they would on the host, which computes whole models only.
fn streamed(cost: HostCost, decode: &Estimate) -> String {
    let (streaming, host) = (cost.streaming_seconds * 1e3, cost.host_seconds * 1e3);
    let (read, rate) = (bytes(cost.read_bytes), cost.memory / 1e9);
    let whole = 1.0 / cost.whole_seconds;
    let advice = if whole > decode.tokens_per_second {
        format!("; the whole model there makes {whole:.1} tokens/s at most: --adapter host may be faster")
    } else {
        String::new()
    };
    format!(
        "streamed layers take {streaming:.1} ms a token over the bus, on the host at least {host:.1} ms: \
         {read} at {rate:.0} GB/s of its memory{advice}\n"
    )
}

fn memory(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "place",
        "weights",
        "vectors",
        "KV cache",
        "activations",
        "scratch",
        "ring",
        "staging",
        "readback",
        "total",
        "budget",
    ]);
    let of_host = |part: &AdapterPart| part.bytes.total() - part.total;
    for part in &report.adapters {
        let AdapterPart { index, name, budget, bytes: held, total, .. } = part;
        let apart = of_host(part) > 0;
        let kinds = [
            held.weights,
            held.vectors,
            held.kv_cache,
            held.activations,
            held.scratch,
            held.ring,
            if apart { 0 } else { held.staging },
            if apart { 0 } else { held.readback + held.crossing },
            *total,
        ];
        let budget = budget.map_or_else(|| "unknown".to_owned(), bytes);
        table.add_row([vec![format!("{index}: {name}")], kinds.map(bytes).to_vec(), vec![budget]].concat());
    }
    let HostPart { weights, staging, readback, total } = report.host_memory;
    if total > 0 {
        let mut row = vec![String::new(); 11];
        (row[0], row[1]) = ("host".into(), bytes(weights));
        (row[7], row[8], row[9]) = (bytes(staging), bytes(readback), bytes(total));
        table.add_row(row);
    }
    table
}
