//! Tokenizers as a whole, built from small hand-made files and vocabularies.

use serde_json::{Value, json};

use super::*;

/// A `tokenizer.json` as Llama checkpoints have it: `▁` for spaces, byte fallback, BOS by post-processor.
fn llama_json() -> Value {
    let mut vocab = serde_json::Map::new();
    for token in ["<unk>", "<s>", "</s>"] {
        vocab.insert(token.into(), vocab.len().into());
    }
    for byte in 0..=255 {
        vocab.insert(format!("<0x{byte:02X}>"), vocab.len().into());
    }
    for token in ["▁", "a", "b", "▁a", "▁ab"] {
        vocab.insert(token.into(), vocab.len().into());
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": ["▁ a", "▁a b"]}
    })
}

fn read(json: &Value, config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).expect("the file is written");
    Tokenizer::from_file(&path, config)
}

fn config(add_bos: Option<bool>, add_eos: Option<bool>) -> TokenizerConfig {
    TokenizerConfig {
        bos_token: Some("<s>".into()),
        eos_token: Some("</s>".into()),
        add_bos_token: add_bos,
        add_eos_token: add_eos,
        ..TokenizerConfig::default()
    }
}

#[track_caller]
fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, Special::Add).expect("there are tokens for every byte");
    ids.into_iter().map(|id| tokenizer.piece(id).expect("encoding gives ids of tokens")).collect()
}

#[test]
fn the_post_processor_says_whether_bos_is_added() {
    let tokenizer = read(&llama_json(), &TokenizerConfig::default()).expect("the file is sound");
    assert_eq!(pieces(&tokenizer, "ab a"), ["<s>", "▁ab", "▁a"], "nothing is cut off by the file's truncation");
    assert_eq!(tokenizer.bos(), Some(1), "what is put in front is BOS");
    assert_eq!(pieces(&tokenizer, ""), ["<s>"], "an empty text");
}

#[test]
fn the_config_has_the_last_word_on_bos_and_eos() {
    let tokenizer = read(&llama_json(), &config(Some(false), Some(true))).expect("the file is sound");
    assert_eq!(pieces(&tokenizer, "a"), ["▁a", "</s>"], "no BOS, but EOS");
    let tokenizer = read(&llama_json(), &config(Some(true), None)).expect("the file is sound");
    assert_eq!(pieces(&tokenizer, "a"), ["<s>", "▁a"], "one BOS, though both ask for it");
    assert_eq!(pieces(&tokenizer, "<s>a"), ["<s>", "▁a"], "one BOS, though the text brings it");
}

#[test]
fn a_special_token_that_is_to_be_added_must_exist() {
    let config = TokenizerConfig { bos_token: Some("<bos>".into()), add_bos_token: Some(true), ..Default::default() };
    let mut json = llama_json();
    json["post_processor"] = Value::Null;
    let message = read(&json, &config).expect_err("<bos> is no token").to_string();
    assert!(message.contains("bos_token is \"<bos>\""), "{message}");
}

#[test]
fn byte_fallback_streams_in_whole_characters() {
    let tokenizer = read(&llama_json(), &TokenizerConfig::default()).expect("the file is sound");
    let ids = tokenizer.encode("a é", Special::Add).expect("there are byte tokens");
    let mut decoder = tokenizer.decoder(true);
    let pushed: Vec<Option<String>> = ids.iter().map(|&id| decoder.push(id)).collect();
    let texts: Vec<Option<&str>> = pushed.iter().map(Option::as_deref).collect();
    assert_eq!(texts, [None, Some("a"), Some(" "), None, Some("é")], "BOS, a, space, two bytes");
    assert_eq!(tokenizer.decode(&ids, false), "<s> a é", "the space is only dropped at the start of the text");
}

#[test]
fn hostile_files_are_errors() {
    let with = |pointer: &str, value: Value| {
        let mut json = llama_json();
        *json.pointer_mut(pointer).expect("the key is there") = value;
        json
    };
    let long = "x".repeat(1000);
    for json in [
        json!([]),
        json!({}),
        with("/model", json!({"type": "BPE", "vocab": {"a": 0}, "merges": [[long.clone(), long]]})),
        with("/model/merges", json!(["▁▁▁▁▁▁▁▁ aaaaaaaa"])),
        with("/model/merges", json!(["a"])),
        with("/model/vocab", json!({"a": 4_000_000_000u32})),
        with("/model/vocab", json!("a")),
        with("/decoder", json!({"type": "CTC", "pad_token": "a", "word_delimiter_token": "b", "cleanup": true})),
        with(
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
        ),
    ] {
        let error =
            read(&json, &TokenizerConfig::default()).map(|_| ()).expect_err("the file is not sound").to_string();
        assert!(error.contains("tokenizer.json"), "the file is named: {error}");
    }
}

/// `tokenizer.json` with one step exchanged.
fn with_step(key: &str, step: Value) -> Value {
    let mut json = llama_json();
    json[key] = step;
    json
}

#[test]
fn files_that_the_crate_panics_on_or_never_ends_reading_are_errors() {
    let nested = |key: &str, step: Value| json!({"type": "Sequence", key: [{"type": "Sequence", key: [step]}]});
    let double = || json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let doubles = |key: &str| json!({"type": "Sequence", key: vec![double(); 60]});
    let mut prefixed = llama_json();
    prefixed["model"]["continuing_subword_prefix"] = json!("#########");
    let mut added = with_step("normalizer", doubles("normalizers"));
    added["added_tokens"][0]["content"] = json!("aaa");
    added["added_tokens"][0]["normalized"] = json!(true);
    // One unit, 1 << 18, which leads to 256.
    let one_unit = json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAAABAA="});
    let cut = json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="});
    let empty = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x"});
    let never = json!({"type": "FixedLength", "length": 0});
    for (json, problem) in [
        (with_step("normalizer", nested("normalizers", one_unit.clone())), "a state at 256 of 1"),
        (with_step("normalizer", one_unit), "a state at 256 of 1"),
        (with_step("normalizer", nested("normalizers", cut)), "the trie is longer than the map"),
        (with_step("normalizer", empty), "its pattern is empty"),
        (with_step("pre_tokenizer", nested("pretokenizers", never.clone())), "FixedLength of length 0"),
        (with_step("pre_tokenizer", never), "FixedLength of length 0"),
        (with_step("decoder", doubles("decoders")), "Replace of \"a\" makes"),
        (prefixed, "too short for continuing_subword_prefix"),
        (added, "added_tokens[0]: its normalizer makes"),
    ] {
        let message = read(&json, &TokenizerConfig::default()).map(|_| ()).expect_err("refused").to_string();
        assert!(message.contains(problem) && message.contains("tokenizer.json"), "{problem}: {message}");
    }
}

#[test]
fn a_normalizer_that_blows_a_text_up_or_makes_the_crate_panic_is_an_error() {
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let doubles = json!({"type": "Sequence", "normalizers": vec![double; 60]});
    let tokenizer = read(&with_step("normalizer", doubles), &TokenizerConfig::default()).expect("it can be read");
    let message = tokenizer.encode("ba", Special::None).expect_err("2^60 letters").to_string();
    assert!(message.contains("its normalizer makes"), "{message}");
    assert_eq!(tokenizer.encode("b", Special::None).ok().map(|ids| ids.len()), Some(1), "other texts are encoded");

    // A letter put in front of a text, which the crate's ByteLevel then does not find in the original.
    let mut json = with_step("normalizer", json!({"type": "Replace", "pattern": {"Regex": "^"}, "content": "x"}));
    json["pre_tokenizer"] =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = read(&json, &TokenizerConfig::default()).expect("it can be read");
    let message = tokenizer.encode("a", Special::None).expect_err("the crate panics").to_string();
    assert!(message.contains("the tokenizers library panicked"), "{message}");
}

/// A byte-level vocabulary: the whole alphabet, then `tokens`.
fn byte_level(tokens: &[(&str, i32)], merges: &[&str], pre: &str) -> Vocabulary {
    let alphabet = (0..0x144).filter_map(char::from_u32).filter(|&character| byte_level::byte(character).is_some());
    let mut vocabulary = Vocabulary { model: "gpt2".into(), pre: Some(pre.into()), ..Vocabulary::default() };
    vocabulary.tokens.extend(alphabet.map(String::from));
    vocabulary.token_types = vec![1; vocabulary.tokens.len()];
    for &(token, kind) in tokens {
        vocabulary.tokens.push(token.into());
        vocabulary.token_types.push(kind);
    }
    vocabulary.merges = merges.iter().map(|&merge| merge.to_owned()).collect();
    vocabulary
}

fn build(vocabulary: Vocabulary) -> Tokenizer {
    Tokenizer::from_vocabulary(vocabulary).expect("the vocabulary is sound")
}

#[test]
fn special_and_user_defined_tokens_are_parsed_and_only_special_ones_skipped() {
    let tokenizer = build(byte_level(&[("ab", 1), ("<|end|>", 3), ("<tag>", 4), ("[PAD]", 5)], &["a b"], "gpt-2"));
    let end = tokenizer.id("<|end|>").expect("it is a token");
    let ids = tokenizer.encode("ab<|end|>a<tag>[PAD]", Special::None).expect("all bytes have tokens");
    assert_eq!(pieces(&tokenizer, "ab<|end|>a<tag>[PAD]"), ["ab", "<|end|>", "a", "<tag>", "[", "P", "A", "D", "]"]);
    assert_eq!(tokenizer.decode(&ids, true), "aba<tag>[PAD]", "special tokens are left out");
    assert!(tokenizer.is_special(end) && !tokenizer.is_special(end + 1), "control is special, user-defined is not");
    assert_eq!(tokenizer.decode(&[end + 2, 5_000_000], false), "", "padding has no text");
    assert_eq!((tokenizer.piece(5_000_000), tokenizer.vocab_size()), (None, 260), "256 bytes and four tokens");
}

#[test]
fn llama3_takes_whole_words_before_merges_and_adds_bos() {
    let words = [("abc", 1), ("bc", 1), ("<s>", 3)];
    let with_bos = |pre| Vocabulary { bos: Some(258), ..byte_level(&words, &["b c"], pre) };
    assert_eq!(pieces(&build(with_bos("llama-bpe")), "abc"), ["<s>", "abc"], "no merge leads to abc");
    assert_eq!(pieces(&build(with_bos("gpt-2")), "abc"), ["a", "bc"], "merges only, and no BOS");
    let message =
        Tokenizer::from_vocabulary(byte_level(&words, &["b c"], "llama-bpe")).expect_err("which BOS?").to_string();
    assert!(message.contains("no BOS token is given"), "{message}");
}

#[test]
fn digits_are_cut_as_the_pre_tokenizer_says() {
    let merges = ["1 2", "12 3", "123 4"];
    let tokens = [("12", 1), ("123", 1), ("1234", 1)];
    let cut = |pre| pieces(&build(Vocabulary { add_bos: Some(false), ..byte_level(&tokens, &merges, pre) }), "1234");
    assert_eq!(cut("gpt-2"), ["1234"], "a word");
    assert_eq!(cut("smollm"), ["1", "2", "3", "4"], "one by one");
    assert_eq!(cut("qwen2"), ["1", "2", "3", "4"], "one by one");
    assert_eq!(cut("dbrx"), ["123", "4"], "by three");
    assert_eq!(cut("falcon"), ["123", "4"], "by three");
}

#[test]
fn merges_must_be_of_tokens() {
    for (merge, problem) in [("ab", "expected two tokens"), ("a b", "\"ab\" is not in"), ("ab c", "\"ab\" is not in")] {
        let error = Tokenizer::from_vocabulary(byte_level(&[], &[merge], "gpt-2")).expect_err("not a sound merge");
        assert!(error.to_string().contains(problem), "{merge}: {error}");
    }
}

#[test]
fn an_unknown_model_is_named() {
    for model in ["rwkv", "t5", "bert", "plamo2"] {
        let vocabulary = Vocabulary { model: model.into(), tokens: vec!["a".into()], ..Vocabulary::default() };
        let message = Tokenizer::from_vocabulary(vocabulary).expect_err("not supported").to_string();
        assert!(message.contains(&format!("{model:?}")) && message.contains("tokenizer.json"), "{message}");
    }
}

#[test]
fn a_gguf_file_s_normalization_is_obeyed() {
    let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "c"];
    let vocabulary = |extra: Option<bool>, charsmap: Vec<u8>| Vocabulary {
        model: "llama".into(),
        tokens: tokens.iter().map(|&token| token.to_owned()).collect(),
        token_types: vec![2, 3, 3, 1, 1, 1, 1],
        scores: vec![0.0; tokens.len()],
        remove_extra_whitespaces: extra,
        charsmap,
        ..Vocabulary::default()
    };
    let cut = |extra, charsmap| pieces(&build(vocabulary(extra, charsmap)), " b  b ").concat();
    assert_eq!(cut(None, Vec::new()), "<s>▁▁b▁▁b▁", "every space is kept");
    assert_eq!(cut(Some(true), Vec::new()), "<s>▁b▁b", "one between words");
    let tokenizer = build(vocabulary(Some(false), charsmap::one_rule()));
    assert_eq!(pieces(&tokenizer, "ab").concat(), "<s>▁bcb", "a becomes bc");
    let broken = Tokenizer::from_vocabulary(vocabulary(None, vec![1])).expect_err("one byte is no map").to_string();
    assert!(broken.contains("precompiled_charsmap"), "{broken}");
}
