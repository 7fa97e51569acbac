//! `wgpt adapters`: what there is to compute on.
//!
//! Lists, and opens only what is to be measured. Invariant: the index shown is what `--adapter` takes.

use anyhow::Result;
use comfy_table::{Table, presets};
use wgpt::exec::probe_host;
use wgpt::gpu::AdapterInfo;
use wgpt::plan::Rates;

use super::args::AdaptersArgs;
use super::output::{Text, bytes};
use super::{rates, resolve, tuned};

/// An adapter with what was measured on it.
#[derive(serde::Serialize)]
struct Listed {
    #[serde(flatten)]
    info: AdapterInfo,
    /// `None` before the first `--probe`.
    rates: Option<Rates>,
    /// Workgroup shapes that `wgpt tune` found for it.
    tuned: usize,
}

pub(super) fn run(args: &AdaptersArgs) -> Result<()> {
    let adapters = resolve::adapters();
    let mut measured = rates::load();
    if args.probe {
        adapters.iter().for_each(|info| rates::measure(info, &mut measured));
        measured.insert_host(probe_host());
        if let Err(error) = rates::save(&measured) {
            eprintln!("what was measured could not be kept: {error:#}");
        }
    }
    let shapes = tuned::load();
    let list = |info: AdapterInfo| Listed { rates: measured.get(&info), tuned: shapes.get(&info).len(), info };
    let adapters: Vec<Listed> = adapters.into_iter().map(list).collect();
    let mut stdout = Text::new();
    if args.json {
        stdout.show(&(serde_json::to_string_pretty(&adapters)? + "\n"))?;
    } else if adapters.is_empty() {
        eprintln!("no adapter found; --adapter host computes on the CPU. On Linux the package mesa-vulkan-drivers");
        eprintln!("brings drivers, among them one that computes on the CPU");
    } else {
        stdout.show(&format!("{}\n", table(&adapters)))?;
    }
    Ok(())
}

fn table(adapters: &[Listed]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "#",
        "adapter",
        "type",
        "backend",
        "driver",
        "bus",
        "memory",
        "free",
        "reads",
        "receives",
        "in place",
        "crossing",
        "binding",
        "buffer",
        "workgroup",
        "tuned",
        "features",
    ]);
    for Listed { info, rates, tuned } in adapters {
        let limits = &info.limits;
        let mut features = info.features.join(" ");
        if limits.subgroup_sizes.1 > 0 {
            let (least, most) = limits.subgroup_sizes;
            let sizes = if least == most { least.to_string() } else { format!("{least}-{most}") };
            features = features.replace("subgroup", &format!("subgroup({sizes})"));
        }
        table.add_row([
            info.index.to_string(),
            info.name.clone(),
            info.kind.clone(),
            info.backend.clone(),
            info.driver.clone(),
            if info.pci_bus_id.is_empty() { "?".to_owned() } else { info.pci_bus_id.clone() },
            known(info.memory.map(|memory| memory.total)),
            known(info.memory.and_then(|memory| memory.free)),
            rate(rates.map(|rates| rates.memory)),
            rate(rates.map(|rates| rates.bus)),
            rate(rates.map(|rates| rates.in_place)),
            // Out of one adapter and into the next.
            rates.map_or_else(|| "--probe".to_owned(), |rates| format!("{:.0} µs", 2e6 * rates.crossing)),
            bytes(limits.max_binding),
            bytes(limits.max_buffer),
            format!("{}, {}", limits.workgroup_invocations, bytes(limits.workgroup_storage.into())),
            if *tuned > 0 { format!("{tuned} shapes") } else { "--".to_owned() },
            features,
        ]);
    }
    table
}

/// Bytes a second, where they were measured.
fn rate(bytes_per_second: Option<f64>) -> String {
    bytes_per_second.map_or_else(|| "--probe".to_owned(), |rate| format!("{}/s", bytes(rate as u64)))
}

fn known(count: Option<u64>) -> String {
    count.map_or_else(|| "?".to_owned(), bytes)
}
