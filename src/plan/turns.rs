//! Several adapters that stream take turns, so that all their buses are busy for the whole of a token.
//!
//! With one run of layers each, an adapter's bus rests while the others compute, but for what its ring holds. In
//! turns of as many streamed layers as a ring has slots, each fills its ring while the others compute theirs.
//! Invariant: every adapter keeps as many layers, and streams as many, as in the plan it is made from.

use super::policy::Search;
use super::{AdapterBytes, AdapterId, Placement, Plan, Residency, UnitCost};

impl Search<'_> {
    /// The plan with its layers dealt out in turns, where several adapters stream and that is faster.
    pub(super) fn in_turns(&self, plan: &Plan) -> Option<Plan> {
        let streams = |adapter: &AdapterId| plan.layers_on(*adapter).1 > 0;
        if (0..plan.adapters()).filter(streams).count() < 2 {
            return None;
        }
        let dealt = plan.dealt();
        let speed = |plan: &Plan| plan.estimate(self.costs, self.budgets, &[1]).tokens_per_second;
        let taken = |bytes: AdapterBytes, adapter: AdapterId| bytes.taken(self.budgets[adapter].apart);
        let held = |adapter: AdapterId, costs: &[UnitCost]| taken(dealt.adapter_bytes(costs, adapter), adapter);
        let binds = |(unit, placed): (usize, &Placement)| self.binds(placed.adapter, unit);
        let fits = (0..dealt.adapters()).all(|at| held(at, &self.costs[at]) <= self.budgets[at].bytes)
            && dealt.placements.iter().enumerate().all(binds);
        (fits && speed(&dealt) > speed(plan)).then_some(dealt)
    }
}

impl Plan {
    /// How many layers an adapter has, and how many of them it streams.
    fn layers_on(&self, adapter: AdapterId) -> (usize, usize) {
        let layers = 1..self.placements.len().saturating_sub(1).max(1);
        let mine = || self.placements[layers.clone()].iter().filter(|placement| placement.adapter == adapter);
        (mine().count(), mine().filter(|placement| placement.residency == Residency::Streamed).count())
    }

    fn dealt(&self) -> Self {
        let counts: Vec<(usize, usize)> = (0..self.adapters()).map(|adapter| self.layers_on(adapter)).collect();
        let most = counts.iter().map(|(_, streamed)| *streamed).max().unwrap_or(0);
        let turns = most.div_ceil(self.ring_slots).max(1);
        let mut placements = vec![self.placements[0]];
        for turn in 0..turns {
            for (adapter, (layers, streamed)) in counts.iter().copied().enumerate() {
                for layer in layers * turn / turns..layers * (turn + 1) / turns {
                    // Evenly spread over the adapter's own layers.
                    let is_streamed = (layer + 1) * streamed / layers > layer * streamed / layers;
                    let residency = if is_streamed { Residency::Streamed } else { Residency::Resident };
                    placements.push(Placement { adapter, residency });
                }
            }
        }
        placements.push(self.placements[self.placements.len() - 1]);
        Self { placements, ..*self }
    }
}
