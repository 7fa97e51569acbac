//! From a graph and a user's wishes to a plan on adapters that are there: before anything is opened or loaded.
//!
//! Budgets come from `room`, rates from `rates`; `plan` does the placing. Invariant: adapters of a [`Placed`] are those
//! its plan uses, in the plan's order.

use super::rates::assumed;
use super::room::{Budget, HostRoom, budgets};
use super::{ExecError, ExecOptions, GpuOptions};
use crate::gpu::{AdapterInfo, DeviceProfile, choose, profiles};
use crate::graph::{Buffers, Graph, assign_buffers};
use crate::plan::{
    AdapterBudget, AdapterBytes, AdapterLimits, Bound, Bytes, Estimate, HostCost, Offload, OffloadMode, Plan,
    PlanError, PlanRequest, Rates, Residency, Sought, UnitCost, largest_forward, unit_costs,
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
    /// What another model has of what the user gave it.
    pub beside: u64,
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
    pub(super) budget: Budget,
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
    let candidate = |((info, profile), budget): ((&AdapterInfo, DeviceProfile), Budget)| {
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

    fn budget(&self) -> AdapterBudget {
        AdapterBudget {
            number: self.info.index,
            bytes: self.budget.bytes.unwrap_or(u64::MAX),
            beside: self.budget.beside,
            most: self.budget.most,
            max_binding: self.profile.max_binding,
            reads_host: self.profile.reads_host,
            apart: self.info.has_own_memory() && self.profile.reads_host,
            rates: self.rates,
        }
    }
}

/// Plans a graph on candidates. Streamed weights stay in host memory where that holds them.
pub(super) fn place(graph: &Graph, candidates: &[Candidate], options: &ExecOptions) -> Result<Placed, Unplaced> {
    let budgets = candidates.iter().map(Candidate::budget).collect();
    let placer = Placer { graph, buffers: assign_buffers(graph), candidates, options, budgets };
    let placed = placer.place_for_bus(options.offload_mode.unwrap_or_default())?;
    if options.offload_mode.is_some() || HostRoom::of(&placed.adapters).is_none_or(HostRoom::suffices) {
        return Ok(placed);
    }
    // What is packed on its way needs more room on adapters, which may not be there.
    Ok(placer.place_for_bus(OffloadMode::Mapped).unwrap_or(placed))
}

/// What there is no plan for.
pub(super) struct Unplaced {
    /// By prefill chunk, the longest first.
    costed: Vec<Costed>,
    budgets: Vec<AdapterBudget>,
    request: PlanRequest,
}

impl Unplaced {
    /// Why there is none.
    pub(super) fn refusal(&self) -> PlanError {
        let costs: Vec<&[Vec<UnitCost>]> = self.costed.iter().map(|costed| &*costed.costs).collect();
        Sought { costs: &costs, budgets: &self.budgets, request: self.request }.refusal()
    }

    /// Tokens of the shortest chunk that was tried.
    pub(super) fn chunk(&self) -> u32 {
        self.costed.iter().map(|costed| costed.extents.tokens).min().unwrap_or(1)
    }
}

/// What units cost by adapter where this is the largest forward.
struct Costed {
    extents: Extents,
    costs: Vec<Vec<UnitCost>>,
}

/// What a graph is placed by.
struct Placer<'a> {
    graph: &'a Graph,
    buffers: Buffers,
    candidates: &'a [Candidate],
    options: &'a ExecOptions,
    budgets: Vec<AdapterBudget>,
}

impl Placer<'_> {
    /// Chooses how tokens read pinned weights, and how many tokens a chunk has: fewer than usual where only so all is
    /// resident, or fits at all; of a streamed plan so many that computing takes longer than the bus, if that costs no
    /// memory that layers would have been in.
    fn place_for_bus(&self, mode: OffloadMode) -> Result<Placed, Unplaced> {
        let chunk = self.options.prefill_chunk.unwrap_or(GpuOptions::default().prefill_chunk);
        let mut costed = vec![self.costed(chunk)];
        let mut found = self.seek(&costed, mode, true);
        let may_be_shorter = self.options.prefill_chunk.is_none();
        if may_be_shorter && found.as_ref().is_none_or(|(plan, _)| plan.streams()) {
            let shorter = std::iter::successors(Some(chunk / 2), |chunk| Some(chunk / 2));
            costed.extend(shorter.take_while(|chunk| *chunk >= SHORTEST_CHUNK).map(|chunk| self.costed(chunk)));
            found = self.seek(&costed, mode, true);
        }
        let Some((plan, chosen)) = found else {
            let (budgets, request) = (self.budgets.clone(), self.request(mode, true));
            return Err(Unplaced { costed, budgets, request });
        };
        let mut best = self.placed(plan, &costed[chosen]);
        if !best.plan.streams() {
            return Ok(best);
        }
        // Reading in place keeps an adapter's bus idle while it, or another one, computes other units.
        let speed = |placed: &Placed| placed.decode.tokens_per_second;
        if let Some(copied) = self.with(costed.swap_remove(chosen), mode, false)
            && (mode == OffloadMode::Mapped || speed(&copied) > speed(&best))
        {
            best = copied;
        }
        while may_be_shorter && best.prefill.bound == Bound::Bus && best.extents.tokens < LONGEST_CHUNK {
            let streamed = |placed: &Placed| placed.adapters.iter().map(|adapter| adapter.streamed_bytes).sum::<u64>();
            match self.with(self.costed(best.extents.tokens * 2), mode, best.plan.in_place) {
                Some(longer) if longer.extents.tokens > best.extents.tokens && streamed(&longer) <= streamed(&best) => {
                    best = longer;
                }
                _ => break,
            }
        }
        Ok(best)
    }

    fn costed(&self, chunk: u32) -> Costed {
        let extents = largest_forward(self.graph, chunk, self.candidates.iter().map(Candidate::limits));
        let cost = |one: &Candidate| unit_costs(self.graph, &self.buffers, extents, one.limits());
        Costed { extents, costs: self.candidates.iter().map(cost).collect() }
    }

    fn request(&self, offload_mode: OffloadMode, in_place: bool) -> PlanRequest {
        let in_place = in_place && self.budgets.iter().any(|budget| budget.reads_host);
        let ExecOptions { offload, draft, .. } = *self.options;
        PlanRequest { offload, ring_slots: RING_SLOTS, offload_mode, in_place, resident: draft }
    }

    /// A plan, and which of the chunks it is for.
    fn seek(&self, costed: &[Costed], mode: OffloadMode, in_place: bool) -> Option<(Plan, usize)> {
        let costs: Vec<&[Vec<UnitCost>]> = costed.iter().map(|costed| &*costed.costs).collect();
        Sought { costs: &costs, budgets: &self.budgets, request: self.request(mode, in_place) }.plan()
    }

    fn with(&self, costed: Costed, mode: OffloadMode, in_place: bool) -> Option<Placed> {
        let costed = [costed];
        self.seek(&costed, mode, in_place).map(|(plan, _)| self.placed(plan, &costed[0]))
    }

    /// What there is to say of a plan.
    fn placed(&self, mut plan: Plan, Costed { extents, costs }: &Costed) -> Placed {
        let used = compact(&mut plan, self.candidates.len());
        let mut notices = left_out(self.candidates, &used, costs);
        let costs: Vec<Vec<UnitCost>> = used.iter().map(|adapter| costs[*adapter].clone()).collect();
        let budgets: Vec<AdapterBudget> = used.iter().map(|adapter| self.budgets[*adapter]).collect();
        plan.in_place &= budgets.iter().any(|budget| budget.reads_host);
        let part = |(index, candidate): (usize, &usize)| {
            let Candidate { info, budget, rates, measured, .. } = &self.candidates[*candidate];
            PlacedAdapter {
                info: info.clone(),
                budget: budget.bytes,
                beside: budget.beside,
                rates: *rates,
                measured: *measured,
                bytes: plan.adapter_bytes(&costs[index], index),
                apart: budgets[index].apart,
                streamed_bytes: plan.weight_bytes(&costs[index], index, Residency::Streamed),
                host_bytes: plan.host_bytes(&costs[index], index),
                candidate: *candidate,
            }
        };
        let adapters: Vec<PlacedAdapter> = used.iter().enumerate().map(part).collect();
        notices.extend(adapters.iter().filter_map(PlacedAdapter::excess));
        if self.options.offload_mode.is_some() && self.options.offload == Offload::Never {
            notices.push("--offload-mode without --offload: nothing is streamed".to_owned());
        }
        notices.extend(HostRoom::of(&adapters).and_then(|room| room.shortage(&plan)));
        // Who says how long a chunk is gets it whole.
        let least_piece = self.options.prefill_chunk.unwrap_or(GpuOptions::default().least_piece);
        let decode = plan.estimate(&costs, &budgets, &[1]);
        let prefill = plan.estimate(&costs, &budgets, &plan.pieces(extents.tokens, least_piece));
        let host = plan.host_cost(&costs, &budgets, self.options.rates.host());
        Placed { plan, adapters, extents: *extents, least_piece, host, decode, prefill, notices }
    }
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

impl PlacedAdapter {
    /// A warning where it was given more than it has.
    fn excess(&self) -> Option<String> {
        let AdapterInfo { index, name, memory, .. } = &self.info;
        let (memory, budget) = ((*memory)?, self.budget? + self.beside);
        let free = memory.free.map_or_else(String::new, |free| format!(", of which {} are free", Bytes(free)));
        let (given, total) = (Bytes(budget), Bytes(memory.total));
        (budget > memory.total).then(|| format!("adapter {index} ({name}) has {total}{free}, and was given {given}"))
    }
}

fn left_out(candidates: &[Candidate], used: &[usize], costs: &[Vec<UnitCost>]) -> Vec<String> {
    let unused = candidates.iter().enumerate().filter(|(index, _)| !used.contains(index));
    let notice = |(index, one): (usize, &Candidate)| {
        let AdapterInfo { index: number, name, .. } = &one.info;
        let layers = &costs[index][1..costs[index].len() - 1];
        let least = layers.iter().map(UnitCost::weight_bytes).min().unwrap_or(0);
        let why = match one.budget.bytes.filter(|bytes| *bytes < least) {
            Some(bytes) => format!("its {} hold none", Bytes(bytes)),
            None => "it has no room for one, or the others are faster without it".to_owned(),
        };
        format!("adapter {number} ({name}) gets no layers: {why}")
    };
    unused.map(notice).collect()
}
