//! A plan with prefill chunks of one length or, where memory is short, of a shorter one.
//!
//! Activations, scratch and what is read back grow with the chunk: they may take the room of layers, or be more than an
//! adapter binds. Places nothing by itself (`policy` does). Invariant: there is a refusal exactly where there is no plan.

use super::policy::Search;
use super::{AdapterBudget, Offload, Plan, PlanError, PlanRequest, UnitCost};

/// What a plan is sought for, with prefill chunks of one length or, where memory is short, of a shorter one.
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    /// What units cost: by chunk, the longest first, by adapter, by unit. The first unit is the embedding, the last the
    /// head.
    pub costs: &'a [&'a [Vec<UnitCost>]],
    /// The adapters, in the order that units go through them.
    pub budgets: &'a [AdapterBudget],
    /// What is wanted.
    pub request: PlanRequest,
}

/// Places every unit. `costs` are by adapter, by unit; the first unit is the embedding, the last the head.
///
/// # Errors
/// No adapter, more layers to stream than there are, or budgets that don't hold what must be on an adapter.
pub fn plan(costs: &[Vec<UnitCost>], budgets: &[AdapterBudget], request: &PlanRequest) -> Result<Plan, PlanError> {
    let sought = Sought { costs: &[costs], budgets, request: *request };
    sought.plan().map(|(plan, _)| plan).ok_or_else(|| sought.refusal())
}

impl<'a> Sought<'a> {
    /// Places every unit, and says for which of the chunks: the longest, unless only a shorter one keeps all that fits
    /// on the adapters, or fits at all. [`Self::refusal`] says why there is none.
    pub fn plan(&self) -> Option<(Plan, usize)> {
        if self.lacks().is_some() {
            return None;
        }
        let (mut found, keeps) = (None, self.request.offload.keeps_what_fits());
        for chunk in 0..self.costs.len() {
            let Some(plan) = self.search(chunk).first_fit() else { continue };
            let streams = plan.streams() && keeps;
            if found.is_none() || !streams {
                found = Some((plan, chunk));
            }
            if !streams {
                break;
            }
        }
        found.map(|(plan, chunk)| (self.search(chunk).in_turns(&plan).unwrap_or(plan), chunk))
    }

    /// What is wrong with the request itself.
    pub(super) fn lacks(&self) -> Option<PlanError> {
        let layers = || self.search(0).layers();
        match self.request.offload {
            _ if self.budgets.is_empty() => Some(PlanError::NoAdapter),
            Offload::Layers(wanted) if wanted > layers() => Some(PlanError::TooManyLayers { wanted, layers: layers() }),
            _ => None,
        }
    }

    pub(super) const fn search(&self, chunk: usize) -> Search<'a> {
        let Self { costs, budgets, request } = *self;
        Search { costs: costs[chunk], budgets, request, embedding_in_place: false }
    }
}
