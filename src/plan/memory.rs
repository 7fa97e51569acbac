//! The bytes a plan puts on each adapter and on the host.
//!
//! Adds up what units need; decides nothing. Invariant: the sum is what the executor allocates.

use std::collections::{HashMap, HashSet};

use super::cost::{buffer_bytes, merge_largest};
use super::{AdapterId, OffloadMode, Plan, Residency, UnitCost};
use crate::graph::{VectorId, WeightId};
use crate::ops::Step;

/// The most that is staged at once while resident weights load, and while streamed ones come through the ring.
const STAGING_BYTES: (u64, u64) = (64 << 20, 256 << 20);

/// Buffers that weights are staged in: one is copied from while others are filled.
pub const STAGING_SLOTS: u64 = 4;

/// Bytes on one adapter, by what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct AdapterBytes {
    /// Resident weights.
    pub weights: u64,
    /// Norms, biases, tables.
    pub vectors: u64,
    /// Keys and values.
    pub kv_cache: u64,
    /// Activations of the largest forward.
    pub activations: u64,
    /// What kernels use between their dispatches.
    pub scratch: u64,
    /// Slots that streamed weights come through.
    pub ring: u64,
    /// Buffers that weights are packed into on their way: [`STAGING_SLOTS`] equal ones. In host memory, where the
    /// adapter lets wgpt choose: see [`Self::taken`].
    pub staging: u64,
    /// What is copied back to the host; in its memory, where the adapter has a memory of its own.
    pub readback: u64,
    /// A second readback for what goes on to another adapter: one is filled while the other is carried over.
    pub crossing: u64,
}

impl AdapterBytes {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.buffers() + self.staging
    }

    /// What the adapter's memory holds of them. `apart`: it has a memory of its own, and lets wgpt put what the host
    /// fills and reads into the host's.
    pub const fn taken(&self, apart: bool) -> u64 {
        if apart { self.total() - self.of_host() } else { self.total() }
    }

    /// What the host fills and reads.
    pub const fn of_host(&self) -> u64 {
        self.staging + self.readback + self.crossing
    }

    /// Without staging: what is in buffers for as long as the executor lives.
    pub const fn buffers(&self) -> u64 {
        let fixed = self.weights + self.vectors + self.kv_cache + self.ring;
        fixed + self.activations + self.scratch + self.readback + self.crossing
    }
}

/// Adds up the units of one adapter, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    bytes: AdapterBytes,
    weights: HashSet<WeightId>,
    vectors: HashSet<VectorId>,
    activations: HashMap<usize, u64>,
    scratch: Vec<u64>,
    /// By slot: the size of each of its buffers.
    ring: Vec<Vec<u64>>,
    streamed: usize,
    /// The largest unit, resident and streamed from the checkpoint: what is staged at once.
    largest: (u64, u64),
    /// The largest row, which is never cut.
    row: u64,
    units: usize,
}

impl Tally {
    pub(super) fn add(&mut self, unit: &UnitCost, residency: Residency, ring_slots: usize, mode: OffloadMode) {
        self.units += 1;
        self.bytes.kv_cache += unit.kv_cache;
        self.bytes.readback = self.bytes.readback.max(unit.output);
        for (id, bytes) in &unit.vectors {
            if self.vectors.insert(*id) {
                self.bytes.vectors += bytes;
            }
        }
        self.activations.extend(unit.activations.iter().copied());
        for (number, bytes) in unit.scratch.iter().enumerate() {
            merge_largest(&mut self.scratch, number, *bytes);
        }
        let size = unit.weight_bytes();
        self.row = self.row.max(unit.row);
        match residency {
            Residency::Resident => {
                self.largest.0 = self.largest.0.max(size);
                for (id, slices) in &unit.weights {
                    // A tied head finds the embedding already there.
                    if self.weights.insert(*id) {
                        self.bytes.weights += slices.iter().sum::<u64>();
                    }
                }
            }
            Residency::InPlace => {}
            Residency::Streamed => {
                // Pinned weights are packed where they stay.
                if mode == OffloadMode::Mapped {
                    self.largest.1 = self.largest.1.max(size);
                }
                let slot = self.streamed % ring_slots;
                self.streamed += 1;
                self.ring.resize_with(self.ring.len().max(slot + 1), Vec::new);
                let slices = unit.weights.iter().flat_map(|(_, slices)| slices);
                for (index, bytes) in slices.enumerate() {
                    merge_largest(&mut self.ring[slot], index, *bytes);
                }
            }
        }
    }

    pub(super) fn bytes(&self) -> AdapterBytes {
        if self.units == 0 {
            return AdapterBytes::default();
        }
        let ring_slots = self.ring.len() as u64;
        let staging = (self.largest.0.min(STAGING_BYTES.0)).max((self.largest.1 * ring_slots).min(STAGING_BYTES.1));
        let staging = staging.div_ceil(STAGING_SLOTS).max(self.row).next_multiple_of(16).max(16) * STAGING_SLOTS;
        AdapterBytes {
            activations: self.activations.values().sum::<u64>() + size_of::<Step>() as u64,
            scratch: self.scratch.iter().sum(),
            ring: self.ring.iter().flatten().sum(),
            staging,
            readback: buffer_bytes(self.bytes.readback),
            ..self.bytes
        }
    }
}

impl Plan {
    /// The bytes it puts on an adapter, where units cost this much there.
    pub fn adapter_bytes(&self, costs: &[UnitCost], adapter: AdapterId) -> AdapterBytes {
        let mut tally = Tally::default();
        for (placement, unit) in self.placements.iter().zip(costs) {
            if placement.adapter == adapter {
                tally.add(unit, placement.residency, self.ring_slots, self.offload_mode);
            }
        }
        AdapterBytes { crossing: self.crossing_bytes(costs, adapter), ..tally.bytes() }
    }

    /// Bytes of the largest output that leaves this adapter for another.
    fn crossing_bytes(&self, costs: &[UnitCost], adapter: AdapterId) -> u64 {
        let neighbours = self.placements.windows(2).zip(costs);
        let leaving = neighbours.filter(|(pair, _)| pair[0].adapter == adapter && pair[1].adapter != adapter);
        leaving.map(|(_, unit)| buffer_bytes(unit.output)).max().unwrap_or(0)
    }

    /// Bytes of an adapter's weights that the host keeps, packed.
    pub fn host_bytes(&self, costs: &[UnitCost], adapter: AdapterId) -> u64 {
        let streamed = self.weight_bytes(costs, adapter, Residency::Streamed);
        let pinned = if self.offload_mode == OffloadMode::Pinned { streamed } else { 0 };
        pinned + self.weight_bytes(costs, adapter, Residency::InPlace)
    }

    /// Bytes of an adapter's weights that are kept so.
    pub fn weight_bytes(&self, costs: &[UnitCost], adapter: AdapterId, residency: Residency) -> u64 {
        let placed = self.placements.iter().zip(costs);
        let kept = placed.filter(|(p, _)| p.adapter == adapter && p.residency == residency);
        kept.map(|(_, unit)| unit.weight_bytes()).sum()
    }
}
