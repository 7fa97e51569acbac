//! A plan as the list of things to do for one forward.

use std::ops::Range;

use super::{AdapterId, Plan, Residency};

/// One thing to do. Upload and compute on one adapter are ordered as listed; different adapters wait for one another
/// only at transfers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanStep {
    /// Fill a ring slot with a unit's weights.
    Upload {
        /// Whose weights.
        unit: usize,
        /// Where to.
        adapter: AdapterId,
        /// Which slot of that adapter's ring.
        slot: usize,
    },
    /// Compute neighbouring units.
    Compute {
        /// Where.
        adapter: AdapterId,
        /// Which units.
        units: Range<usize>,
    },
    /// Carry the output of unit `after` to the next unit's adapter.
    Transfer {
        /// The unit whose output it is.
        after: usize,
        /// Where it is.
        from: AdapterId,
        /// Where it goes.
        to: AdapterId,
    },
    /// Fetch the logits.
    Readback {
        /// Where they are.
        from: AdapterId,
    },
}

impl PlanStep {
    /// Whether an adapter has a part in it.
    pub fn concerns(&self, wanted: AdapterId) -> bool {
        match self {
            Self::Upload { adapter, .. } | Self::Compute { adapter, .. } => *adapter == wanted,
            Self::Transfer { from, to, .. } => *from == wanted || *to == wanted,
            Self::Readback { from } => *from == wanted,
        }
    }
}

impl std::fmt::Display for PlanStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Upload { unit, adapter, slot } => write!(f, "upload unit {unit} to adapter {adapter} slot {slot}"),
            Self::Compute { adapter, units } => {
                write!(f, "compute units {}..{} on adapter {adapter}", units.start, units.end)
            }
            Self::Transfer { after, from, to } => {
                write!(f, "transfer the output of unit {after} from adapter {from} to {to}")
            }
            Self::Readback { from } => write!(f, "read logits back from adapter {from}"),
        }
    }
}

impl Plan {
    /// The ring slot of every streamed unit: round robin on its adapter, so that a unit always meets the same slot
    /// and its bind groups are made once.
    pub fn slot_of(&self, unit: usize) -> Option<usize> {
        let placement = self.placements[unit];
        let before = self.placements[..unit].iter();
        let rank = before.filter(|other| other.adapter == placement.adapter && other.residency == Residency::Streamed);
        (placement.residency == Residency::Streamed).then(|| rank.count() % self.ring_slots)
    }

    /// The steps of one forward: an upload is issued as soon as its slot's previous user has been recorded; a run of
    /// neighbouring units between uploads is one compute.
    pub fn steps(&self) -> Vec<PlanStep> {
        let mut steps = Vec::new();
        let last = self.placements.len() - 1;
        let streamed = |adapter| {
            let on_it = move |unit: &usize| {
                self.placements[*unit].adapter == adapter && self.placements[*unit].residency == Residency::Streamed
            };
            (0..=last).filter(on_it).collect::<Vec<usize>>()
        };
        let upload = |unit: usize| {
            let slot = self.slot_of(unit).expect("only streamed units are uploaded");
            PlanStep::Upload { unit, adapter: self.placements[unit].adapter, slot }
        };
        for adapter in 0..self.adapters() {
            steps.extend(streamed(adapter).into_iter().take(self.ring_slots).map(upload));
        }
        let mut start = 0;
        for unit in 0..=last {
            let adapter = self.placements[unit].adapter;
            let queue = streamed(adapter);
            let next_in_slot =
                queue.iter().position(|other| *other == unit).and_then(|at| queue.get(at + self.ring_slots));
            let crosses = unit < last && self.placements[unit + 1].adapter != adapter;
            if next_in_slot.is_some() || crosses || unit == last {
                steps.push(PlanStep::Compute { adapter, units: start..unit + 1 });
                start = unit + 1;
            }
            steps.extend(next_in_slot.copied().map(upload));
            if crosses {
                steps.push(PlanStep::Transfer { after: unit, from: adapter, to: self.placements[unit + 1].adapter });
            }
        }
        steps.push(PlanStep::Readback { from: self.placements[last].adapter });
        steps
    }
}
