//! From budgets and a request to a plan.

use super::{Placement, Plan, Residency};

/// What a unit costs where it is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitCost {
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of KV cache; they stay on the adapter even when the weights are streamed.
    pub kv_cache: u64,
}

/// What an adapter may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterBudget {
    /// Bytes for weights, KV cache and ring.
    pub bytes: u64,
}

/// How much to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offload {
    /// Nothing: what does not fit is an error.
    #[default]
    Never,
    /// As many layers as must be.
    AsNeeded,
    /// Every unit.
    All,
}

/// What is wanted of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanRequest {
    /// How much to stream.
    pub offload: Offload,
    /// Units a ring holds.
    pub ring_slots: usize,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No adapter to plan for.
    #[error("a plan needs at least one adapter")]
    NoAdapter,
    /// The budgets don't hold the model.
    #[error(
        "the model needs {needed} bytes of adapter memory, the budgets hold {available}; \
         use a smaller --context-length, another adapter or a quantized checkpoint"
    )]
    DoesNotFit {
        /// Bytes the request comes to.
        needed: u64,
        /// Bytes of all budgets.
        available: u64,
    },
}

/// Places every unit in order: each adapter takes what its budget holds, then the next one.
///
/// # Errors
/// No adapter, or budgets that don't hold what must be on an adapter.
pub fn plan(units: &[UnitCost], budgets: &[AdapterBudget], request: &PlanRequest) -> Result<Plan, PlanError> {
    if budgets.is_empty() {
        return Err(PlanError::NoAdapter);
    }
    let largest = units.iter().map(|unit| unit.weights).max().unwrap_or(0);
    let ring = largest * request.ring_slots as u64;
    let mut left: Vec<u64> = budgets.iter().map(|budget| budget.bytes).collect();
    let does_not_fit = || PlanError::DoesNotFit {
        needed: units.iter().map(|unit| unit.weights + unit.kv_cache).sum(),
        available: budgets.iter().map(|budget| budget.bytes).sum(),
    };
    let mut ringed = vec![false; budgets.len()];
    if request.offload == Offload::Never {
        return fill(units, left).ok_or_else(does_not_fit);
    }
    if request.offload == Offload::AsNeeded {
        if let Some(plan) = fill(units, left.clone()) {
            return Ok(plan);
        }
    }
    let mut placements = Vec::with_capacity(units.len());
    let share = units.len().div_ceil(budgets.len());
    for (index, unit) in units.iter().enumerate() {
        let adapter = (index / share).min(budgets.len() - 1);
        if !std::mem::replace(&mut ringed[adapter], true) {
            left[adapter] = left[adapter].checked_sub(ring).ok_or_else(does_not_fit)?;
        }
        // What is still to come on this adapter keeps its KV cache there.
        let later = units[index + 1..((adapter + 1) * share).min(units.len()).max(index + 1)].iter();
        let reserved: u64 = later.map(|unit| unit.kv_cache).sum();
        let whole = unit.weights + unit.kv_cache;
        let fits = left[adapter] >= whole + reserved && request.offload == Offload::AsNeeded;
        let (cost, residency) = if fits { (whole, Residency::Resident) } else { (unit.kv_cache, Residency::Streamed) };
        left[adapter] = left[adapter].checked_sub(cost).ok_or_else(does_not_fit)?;
        placements.push(Placement { adapter, residency });
    }
    Ok(Plan { placements, ring_slots: request.ring_slots })
}

/// Everything resident, adapter after adapter; `None` where it does not fit.
fn fill(units: &[UnitCost], mut left: Vec<u64>) -> Option<Plan> {
    let mut adapter = 0;
    let mut placements = Vec::with_capacity(units.len());
    for unit in units {
        let cost = unit.weights + unit.kv_cache;
        while *left.get(adapter)? < cost {
            adapter += 1;
        }
        left[adapter] -= cost;
        placements.push(Placement { adapter, residency: Residency::Resident });
    }
    Some(Plan { placements, ring_slots: 2 })
}
