//! How fast a plan should be, from what each adapter can do a second.
//!
//! Arithmetic over bytes, not a simulation: the longest of what may overlap, the sum of what may not. Invariant: the
//! term that is named as binding is the one that takes the longest.

use super::{AdapterBudget, AdapterId, OffloadMode, Plan, Residency, UnitCost};

/// What an adapter does a second. Where they come from is the caller's business.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rates {
    /// Bytes of weights that matrix × vector reads.
    pub memory: f64,
    /// Weights of quantized formats that matrix × vector takes, where unpacking them binds and not their bytes.
    pub unpacking: f64,
    /// Bytes of copies from host memory.
    pub bus: f64,
    /// Bytes of host memory that matrix × vector reads where they are.
    pub in_place: f64,
    /// Bytes that the host packs into staging memory.
    pub staging: f64,
    /// Multiplications and additions of matrix × matrix.
    pub flops: f64,
    /// Seconds that a dispatch takes besides reading weights: those of a small one that waits for the one before.
    pub dispatch: f64,
    /// Seconds for the hidden state of one token to leave for the host or to arrive.
    pub crossing: f64,
}

/// What takes the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Reading weights in the adapters' own memory.
    Memory,
    /// Uploading streamed weights.
    Bus,
    /// Arithmetic.
    Compute,
    /// Starting dispatches, and waiting for adapters and host to hear from one another.
    Latency,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Bus => "bus",
            Self::Compute => "compute",
            Self::Latency => "latency",
        })
    }
}

/// An expected speed.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// What keeps it from being more.
    pub bound: Bound,
}

/// What a token costs in the streamed units, streamed and computed on the host.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct HostCost {
    /// Bytes that the host's cores read from its memory a second.
    pub memory: f64,
    /// Bytes of streamed weights that a token reads: of experts those chosen.
    pub read_bytes: u64,
    /// Seconds a token that the host needs for reading them, at least.
    pub host_seconds: f64,
    /// Seconds a token that streaming them takes.
    pub streaming_seconds: f64,
    /// Seconds a token that the host needs for reading all that one reads of the model, at least.
    pub whole_seconds: f64,
}

/// How a unit's weights come to the kernels of a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coming {
    Resident,
    InPlace,
    Copied,
    Staged,
}

impl Coming {
    /// `in_place`: single tokens read pinned weights where they are, and this adapter can.
    pub(super) const fn of(residency: Residency, mode: OffloadMode, in_place: bool, tokens: u32) -> Self {
        match (residency, mode) {
            (Residency::Resident, _) => Self::Resident,
            (Residency::InPlace, _) => Self::InPlace,
            (Residency::Streamed, OffloadMode::Mapped) => Self::Staged,
            (Residency::Streamed, OffloadMode::Pinned) if in_place && tokens == 1 => Self::InPlace,
            (Residency::Streamed, OffloadMode::Pinned) => Self::Copied,
        }
    }
}

/// Seconds of one forward on one adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Seconds {
    memory: f64,
    bus: f64,
    /// The part of `bus` that nothing overlaps: kernels wait for what they read.
    waited: f64,
    compute: f64,
    latency: f64,
}

impl Seconds {
    /// Adds a unit in a forward of `tokens` tokens. A prefill piece reads every weight once, a token what it needs.
    pub(super) fn add(&mut self, unit: &UnitCost, coming: Coming, rates: &Rates, tokens: u32) {
        // An embedding is looked up, not read.
        let all = if unit.flops == 0 { unit.read } else { unit.weight_bytes().max(unit.read) };
        if coming == Coming::InPlace {
            let read = (unit.read as f64 / rates.in_place).max(unit.quantized as f64 / rates.unpacking);
            self.waited += f64::from(tokens) * read;
        } else if tokens == 1 {
            // Of one token the rate of reading says it all.
            self.memory += (unit.read as f64 / rates.memory).max(unit.quantized as f64 / rates.unpacking);
        } else {
            self.memory += if unit.read == 0 { 0.0 } else { all as f64 / rates.memory };
            self.compute += unit.flops as f64 * f64::from(tokens) / rates.flops;
        }
        self.latency += unit.dispatches as f64 * rates.dispatch;
        self.bus += match coming {
            Coming::Resident | Coming::InPlace => 0.0,
            Coming::Copied => unit.weight_bytes() as f64 / rates.bus,
            Coming::Staged => unit.weight_bytes() as f64 / rates.bus.min(rates.staging),
        };
    }

    fn computing(&self) -> f64 {
        self.memory.max(self.compute) + self.latency + self.waited
    }

    /// Uploads go on beside computing where the ring has a slot to spare.
    pub(super) fn total(&self, overlaps: bool) -> f64 {
        if overlaps { self.computing().max(self.bus) } else { self.computing() + self.bus }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            memory: self.memory + other.memory,
            bus: self.bus + other.bus,
            waited: self.waited + other.waited,
            compute: self.compute + other.compute,
            latency: self.latency + other.latency,
        }
    }

    fn bound(&self) -> Bound {
        let terms = [
            (self.memory, Bound::Memory),
            (self.bus + self.waited, Bound::Bus),
            (self.compute, Bound::Compute),
            (self.latency, Bound::Latency),
        ];
        let longest = terms.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        longest.map_or(Bound::Memory, |(_, bound)| bound)
    }
}

impl Plan {
    /// The speed to expect of a forward that goes through these adapters in pieces of so many tokens (`[1]` is decode),
    /// at the beginning of a context, where units cost `costs` on each.
    pub fn estimate(&self, costs: &[Vec<UnitCost>], adapters: &[AdapterBudget], pieces: &[u32]) -> Estimate {
        let overlaps = self.ring_slots > 1;
        let mut sum = Seconds::default();
        // When each adapter is done with what it has been given so far.
        let mut done = vec![0.0f64; self.adapters()];
        for tokens in pieces {
            let parts: Vec<Seconds> = (0..self.adapters())
                .map(|adapter| self.seconds(&costs[adapter], &adapters[adapter], adapter, *tokens))
                .collect();
            sum = parts.iter().fold(sum, |sum, part| sum.plus(*part));
            if overlaps && self.takes_turns() {
                // They upload at the same time, each for its next turn.
                let computing: f64 = parts.iter().map(Seconds::computing).sum();
                let uploading = parts.iter().map(|part| part.bus).fold(0.0, f64::max);
                let start = done.iter().copied().fold(0.0, f64::max);
                done.fill(start + computing.max(uploading));
                continue;
            }
            let mut arrival = 0.0f64;
            for (done, part) in done.iter_mut().zip(&parts) {
                *done = done.max(arrival) + part.total(overlaps);
                arrival = *done;
            }
        }
        let total = done.last().copied().unwrap_or_default();
        Estimate { tokens_per_second: f64::from(pieces.iter().sum::<u32>()) / total, bound: sum.bound() }
    }

    /// Whether the line of units comes back to an adapter that it has left.
    pub fn takes_turns(&self) -> bool {
        !self.placements.is_sorted_by_key(|placement| placement.adapter)
    }

    /// What the streamed units would cost on a host whose memory is read at `memory` bytes a second; `None` where
    /// nothing is streamed.
    pub fn host_cost(&self, costs: &[Vec<UnitCost>], budgets: &[AdapterBudget], memory: f64) -> Option<HostCost> {
        let streamed = |adapter: AdapterId| {
            let placed = self.placements.iter().zip(&costs[adapter]);
            let mine = move |p: &super::Placement| p.adapter == adapter && p.residency == Residency::Streamed;
            placed.filter(move |(placement, _)| mine(placement)).map(|(_, unit)| unit)
        };
        let coming = |adapter: AdapterId| {
            let mut seconds = Seconds::default();
            let AdapterBudget { reads_host, rates, .. } = &budgets[adapter];
            let coming = self.coming(Residency::Streamed, *reads_host, 1);
            streamed(adapter).for_each(|unit| seconds.add(unit, coming, rates, 1));
            seconds.bus + seconds.waited
        };
        let adapters = || 0..self.adapters();
        let read_bytes: u64 = adapters().flat_map(streamed).map(|unit| unit.read).sum();
        let uploads = adapters().map(coming);
        let streaming_seconds = if self.takes_turns() { uploads.fold(0.0, f64::max) } else { uploads.sum() };
        let host_seconds = read_bytes as f64 / memory;
        let whole: u64 = costs.first().into_iter().flatten().map(|unit| unit.read).sum();
        let whole_seconds = whole as f64 / memory;
        self.streams().then_some(HostCost { memory, read_bytes, host_seconds, streaming_seconds, whole_seconds })
    }

    const fn coming(&self, residency: Residency, reads_host: bool, tokens: u32) -> Coming {
        Coming::of(residency, self.offload_mode, self.in_place && reads_host, tokens)
    }

    fn seconds(&self, costs: &[UnitCost], budget: &AdapterBudget, adapter: AdapterId, tokens: u32) -> Seconds {
        let AdapterBudget { reads_host, rates, .. } = budget;
        let mut seconds = Seconds::default();
        let mut before = None;
        for (placement, unit) in self.placements.iter().zip(costs) {
            if placement.adapter == adapter {
                seconds.add(unit, self.coming(placement.residency, *reads_host, tokens), rates, tokens);
                // In, and out again: the logits of the last adapter cross too.
                seconds.latency += if before == Some(adapter) { 0.0 } else { 2.0 * rates.crossing };
            }
            before = Some(placement.adapter);
        }
        seconds
    }
}
