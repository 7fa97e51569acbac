//! `tokenizer.model` files against the ids of SentencePiece itself, and against damage.
//!
//! `tests/golden/tokenizer/sentencepiece-*.json` hold texts and ids; the script beside them says how they were made.

mod common;

use std::path::{Path, PathBuf};

use common::repository;
use proptest::prelude::*;
use serde_json::{Value, json};
use wgpt::tokenizer::{Special, Tokenizer, TokenizerConfig};

const MODELS: [&str; 4] = ["bpe", "gemma", "unigram", "unigram-bytes"];

fn path(name: &str, extension: &str) -> PathBuf {
    repository("tests/golden/tokenizer").join(format!("sentencepiece-{name}.{extension}"))
}

fn golden(name: &str) -> Value {
    let text = std::fs::read_to_string(path(name, "json")).expect("the golden file can be read");
    serde_json::from_str(&text).expect("it is JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("a list of ids").iter();
    ids.map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()).expect("an id")).collect()
}

fn cases<'v>(golden: &'v Value, key: &str) -> &'v [Value] {
    golden[key].as_array().filter(|cases| cases.len() >= 10).expect("many cases")
}

fn text<'v>(case: &'v Value, key: &str) -> Option<&'v str> {
    case[key].as_str()
}

fn read(name: &str, config: &TokenizerConfig) -> Tokenizer {
    Tokenizer::from_sentencepiece(&path(name, "model"), config).expect("the model is sound")
}

fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = tokenizer.decoder(true);
    let mut text: String = ids.iter().filter_map(|&id| decoder.push(id)).collect();
    text.extend(decoder.finish());
    text
}

#[test]
fn models_give_the_ids_and_texts_of_sentencepiece() {
    for name in MODELS {
        let (golden, tokenizer) = (golden(name), read(name, &TokenizerConfig::default()));
        let unk = tokenizer.id("<unk>").expect("every model has it");
        for case in cases(&golden, "cases") {
            let (input, expected) = (text(case, "text").expect("a text"), ids(&case["ids"]));
            let found = tokenizer.encode(input, Special::None).expect("there are tokens for everything");
            assert_eq!(found, expected, "{name}: {input:?}");
            let decoded = text(case, "decoded").unwrap_or(input);
            // SentencePiece shows unknown characters as "⁇"; we leave them out with the other special tokens
            if !expected.contains(&unk) {
                assert_eq!(tokenizer.decode(&expected, true), decoded, "{name}: {input:?} decoded");
                assert_eq!(stream(&tokenizer, &expected), decoded, "{name}: {input:?} streamed");
            }
        }
        for case in cases(&golden, "decoded") {
            let (list, expected) = (ids(&case["ids"]), text(case, "text").expect("a text"));
            assert_eq!(tokenizer.decode(&list, true), expected, "{name}: {list:?}");
            assert_eq!(stream(&tokenizer, &list), expected, "{name}: {list:?} streamed");
        }
    }
}

#[test]
fn control_tokens_are_cut_out_and_legacy_says_where_spaces_go() {
    for name in MODELS {
        let golden = golden(name);
        for (key, legacy) in [("legacy", None), ("legacy", Some(true)), ("first", Some(false))] {
            let tokenizer = read(name, &TokenizerConfig { legacy, ..TokenizerConfig::default() });
            for case in cases(&golden, "special") {
                let input = text(case, "text").expect("a text");
                let found = tokenizer.encode(input, Special::None).expect("there are tokens for everything");
                assert_eq!(found, ids(&case[key]), "{name}, legacy {legacy:?}: {input:?}");
            }
        }
    }
}

#[test]
fn bos_comes_once_and_eos_where_asked() {
    for (name, bos, eos) in [("bpe", 1, 2), ("gemma", 2, 1), ("unigram", 1, 2)] {
        let tokenizer = read(name, &TokenizerConfig::default());
        let plain = tokenizer.encode("the river", Special::None).expect("text");
        let encode = |tokenizer: &Tokenizer, text| tokenizer.encode(text, Special::Add).expect("text");
        let with_bos = [&[bos], plain.as_slice()].concat();
        assert_eq!(encode(&tokenizer, "the river"), with_bos, "{name}: BOS is added without being asked for");
        assert_eq!(encode(&tokenizer, "<s>the river"), encode(&tokenizer, "the river"), "{name}: and never twice");
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(bos), Some(eos)), "{name}: the model's ids");
        let config =
            TokenizerConfig { add_bos_token: Some(false), add_eos_token: Some(true), ..TokenizerConfig::default() };
        assert_eq!(encode(&read(name, &config), "the river"), [&plain, [eos].as_slice()].concat(), "{name}: flags");
    }
}

/// A folder with a model and files beside it.
fn folder(name: &str, files: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a scratch folder");
    std::fs::copy(path(name, "model"), folder.path().join("tokenizer.model")).expect("the model is copied");
    for (file, json) in files {
        std::fs::write(folder.path().join(file), json.to_string()).expect("the file is written");
    }
    folder
}

fn in_folder(folder: &Path) -> Result<Tokenizer, String> {
    let config = TokenizerConfig::in_directory(folder).map_err(|error| error.to_string())?;
    Tokenizer::from_sentencepiece(&folder.join("tokenizer.model"), &config).map_err(|error| error.to_string())
}

#[test]
fn tokens_beside_the_model_are_found_and_decoded() {
    let decoder = json!({"700": {"content": "<|end|>", "special": true, "rstrip": true}, "701": {"content": "<tool>"}});
    let folder = folder(
        "bpe",
        &[
            ("tokenizer_config.json", json!({"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": decoder})),
            ("added_tokens.json", json!({"<extra>": 710})),
            ("special_tokens_map.json", json!({"eos_token": "<|end|>", "pad_token": "<nowhere>"})),
        ],
    );
    let tokenizer = in_folder(folder.path()).expect("the folder is sound");
    let plain = |text| tokenizer.encode(text, Special::None).expect("text");
    let river = plain("the river");
    let expected = [&river, [700].as_slice(), &river, &[701], &plain(" x"), &[710]].concat();
    let text = "the river<|end|>\n the river<tool> x<extra>";
    assert_eq!(plain(text), expected, "added tokens, one of which takes the spaces behind it");
    assert_eq!(tokenizer.decode(&expected, true), "the river the river<tool>  x<extra>", "special ones are left out");
    assert_eq!((tokenizer.eos(), tokenizer.vocab_size()), (Some(700), 711), "EOS is the added token");
    assert_eq!(tokenizer.decode(&[705, 99_999], false), "", "ids without a token have no text");
    assert_eq!(plain("<nowhere>").len(), plain("<nowhere>").iter().filter(|&&id| id < 700).count(), "no id, no token");
}

#[test]
fn the_model_s_own_tokens_may_be_listed_once_more() {
    // as Gemma's tokenizer_config.json lists every user-defined token
    let bare = read("gemma", &TokenizerConfig::default());
    let own = ["\u{2581}\u{2581}", "\n\n", "<h1>", "<|user|>"].map(|text| (text, bare.id(text).expect("a token")));
    let entry = |(text, id): (&str, u32)| (id.to_string(), json!({"content": text, "special": text == "<|user|>"}));
    let decoder: serde_json::Map<String, Value> = own.into_iter().map(entry).collect();
    let files =
        [("tokenizer_config.json", json!({"added_tokens_decoder": decoder, "tokenizer_class": "GemmaTokenizer"}))];
    let listed = in_folder(folder("gemma", &files).path()).expect("the folder is sound");
    let text = "a  b\n\n<h1>the river  ran";
    let ids = bare.encode(text, Special::Add).expect("text");
    assert_eq!(listed.encode(text, Special::Add).ok().as_ref(), Some(&ids), "the same ids");
    assert_eq!(listed.decode(&ids, true), text, "two spaces are two spaces");
    assert_eq!(listed.decode(&[own[3].1], true), "", "but what is called special is left out");
}

#[test]
fn folders_that_ask_for_what_is_not_there_are_refused() {
    for (files, problem) in [
        (vec![("tokenizer_config.json", json!({"tokenizer_class": "ChatGLMTokenizer"}))], "ChatGLMTokenizer"),
        (vec![("tokenizer_config.json", json!({"bos_token": "<nowhere>"}))], "bos_token is \"<nowhere>\""),
        (
            vec![("tokenizer_config.json", json!({"added_tokens_decoder": {"x": {"content": "a"}}}))],
            "added_tokens_decoder",
        ),
        (vec![("added_tokens.json", json!({"<x>": 4_000_000_000u32}))], "4000000000"),
        (vec![("added_tokens.json", json!({"<x>": "y"}))], "added_tokens.json"),
    ] {
        let message = in_folder(folder("bpe", &files).path()).map(|_| ()).expect_err("refused");
        assert!(message.contains(problem), "{message}");
    }
    let tiktoken = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(tiktoken.path().join("tokenizer.model"), "IQ== 0\nIg== 1\n").expect("the file is written");
    let message = in_folder(tiktoken.path()).map(|_| ()).expect_err("another format");
    assert!(message.contains("tiktoken") && message.contains("tokenizer.model"), "{message}");
}

/// Whatever a file holds, the answer is a tokenizer that works or an error that names the file.
fn survives(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("tokenizer.model");
    std::fs::write(&path, bytes).expect("the file is written");
    match Tokenizer::from_sentencepiece(&path, &TokenizerConfig::default()) {
        Ok(tokenizer) => {
            if let Ok(ids) = tokenizer.encode("the river ﬁ  <|user|> 日", Special::Add) {
                tokenizer.decode(&ids, false);
            }
        }
        Err(error) => assert!(error.to_string().contains("tokenizer.model"), "{error}"),
    }
}

#[test]
fn truncated_models_are_errors_or_whole() {
    for name in ["bpe", "unigram"] {
        let bytes = std::fs::read(path(name, "model")).expect("the model can be read");
        for end in (0..bytes.len()).step_by(23).chain(bytes.len() - 200..bytes.len()) {
            survives(&bytes[..end]);
        }
        let half = Tokenizer::from_sentencepiece(&path(name, "model"), &TokenizerConfig::default());
        assert!(half.is_ok(), "{name}: the whole file is sound");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_models_never_panic(
        unigram: bool, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), tail: bool,
    ) {
        let name = if unigram { "unigram" } else { "bpe" };
        let mut bytes = std::fs::read(path(name, "model")).expect("the model can be read");
        // the specifications and the character map are at the end
        let from = if tail { bytes.len() - bytes.len() / 8 } else { 0 };
        for (at, byte) in flips {
            let at = from + at.index(bytes.len() - from);
            bytes[at] = byte;
        }
        survives(&bytes);
    }
}
