//! From a graph and a user's wishes to a plan on adapters that are there: before anything is opened or loaded.
//!
//! Budgets come from `room`, rates from `rates`; `plan` does the placing. Invariant: adapters of a [`Placed`] are those
//! its plan uses, in the plan's order.

use super::rates::assumed;
use super::room::{HostRoom, budgets};
use super::{ExecError, ExecOptions, GpuOptions};
use crate::gpu::{AdapterInfo, DeviceProfile, choose, profiles};
use crate::graph::{Graph, assign_buffers};
use crate::plan::{
    AdapterBudget, AdapterBytes, AdapterLimits, Bound, Estimate, HostCost, OffloadMode, Plan, PlanRequest, Rates,
    Residency, UnitCost, largest_forward, plan, unit_costs,
};
use crate::tensor::Extents;

/// Units a ring holds: one is filled while the other is read.
const RING_SLOTS: usize = 2;

/// The longest prefill chunk that is chosen where longer ones hide the bus.
const LONGEST_CHUNK: u32 = 2048;
/// Tokens of a chunk where memory is short: fewer would save little more, and read weights too often.
const SHORTEST_CHUNK: u32 = 128;

/// One adapter of a plan.
#[derive(Debug, Clone)]
pub struct PlacedAdapter {
    /// Which.
    pub info: AdapterInfo,
    /// Bytes it may hold; `None` where no one knows a limit.
    pub budget: Option<u64>,
    /// What it does a second.
    pub rates: Rates,
    /// Whether that was measured; else it is assumed.
    pub measured: bool,
    /// Bytes the plan puts on it.
    pub bytes: AdapterBytes,
    /// Bytes of its streamed weights.
    pub streamed_bytes: u64,
    /// What the host fills and reads of `bytes` is in the host's memory.
    pub apart: bool,
    /// What of them the host keeps, packed: all or nothing.
    pub host_bytes: u64,
    /// Which of the adapters asked for it is.
    pub candidate: usize,
}

/// A plan for adapters that are there.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Where every unit goes.
    pub plan: Plan,
    /// The adapters it uses, in its order.
    pub adapters: Vec<PlacedAdapter>,
    /// The largest forward.
    pub extents: Extents,
    /// Several adapters take a prefill chunk in pieces, none below so many tokens.
    pub least_piece: u32,
    /// What the streamed layers would cost on the host.
    pub host: Option<HostCost>,
    /// What to expect of decode.
    pub decode: Estimate,
    /// What to expect of a whole prefill chunk.
    pub prefill: Estimate,
    /// Things a user should be told once.
    pub notices: Vec<String>,
}

/// An adapter that may be used, with what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) info: AdapterInfo,
    pub(super) profile: DeviceProfile,
    pub(super) budget: Option<u64>,
    pub(super) rates: Rates,
    pub(super) measured: bool,
}

/// The adapters of the options with their budgets, as the user named them.
///
/// # Errors
/// No such adapter, or a budget for one that is not used.
pub(super) fn candidates(options: &ExecOptions, present: &[AdapterInfo]) -> Result<Vec<Candidate>, ExecError> {
    let chosen = choose(&options.adapter, present)?;
    let budgets = budgets(&chosen, options, present)?;
    let indices: Vec<usize> = chosen.iter().map(|info| info.index).collect();
    let profiles = profiles(&indices, options.device)?;
    let described = chosen.into_iter().zip(profiles).zip(budgets);
    let candidate = |((info, profile), budget): ((&AdapterInfo, DeviceProfile), Option<u64>)| {
        let measured = options.rates.get(info);
        let (rates, measured) = (measured.unwrap_or_else(|| assumed(info)), measured.is_some());
        Candidate { info: info.clone(), profile, budget, rates, measured }
    };
    Ok(described.map(candidate).collect())
}

impl Candidate {
    const fn limits(&self) -> AdapterLimits<'_> {
        AdapterLimits { max_binding: self.profile.max_binding, traits: &self.profile.traits }
    }
}

/// Plans a graph on candidates. Streamed weights stay in host memory where that holds them.
///
/// # Errors
/// Budgets that don't hold it.
pub(super) fn place(graph: &Graph, candidates: &[Candidate], options: &ExecOptions) -> Result<Placed, ExecError> {
    let mode = options.offload_mode.unwrap_or_default();
    let placed = place_for_bus(graph, candidates, options, mode)?;
    if options.offload_mode.is_some() || HostRoom::of(&placed.adapters).is_none_or(HostRoom::suffices) {
        return Ok(placed);
    }
    // What is packed on its way needs more room on adapters, which may not be there.
    Ok(place_for_bus(graph, candidates, options, OffloadMode::Mapped).unwrap_or(placed))
}

/// Chooses how tokens read pinned weights, and how many tokens a chunk has: fewer than usual where only so all is
/// resident; of a streamed plan so many that computing takes longer than the bus, if that costs no memory that layers
/// would have been in.
fn place_for_bus(
    graph: &Graph,
    candidates: &[Candidate],
    options: &ExecOptions,
    mode: OffloadMode,
) -> Result<Placed, ExecError> {
    let with = |chunk, in_place| place_as(graph, candidates, options, Streaming { chunk, mode, in_place });
    let chunk = options.prefill_chunk.unwrap_or(GpuOptions::default().prefill_chunk);
    let mut best = with(chunk, true);
    let streams = |best: &Result<Placed, _>| best.as_ref().map_or(true, |placed| placed.plan.streams());
    if options.prefill_chunk.is_none() && options.offload.keeps_what_fits() && streams(&best) {
        let shorter = std::iter::successors(Some(chunk / 2), |chunk| Some(chunk / 2));
        let mut shorter = shorter.take_while(|chunk| *chunk >= SHORTEST_CHUNK).map(|chunk| with(chunk, true));
        best = shorter.find(|shorter| !streams(shorter)).unwrap_or(best);
    }
    let mut best = best?;
    if !best.plan.streams() {
        return Ok(best);
    }
    // Reading in place keeps an adapter's bus idle while it, or another one, computes other units.
    let copied = with(chunk, false)?;
    let speed = |placed: &Placed| placed.decode.tokens_per_second;
    if mode == OffloadMode::Mapped || speed(&copied) > speed(&best) {
        best = copied;
    }
    while options.prefill_chunk.is_none() && best.prefill.bound == Bound::Bus && best.extents.tokens < LONGEST_CHUNK {
        let streamed = |placed: &Placed| placed.adapters.iter().map(|adapter| adapter.streamed_bytes).sum::<u64>();
        match with(best.extents.tokens * 2, best.plan.in_place) {
            Ok(longer) if longer.extents.tokens > best.extents.tokens && streamed(&longer) <= streamed(&best) => {
                best = longer;
            }
            _ => break,
        }
    }
    Ok(best)
}

/// What is decided for streamed weights before they are placed.
#[derive(Debug, Clone, Copy)]
struct Streaming {
    /// Tokens of a prefill chunk.
    chunk: u32,
    mode: OffloadMode,
    in_place: bool,
}

fn place_as(
    graph: &Graph,
    candidates: &[Candidate],
    options: &ExecOptions,
    Streaming { chunk, mode, in_place }: Streaming,
) -> Result<Placed, ExecError> {
    let buffers = assign_buffers(graph);
    let extents = largest_forward(graph, chunk, candidates.iter().map(Candidate::limits));
    let cost = |one: &Candidate| unit_costs(graph, &buffers, extents, one.limits());
    let mut costs: Vec<Vec<UnitCost>> = candidates.iter().map(cost).collect();
    let budget = |one: &Candidate| AdapterBudget {
        number: one.info.index,
        bytes: one.budget.unwrap_or(u64::MAX),
        reads_host: one.profile.reads_host,
        apart: one.info.has_own_memory() && one.profile.reads_host,
        rates: one.rates,
    };
    let budgets: Vec<AdapterBudget> = candidates.iter().map(budget).collect();
    let in_place = in_place && budgets.iter().any(|budget| budget.reads_host);
    let request = PlanRequest { offload: options.offload, ring_slots: RING_SLOTS, offload_mode: mode, in_place };
    let mut plan = plan(&costs, &budgets, &request)?;
    let used = compact(&mut plan, candidates.len());
    let mut notices = left_out(candidates, &used);
    costs = used.iter().map(|adapter| costs[*adapter].clone()).collect();
    let adapters: Vec<PlacedAdapter> = used
        .iter()
        .enumerate()
        .map(|(index, adapter)| PlacedAdapter {
            info: candidates[*adapter].info.clone(),
            budget: candidates[*adapter].budget,
            rates: candidates[*adapter].rates,
            measured: candidates[*adapter].measured,
            bytes: plan.adapter_bytes(&costs[index], index),
            apart: budgets[*adapter].apart,
            streamed_bytes: plan.weight_bytes(&costs[index], index, Residency::Streamed),
            host_bytes: plan.host_bytes(&costs[index], index),
            candidate: *adapter,
        })
        .collect();
    notices.extend(HostRoom::of(&adapters).and_then(|room| room.shortage(&plan)));
    let budgets: Vec<AdapterBudget> = used.iter().map(|adapter| budgets[*adapter]).collect();
    plan.in_place &= budgets.iter().any(|budget| budget.reads_host);
    // Who says how long a chunk is gets it whole.
    let least_piece = options.prefill_chunk.unwrap_or(GpuOptions::default().least_piece);
    let decode = plan.estimate(&costs, &budgets, &[1]);
    let prefill = plan.estimate(&costs, &budgets, &plan.pieces(extents.tokens, least_piece));
    let host = plan.host_cost(&costs, &budgets, options.rates.host());
    Ok(Placed { plan, adapters, extents, least_piece, host, decode, prefill, notices })
}

/// Numbers the adapters of a plan without gaps; the result says which ones they are.
fn compact(plan: &mut Plan, adapters: usize) -> Vec<usize> {
    let uses = |adapter: &usize| plan.placements.iter().any(|placement| placement.adapter == *adapter);
    let used: Vec<usize> = (0..adapters).filter(uses).collect();
    for placement in &mut plan.placements {
        placement.adapter = used.iter().position(|adapter| *adapter == placement.adapter).expect("it is in use");
    }
    used
}

fn left_out(candidates: &[Candidate], used: &[usize]) -> Vec<String> {
    let unused = candidates.iter().enumerate().filter(|(index, _)| !used.contains(index));
    let notice = |(_, one): (usize, &Candidate)| {
        format!("adapter {} ({}) gets no layers: the others are faster without it", one.info.index, one.info.name)
    };
    unused.map(notice).collect()
}
