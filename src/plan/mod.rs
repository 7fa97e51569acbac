//! Plans: which unit is computed on which adapter, and whether its weights stay there. Data and pure functions.
//!
//! A [`Plan`] says where every unit goes; [`Plan::steps`] is what an executor plays for one forward. One adapter,
//! several, streaming and mixtures are the same steps in different order. Nothing here touches a device. Invariant:
//! a plan never gives an adapter more bytes than its budget, nor a buffer that it can't bind.

mod bytes;
mod cost;
mod error;
mod estimate;
mod kernels;
mod memory;
mod pieces;
mod policy;
mod sought;
mod steps;
mod turns;

pub use bytes::Bytes;
pub use cost::{
    AdapterLimits, CHOICES_IN_FLIGHT, Uncut, UnitCost, buffer_bytes, largest_forward, slices, unit_costs, weight_type,
};
pub use error::PlanError;
pub use estimate::{Bound, Estimate, HostCost, Rates};
pub use kernels::{NodeKernels, halved, unit_kernels, unit_kernels_apart};
pub use memory::{AdapterBytes, STAGING_SLOTS};
pub use pieces::{LEAST_PIECE, chunks, pieces};
pub use policy::{AdapterBudget, Offload, PlanRequest};
pub use sought::{Sought, plan};
pub use steps::PlanStep;

/// Which of the plan's adapters; an index into the executor's devices.
pub type AdapterId = usize;

/// Where a unit's weights are between forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Residency {
    /// On the adapter, for good.
    Resident,
    /// On the host; they come through the adapter's ring each forward.
    Streamed,
    /// On the host, packed, where the adapter's kernels read the little that a forward needs: rows of an embedding.
    InPlace,
}

/// Where streamed weights are between forwards, and how they come to an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OffloadMode {
    /// Packed, in host memory that adapters read: a prompt's chunk copies them into the ring, and so does a token,
    /// unless the adapter reads them in place.
    #[default]
    Pinned,
    /// In the checkpoint's file: packed into staging buffers each time, then copied into the ring. The host keeps no
    /// more of them than the system's cache of files does.
    Mapped,
}

impl std::fmt::Display for OffloadMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::Mapped => "mapped",
        })
    }
}

/// Where a unit is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The adapter.
    pub adapter: AdapterId,
    /// Where its weights are between forwards.
    pub residency: Residency,
}

/// Every unit's placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By unit.
    pub placements: Vec<Placement>,
    /// Units whose weights an adapter's ring holds at once.
    pub ring_slots: usize,
    /// Where streamed weights are between forwards.
    pub offload_mode: OffloadMode,
    /// Whether a single token's kernels read pinned weights where they are, on adapters that can.
    pub in_place: bool,
}

impl Plan {
    /// Every unit resident on one adapter.
    pub fn single(units: usize) -> Self {
        let placement = Placement { adapter: 0, residency: Residency::Resident };
        Self { placements: vec![placement; units], ring_slots: 2, offload_mode: OffloadMode::Pinned, in_place: true }
    }

    /// Whether any unit's weights are streamed.
    pub fn streams(&self) -> bool {
        self.placements.iter().any(|placement| placement.residency == Residency::Streamed)
    }

    /// How many adapters it uses.
    pub fn adapters(&self) -> usize {
        self.placements.iter().map(|placement| placement.adapter + 1).max().unwrap_or(0)
    }
}
