//! How much memory there is for a plan: on each adapter, and on the host.
//!
//! Reads flags and what drivers and system say is free; places nothing. Invariant: memory of the host that adapters
//! compute in is not the host's to fill as well.

use super::place::PlacedAdapter;
use super::{ExecError, ExecOptions};
use crate::gpu::{AdapterChoice, AdapterInfo, choose, host_memory};
use crate::plan::{Bytes, Offload, OffloadMode, Plan};

/// What of the free memory a plan takes: the rest is for drivers, for other programs, and for gaps between buffers.
const OF_FREE: f64 = 0.9;

/// What of an adapter's memory a plan takes where no one knows how much is free.
const OF_TOTAL: f64 = 0.75;

/// What of the host's free memory streamed weights may fill: it also caches files, and adapters' drivers take of it.
const OF_HOST: f64 = 0.8;

/// How much memory a plan may take.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum MemoryLimit {
    /// Nine tenths of what is free.
    #[default]
    Default,
    /// This share of what is free, 0 to 1.
    Fraction(f64),
    /// So many bytes on each adapter.
    Each(u64),
    /// Bytes by adapter. The first entry that names one is for its first use and so on, and the last one for all that
    /// follow; adapters not named keep the default.
    By(Vec<(AdapterChoice, u64)>),
}

/// What an adapter may hold, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Of this model; `None` where no one knows a limit.
    pub(super) bytes: Option<u64>,
    /// What another model has of what the user gave both.
    pub(super) beside: u64,
    /// The most that a user could give it, where that is known.
    pub(super) most: Option<u64>,
}

/// What each chosen adapter may hold.
pub(super) fn budgets(
    chosen: &[&AdapterInfo],
    options: &ExecOptions,
    present: &[AdapterInfo],
) -> Result<Vec<Budget>, ExecError> {
    let fraction = if let MemoryLimit::Fraction(fraction) = options.memory { Some(fraction) } else { None };
    let taken = |info: &AdapterInfo| match options.taken {
        Some((adapter, bytes)) if present.get(adapter).is_some_and(|holder| shares_memory(info, holder)) => bytes,
        _ => 0,
    };
    let own = |info: &AdapterInfo| share(info, chosen, fraction, taken(info));
    // Of an adapter that is opened twice, the first use stands back.
    let beside = |position: usize, info: &AdapterInfo| {
        let again = chosen[..position].iter().any(|other| other.index == info.index);
        if again { 0 } else { taken(info) }
    };
    let given = match &options.memory {
        MemoryLimit::By(entries) => {
            let (given, left) = shared_out(entries, chosen);
            left.map_or(Ok(()), |choice| Err(left_over(choice, entries, chosen, present)?))?;
            given
        }
        MemoryLimit::Each(bytes) => vec![Some(*bytes); chosen.len()],
        MemoryLimit::Default | MemoryLimit::Fraction(_) => vec![None; chosen.len()],
    };
    let budget = |((position, info), given): ((usize, &&AdapterInfo), Option<u64>)| {
        let beside = beside(position, info);
        let bytes = given.map(|bytes| bytes.saturating_sub(beside)).or_else(|| own(info));
        Budget { bytes, beside, most: share(info, chosen, Some(1.0), taken(info)) }
    };
    Ok(chosen.iter().enumerate().zip(given).map(budget).collect())
}

/// What each use of an adapter is given, and a choice that no use is left for. Each entry goes to the first use that it
/// names and no other has, those by index before those by name; uses without one share the last that names them.
fn shared_out<'e>(
    entries: &'e [(AdapterChoice, u64)],
    chosen: &[&AdapterInfo],
) -> (Vec<Option<u64>>, Option<&'e AdapterChoice>) {
    let (mut given, mut left) = (vec![None; chosen.len()], None);
    let by_name = |(choice, _): &&(AdapterChoice, u64)| matches!(choice, AdapterChoice::Name(_));
    let (names, indices): (Vec<_>, Vec<_>) = entries.iter().partition(by_name);
    for (choice, bytes) in indices.into_iter().chain(names) {
        match (0..chosen.len()).find(|at| given[*at].is_none() && choice.names(chosen[*at])) {
            Some(at) => given[at] = Some(*bytes),
            None => left = left.or(Some(choice)),
        }
    }
    let last = |info: &AdapterInfo| entries.iter().rfind(|(choice, _)| choice.names(info)).map(|(_, bytes)| *bytes);
    (given.into_iter().zip(chosen).map(|(given, info)| given.or_else(|| last(info))).collect(), left)
}

/// What is wrong with an entry that no use is left for; an error where it names no adapter at all.
fn left_over(
    choice: &AdapterChoice,
    entries: &[(AdapterChoice, u64)],
    chosen: &[&AdapterInfo],
    present: &[AdapterInfo],
) -> Result<ExecError, ExecError> {
    let uses = chosen.iter().filter(|info| choice.names(info)).count();
    let info = match chosen.iter().find(|info| choice.names(info)) {
        Some(info) => *info,
        None => choose(choice, present)?[0],
    };
    let (adapter, name) = (info.index, info.name.clone());
    let entries = entries.iter().filter(|(other, _)| other.names(info)).count();
    Ok(match uses {
        0 => ExecError::UnusedBudget { adapter, name },
        _ => ExecError::SurplusBudget { adapter, name, entries, uses },
    })
}

impl MemoryLimit {
    /// What of a model's limit is for another model on this adapter, beside the first of these uses of it.
    pub fn beside(&self, adapter: &AdapterInfo, chosen: &[&AdapterInfo]) -> Self {
        let Self::By(entries) = self else { return self.clone() };
        let uses: Vec<&AdapterInfo> = chosen.iter().copied().chain([adapter]).collect();
        let at = uses.iter().position(|info| info.index == adapter.index).expect("it is the last at least");
        let given = shared_out(entries, &uses).0[at];
        given.map_or(Self::Default, |bytes| Self::By(vec![(AdapterChoice::Index(adapter.index), bytes)]))
    }
}

/// Whether what one adapter holds is missing to the other.
fn shares_memory(one: &AdapterInfo, other: &AdapterInfo) -> bool {
    let hardware = !one.pci_bus_id.is_empty() && other.pci_bus_id == one.pci_bus_id;
    let host = one.kind == "software" && other.kind == "software";
    other.index == one.index || hardware || host
}

/// What an adapter may hold by itself: its part of the memory that is free or taken by another model, shared among all
/// uses of the same memory, that other model's included.
fn share(info: &AdapterInfo, chosen: &[&AdapterInfo], fraction: Option<f64>, taken: u64) -> Option<u64> {
    let memory = info.memory?;
    let uses = chosen.iter().filter(|other| shares_memory(info, other)).count().max(1) as f64;
    let bytes = match memory.free {
        Some(free) => (free + taken) as f64 * fraction.unwrap_or(OF_FREE),
        None => memory.total as f64 * fraction.unwrap_or(OF_TOTAL),
    };
    Some(((bytes - taken as f64).max(0.0) / uses) as u64)
}

/// What a plan leaves to the host, and takes of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostRoom {
    /// Bytes that streamed weights, and what adapters exchange with the host, take.
    needed: u64,
    /// Bytes that are free, but for those that adapters without memory of their own compute in.
    free: u64,
}

impl HostRoom {
    /// The host's room beside what a plan puts on these adapters; `None` where no one knows what is free.
    pub(super) fn of(adapters: &[PlacedAdapter]) -> Option<Self> {
        Some(Self::beside(adapters, host_memory()?.free?))
    }

    fn beside(adapters: &[PlacedAdapter], free: u64) -> Self {
        let shared = adapters.iter().filter(|adapter| !adapter.info.has_own_memory());
        let taken: u64 = shared.map(|adapter| adapter.bytes.taken(adapter.apart)).sum();
        let exchanged = |adapter: &PlacedAdapter| if adapter.apart { adapter.bytes.of_host() } else { 0 };
        let needed = adapters.iter().map(|adapter| adapter.host_bytes + exchanged(adapter)).sum();
        Self { needed, free: free.saturating_sub(taken) }
    }

    /// Whether it holds the plan with room for others.
    pub(super) fn suffices(self) -> bool {
        self.needed as f64 <= self.free as f64 * OF_HOST
    }

    /// A warning where it does not hold the plan.
    pub(super) fn shortage(self, plan: &Plan) -> Option<String> {
        let (needed, free) = (Bytes(self.needed), Bytes(self.free));
        let pinned = plan.streams() && plan.offload_mode == OffloadMode::Pinned;
        let advice = if pinned { ", or use --offload-mode mapped" } else { "" };
        let leaves = "of which the adapters leave";
        (needed > free)
            .then(|| format!("the plan keeps {needed} in host memory, {leaves} {free} free: expect paging{advice}"))
    }
}

impl ExecOptions {
    /// Whether they ask for anything that only adapters can do.
    pub(super) fn needs_adapter(&self) -> bool {
        self.offload != Offload::Never || self.memory != MemoryLimit::Default
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::rates::assumed;
    use crate::plan::{AdapterBytes, Placement, Residency};

    fn adapter(kind: &str, bytes: AdapterBytes, host_bytes: u64) -> PlacedAdapter {
        let info = AdapterInfo { backend: "vulkan".into(), kind: kind.to_owned(), ..AdapterInfo::default() };
        PlacedAdapter {
            budget: None,
            beside: 0,
            rates: assumed(&info),
            measured: false,
            bytes,
            streamed_bytes: host_bytes,
            apart: info.has_own_memory(),
            host_bytes,
            candidate: 0,
            info,
        }
    }

    #[test]
    fn memory_that_adapters_share_with_the_host_is_spent_once() {
        let bytes = AdapterBytes { weights: 700, staging: 40, readback: 10, ..AdapterBytes::default() };
        let room = |adapters: &[PlacedAdapter]| HostRoom::beside(adapters, 1000);
        for kind in ["software", "integrated"] {
            let found = room(&[adapter(kind, bytes, 300)]);
            assert_eq!(found, HostRoom { needed: 300, free: 250 }, "{kind}: weights, staging and readback are there");
            assert!(!found.suffices(), "{kind}: 300 of 250");
            assert!(room(&[adapter(kind, bytes, 200)]).suffices(), "{kind}: 200 of 250, a fifth to spare");
            assert!(!room(&[adapter(kind, bytes, 201)]).suffices(), "{kind}: and no more");
            let two = room(&[adapter(kind, bytes, 300), adapter(kind, bytes, 0)]);
            assert_eq!(two, HostRoom { needed: 300, free: 0 }, "{kind}: two uses of it");
        }
        let apart = room(&[adapter("discrete", bytes, 300)]);
        assert_eq!(apart, HostRoom { needed: 350, free: 1000 }, "its own memory, but staging and readback");
    }

    #[test]
    fn a_shortage_advises_what_there_is_to_change() {
        let plan = |placements, offload_mode| Plan { placements, offload_mode, ..Plan::single(1) };
        let streamed = Placement { adapter: 0, residency: Residency::Streamed };
        let short = HostRoom { needed: 300, free: 299 };
        let pinned = short.shortage(&plan(vec![streamed], OffloadMode::Pinned)).expect("a byte short");
        assert!(pinned.contains("--offload-mode mapped"), "{pinned}");
        let mapped = short.shortage(&plan(vec![streamed], OffloadMode::Mapped)).expect("a byte short");
        assert!(!mapped.contains("mapped"), "{mapped}");
        assert_eq!(HostRoom { needed: 300, free: 300 }.shortage(&Plan::single(1)), None, "just enough");
    }

    #[test]
    fn entries_are_for_uses_in_their_order() {
        let info = |index, name: &str| AdapterInfo { index, name: name.into(), ..AdapterInfo::default() };
        let (first, second, small) = (info(0, "Big"), info(1, "Big"), info(2, "Small"));
        let name = |name: &str, bytes| (AdapterChoice::Name(name.into()), bytes);
        let index = |index, bytes| (AdapterChoice::Index(index), bytes);
        let given = |entries: &[(AdapterChoice, u64)], chosen: &[&AdapterInfo]| {
            let (given, left) = shared_out(entries, chosen);
            (given, left.cloned())
        };
        let bigs = [name("big", 1), name("big", 2)];
        assert_eq!(given(&bigs, &[&first, &second]), (vec![Some(1), Some(2)], None), "two of one name");
        assert_eq!(given(&bigs, &[&first, &first]), (vec![Some(1), Some(2)], None), "one, used twice");
        assert_eq!(given(&bigs[..1], &[&second, &small]), (vec![Some(1), None], None), "whichever is used");
        assert_eq!(given(&bigs[..1], &[&first, &second]), (vec![Some(1), Some(1)], None), "the last is for the rest");
        let both = [name("big", 1), index(0, 2)];
        assert_eq!(given(&both, &[&first, &second]), (vec![Some(2), Some(1)], None), "indices first");
        assert_eq!(given(&both, &[&first]).1, Some(bigs[0].0.clone()), "none is left for the name");
        assert_eq!(given(&both, &[&small]), (vec![None], Some(both[1].0.clone())), "nor for what is not used");
        let limit = MemoryLimit::By(bigs.to_vec());
        let of_second = MemoryLimit::By(vec![index(1, 2)]);
        assert_eq!(limit.beside(&second, &[&first, &second]), of_second, "a draft there has the same budget");
        assert_eq!(limit.beside(&small, &[&first, &second]), MemoryLimit::Default, "elsewhere none is said");
    }
}
