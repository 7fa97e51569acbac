//! How fast a plan should be, from what each adapter can do a second.
//!
//! Arithmetic over bytes, not a simulation: the longest of what may overlap, the sum of what may not. Invariant: the
//! term that is named as binding is the one that takes the longest.

use super::{AdapterId, Plan, Residency, UnitCost};

/// What an adapter does a second. Where they come from is the caller's business.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rates {
    /// Bytes of weights that matrix × vector reads.
    pub memory: f64,
    /// Bytes of uploads.
    pub bus: f64,
    /// Multiplications and additions of matrix × matrix.
    pub flops: f64,
    /// Seconds that a dispatch takes before it does any work.
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

/// Seconds of one forward on one adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Seconds {
    memory: f64,
    bus: f64,
    compute: f64,
    latency: f64,
}

impl Seconds {
    /// Adds a unit in a forward of `tokens` tokens. A prefill chunk reads every weight once, a token what it needs.
    pub(super) fn add(&mut self, unit: &UnitCost, residency: Residency, rates: &Rates, tokens: u32) {
        let all = if unit.read == 0 { 0 } else { unit.weight_bytes().max(unit.read) };
        // An embedding is looked up, not read.
        let read = if tokens == 1 || unit.flops == 0 { unit.read } else { all };
        self.memory += read as f64 / rates.memory;
        if tokens > 1 {
            // Of one token the rate of reading says it all.
            self.compute += unit.flops as f64 * f64::from(tokens) / rates.flops;
        }
        self.latency += unit.dispatches as f64 * rates.dispatch;
        if residency == Residency::Streamed {
            self.bus += unit.weight_bytes() as f64 / rates.bus;
        }
    }

    /// Uploads go on beside computing where the ring has a slot to spare.
    pub(super) fn total(&self, overlaps: bool) -> f64 {
        let computing = self.memory.max(self.compute) + self.latency;
        if overlaps { computing.max(self.bus) } else { computing + self.bus }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            memory: self.memory + other.memory,
            bus: self.bus + other.bus,
            compute: self.compute + other.compute,
            latency: self.latency + other.latency,
        }
    }

    fn bound(&self) -> Bound {
        let terms = [
            (self.memory, Bound::Memory),
            (self.bus, Bound::Bus),
            (self.compute, Bound::Compute),
            (self.latency, Bound::Latency),
        ];
        let longest = terms.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        longest.map_or(Bound::Memory, |(_, bound)| bound)
    }
}

impl Plan {
    /// The speed to expect of forwards of `tokens` tokens (1 is decode) at the beginning of a context, where units
    /// cost `costs` on each adapter.
    pub fn estimate(&self, costs: &[Vec<UnitCost>], rates: &[Rates], tokens: u32) -> Estimate {
        let mut sum = Seconds::default();
        let mut total = 0.0;
        for (adapter, rates) in rates.iter().enumerate().take(self.adapters()) {
            let mut seconds = self.seconds(&costs[adapter], rates, adapter, tokens);
            // In, and out again: the logits of the last adapter cross too.
            seconds.latency += 2.0 * rates.crossing;
            total += seconds.total(self.ring_slots > 1);
            sum = sum.plus(seconds);
        }
        Estimate { tokens_per_second: f64::from(tokens) / total, bound: sum.bound() }
    }

    fn seconds(&self, costs: &[UnitCost], rates: &Rates, adapter: AdapterId, tokens: u32) -> Seconds {
        let mut seconds = Seconds::default();
        for (placement, unit) in self.placements.iter().zip(costs) {
            if placement.adapter == adapter {
                seconds.add(unit, placement.residency, rates, tokens);
            }
        }
        seconds
    }
}
