//! The typed config: what it answers, how it complains, what it remembers.

use wgpt::checkpoint::{CheckpointError, Config, RowConventions};

use crate::assert_says;

fn config(json: &str) -> Config {
    Config::parse("config.json", json.as_bytes(), RowConventions::default()).expect("valid JSON")
}

#[track_caller]
fn refused<T>(found: Result<T, CheckpointError>) -> CheckpointError {
    found.map(|_| ()).expect_err("it must be refused")
}

#[test]
fn keys_have_types() {
    let config = config(
        r#"{"model_type": "llama", "n": 7, "x": 1e-5, "whole": 10000, "on": true, "none": null, "kinds": ["a", "b"],
            "ids": [1, 2], "id": 3}"#,
    );
    assert_eq!(config.architecture().expect("a string"), "llama", "model_type");
    assert_eq!(config.u32("n").expect("an integer"), 7, "an integer");
    assert_eq!(config.f32("x").expect("a number"), 1e-5, "a number");
    assert_eq!(config.f32("whole").expect("a number"), 10_000.0, "an integer is a number");
    assert!(config.bool("on").expect("a flag"), "a flag");
    assert_eq!(config.opt_u32("none").expect("null"), None, "null is absent");
    assert_eq!((config.has("none"), config.has("n")), (false, true), "null is absent");
    assert_eq!(config.u32_or("absent", 5).expect("absent"), 5, "the default");
    assert_eq!(config.any_u32(&["absent", "n"]).expect("the second"), 7, "the name that is there");
    assert_eq!(config.strs("kinds").expect("strings"), Some(vec!["a", "b"]), "a list");
    assert_eq!(config.u32s("ids").expect("integers"), Some(vec![1, 2]), "a list");
    assert_eq!(config.u32s("id").expect("an integer"), Some(vec![3]), "one by itself");
}

#[test]
fn complaints_name_file_key_and_value() {
    let config =
        config(r#"{"hidden_size": "x", "n": -1, "huge": 4294967296, "f": 1e60, "rope_scaling": {"factor": []}}"#);
    let says = |error, part: &str| assert_says(&error, &[part]);
    says(
        refused(config.u32("hidden_size")),
        r#"config.json: "hidden_size": expected an integer from 0 to 4294967295, found "x""#,
    );
    says(refused(config.u32("n")), "found -1");
    says(refused(config.u32_or("huge", 1)), "found 4294967296");
    says(refused(config.opt_f32("f")), r#""f": expected a number, found 1e+60"#);
    says(refused(config.str("absent")), r#"config.json: "absent" is missing"#);
    says(refused(config.any_u32(&["a", "b"])), r#"config.json: "a" or "b" is missing"#);
    says(refused(config.section("n")), r#""n": expected an object, found -1"#);
    let scaling = config.section("rope_scaling").expect("an object").expect("it is there");
    says(refused(scaling.f32("factor")), r#""rope_scaling.factor": expected a number, found []"#);
    says(refused(scaling.f32("beta")), r#""rope_scaling.beta" is missing"#);
    let parse = |json: &[u8]| Config::parse("config.json", json, RowConventions::default());
    says(refused(parse(b"[1]")), "config.json: expected a JSON object, found [1]");
    says(refused(parse(b"{\"a\": NaN}")), "config.json: not valid JSON");
    says(refused(parse(b"\xff")), "config.json: not valid JSON");
    let deep = "[".repeat(100_000);
    says(refused(parse(deep.as_bytes())), "recursion limit");
}

#[test]
fn what_nobody_asked_for_is_listed() {
    let config =
        config(r#"{"a": 1, "b": 2, "s": {"x": 1, "y": {"z": 1}}, "t": {"u": 1}, "gone": null, "i": {"j": 1}}"#);
    let _ = config.u32("a");
    let section = config.section("s").expect("an object").expect("it is there");
    let _ = section.u32("x");
    config.ignore(&["i"]);
    assert_eq!(config.unread(), ["b", "s.y", "t"], "sections that were opened are looked into");
}
