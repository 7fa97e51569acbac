//! Where a checkpoint's tokenizer comes from: what is preferred, and what is said where there is none.

mod common;

use std::path::Path;

use common::repository;
use wgpt::checkpoint::Checkpoint;
use wgpt::session::Language;
use wgpt::tokenizer::Special;

/// A folder with the weights of a tiny checkpoint and other files, each copied from the repository or written.
fn folder(copied: &[(&str, &str)], written: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let tiny = "checkpoints/tiny-llama-gqa";
    let weights =
        [("config.json", format!("{tiny}/config.json")), ("model.safetensors", format!("{tiny}/model.safetensors"))];
    let copied = copied.iter().map(|&(name, from)| (name, from.to_owned()));
    for (name, from) in weights.into_iter().chain(copied) {
        std::fs::copy(repository(&from), folder.path().join(name)).expect("the file is copied");
    }
    for (name, text) in written {
        std::fs::write(folder.path().join(name), text).expect("the file is written");
    }
    folder
}

fn language(folder: &Path) -> Result<Language, String> {
    let checkpoint = Checkpoint::open(folder).expect("the weights open");
    Language::of(&checkpoint).map_err(|error| error.to_string())
}

const MODEL: (&str, &str) = ("tokenizer.model", "tests/golden/tokenizer/sentencepiece-bpe.model");
const JSON: (&str, &str) = ("tokenizer.json", "checkpoints/tiny-llama-gqa/tokenizer.json");
const CONFIG: (&str, &str) =
    ("tokenizer_config.json", r#"{"tokenizer_class": "LlamaTokenizer", "eos_token": "<ctl>"}"#);

#[test]
fn tokenizer_json_is_preferred_to_tokenizer_model() {
    let both = language(folder(&[MODEL, JSON], &[]).path()).expect("two tokenizers");
    let json = language(folder(&[JSON], &[]).path()).expect("one tokenizer");
    let encode = |language: &Language| language.tokenizer.encode("the river", Special::Add).expect("text");
    assert_eq!(encode(&both), encode(&json), "tokenizer.json's ids");
    let model = language(folder(&[MODEL], &[]).path()).expect("the other tokenizer");
    assert_ne!(encode(&both), encode(&model), "which are not tokenizer.model's");
}

#[test]
fn a_sentencepiece_model_alone_is_a_tokenizer() {
    let language = language(folder(&[MODEL], &[CONFIG]).path()).expect("a tokenizer");
    let ids = language.tokenizer.encode("the river", Special::Add).expect("text");
    assert_eq!(ids.first(), Some(&1), "BOS is in front");
    assert_eq!(language.tokenizer.decode(&ids, true), "the river", "and back");
    assert!(language.end_ids.contains(&3), "the EOS of tokenizer_config.json is <ctl>, {:?}", language.end_ids);
}

#[test]
fn a_token_far_beside_a_sentencepiece_model_is_refused() {
    let beside = |id: u32| {
        let config = format!(
            r#"{{"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {{"{id}": {{"content": "<far>"}}}}}}"#
        );
        language(folder(&[MODEL], &[("tokenizer_config.json", &config)]).path())
    };
    let found = beside(60_000).map(|language| language.tokenizer.vocab_size());
    assert_eq!(found, Ok(60_001), "some ids are skipped");
    let message = beside(16_777_215).map(|_| ()).expect_err("a table by id would be out of all proportion");
    assert!(message.contains("added token's id is 16777215"), "{message}");
}

#[test]
fn vocab_json_and_merges_are_a_tokenizer_where_the_class_is_known() {
    let vocab = ("vocab.json", r#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#);
    let merges = ("merges.txt", "#version: 0.2\na b\n");
    let class = ("tokenizer_config.json", r#"{"tokenizer_class": "GPT2TokenizerFast"}"#);
    let found = language(folder(&[], &[vocab, merges, class]).path()).expect("a tokenizer");
    assert_eq!(found.tokenizer.encode("aba", Special::Add).ok(), Some(vec![2, 0]), "merged");
    // the model's own type is llama, which says nothing of how words are cut
    let message = language(folder(&[], &[vocab, merges]).path()).expect_err("no class");
    assert!(message.contains("tokenizer_class is not given") && message.contains("GPT2Tokenizer"), "{message}");
    let message = language(folder(&[], &[vocab, class]).path()).expect_err("merges are missing");
    assert!(message.contains("vocab.json with merges.txt"), "{message}");
}

#[test]
fn without_a_tokenizer_everything_looked_for_is_listed() {
    let folder = folder(&[], &[]);
    let message = language(folder.path()).expect_err("no tokenizer");
    for looked_for in ["GGUF", "tokenizer.json", "tokenizer.model", "vocab.json with merges.txt"] {
        assert!(message.contains(looked_for), "{message}");
    }
    assert!(message.contains(&folder.path().display().to_string()), "and where: {message}");
}
