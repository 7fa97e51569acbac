//! Texts so long that an expression of the tokenizer takes more steps than its engine allows.

mod common;

use common::repository;
use serde_json::{Value, json};
use wgpt::tokenizer::{Special, Tokenizer, TokenizerConfig};

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const THREES_FROM_RIGHT: &str = r"\d{1,3}(?=(?:\d{3})*\b)";

/// Cuts by an expression, then writes bytes as characters, as published files do.
fn split(pattern: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
}

/// A byte-level vocabulary with other steps before it.
fn tokenizer(changes: &[(&str, Value)]) -> Tokenizer {
    let file = std::fs::read(repository("checkpoints/tiny-gpt2/tokenizer.json")).expect("the file is there");
    let mut json: Value = serde_json::from_slice(&file).expect("it is JSON");
    for (key, value) in changes {
        json[*key] = value.clone();
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).expect("the file is written");
    Tokenizer::from_file(&path, &TokenizerConfig::default()).expect("a tokenizer")
}

/// The ids of the text's end, cut as after a short beginning.
#[track_caller]
fn check_end(tokenizer: &Tokenizer, piece: &str, times: usize, end: &str) {
    let encode = |times| tokenizer.encode(&(piece.repeat(times) + end), Special::None).expect("every byte has a token");
    let (short, long) = (encode(100), encode(times));
    let count = tokenizer.encode(end, Special::None).expect("every byte has a token").len();
    assert_eq!(long[long.len() - count..], short[short.len() - count..], "{end:?} after {times} times {piece:?}");
}

#[test]
fn a_long_run_of_spaces_is_exact_or_an_error() {
    for (name, pre_tokenizer) in [("Split", Some(split(QWEN2))), ("ByteLevel", None)] {
        let changes: Vec<_> = pre_tokenizer.into_iter().map(|value| ("pre_tokenizer", value)).collect();
        let tokenizer = tokenizer(&changes);
        check_end(&tokenizer, " ", 900_000, "the cat 123 the");
        let text = " ".repeat(1_200_000) + "the cat 123 the";
        let message = tokenizer.encode(&text, Special::None).expect_err("no expression goes so far back").to_string();
        assert!(message.contains("gave up on 1200015 bytes"), "{name}: {message}");
        assert!(message.contains("Shorten the text"), "{name}: {message}");
    }
}

#[test]
fn a_match_far_behind_the_last_one_is_found() {
    check_end(&tokenizer(&[("pre_tokenizer", split(THREES_FROM_RIGHT))]), "the cat ", 150_000, "1234567 the");
}

#[test]
fn a_replacement_far_behind_the_last_one_is_made() {
    let normalizer = json!({"type": "Replace", "pattern": {"Regex": r"\d(?=(?:\d{3})*\b)"}, "content": "x"});
    check_end(&tokenizer(&[("normalizer", normalizer)]), "the cat ", 150_000, "1234567 the");
}
