//! Where a model goes: flags for adapters, budgets and streaming, and what they mean.
//!
//! Shared by all commands that compute. Reads values only; which adapters there are is found out later. Invariant:
//! flags that say two things about one adapter are refused, never ranked.

use clap::Args;
use clap::error::ErrorKind;
use wgpt::exec::{Activations, ExecError, MemoryLimit, TunedShapes};
use wgpt::gpu::AdapterChoice;
use wgpt::plan::{Offload, OffloadMode};

use super::tuned;
use super::usage::Wrong;

/// Which adapters compute, how much of their memory is used, and what is streamed to them.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PlacementArgs {
    /// Adapter: its index in `wgpt adapters`, a part of its name, or `host` for the CPU without any GPU driver
    /// [default: the best one]
    #[arg(long, value_name = "INDEX|NAME|host", env = "WGPT_ADAPTER")]
    pub(super) adapter: Option<String>,

    /// Several adapters: how many of the best, or a list of indices and names in the order that layers go through
    /// them, as 0,1; an index twice opens that adapter twice, a name twice is two adapters of that name
    #[arg(long, value_name = "COUNT|LIST", env = "WGPT_ADAPTERS", conflicts_with = "adapter", value_parser = adapters)]
    pub(super) adapters: Option<AdapterChoice>,

    /// Memory to use, on each adapter (20GiB) or by adapter (0=20GiB,1=8GiB; an adapter that is used twice may be
    /// named twice) [default: nine tenths of what is free, where the driver tells]
    #[arg(long, value_name = "BYTES|LIST", env = "WGPT_MEMORY", value_parser = memory)]
    pub(super) memory: Option<MemoryLimit>,

    /// Share of each adapter's free memory to use
    #[arg(long, value_name = "SHARE", env = "WGPT_MEMORY_FRACTION", conflicts_with = "memory", value_parser = fraction, allow_negative_numbers = true)]
    pub(super) memory_fraction: Option<f64>,

    /// Keep layers on the host and stream them to the adapters for each token: as many as do not fit, so many, or
    /// all [default without the flag: none]
    #[arg(long, value_name = "N|all", env = "WGPT_OFFLOAD", num_args = 0..=1, default_missing_value = "needed", value_parser = offload)]
    pub(super) offload: Option<Offload>,

    /// Use the default workgroup shapes, not those that `wgpt tune` found for the adapter
    #[arg(long, env = "WGPT_NO_TUNE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) no_tune: bool,

    /// What decode and prompts of up to 16 tokens multiply quantized weights by: activations as they are, or rounded to
    /// 8 bits, sixteen to a scale, for the sake of faster integer dot products [default: q8 on GPUs, f32 on the host and
    /// on software adapters]
    #[arg(long, value_name = "f32|q8", env = "WGPT_ACTIVATIONS", value_parser = activations)]
    pub(super) activations: Option<Activations>,

    /// Where streamed layers stay between tokens: pinned, packed in host memory that adapters read, or mapped, in the
    /// checkpoint's file or, where that needs packing, in the cache folder's, of which the host keeps no more than the
    /// system's file cache does [default: pinned where the host's free memory holds them]
    #[arg(long, value_name = "pinned|mapped", env = "WGPT_OFFLOAD_MODE", value_parser = offload_mode)]
    pub(super) offload_mode: Option<OffloadMode>,

    /// Tokens of a prompt that are computed at once [default: 512, up to 2048 where layers are streamed and more tokens
    /// hide that, down to 128 where memory is short; several adapters take them in pieces of 256 or more,
    /// each adapter at another one]
    #[arg(long, value_name = "N", env = "WGPT_PREFILL_CHUNK", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) prefill_chunk: Option<u32>,
}

impl PlacementArgs {
    /// The adapters asked for.
    pub(super) fn choice(&self) -> AdapterChoice {
        let single = self.adapter.as_deref().map(adapter);
        self.adapters.clone().or(single).unwrap_or_default()
    }

    /// The shapes that were found for the adapters.
    pub(super) fn tuned(&self) -> TunedShapes {
        if self.no_tune { TunedShapes::default() } else { tuned::load().clone() }
    }

    /// The memory to use.
    pub(super) fn memory(&self) -> MemoryLimit {
        let fraction = self.memory_fraction.map(MemoryLimit::Fraction);
        self.memory.clone().or(fraction).unwrap_or_default()
    }

    /// How much to stream.
    pub(super) fn offload(&self) -> Offload {
        self.offload.unwrap_or_default()
    }

    /// Refuses what one adapter, or the host, has no use for.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let why = match (self.choice(), &self.memory) {
            (AdapterChoice::Host, memory) => {
                let about_adapters = memory.is_some()
                    || self.memory_fraction.is_some()
                    || self.offload.is_some()
                    || self.offload_mode.is_some();
                about_adapters.then(|| ExecError::HostNeedsNoMemory.to_string())
            }
            (_, Some(MemoryLimit::By(entries))) if entries.len() > 1 => Some(format!(
                "--memory has {} entries, and --adapter {adapter} is one: leave the others out",
                entries.len()
            )),
            _ => None,
        };
        why.map_or(Ok(()), |why| Err((ErrorKind::ArgumentConflict, why)))
    }

    /// The same on this adapter alone, without what is said of others.
    pub(super) fn on(&self, one: &str) -> Self {
        let mut own = Self { adapter: Some(one.to_owned()), adapters: None, ..self.clone() };
        if own.choice() == AdapterChoice::Host {
            return Self { memory: None, memory_fraction: None, offload: None, offload_mode: None, ..own };
        }
        if let Some(MemoryLimit::By(entries)) = &mut own.memory {
            entries.retain(|(choice, _)| *choice == adapter(one));
            entries.truncate(1);
        }
        own.memory = own.memory.filter(|memory| *memory != MemoryLimit::By(vec![]));
        own
    }
}

fn activations(text: &str) -> Result<Activations, String> {
    match text.trim() {
        "f32" => Ok(Activations::F32),
        "q8" => Ok(Activations::Q8),
        _ => Err("expected f32 or q8".into()),
    }
}

/// An adapter by its index, a part of its name, or `host`.
pub(super) fn adapter(text: &str) -> AdapterChoice {
    match text.trim().parse() {
        Ok(index) => AdapterChoice::Index(index),
        Err(_) if text.trim().eq_ignore_ascii_case("host") => AdapterChoice::Host,
        Err(_) => AdapterChoice::Name(text.trim().to_owned()),
    }
}

/// The parts of a list: names of adapters have commas in parentheses.
fn entries(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth <= 0
    })
}

const NO_ADAPTERS: &str = "0 adapters compute nothing; the adapter of index 0 alone is --adapter 0";

fn adapters(text: &str) -> Result<AdapterChoice, String> {
    if let Ok(count) = text.trim().parse::<usize>() {
        return if count > 0 { Ok(AdapterChoice::Best(count)) } else { Err(NO_ADAPTERS.into()) };
    }
    let list: Vec<&str> = entries(text).map(str::trim).collect();
    if list.iter().any(|name| name.is_empty()) {
        return Err("expected a count, or indices and names separated by commas".into());
    }
    Ok(AdapterChoice::List(list.into_iter().map(adapter).collect()))
}

fn memory(text: &str) -> Result<MemoryLimit, String> {
    if !text.contains('=') {
        return Ok(MemoryLimit::Each(size(text)?));
    }
    let entry = |entry: &str| {
        let (name, bytes) =
            entry.rsplit_once('=').ok_or_else(|| format!("{entry:?}: expected ADAPTER=BYTES, as 0=20GiB"))?;
        if name.trim().is_empty() {
            return Err(format!("{entry:?}: expected an adapter before the ="));
        }
        Ok((adapter(name), size(bytes)?))
    };
    Ok(MemoryLimit::By(entries(text).map(entry).collect::<Result<_, String>>()?))
}

/// Units of memory: binary ones as drivers count, decimal ones as it is sold.
const UNITS: [(&str, u64); 12] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
];

fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let expected = || format!("{text:?}: expected bytes, as 20GiB, 500MB or 1000000");
    let ends = |(unit, _): &&(&str, u64)| text.to_ascii_lowercase().ends_with(&unit.to_ascii_lowercase());
    let (number, unit) = match UNITS.iter().find(ends) {
        Some((unit, bytes)) => (&text[..text.len() - unit.len()], *bytes),
        None => (text, 1),
    };
    let number: f64 = number.trim().parse().map_err(|_| expected())?;
    let bytes = number * unit as f64;
    if number.is_finite() && (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(expected()) }
}

fn fraction(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number above 0, at most 1")?;
    if value > 0.0 && value <= 1.0 { Ok(value) } else { Err("expected a number above 0, at most 1".into()) }
}

fn offload(text: &str) -> Result<Offload, String> {
    match text.trim() {
        "needed" => Ok(Offload::AsNeeded),
        "all" => Ok(Offload::All),
        count => count
            .parse()
            .map(Offload::Layers)
            .map_err(|_| "expected a number of layers, `all`, or nothing for as many as do not fit".into()),
    }
}

fn offload_mode(text: &str) -> Result<OffloadMode, String> {
    let modes = [OffloadMode::Pinned, OffloadMode::Mapped];
    let named = modes.into_iter().find(|mode| mode.to_string() == text.trim());
    named.ok_or_else(|| "expected pinned or mapped".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_chosen_by_index_name_or_host() {
        assert_eq!(adapter("1"), AdapterChoice::Index(1), "digits");
        assert_eq!(adapter("HOST"), AdapterChoice::Host, "any case");
        assert_eq!(adapter("llvmpipe"), AdapterChoice::Name("llvmpipe".into()), "anything else");
    }

    #[test]
    fn a_bare_number_is_a_count_and_anything_else_a_list() {
        assert_eq!(adapters("2"), Ok(AdapterChoice::Best(2)), "a count");
        let list = AdapterChoice::List(vec![AdapterChoice::Index(0), AdapterChoice::Name("RTX 4090".into())]);
        assert_eq!(adapters("0, RTX 4090"), Ok(list), "indices and names");
        assert_eq!(adapters("llvm"), Ok(AdapterChoice::List(vec![AdapterChoice::Name("llvm".into())])), "one name");
        let name = "llvmpipe (LLVM 15, 256 bits)";
        let list = vec![AdapterChoice::Name(name.into()), AdapterChoice::Index(0)];
        assert_eq!(adapters(&format!("{name},0")), Ok(AdapterChoice::List(list)), "a comma in a name");
        let by = vec![(AdapterChoice::Name(name.into()), 5)];
        assert_eq!(memory(&format!("{name}=5")), Ok(MemoryLimit::By(by)), "and before a budget");
        for wrong in ["0", "0,", ",", ""] {
            assert!(adapters(wrong).is_err(), "{wrong:?} is refused");
        }
    }

    #[test]
    fn memory_is_for_each_adapter_or_by_adapter() {
        assert_eq!(memory("20GiB"), Ok(MemoryLimit::Each(20 << 30)), "each");
        assert_eq!(memory("1.5g"), Ok(MemoryLimit::Each(3 << 29)), "short and small letters");
        assert_eq!(memory("500MB"), Ok(MemoryLimit::Each(500_000_000)), "decimal");
        assert_eq!(memory("4096"), Ok(MemoryLimit::Each(4096)), "bytes");
        assert_eq!(memory("1TiB"), Ok(MemoryLimit::Each(1 << 40)), "large ones");
        let by = vec![(AdapterChoice::Index(0), 20 << 30), (AdapterChoice::Name("arc".into()), 8 << 20)];
        assert_eq!(memory("0=20GiB,arc=8MiB"), Ok(MemoryLimit::By(by)), "by adapter");
        for wrong in ["", "GiB", "0=", "=1GiB", "0=1GiB,2GiB", "-1GiB", "0", "1e30", "nanGiB"] {
            assert!(memory(wrong).is_err(), "{wrong:?} is refused");
        }
    }

    #[test]
    fn offload_is_a_count_or_all_or_what_is_needed() {
        assert_eq!(offload("3"), Ok(Offload::Layers(3)), "a count");
        assert_eq!(offload("all"), Ok(Offload::All), "all");
        assert_eq!(offload("needed"), Ok(Offload::AsNeeded), "what the bare flag means");
        assert!(offload("-1").is_err() && offload("some").is_err(), "anything else");
    }

    #[test]
    fn offload_modes_are_called_as_they_are_shown() {
        assert_eq!(offload_mode("pinned"), Ok(OffloadMode::Pinned), "in host memory");
        assert_eq!(offload_mode("mapped"), Ok(OffloadMode::Mapped), "in the file");
        assert!(offload_mode("Pinned").is_err() && offload_mode("").is_err(), "anything else");
    }
}
