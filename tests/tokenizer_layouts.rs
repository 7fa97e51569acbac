//! Tokenizer files as each family lays them out, against what the library they were written for makes of texts.
//!
//! `tests/golden/tokenizer/layouts.json` holds the files, texts and ids; the script beside it says how they were made.

mod common;

use std::path::Path;

use common::repository;
use serde_json::{Value, json};
use wgpt::tokenizer::{Special, Tokenizer, TokenizerConfig, TokenizerError};

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("a list of ids").iter();
    ids.map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()).expect("an id")).collect()
}

fn write(folder: &Path, files: &serde_json::Map<String, Value>) {
    for (name, content) in files {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        std::fs::write(folder.join(name), text).expect("the file is written");
    }
}

fn read(folder: &Path) -> Result<Tokenizer, TokenizerError> {
    let config = TokenizerConfig::in_directory(folder)?;
    let json = folder.join("tokenizer.json");
    if json.is_file() {
        Tokenizer::from_file(&json, &config)
    } else {
        Tokenizer::from_vocab_files(&folder.join("vocab.json"), &folder.join("merges.txt"), &config)
    }
}

fn stream(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut decoder = tokenizer.decoder(skip_special);
    let mut text: String = ids.iter().filter_map(|&id| decoder.push(id)).collect();
    text.extend(decoder.finish());
    text
}

#[test]
fn every_layout_gives_the_ids_and_texts_of_its_library() {
    let path = repository("tests/golden/tokenizer/layouts.json");
    let golden = std::fs::read_to_string(path).expect("the golden file can be read");
    let golden: Value = serde_json::from_str(&golden).expect("it is JSON");
    let layouts = golden["layouts"].as_array().expect("a list");
    assert!(layouts.len() >= 16, "every layout, found {}", layouts.len());
    for layout in layouts {
        let name = layout["name"].as_str().expect("a name");
        let folder = tempfile::tempdir().expect("a scratch folder");
        write(folder.path(), layout["files"].as_object().expect("files"));
        let tokenizer = read(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let cases = layout["cases"].as_array().expect("a list");
        assert!(cases.len() >= 40, "{name}: many texts, found {}", cases.len());
        for case in cases {
            let text = case["text"].as_str().expect("a text");
            let encode = |special| tokenizer.encode(text, special).expect("every text can be encoded");
            let plain = ids(&case["ids"]);
            assert_eq!(encode(Special::None), plain, "{name}: {text:?}");
            assert_eq!(encode(Special::Add), ids(&case["with_special"]), "{name}: {text:?} with special tokens");
            for (key, skip) in [("decoded", false), ("decoded_without_special", true)] {
                let expected = case[key].as_str().unwrap_or(text);
                assert_eq!(tokenizer.decode(&plain, skip), expected, "{name}: {text:?} {key}");
                assert_eq!(stream(&tokenizer, &plain, skip), expected, "{name}: {text:?} {key}, streamed");
            }
        }
        let beyond = u32::try_from(tokenizer.vocab_size()).expect("few tokens");
        assert_eq!(tokenizer.decode(&[beyond, 300_000, u32::MAX], false), "", "{name}: rows beyond the vocabulary");
    }
}

/// Byte-level files of the smallest kind.
fn vocab_files(change: impl Fn(&mut serde_json::Map<String, Value>)) -> Result<Tokenizer, String> {
    let vocab = json!({"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|endoftext|>": 7});
    let Value::Object(mut files) = json!({
        "vocab.json": vocab,
        "merges.txt": "#version: 0.2\na b\n",
        "tokenizer_config.json": {"tokenizer_class": "GPT2TokenizerFast"},
    }) else {
        unreachable!("an object was written")
    };
    change(&mut files);
    let folder = tempfile::tempdir().expect("a scratch folder");
    write(folder.path(), &files);
    read(folder.path()).map_err(|error| error.to_string())
}

#[test]
fn vocab_files_go_by_the_class_or_the_model_type() {
    let tokenizer = vocab_files(|_| ()).expect("the files are sound");
    assert_eq!(tokenizer.encode("ab a<|endoftext|>", Special::Add).ok(), Some(vec![2, 3, 0, 7]), "no BOS");
    assert_eq!((tokenizer.eos(), tokenizer.vocab_size()), (Some(7), 8), "the class says what EOS is");
    assert_eq!(tokenizer.decode(&[2, 5, 7], true), "ab", "skipped ids have no text, EOS is special");
    let by_model = vocab_files(|files| {
        files["tokenizer_config.json"] = json!({});
        files.insert("config.json".into(), json!({"model_type": "gpt_bigcode"}));
    });
    assert_eq!(by_model.expect("GPT-BigCode").encode("ab", Special::None).ok(), Some(vec![2]), "by model_type");
}

#[test]
fn vocab_files_that_are_not_whole_are_refused() {
    type Change = fn(&mut serde_json::Map<String, Value>);
    let changes: [(Change, &str); 9] = [
        (|files| files["tokenizer_config.json"] = json!({}), "tokenizer_class is not given"),
        (|files| files["tokenizer_config.json"] = json!({"tokenizer_class": "BertTokenizer"}), "BertTokenizer"),
        (|files| files["vocab.json"] = json!(["a"]), "vocab.json: expected {text: id}"),
        (|files| files["vocab.json"] = json!({"a": -1}), "\"a\": -1"),
        (|files| files["vocab.json"] = json!({"a": 0, "b": 0}), "both have id 0"),
        (|files| files["vocab.json"] = json!({"a": 4_000_000_000u32}), "4000000000"),
        (|files| files["vocab.json"]["far"] = json!(16_777_215), "\"far\" has id 16777215, but there are 6 tokens"),
        (|files| files["merges.txt"] = json!("a c\n"), "merges[0] is \"a c\""),
        (|files| files["merges.txt"] = json!("#version: 0.2\n"), "no merges"),
    ];
    for (change, problem) in changes {
        let message = vocab_files(change).map(|_| ()).expect_err("refused");
        assert!(message.contains(problem), "{message}");
    }
    let without = vocab_files(|files| drop(files.remove("merges.txt"))).map(|_| ()).expect_err("a file is missing");
    assert!(without.contains("merges.txt"), "{without}");
}

#[test]
fn ids_out_of_all_proportion_are_refused() {
    let of_json = |id: u32| {
        vocab_files(|files| {
            let model = json!({"type": "BPE", "vocab": {"a": 0, "b": id}, "merges": []});
            files.insert("tokenizer.json".into(), json!({"model": model, "added_tokens": []}));
        })
    };
    let message = of_json(16_777_215).map(|_| ()).expect_err("it is refused");
    assert!(message.contains("token id 16777215 in a vocabulary of 2 tokens"), "{message}");
    assert_eq!(of_json(60_000).map(|tokenizer| tokenizer.vocab_size()), Ok(60_001), "some ids are skipped");
    let of_files = |id: u32| {
        vocab_files(|files| {
            files["tokenizer_config.json"]["added_tokens_decoder"] = json!({id.to_string(): {"content": "<far>"}});
        })
    };
    let message = of_files(16_777_215).map(|_| ()).expect_err("it is refused");
    assert!(message.contains("\"<far>\" has id 16777215"), "{message}");
    assert_eq!(of_files(60_000).map(|tokenizer| tokenizer.vocab_size()), Ok(60_001), "some ids are skipped");
}
