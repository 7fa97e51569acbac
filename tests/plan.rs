//! Plans stay within budgets, and their steps read as the house's book says.

mod common;

use common::repository;
use proptest::prelude::*;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{ExecOptions, lower_checkpoint};
use wgpt::graph::{VectorId, WeightId};
use wgpt::ops::Traits;
use wgpt::plan::{
    AdapterBudget, AdapterLimits, Bound, Offload, OffloadMode, Placement, Plan, PlanError, PlanRequest, Rates,
    Residency, Sought, Uncut, UnitCost, largest_forward, plan,
};

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

/// Streamed weights are copied from host memory.
fn placed(text: &str) -> Plan {
    Plan { placements: placements(text), ring_slots: 2, offload_mode: OffloadMode::Pinned, in_place: false }
}

#[test]
fn one_adapter_computes_everything_at_once() {
    let plan = placed("aaaaaa");
    insta::assert_snapshot!(steps(&plan), @r"
    compute units 0..6 on adapter 0
    read logits back from adapter 0
    ");
}

#[test]
fn a_split_crosses_once() {
    let plan = placed("aaabbb");
    insta::assert_snapshot!(steps(&plan), @r"
    compute units 0..3 on adapter 0
    transfer the output of unit 2 from adapter 0 to 1
    compute units 3..6 on adapter 1
    read logits back from adapter 1
    ");
}

#[test]
fn a_streamed_plan_uploads_as_soon_as_a_slot_is_free() {
    let plan = placed("aAAAAa");
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
    let plan = placed("aaaBBb");
    insta::assert_snapshot!(steps(&plan), @r"
    upload unit 3 to adapter 1 slot 0
    upload unit 4 to adapter 1 slot 1
    compute units 0..3 on adapter 0
    transfer the output of unit 2 from adapter 0 to 1
    compute units 3..6 on adapter 1
    read logits back from adapter 1
    ");
}

/// A unit of so many bytes of weights and KV cache, each weight its own.
fn unit(index: usize, weights: u64, kv_cache: u64) -> UnitCost {
    let weights = vec![(WeightId(index), vec![weights])];
    let read = weights[0].1[0];
    UnitCost { weights, kv_cache, read, activations: vec![(0, 64)], output: 64, ..UnitCost::default() }
}

fn units(sizes: &[(u64, u64)]) -> Vec<UnitCost> {
    sizes.iter().enumerate().map(|(index, (weights, kv_cache))| unit(index, *weights, *kv_cache)).collect()
}

/// An adapter of so many bytes that reads so many bytes a second.
fn budget(bytes: u64, memory: f64) -> AdapterBudget {
    let rates = Rates {
        memory,
        unpacking: memory,
        bus: memory / 10.0,
        in_place: memory / 8.0,
        staging: memory / 20.0,
        flops: 1e12,
        dispatch: 0.0,
        crossing: 0.0,
    };
    AdapterBudget {
        number: 0,
        bytes,
        beside: 0,
        most: None,
        max_binding: u64::MAX,
        reads_host: false,
        apart: false,
        rates,
    }
}

fn planned(units: &[UnitCost], budgets: &[AdapterBudget], offload: Offload) -> Result<Plan, PlanError> {
    plan(
        &vec![units.to_vec(); budgets.len()],
        budgets,
        &PlanRequest { offload, ring_slots: 2, offload_mode: OffloadMode::Mapped, in_place: false, resident: false },
    )
}

/// `a` on the first adapter, `b` on the second and so on; capital where streamed, `_` where read in place.
fn letters(plan: &Plan) -> String {
    let letter = |placement: &Placement| {
        let letter = char::from(b'a' + placement.adapter as u8);
        match placement.residency {
            Residency::Resident => letter,
            Residency::Streamed => letter.to_ascii_uppercase(),
            Residency::InPlace => '_',
        }
    };
    plan.placements.iter().map(letter).collect()
}

/// Bytes of everything resident on one adapter.
fn whole(units: &[UnitCost]) -> u64 {
    Plan::single(units.len()).adapter_bytes(units, 0).total()
}

#[test]
fn the_embedding_is_the_first_that_leaves_an_adapter_which_reads_the_host() {
    let sizes = [(1000, 0), (4000, 0), (4000, 0), (4000, 0), (1000, 0)];
    let units = units(&sizes);
    let place = |units: &[UnitCost], bytes, reads_host, offload| {
        let budget = AdapterBudget { reads_host, ..budget(bytes, 1e9) };
        planned(units, &[budget], offload).map(|plan| letters(&plan)).map_err(|error| error.to_string())
    };
    let all = whole(&units);
    for offload in [Offload::Never, Offload::AsNeeded] {
        assert_eq!(place(&units, all, true, offload).as_deref(), Ok("aaaaa"), "nothing leaves that fits");
        assert_eq!(
            place(&units, all - 1, true, offload).as_deref(),
            Ok("_aaaa"),
            "a row a token costs next to nothing"
        );
    }
    let one_streamed = planned(&units, &[budget(u64::MAX, 1e9)], Offload::Layers(1)).expect("it fits");
    let held = one_streamed.adapter_bytes(&units, 0).total();
    assert_eq!(place(&units, held - 1, true, Offload::Layers(1)).as_deref(), Ok("_aaAa"), "beside layers that must");
    let error = place(&units, all - 1, false, Offload::Never).expect_err("it does not fit");
    assert!(error.contains("--offload"), "an adapter that can't read there: {error}");
    let mut tied = units.clone();
    tied[4].weights = tied[0].weights.clone();
    let held = whole(&tied);
    assert!(place(&tied, held - 1, true, Offload::Never).is_err(), "the head needs the same weights here");
}

#[test]
fn layers_go_where_they_are_read_fastest() {
    let units = units(&[(100, 0); 12]);
    let place = |rates: &[f64]| {
        let budgets: Vec<AdapterBudget> = rates.iter().map(|rate| budget(1 << 20, *rate)).collect();
        letters(&planned(&units, &budgets, Offload::Never).expect("it fits"))
    };
    assert_eq!(place(&[1e9, 1e9]), "aaaaaabbbbbb", "equal adapters take equal parts");
    assert_eq!(place(&[1e9, 2e9]), "aaaabbbbbbbb", "twice as fast, twice as many");
    assert_eq!(place(&[1e9, 1e9, 1e9]), "aaaabbbbcccc", "three");
    assert_eq!(place(&[1e6, 1e9]), "bbbbbbbbbbbb", "one that would only slow the other down gets none");
}

#[test]
fn a_small_adapter_takes_what_it_holds() {
    let units = units(&[(1000, 0); 10]);
    // And 64 bytes for a second readback of what goes on to the other.
    let small = whole(&units[..3]) + 64;
    let budgets = [budget(small, 1e9), budget(1 << 20, 1e9)];
    assert_eq!(letters(&planned(&units, &budgets, Offload::Never).expect("it fits")), "aaabbbbbbb", "three units");
}

#[test]
fn layers_go_where_they_are_read_fastest_and_fit() {
    let units = units(&[(100, 0); 12]);
    // The fast adapter would take two thirds, and holds four.
    let few = whole(&units[..4]);
    let budgets = [budget(1 << 20, 1e9), budget(few, 2e9)];
    assert_eq!(letters(&planned(&units, &budgets, Offload::Never).expect("it fits")), "aaaaaaaabbbb", "what it holds");
}

#[test]
fn adapters_that_stream_take_turns() {
    let units = units(&[(1000, 0); 14]);
    let budgets = [budget(1 << 20, 1e9), budget(1 << 20, 1e9)];
    let all = planned(&units, &budgets, Offload::All).expect("it fits");
    assert_eq!(letters(&all), "aAABBAABBAABBb", "as many layers a turn as the ring has slots");
    let speed = |plan: &Plan| plan.estimate(&[units.clone(), units.clone()], &budgets, &[1]);
    let one_after_the_other = Plan { offload_mode: OffloadMode::Mapped, ..placed("aAAAAAABBBBBBb") };
    assert_eq!(speed(&all).bound, Bound::Bus, "both buses");
    let gain = speed(&all).tokens_per_second / speed(&one_after_the_other).tokens_per_second;
    assert!((1.9..2.1).contains(&gain), "two buses at once: {gain}");
    // Where a crossing takes longer than a layer, they don't.
    let far = budgets.map(|budget| AdapterBudget { rates: Rates { crossing: 1.0, ..budget.rates }, ..budget });
    assert!(!planned(&units, &far, Offload::All).expect("it fits").takes_turns(), "crossings are not for free");
}

#[test]
fn pieces_of_a_prompt_overlap_on_several_adapters() {
    let mut units = units(&[(1000, 0); 12]);
    units.iter_mut().for_each(|unit| unit.flops = 1_000_000_000);
    let budgets = [budget(1 << 20, 1e9); 2];
    let speed = |plan: &Plan, pieces: &[u32]| plan.estimate(&[units.clone(), units.clone()], &budgets, pieces);
    let split = placed("aaaaaabbbbbb");
    let whole = speed(&split, &[512]).tokens_per_second;
    let pieces = split.pieces(512, 128);
    assert_eq!(pieces, [128; 4], "four pieces");
    let gain = speed(&split, &pieces).tokens_per_second / whole;
    assert!((gain - 8.0 / 5.0).abs() < 0.01, "five steps of an eighth instead of eight: {gain}");
    let streamed = placed("aaaaaaBBBBBB");
    assert_eq!(streamed.pieces(512, 128), [512], "streamed weights come once");
}

#[test]
fn the_host_is_compared_with_streaming() {
    let mut units = units(&[(1_000_000, 0); 4]);
    // A mixture of experts reads a tenth of what is streamed.
    units.iter_mut().for_each(|unit| unit.read = 100_000);
    let plan = placed("aAAa");
    let budgets = [budget(1 << 30, 1e9)];
    let cost = plan.host_cost(std::slice::from_ref(&units), &budgets, 1e7).expect("two units are streamed");
    assert_eq!((cost.read_bytes, cost.host_seconds), (200_000, 0.02), "what a token reads, at 10 MB/s");
    assert!((cost.streaming_seconds - 0.02).abs() < 1e-9, "2 MB at 100 MB/s: {cost:?}");
    assert!((cost.whole_seconds - 0.04).abs() < 1e-9, "all four units: {cost:?}");
    assert_eq!(Plan::single(4).host_cost(&[units], &budgets, 1e7), None, "nothing is streamed");
}

#[test]
fn quantized_weights_are_read_no_faster_than_they_are_unpacked() {
    let mut units = units(&[(1_000_000, 0); 10]);
    units.iter_mut().for_each(|unit| unit.quantized = 2_000_000);
    let adapter = budget(1 << 30, 1e9);
    let adapter = AdapterBudget { rates: Rates { unpacking: 1e9, ..adapter.rates }, ..adapter };
    let found = Plan::single(10).estimate(&[units], &[adapter], &[1]);
    assert!((found.tokens_per_second - 50.0).abs() < 0.5, "20 million weights, not 10 MB: {found:?}");
}

#[test]
fn layers_are_streamed_as_many_as_were_asked_for_and_evenly_spread() {
    let units = units(&[(100, 0); 10]);
    let place = |offload| letters(&planned(&units, &[budget(1 << 20, 1e9)], offload).expect("it fits"));
    assert_eq!(place(Offload::Layers(0)), "aaaaaaaaaa", "none");
    assert_eq!(place(Offload::Layers(2)), "aaaaAaaaAa", "two of eight");
    assert_eq!(place(Offload::Layers(8)), "aAAAAAAAAa", "all of them");
    assert_eq!(place(Offload::All), "aAAAAAAAAa", "every layer, neither embedding nor head");
    assert_eq!(place(Offload::AsNeeded), "aaaaaaaaaa", "as it fits, none");
    let error = planned(&units, &[budget(1 << 20, 1e9)], Offload::Layers(9)).expect_err("there are eight");
    assert_eq!(error, PlanError::TooManyLayers { wanted: 9, layers: 8 });
}

#[test]
fn streaming_begins_with_layers_and_ends_with_the_embedding() {
    let units = units(&[(1000, 10); 10]);
    let streamed = |plan: &Plan| letters(plan).chars().filter(char::is_ascii_uppercase).count();
    let place = |bytes| planned(&units, &[budget(bytes, 1e9)], Offload::AsNeeded);
    let mut before = 0;
    let mut bytes = whole(&units);
    // Down to the least budget there is a plan for.
    while let Ok(plan) = place(bytes) {
        let letters = letters(&plan);
        assert!(streamed(&plan) >= before, "less memory, more streaming: {letters}");
        let layers = letters[1..9].chars().filter(char::is_ascii_uppercase).count();
        assert!(layers == 8 || (letters.starts_with('a') && letters.ends_with('a')), "layers first: {letters}");
        assert!(!letters.starts_with('A') || letters.ends_with('A'), "the head before the embedding: {letters}");
        before = streamed(&plan);
        bytes -= 50;
    }
    assert_eq!(before, 10, "at last everything is streamed");
    let error = place(bytes).expect_err("too little").to_string();
    let flag = error.split("--memory ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it names a budget");
    let kib: u64 = flag.strip_suffix("KiB").and_then(|number| number.parse().ok()).expect("in KiB");
    assert!(place(kib << 10).is_ok(), "the budget it names would do: {error}");
}

#[test]
fn an_error_names_the_least_streaming_that_would_do() {
    let units = units(&[(1000, 0); 10]);
    let budgets = [budget(whole(&units) - 500, 1e9)];
    let never = planned(&units, &budgets, Offload::Never).expect_err("it does not fit").to_string();
    assert!(never.contains("--offload would stream 4 of its 10 units"), "{never}");
    let two = planned(&units, &budgets, Offload::Layers(2)).expect_err("ring and staging take as much").to_string();
    assert!(two.contains("--offload 4 would do"), "{two}");
    assert!(planned(&units, &budgets, Offload::Layers(4)).is_ok(), "and so it does");
}

/// The text between two others.
fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    text.split(before).nth(1)?.split(after).next()
}

#[test]
fn what_is_never_cut_is_where_it_can_be_bound() {
    let binding = |max_binding| AdapterBudget { max_binding, ..budget(1 << 20, 1e9) };
    let kinds = [Uncut::Activations, Uncut::Scratch, Uncut::KvCache, Uncut::Vectors];
    for (kind, flag) in
        kinds.into_iter().zip(["--prefill-chunk", "--prefill-chunk", "--context-length", "--context-length"])
    {
        let mut units = units(&[(100, 0); 8]);
        let wide = &mut units[6];
        match kind {
            Uncut::Activations => wide.activations.push((1, 1000)),
            Uncut::Scratch => wide.scratch = vec![16, 1000],
            Uncut::KvCache => (wide.kv_cache, wide.state) = (2000, 1000),
            Uncut::Vectors => wide.vectors = vec![(VectorId(0), 1000)],
        }
        let place = |bindings: &[u64]| {
            let budgets: Vec<AdapterBudget> = bindings.iter().map(|bytes| binding(*bytes)).collect();
            planned(&units, &budgets, Offload::Never)
        };
        assert!(place(&[1000]).is_ok(), "{kind}: it is bound");
        let error = place(&[999]).expect_err("it is not");
        let PlanError::TooLarge { what, bytes, limit, change, .. } = &error else { panic!("{error}") };
        assert_eq!((*what, *bytes, *limit), (kind, 1000, 999), "{error}");
        assert!(change.contains(flag), "{error}");
        let split = letters(&place(&[999, 1000]).expect("the second binds it"));
        assert!(split.starts_with('a') && split[6..].starts_with("bb"), "{kind}: {split}");
        let error = place(&[500, 999]).expect_err("neither binds it").to_string();
        assert!(error.contains("1.0 kB"), "{error}");
    }
}

/// Ten units whose activations in a chunk of four thousand and of one thousand tokens take a byte each token.
fn chunks() -> [Vec<UnitCost>; 2] {
    [4000, 1000].map(|bytes| {
        let mut units = units(&[(1000, 0); 10]);
        units.iter_mut().for_each(|unit| unit.activations = vec![(0, bytes)]);
        units
    })
}

#[test]
fn a_shorter_chunk_is_taken_where_only_that_fits() {
    let [long, short] = chunks();
    let (long, short) = (vec![long], vec![short]);
    let seek = |budget: AdapterBudget, offload| {
        let request =
            PlanRequest { offload, ring_slots: 2, offload_mode: OffloadMode::Pinned, in_place: false, resident: false };
        let costs = [&long[..], &short[..]];
        let sought = Sought { costs: &costs, budgets: &[budget], request };
        sought.plan().map(|(plan, chunk)| (letters(&plan), chunk)).ok_or_else(|| sought.refusal())
    };
    let on = |bytes, offload| seek(budget(bytes, 1e9), offload);
    let resident = whole(&short[0]);
    assert_eq!(on(whole(&long[0]), Offload::AsNeeded), Ok(("aaaaaaaaaa".into(), 0)), "all of it fits");
    assert_eq!(on(resident, Offload::AsNeeded), Ok(("aaaaaaaaaa".into(), 1)), "rather than to stream");
    assert_eq!(on(resident, Offload::Never), Ok(("aaaaaaaaaa".into(), 1)), "rather than not at all");
    for offload in [Offload::AsNeeded, Offload::All, Offload::Layers(8)] {
        let least = |costs: &[UnitCost]| {
            let plan = plan(
                &[costs.to_vec()],
                &[budget(1 << 20, 1e9)],
                &PlanRequest {
                    offload: Offload::All,
                    ring_slots: 2,
                    offload_mode: OffloadMode::Pinned,
                    in_place: false,
                    resident: false,
                },
            );
            plan.expect("there is room").adapter_bytes(costs, 0).total()
        };
        assert_eq!(on(least(&short[0]), offload), Ok(("aAAAAAAAAa".into(), 1)), "{offload:?}: only so it is streamed");
        if offload == Offload::All {
            assert_eq!(on(least(&long[0]), offload), Ok(("aAAAAAAAAa".into(), 0)), "{offload:?}: as it is");
        }
        let narrow = AdapterBudget { max_binding: 3999, ..budget(1 << 20, 1e9) };
        assert_eq!(seek(narrow, offload).map(|(_, chunk)| chunk), Ok(1), "{offload:?}: only so it is bound");
    }
    // What a refusal names is with the chunk that it takes.
    let error = on(resident - 1100, Offload::Never).expect_err("a layer more").to_string();
    assert!(error.contains("--offload would stream"), "{error}");
    let error = on(500, Offload::Never).expect_err("too little for anything").to_string();
    assert!(error.contains(&format!("needs {}", wgpt::plan::Bytes(resident))), "with the shorter chunk: {error}");
}

#[test]
fn a_refusal_asks_for_streaming_only_where_it_is_needed() {
    // Nothing to gain by streaming: a ring and staging take what two large layers do.
    let units = units(&[(10, 0), (400_000, 0), (400_000, 0), (10, 0)]);
    let all = whole(&units);
    let error = planned(&units, &[budget(all - 1, 1e9)], Offload::Never).expect_err("a byte short").to_string();
    assert!(between(&error, "--memory ", " ").is_some() && !error.contains("with --offload"), "{error}");
    let many = self::units(&[(100_000, 0); 12]);
    let error = planned(&many, &[budget(1000, 1e9)], Offload::Never).expect_err("far too little").to_string();
    let flag = between(&error, "--memory ", " with --offload would do").expect("streaming takes less");
    let kib: u64 = flag.strip_suffix("KiB").and_then(|number| number.parse().ok()).expect("in KiB");
    assert!(planned(&many, &[budget(kib << 10, 1e9)], Offload::AsNeeded).is_ok(), "{error}");
    assert!(planned(&many, &[budget(kib << 10, 1e9)], Offload::Never).is_err(), "{error}");
}

#[test]
fn a_refusal_names_no_budget_that_can_t_be_had() {
    let units = units(&[(100_000, 0); 12]);
    let (offload, offload_mode) = (Offload::Never, OffloadMode::Mapped);
    let refused = |budget, resident| {
        let request = PlanRequest { offload, ring_slots: 2, offload_mode, in_place: false, resident };
        plan(std::slice::from_ref(&units), &[budget], &request).expect_err("far too little").to_string()
    };
    let little = budget(1000, 1e9);
    let flag = |error: &str| -> u64 {
        let kib = between(error, "--memory ", "KiB").and_then(|number| number.parse().ok());
        kib.unwrap_or_else(|| panic!("a budget in KiB: {error}"))
    };
    let least = flag(&refused(little, false));
    let beyond = refused(AdapterBudget { most: Some(2000), ..little }, false);
    assert!(beyond.contains("; on a larger adapter --memory ") && flag(&beyond) == least, "it has no more: {beyond}");
    let enough = refused(AdapterBudget { most: Some(least << 10), ..little }, false);
    assert!(enough.contains("; --memory ") && flag(&enough) == least, "it has just that: {enough}");
    let beside = flag(&refused(AdapterBudget { beside: 100 << 10, ..little }, false));
    assert!((least + 99..=least + 101).contains(&beside), "{beside} KiB hold another model's 100 too, of {least}");
    let resident = refused(little, true);
    assert!(!resident.contains("--offload") && flag(&resident) > least, "nothing can be streamed: {resident}");
}

#[test]
fn what_a_refusal_names_for_several_adapters_fits_and_can_be_had() {
    let mut units = units(&[(100_000, 0); 12]);
    units.iter_mut().for_each(|unit| unit.state = 1000);
    let refused = |budgets: &[AdapterBudget]| {
        let error = planned(&units, budgets, Offload::Never).expect_err("too little").to_string();
        let flags = between(&error, "--memory ", " would do").unwrap_or_else(|| panic!("budgets: {error}"));
        let bytes = |entry: &str| -> u64 {
            let (_, size) = entry.split_once('=').expect("by adapter");
            let unit = if size.ends_with("KiB") { 1 << 10 } else { 1 };
            size.trim_end_matches("KiB").parse::<u64>().expect("bytes or KiB") * unit
        };
        let offload = if flags.contains("with --offload") { Offload::AsNeeded } else { Offload::Never };
        let given: Vec<u64> = flags.split(' ').next().expect("a list").split(',').map(bytes).collect();
        (error, given, offload)
    };
    // One has no more to give, the other has.
    let full = AdapterBudget { most: Some(150_001), ..budget(150_001, 1e9) };
    let (error, given, offload) = refused(&[full, budget(1000, 1e9)]);
    assert!(error.contains("; --memory 0=150001,"), "no more than it has, to the byte: {error}");
    let budgets: Vec<AdapterBudget> = given.iter().map(|bytes| budget(*bytes, 1e9)).collect();
    assert!(planned(&units, &budgets, offload).is_ok(), "{error}");
    // Of one nobody knows what it has, but it binds no cache; another model is there too.
    let unknown = AdapterBudget { max_binding: 64, beside: 1 << 20, ..budget(u64::MAX, 1e9) };
    let (error, given, _) = refused(&[unknown, budget(1000, 1e9)]);
    assert_eq!(given.len(), 1, "of that nothing is said: {error}");
}

#[test]
fn only_adapters_that_read_the_host_are_planned_to() {
    let units = units(&[(1000, 0); 12]);
    let slow = budget(1 << 20, 1e9);
    // Whoever reads in place waits for every byte a hundred times as long as a copy takes.
    let slow = AdapterBudget { rates: Rates { in_place: slow.rates.bus / 100.0, ..slow.rates }, ..slow };
    let reads = AdapterBudget { reads_host: true, ..slow };
    let request = PlanRequest {
        offload: Offload::All,
        ring_slots: 2,
        offload_mode: OffloadMode::Pinned,
        in_place: true,
        resident: false,
    };
    let costs = [units.clone(), units.clone()];
    let on = |budgets: &[AdapterBudget]| plan(&costs, budgets, &request).expect("it fits");
    let layers = |plan: &Plan, adapter| plan.placements.iter().filter(|placed| placed.adapter == adapter).count();
    assert_eq!(layers(&on(&[reads, slow]), 0), 0, "the one that copies is faster");
    assert_eq!(layers(&on(&[slow, slow]), 0), 6, "both copy");
    let split = Plan { in_place: true, ..placed("aaaaaaBBBBBB") };
    let cost = |second| split.host_cost(&costs, &[reads, second], 1e9).expect("streamed").streaming_seconds;
    assert!((cost(reads) / cost(slow) - 100.0).abs() < 1e-6, "by adapter: {} and {}", cost(reads), cost(slow));
}

#[test]
fn a_chunk_has_no_more_tokens_than_an_axis_has_workgroups() {
    let checkpoint = Checkpoint::open(&repository("checkpoints/tiny-llama-gqa")).expect("the checkpoint opens");
    let (_, mut graph) = lower_checkpoint(&checkpoint, &ExecOptions::default()).expect("it is sound");
    graph.context_length = 200_000;
    let forward = |chunk, workgroups: &[u32]| {
        let all: Vec<Traits> = workgroups.iter().map(|most| Traits { workgroups: *most, ..Traits::plain() }).collect();
        let limits = all.iter().map(|traits| AdapterLimits { max_binding: 1 << 30, traits });
        largest_forward(&graph, chunk, limits).tokens
    };
    assert_eq!(forward(100_000, &[65_535]), 65_520, "whole groups of 16");
    assert_eq!(forward(u32::MAX, &[1 << 20]), 200_000, "no more than the context");
    assert_eq!(forward(100_000, &[1 << 20, 40_000]), 40_000, "the least of all adapters");
    assert_eq!(forward(500, &[65_535]), 512, "a chunk as ever");
}

#[test]
fn an_estimate_names_what_binds() {
    let units = units(&[(1_000_000, 0); 10]);
    let adapter = AdapterBudget { reads_host: true, ..budget(1 << 30, 1e9) };
    let on = |plan: &Plan, adapter| plan.estimate(std::slice::from_ref(&units), &[adapter], &[1]);
    let bound = |plan: &Plan, rates| on(plan, AdapterBudget { rates, ..adapter });
    let rates = adapter.rates;
    let resident = bound(&Plan::single(10), rates);
    assert_eq!(resident.bound, Bound::Memory, "resident weights are read");
    assert!((resident.tokens_per_second - 100.0).abs() < 1.0, "10 MB at 1 GB/s: {resident:?}");
    let streamed = bound(&placed("AAAAAAAAAA"), rates);
    assert_eq!(streamed.bound, Bound::Bus, "streamed ones are uploaded");
    assert!((streamed.tokens_per_second - 10.0).abs() < 0.1, "10 MB at 100 MB/s: {streamed:?}");
    let with = |offload_mode, in_place| bound(&Plan { offload_mode, in_place, ..placed("AAAAAAAAAA") }, rates);
    let read = with(OffloadMode::Pinned, true);
    assert_eq!(read.bound, Bound::Bus, "what is read in place comes over the bus");
    assert!((read.tokens_per_second - 12.5).abs() < 0.1, "10 MB at 125 MB/s: {read:?}");
    let cannot = on(&Plan { in_place: true, ..placed("AAAAAAAAAA") }, AdapterBudget { reads_host: false, ..adapter });
    assert_eq!(cannot, streamed, "an adapter that can't read there copies");
    let packed = with(OffloadMode::Mapped, true);
    assert!((packed.tokens_per_second - 5.0).abs() < 0.1, "10 MB packed at 50 MB/s: {packed:?}");
    let slow = Rates { dispatch: 1.0, crossing: 5.0, ..rates };
    assert_eq!(bound(&Plan::single(10), slow).bound, Bound::Latency, "waiting for one another");
}

proptest! {
    #[test]
    fn a_plan_never_exceeds_a_budget(
        sizes in prop::collection::vec((1u64..100, 0u64..20), 1..20),
        budgets in prop::collection::vec(0u64..1200, 1..4),
        offload in prop::sample::select(vec![Offload::Never, Offload::AsNeeded, Offload::All, Offload::Layers(1)]),
        ring_slots in 1usize..4,
        offload_mode in prop::sample::select(vec![OffloadMode::Pinned, OffloadMode::Mapped]),
        reads_host: bool,
    ) {
        let units = units(&sizes);
        let budget = |bytes: &u64| AdapterBudget { reads_host, ..budget(*bytes, 1e9) };
        let budgets: Vec<AdapterBudget> = budgets.iter().map(budget).collect();
        let costs = vec![units.clone(); budgets.len()];
        let request = PlanRequest { offload, ring_slots, offload_mode, in_place: true, resident: false };
        if let Ok(plan) = plan(&costs, &budgets, &request) {
            prop_assert_eq!(plan.placements.len(), units.len());
            for (adapter, budget) in budgets.iter().enumerate() {
                prop_assert!(plan.adapter_bytes(&units, adapter).total() <= budget.bytes);
            }
            let streaming = |adapter| plan.weight_bytes(&units, adapter, Residency::Streamed) > 0;
            let several = (0..plan.adapters()).filter(|adapter| streaming(*adapter)).count() > 1;
            prop_assert!(!plan.takes_turns() || several, "units go through adapters in order but where several stream");
        }
    }

    #[test]
    fn what_fits_one_adapter_is_planned_there(weights in prop::collection::vec(1u64..100, 1..20)) {
        let sizes: Vec<(u64, u64)> = weights.iter().map(|weights| (*weights, 1)).collect();
        let units = units(&sizes);
        let found = planned(&units, &[budget(whole(&units), 1e9)], Offload::Never);
        prop_assert_eq!(found.map(|plan| plan.placements), Ok(Plan::single(units.len()).placements));
        let less = planned(&units, &[budget(whole(&units) - 1, 1e9)], Offload::Never);
        prop_assert!(less.is_err(), "one byte less is refused");
    }
}
