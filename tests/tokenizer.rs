//! The tokenizers against what other implementations make of the same texts.
//!
//! `tests/golden/tokenizer/*.json` hold the texts and ids; the scripts beside them say how they were made.

mod common;

use std::path::Path;

use common::{repository, tiny_checkpoints};
use proptest::prelude::*;
use serde_json::Value;
use wgpt::checkpoint::Checkpoint;
use wgpt::session::Language;
use wgpt::tokenizer::{Special, Tokenizer, TokenizerConfig, Vocabulary};

/// One text of a golden file.
struct Case {
    text: String,
    ids: Vec<u32>,
    ids_with_special: Vec<u32>,
    /// What the ids decode to, where that is not `text`.
    decoded: Option<String>,
}

fn golden(name: &str) -> Value {
    let path = repository("tests/golden/tokenizer").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list<T>(value: &Value, item: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let items = value.as_array().expect("a list").iter();
    items.map(|value| item(value).unwrap_or_else(|| panic!("{value} is of another type"))).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    list(value, |id| u32::try_from(id.as_u64()?).ok())
}

fn cases(golden: &Value) -> Vec<Case> {
    let cases = list(&golden["cases"], |case| {
        Some(Case {
            text: case["text"].as_str()?.to_owned(),
            ids: ids(&case["ids"]),
            ids_with_special: ids(&case["ids_with_special"]),
            decoded: case["decoded"].as_str().map(str::to_owned),
        })
    });
    assert!(cases.len() > 200, "the references hold many texts, found {}", cases.len());
    cases
}

/// The text of some ids, one at a time.
fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = tokenizer.decoder(false);
    let mut text: String = ids.iter().filter_map(|&id| decoder.push(id)).collect();
    text.extend(decoder.finish());
    text
}

/// Every text of a golden file, there and back.
fn check(tokenizer: &Tokenizer, golden: &Value) {
    for Case { text, ids, ids_with_special, decoded } in cases(golden) {
        let encode = |special| tokenizer.encode(&text, special).expect("every text can be encoded");
        assert_eq!(encode(Special::None), ids, "{text:?}");
        assert_eq!(encode(Special::Add), ids_with_special, "{text:?} with special tokens");
        let expected = decoded.as_ref().unwrap_or(&text);
        assert_eq!(&tokenizer.decode(&ids, false), expected, "{ids:?} decoded");
        assert_eq!(&stream(tokenizer, &ids), expected, "{ids:?} streamed");
    }
}

#[test]
fn tiny_tokenizer_files_give_the_ids_of_the_tokenizers_library() {
    let golden = golden("tiny.json");
    let files: Vec<_> =
        tiny_checkpoints().iter().map(|folder| folder.join("tokenizer.json")).filter(|path| path.is_file()).collect();
    assert!(!files.is_empty(), "tiny checkpoints have tokenizers");
    for file in files {
        let config = TokenizerConfig::in_directory(file.parent().unwrap_or(Path::new(""))).expect("a config");
        check(&Tokenizer::from_file(&file, &config).expect("a tokenizer"), &golden);
    }
}

#[test]
fn tiny_gguf_files_give_the_ids_of_the_tokenizers_library() {
    let golden = golden("tiny.json");
    let files: Vec<_> =
        tiny_checkpoints().iter().map(|folder| folder.join("model.gguf")).filter(|path| path.is_file()).collect();
    assert!(!files.is_empty(), "some tiny checkpoints come as GGUF");
    for file in files {
        let checkpoint = Checkpoint::open(&file).expect("the file opens");
        check(&Language::of(&checkpoint).expect("it has a vocabulary").tokenizer, &golden);
    }
}

/// The tokenizer of a vocabulary-only file, as every command gets it.
fn vocabulary_file(name: &str) -> Tokenizer {
    let checkpoint = Checkpoint::open(&repository("checkpoints/vocab").join(name)).expect("the file opens");
    Language::of(&checkpoint).expect("it has a vocabulary").tokenizer
}

#[test]
fn gpt_neox_vocabulary_gives_llama_cpps_ids() {
    // The file names no pre-tokenizer; its architecture says which.
    check(&vocabulary_file("ggml-vocab-gpt-neox.gguf"), &golden("gpt-neox.json"));
}

#[test]
fn falcon_vocabulary_gives_llama_cpps_ids() {
    check(&vocabulary_file("ggml-vocab-falcon.gguf"), &golden("falcon.json"));
}

#[test]
fn smollm_vocabulary_gives_llama_cpps_ids() {
    let path = repository("checkpoints/smollm2");
    assert!(path.is_dir(), "fetch the model first: ./checkpoints/fetch-smollm2");
    let checkpoint = Checkpoint::open(&path).expect("the model opens");
    check(&Language::of(&checkpoint).expect("it has a vocabulary").tokenizer, &golden("smollm.json"));
}

#[test]
fn every_pre_tokenizer_cuts_as_llama_cpp_or_the_published_one_does() {
    let golden = golden("pre_tokenizers.json");
    let strings = |key: &str| list(&golden[key], |text| Some(text.as_str()?.to_owned()));
    let (mut tokens, merges, texts) = (strings("tokens"), strings("merges"), strings("texts"));
    // some kinds add BOS, and want to know which it is
    tokens.push("<bos>".into());
    let bos = u32::try_from(tokens.len() - 1).ok();
    let mut names = 0;
    for split in list(&golden["splits"], |split| Some(split.clone())) {
        for name in list(&split["names"], |name| Some(name.as_str()?.to_owned())) {
            let vocabulary = Vocabulary {
                model: "gpt2".into(),
                pre: Some(name.clone()),
                tokens: tokens.clone(),
                merges: merges.clone(),
                bos,
                ..Vocabulary::default()
            };
            let tokenizer = Tokenizer::from_vocabulary(vocabulary).unwrap_or_else(|error| panic!("{name}: {error}"));
            for (index, (text, expected)) in texts.iter().zip(list(&split["ids"], |list| Some(ids(list)))).enumerate() {
                let published = &split["published"][index.to_string()];
                let expected = if published.is_null() { expected } else { ids(published) };
                let found = tokenizer.encode(text, Special::None).expect("every byte has a token");
                assert_eq!(found, expected, "{name}: {text:?}");
                assert_eq!(&tokenizer.decode(&found, false), text, "{name}: {text:?} decoded");
            }
            names += 1;
        }
    }
    assert!(names > 60, "every name that llama.cpp knows of causal models, found {names}");
}

#[test]
fn sentencepiece_vocabulary_gives_the_ids_of_sentencepiece_and_llama_cpp() {
    let golden = golden("sentencepiece.json");
    let words = &golden["vocabulary"];
    let vocabulary = Vocabulary {
        model: "llama".into(),
        tokens: list(&words["tokens"], |token| Some(token.as_str()?.to_owned())),
        token_types: list(&words["token_types"], |kind| i32::try_from(kind.as_i64()?).ok()),
        scores: list(&words["scores"], |score| Some(score.as_f64()? as f32)),
        ..Vocabulary::default()
    };
    let tokenizer = Tokenizer::from_vocabulary(vocabulary).expect("the vocabulary is sound");
    for case in cases(&golden) {
        let encode = |special| tokenizer.encode(&case.text, special).expect("there are byte tokens");
        assert_eq!(encode(Special::None), case.ids, "{:?}", case.text);
        // llama.cpp doubles the BOS of a text that brings its own; we do not.
        let once = if case.ids.first() == tokenizer.bos().as_ref() { &case.ids } else { &case.ids_with_special };
        assert_eq!(&encode(Special::Add), once, "{:?} with special tokens", case.text);
        let has_special =
            ["<s>", "</s>", "<unk>", "<|user|>", "\u{2581}"].iter().any(|token| case.text.contains(token));
        if !has_special {
            assert_eq!(tokenizer.decode(&case.ids, true), case.text, "{:?} decoded", case.ids);
        }
    }
}

/// A small GGUF vocabulary and its golden file.
fn small_gguf(name: &str) -> (Language, Value) {
    let file = repository("tests/golden/tokenizer").join(format!("gguf-{name}.gguf"));
    let checkpoint = Checkpoint::open(&file).expect("the file opens");
    (Language::of(&checkpoint).expect("it has a vocabulary"), golden(&format!("gguf-{name}.json")))
}

#[test]
fn gguf_vocabularies_give_llama_cpps_ids() {
    for name in ["gemma", "phi3", "gemma4", "eos"] {
        let (Language { tokenizer, .. }, golden) = small_gguf(name);
        for Case { text, ids, ids_with_special, .. } in cases(&golden) {
            let encode = |special| tokenizer.encode(&text, special).expect("there are byte tokens");
            assert_eq!(encode(Special::None), ids, "{name}: {text:?}");
            // llama.cpp doubles the BOS or EOS of a text that brings its own; we do not.
            let mut once = ids_with_special.as_slice();
            if let (Some(bos), [first, second, ..]) = (tokenizer.bos(), once) {
                let doubled = once.len() > ids.len() && [bos; 2] == [*first, *second];
                once = if doubled { &once[1..] } else { once };
            }
            if let (Some(eos), [.., second, last]) = (tokenizer.eos(), once) {
                let doubled = once.len() > ids.len() && [eos; 2] == [*second, *last];
                once = if doubled { &once[..once.len() - 1] } else { once };
            }
            assert_eq!(encode(Special::Add), once, "{name}: {text:?} with special tokens");
            // SentencePiece writes a literal "▁" as it writes a space, and Phi-3's tokens swallow spaces.
            if !text.contains('\u{2581}') && (name != "phi3" || !text.contains('<')) && !text.contains("<s>") {
                assert_eq!(tokenizer.decode(&ids, false), text, "{name}: {ids:?} decoded");
                assert_eq!(stream(&tokenizer, &ids), text, "{name}: {ids:?} streamed");
            }
        }
    }
}

#[test]
fn every_end_that_a_gguf_file_names_ends_a_text() {
    let (Language { end_ids, tokenizer, .. }, _) = small_gguf("phi3");
    let id = |text| tokenizer.id(text).unwrap_or_else(|| panic!("{text} is a token"));
    assert_eq!(end_ids, [id("<|end|>"), id("<|endoftext|>"), id("<|tool|>")], "end of turn, EOS, end of message");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The tokenizers library decodes whole texts; a stream of ours must not differ, whatever the bytes.
    #[test]
    fn streams_of_any_ids_are_what_the_tokenizers_library_decodes(
        ids in prop::collection::vec(0u32..700, 0..60), skip_special: bool,
    ) {
        let file = repository("checkpoints/tiny-llama-gqa/tokenizer.json");
        let theirs = tokenizers::Tokenizer::from_file(&file).expect("the library reads it");
        let ours = Tokenizer::from_file(&file, &TokenizerConfig::default()).expect("so do we");
        let expected = theirs.decode(&ids, skip_special).expect("the library decodes anything");
        let mut decoder = ours.decoder(skip_special);
        let mut text: String = ids.iter().filter_map(|&id| decoder.push(id)).collect();
        text.extend(decoder.finish());
        prop_assert_eq!(&text, &expected);
        prop_assert_eq!(ours.decode(&ids, skip_special), expected);
    }
}
