//! `wgpt adapters`: what there is to compute on.
//!
//! Lists and opens nothing. Invariant: the index shown is what `--adapter` takes.

use anyhow::Result;
use comfy_table::{Table, presets};
use wgpt::gpu::AdapterInfo;

use super::args::AdaptersArgs;
use super::output::{Text, bytes};
use super::resolve;

pub(super) fn run(args: &AdaptersArgs) -> Result<()> {
    let adapters = resolve::adapters();
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

fn table(adapters: &[AdapterInfo]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "#",
        "adapter",
        "type",
        "backend",
        "driver",
        "memory",
        "free",
        "binding",
        "buffer",
        "workgroup",
        "features",
    ]);
    for info in adapters {
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
            known(info.memory.map(|memory| memory.total)),
            known(info.memory.and_then(|memory| memory.free)),
            bytes(limits.max_binding),
            bytes(limits.max_buffer),
            format!("{}, {}", limits.workgroup_invocations, bytes(limits.workgroup_storage.into())),
            features,
        ]);
    }
    table
}

fn known(count: Option<u64>) -> String {
    count.map_or_else(|| "?".to_owned(), bytes)
}
