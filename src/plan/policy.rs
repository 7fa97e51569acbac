//! From costs, budgets and a request to a plan.
//!
//! Adapters take runs of neighbouring units in the order they are given in. Of all ways to cut the line of units, the
//! one whose slowest adapter is fastest is taken: then a chunk of a prompt can follow the one before it without
//! waiting, and layers lie where they are read soonest. An adapter that would only slow the others down gets none.
//! Adapters that stream may then take turns (see `turns`), and prefill chunks may be shorter where memory is short (see
//! `sought`).

use super::cost::buffer_bytes;
use super::estimate::{Coming, Rates, Seconds};
use super::memory::Tally;
use super::{AdapterBytes, OffloadMode, Placement, Plan, Residency, UnitCost};

/// What an adapter may be given, and what it can do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterBudget {
    /// What a user calls the adapter in `--memory`.
    pub number: usize,
    /// Bytes it may hold in all.
    pub bytes: u64,
    /// Bytes that another model holds of what the user gave it: a budget that is named has to hold both.
    pub beside: u64,
    /// The most that it could be given, where that is known.
    pub most: Option<u64>,
    /// The most that it binds of one buffer, bytes.
    pub max_binding: u64,
    /// Whether its kernels read memory of the host.
    pub reads_host: bool,
    /// Whether what the host fills and reads is in the host's memory instead: see [`AdapterBytes::taken`].
    pub apart: bool,
    /// What it does a second.
    pub rates: Rates,
}

/// How much to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offload {
    /// Nothing: what does not fit is an error.
    #[default]
    Never,
    /// As many layers as must be, head and embedding last.
    AsNeeded,
    /// So many layers, spread evenly.
    Layers(usize),
    /// Every layer; head and embedding only where they must be.
    All,
}

impl Offload {
    /// Whether what fits stays on the adapter.
    pub const fn keeps_what_fits(self) -> bool {
        matches!(self, Self::Never | Self::AsNeeded)
    }
}

/// What is wanted of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanRequest {
    /// How much to stream.
    pub offload: Offload,
    /// Units a ring holds.
    pub ring_slots: usize,
    /// Where streamed weights are between forwards.
    pub offload_mode: OffloadMode,
    /// Whether single tokens read pinned weights where they are.
    pub in_place: bool,
    /// Nothing can be streamed, so that no advice says so.
    pub resident: bool,
}

/// Units and budgets that a plan is sought for.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    /// By adapter, by unit.
    pub(super) costs: &'a [Vec<UnitCost>],
    pub(super) budgets: &'a [AdapterBudget],
    pub(super) request: PlanRequest,
    /// Whether the embedding's rows are read from memory of the host.
    pub(super) embedding_in_place: bool,
}

/// The best way found to place the first units on the first adapters.
#[derive(Clone, Copy)]
struct Best {
    /// Seconds of the slowest adapter, then of all together.
    time: (f64, f64),
    /// First unit of the last adapter.
    start: usize,
    /// How far down [`Search::streamed`] it streams.
    level: usize,
}

impl Search<'_> {
    fn units(&self) -> usize {
        self.costs[0].len()
    }

    /// Units between the embedding and the head.
    pub(super) fn layers(&self) -> usize {
        self.units().saturating_sub(2)
    }

    /// The best plan of the first kind that fits. A row a token costs next to nothing where it is, so the embedding is
    /// the first that leaves the adapter, but only for what would not fit beside it.
    pub(super) fn first_fit(&self) -> Option<Plan> {
        let all_resident = match self.request.offload {
            Offload::AsNeeded => Offload::Never,
            other => other,
        };
        let wanted = self.request.offload;
        let kinds = [(all_resident, false), (all_resident, true), (wanted, true), (wanted, false)];
        let below = self.embedding_may_be_below();
        kinds.into_iter().find_map(|(offload, in_place)| {
            let request = PlanRequest { offload, ..self.request };
            Self { request, embedding_in_place: in_place && below, ..*self }.best()
        })
    }

    /// Whether the embedding's rows can be read in place, and no tied head needs its weights on the adapter.
    fn embedding_may_be_below(&self) -> bool {
        let [embedding, others @ ..] = &*self.costs[0] else { return false };
        let tied = |id| others.iter().any(|unit| unit.weights.iter().any(|(other, _)| other == id));
        self.budgets.iter().all(|budget| budget.reads_host) && !embedding.weights.iter().any(|(id, _)| tied(id))
    }

    fn residency(&self, unit: usize, streamed: &[usize]) -> Residency {
        match unit {
            0 if self.embedding_in_place => Residency::InPlace,
            unit if streamed.contains(&unit) => Residency::Streamed,
            _ => Residency::Resident,
        }
    }

    fn best(&self) -> Option<Plan> {
        let units = self.units();
        let mut table: Vec<Vec<Option<Best>>> = Vec::with_capacity(self.budgets.len());
        for adapter in 0..self.budgets.len() {
            let reached = |start: usize| match adapter {
                0 => (start == 0).then_some((0.0, 0.0)),
                _ => table[adapter - 1][start].map(|best| best.time),
            };
            let mut row: Vec<Option<Best>> = vec![None; units + 1];
            for start in 0..=units {
                let Some(before) = reached(start) else { continue };
                for (end, level, seconds) in self.runs(adapter, start) {
                    let time = (seconds.max(before.0), before.1 + seconds);
                    if row[end].is_none_or(|best| time < best.time) {
                        row[end] = Some(Best { time, start, level });
                    }
                }
            }
            table.push(row);
        }
        self.read_back(&table)
    }

    fn read_back(&self, table: &[Vec<Option<Best>>]) -> Option<Plan> {
        let mut placements = Vec::with_capacity(self.units());
        let mut end = self.units();
        for adapter in (0..table.len()).rev() {
            let best = table[adapter][end]?;
            let streamed = self.streamed(best.start, end, best.level);
            let place = |unit: usize| Placement { adapter, residency: self.residency(unit, &streamed) };
            placements.extend((best.start..end).rev().map(place));
            end = best.start;
        }
        placements.reverse();
        let PlanRequest { ring_slots, offload_mode, in_place, .. } = self.request;
        Some(Plan { placements, ring_slots, offload_mode, in_place })
    }

    /// The runs of units from `start` that this adapter can hold: where each ends, how much of it is streamed, and
    /// the seconds it takes a token. The empty run is one of them.
    fn runs(&self, adapter: usize, start: usize) -> Vec<(usize, usize, f64)> {
        let mut runs = vec![(start, 0, 0.0)];
        let mut run = |end| {
            let level = self.level(adapter, start, end);
            runs.extend(level.map(|level| (end, level, self.seconds(adapter, start, end, level))));
            level.is_some()
        };
        // As far as it goes; then the run to the end, which hands on to nobody: it may fit where a shorter one does not.
        let _ = (start + 1..self.units()).all(&mut run);
        if start < self.units() {
            run(self.units());
        }
        runs
    }

    /// The least streaming that fits the run on the adapter, of what the request allows.
    fn level(&self, adapter: usize, start: usize, end: usize) -> Option<usize> {
        let AdapterBudget { bytes: budget, apart, .. } = self.budgets[adapter];
        if !(start..end).all(|unit| self.binds(adapter, unit)) {
            return None;
        }
        let fits = |level: usize| self.bytes(adapter, start, end, level).taken(apart) <= budget;
        let (_, layers) = self.layers_in(start, end);
        let most = layers + self.ends(start, end).len();
        match self.request.offload {
            Offload::Never | Offload::Layers(_) => fits(0).then_some(0),
            Offload::All => (layers..=most).find(|level| fits(*level)),
            Offload::AsNeeded if fits(0) => Some(0),
            Offload::AsNeeded if !fits(most) => None,
            Offload::AsNeeded => {
                // The ring costs as much as the first streamed units save; from there on each one saves its own.
                let (mut too_few, mut enough) = (0, most);
                while enough - too_few > 1 {
                    let middle = usize::midpoint(too_few, enough);
                    if fits(middle) { enough = middle } else { too_few = middle }
                }
                Some(enough)
            }
        }
    }

    /// Whether the adapter binds every buffer of a unit that is never cut.
    pub(super) fn binds(&self, adapter: usize, unit: usize) -> bool {
        self.costs[adapter][unit].largest_uncut().1 <= self.budgets[adapter].max_binding
    }

    /// The first layer of a run, and how many it has.
    fn layers_in(&self, start: usize, end: usize) -> (usize, usize) {
        let first = start.max(1);
        (first, end.min(self.units() - 1).saturating_sub(first))
    }

    /// Head and embedding, if the run has them to stream, in the order they are given up in.
    fn ends(&self, start: usize, end: usize) -> Vec<usize> {
        let last = self.units() - 1;
        let streams = |unit: &usize| (start..end).contains(unit) && !(self.embedding_in_place && *unit == 0);
        let mut ends: Vec<usize> = [last, 0].into_iter().filter(streams).collect();
        ends.dedup();
        ends
    }

    /// The units of a run that are streamed at this level: as many layers, evenly spread, so that each upload has
    /// resident layers to hide behind; beyond that the head, then the embedding.
    fn streamed(&self, start: usize, end: usize, level: usize) -> Vec<usize> {
        let ends = self.ends(start, end);
        let spread = |from: usize, layers: usize, count: usize| {
            let chosen = move |layer: &usize| (layer + 1) * count / layers > layer * count / layers;
            (0..layers).filter(chosen).map(move |layer| from + layer)
        };
        if let Offload::Layers(count) = self.request.offload {
            return spread(1, self.layers(), count).filter(|unit| (start..end).contains(unit)).collect();
        }
        let (from, layers) = self.layers_in(start, end);
        let given_up = ends.into_iter().take(level.saturating_sub(layers));
        spread(from, layers, level.min(layers)).chain(given_up).collect()
    }

    /// Bytes of everything resident on the first adapter.
    pub(super) fn whole(&self) -> u64 {
        let mut tally = Tally::default();
        let units = self.costs[0].iter();
        let PlanRequest { ring_slots, offload_mode, .. } = self.request;
        units.for_each(|unit| tally.add(unit, Residency::Resident, ring_slots, offload_mode));
        tally.bytes().taken(self.budgets[0].apart)
    }

    fn bytes(&self, adapter: usize, start: usize, end: usize, level: usize) -> AdapterBytes {
        let streamed = self.streamed(start, end, level);
        let mut tally = Tally::default();
        for unit in start..end {
            let residency = self.residency(unit, &streamed);
            tally.add(&self.costs[adapter][unit], residency, self.request.ring_slots, self.request.offload_mode);
        }
        // What comes behind the run is on another adapter.
        let leaves = start < end && end < self.units();
        let crossing = if leaves { buffer_bytes(self.costs[adapter][end - 1].output) } else { 0 };
        AdapterBytes { crossing, ..tally.bytes() }
    }

    fn seconds(&self, adapter: usize, start: usize, end: usize, level: usize) -> f64 {
        let streamed = self.streamed(start, end, level);
        let AdapterBudget { reads_host, rates, .. } = &self.budgets[adapter];
        let PlanRequest { offload_mode, in_place, .. } = self.request;
        let mut seconds = Seconds::default();
        for unit in start..end {
            let coming = Coming::of(self.residency(unit, &streamed), offload_mode, in_place && *reads_host, 1);
            seconds.add(&self.costs[adapter][unit], coming, rates, 1);
        }
        seconds.total(self.request.ring_slots > 1) + 2.0 * rates.crossing
    }
}
