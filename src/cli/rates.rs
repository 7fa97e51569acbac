//! Measured speeds of adapters and of the host, kept in the user's cache folder: a plan measures what it has no figures
//! of, `wgpt adapters --probe` measures anew.
//!
//! Invariant: a file that can't be read is as good as none, and safe to delete; what can't be measured or kept costs a
//! plan its accuracy, never its life.

use std::path::PathBuf;

use anyhow::{Context, Result};
use wgpt::exec::{MeasuredRates, probe, probe_host};
use wgpt::gpu::{AdapterChoice, AdapterInfo, adapters, choose};

use super::embedded::cache_folder;
use super::output::{Notes, write_file};

fn file() -> Option<PathBuf> {
    cache_folder().map(|folder| folder.join("adapters.json"))
}

/// What was measured before.
pub(super) fn load() -> MeasuredRates {
    let text = file().and_then(|file| std::fs::read(file).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// What is known of the adapters that these choices name, measured now where it was not yet: a second each. `host`
/// asks for the host's too.
pub(super) fn measured(choice: &AdapterChoice, host: bool, notes: Notes) -> MeasuredRates {
    let mut rates = load();
    let before = rates.clone();
    let present = adapters();
    // A choice that names none is somebody else's to refuse.
    let chosen = choose(choice, &present).unwrap_or_default();
    for info in chosen {
        if rates.get(info).is_none() {
            notes.line(format_args!("measuring adapter {} ({})", info.index, info.name));
            measure(info, &mut rates);
        }
    }
    if host && !rates.has_host() {
        rates.insert_host(probe_host());
    }
    if rates != before
        && let Err(error) = save(&rates)
    {
        notes.line(format_args!("what was measured could not be kept: {error:#}"));
    }
    rates
}

/// Measures an adapter; one that fails is said and left out.
pub(super) fn measure(info: &AdapterInfo, rates: &mut MeasuredRates) {
    match probe(info.index) {
        Ok(measured) => rates.insert(info, measured),
        Err(error) => eprintln!("adapter {} ({}) was not measured: {error}", info.index, info.name),
    }
}

/// Keeps what was measured.
pub(super) fn save(rates: &MeasuredRates) -> Result<()> {
    let file = file().context("no cache folder: set XDG_CACHE_HOME")?;
    let folder = file.parent().expect("it is inside a folder");
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot make it", folder.display()))?;
    write_file(&file, &serde_json::to_vec_pretty(rates)?)
}
