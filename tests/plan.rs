//! Plans stay within budgets, and their steps read as the house's book says.

use proptest::prelude::*;
use wgpt::plan::{AdapterBudget, Offload, Placement, Plan, PlanRequest, Residency, UnitCost, plan};

fn steps(plan: &Plan) -> String {
    plan.steps().iter().map(|step| format!("{step}\n")).collect()
}

fn placements(text: &str) -> Vec<Placement> {
    let place = |c: char| Placement {
        adapter: usize::from("bB".contains(c)),
        residency: if c.is_ascii_uppercase() { Residency::Streamed } else { Residency::Resident },
    };
    text.chars().map(place).collect()
}

#[test]
fn one_adapter_computes_everything_at_once() {
    let plan = Plan { placements: placements("aaaaaa"), ring_slots: 2 };
    insta::assert_snapshot!(steps(&plan), @r"
    compute units 0..6 on adapter 0
    read logits back from adapter 0
    ");
}

#[test]
fn a_split_crosses_once() {
    let plan = Plan { placements: placements("aaabbb"), ring_slots: 2 };
    insta::assert_snapshot!(steps(&plan), @r"
    compute units 0..3 on adapter 0
    transfer the output of unit 2 from adapter 0 to 1
    compute units 3..6 on adapter 1
    read logits back from adapter 1
    ");
}

#[test]
fn a_streamed_plan_uploads_as_soon_as_a_slot_is_free() {
    let plan = Plan { placements: placements("aAAAAa"), ring_slots: 2 };
    insta::assert_snapshot!(steps(&plan), @r"
    upload unit 1 to adapter 0 slot 0
    upload unit 2 to adapter 0 slot 1
    compute units 0..2 on adapter 0
    upload unit 3 to adapter 0 slot 0
    compute units 2..3 on adapter 0
    upload unit 4 to adapter 0 slot 1
    compute units 3..6 on adapter 0
    read logits back from adapter 0
    ");
}

#[test]
fn a_second_adapter_streams_while_the_first_computes() {
    let plan = Plan { placements: placements("aaaBBb"), ring_slots: 2 };
    insta::assert_snapshot!(steps(&plan), @r"
    upload unit 3 to adapter 1 slot 0
    upload unit 4 to adapter 1 slot 1
    compute units 0..3 on adapter 0
    transfer the output of unit 2 from adapter 0 to 1
    compute units 3..6 on adapter 1
    read logits back from adapter 1
    ");
}

/// What an adapter of this plan holds.
fn held(plan: &Plan, units: &[UnitCost], adapter: usize) -> u64 {
    let on_it = || plan.placements.iter().zip(units).filter(move |(placement, _)| placement.adapter == adapter);
    let resident = |placement: &Placement| placement.residency == Residency::Resident;
    let weights: u64 = on_it().filter(|(p, _)| resident(p)).map(|(_, unit)| unit.weights).sum();
    let kv: u64 = on_it().map(|(_, unit)| unit.kv_cache).sum();
    let streams = on_it().any(|(p, _)| !resident(p));
    let largest = on_it().filter(|(p, _)| !resident(p)).map(|(_, unit)| unit.weights).max().unwrap_or(0);
    weights + kv + if streams { largest * plan.ring_slots as u64 } else { 0 }
}

proptest! {
    #[test]
    fn a_plan_never_exceeds_a_budget(
        sizes in prop::collection::vec((1u64..100, 0u64..20), 1..20),
        budgets in prop::collection::vec(0u64..600, 1..4),
        offload in prop::sample::select(vec![Offload::Never, Offload::AsNeeded, Offload::All]),
        ring_slots in 1usize..4,
    ) {
        let units: Vec<UnitCost> = sizes.iter().map(|(weights, kv_cache)| UnitCost { weights: *weights, kv_cache: *kv_cache }).collect();
        let budgets: Vec<AdapterBudget> = budgets.iter().map(|bytes| AdapterBudget { bytes: *bytes }).collect();
        if let Ok(plan) = plan(&units, &budgets, &PlanRequest { offload, ring_slots }) {
            prop_assert_eq!(plan.placements.len(), units.len());
            for (adapter, budget) in budgets.iter().enumerate() {
                prop_assert!(held(&plan, &units, adapter) <= budget.bytes);
            }
            let order: Vec<usize> = plan.placements.iter().map(|placement| placement.adapter).collect();
            prop_assert!(order.is_sorted(), "units go through adapters in order");
        }
    }

    #[test]
    fn what_fits_one_adapter_is_planned_there(weights in prop::collection::vec(1u64..100, 1..20)) {
        let units: Vec<UnitCost> = weights.iter().map(|weights| UnitCost { weights: *weights, kv_cache: 1 }).collect();
        let whole = units.iter().map(|unit| unit.weights + unit.kv_cache).sum();
        let request = PlanRequest { offload: Offload::Never, ring_slots: 2 };
        let found = plan(&units, &[AdapterBudget { bytes: whole }], &request);
        prop_assert_eq!(found, Ok(Plan::single(units.len())));
        let less = [AdapterBudget { bytes: whole - 1 }];
        prop_assert!(plan(&units, &less, &request).is_err(), "one byte less is refused");
    }
}
