//! GGUF files: names and metadata as Hugging Face has them, and how each lie is called.

use wgpt::checkpoint::{Checkpoint, QkvRows, RopeRows};

use crate::files::{ARRAY, BOOL, F32, Gguf, STRING, U32, file, string};
use crate::{assert_refused, assert_says};

#[test]
fn llama_has_hugging_face_s_names_and_reversed_dimensions() {
    let (_directory, path) = Gguf::llama().tensor("rope_freqs.weight", &[8], 0, &[0; 32]).write();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let names: Vec<_> = checkpoint.names().collect();
    let expected = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "rope_freqs.weight"];
    assert_eq!(names, expected, "translated; what the table lacks keeps its name");
    let q = checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").expect("it is there");
    assert_eq!((q.format.name(), q.shape, &*q.row(1)), ("q4_0", &[2, 64][..], &[7; 36][..]), "two rows of two blocks");
    let config = checkpoint.config().expect("a known architecture");
    assert_eq!(config.architecture().expect("a name"), "llama", "model_type");
    assert_eq!(config.rows.rope, RopeRows::Interleaved, "as the converter permutes q and k");
    assert!(config.bool("tie_word_embeddings").expect("a flag"), "there is no output.weight");
    assert_eq!(config.u32("vocab_size").expect("an integer"), 3, "rows of the embedding");
    assert_eq!(checkpoint.companion("tokenizer.json"), None, "a file by its own name has no directory");
}

#[test]
fn metadata_becomes_the_config_hugging_face_would_have() {
    let file = Gguf::llama()
        .u32("llama.block_count", 2)
        .u32("llama.attention.head_count_kv", 2)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .f32("llama.rope.freq_base", 5e5)
        .u32("llama.rope.dimension_count", 16)
        .str("llama.rope.scaling.type", "yarn")
        .f32("llama.rope.scaling.factor", 4.0)
        .u32("llama.rope.scaling.original_context_length", 64)
        .f32("llama.attention.clamp_kqv", 8.0)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .tensor("blk.0.attn_q.bias", &[2], 0, &[0; 8])
        .tensor("output.weight", &[64, 3], 0, &[0; 64 * 3 * 4]);
    let (_directory, path) = file.write();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let config = checkpoint.config().expect("a known architecture");
    let u32 = |key| config.u32(key).expect("an integer");
    assert_eq!((u32("hidden_size"), u32("num_hidden_layers"), u32("num_key_value_heads")), (64, 2, 2), "plain keys");
    assert_eq!((u32("eos_token_id"), config.f32("rope_theta").expect("a number")), (2, 5e5), "plain keys");
    assert_eq!(config.f32("rms_norm_eps").expect("a number"), 1e-5, "the very same f32");
    let scaling = config.section("rope_scaling").expect("an object").expect("it is there");
    assert_eq!(scaling.str("rope_type").expect("a string"), "yarn", "the type");
    assert_eq!(scaling.f32("factor").expect("a number"), 4.0, "the factor");
    assert_eq!(scaling.u32("original_max_position_embeddings").expect("an integer"), 64, "the trained context");
    assert!(config.bool("attention_bias").expect("a flag"), "there is a bias");
    assert!(!config.bool("tie_word_embeddings").expect("a flag"), "there is an output.weight");
    assert!(!config.has("partial_rotary_factor"), "whole heads are rotated");
    assert!(config.unread().contains(&"llama.attention.clamp_kqv".to_owned()), "nobody asked for what is unknown");
}

#[test]
fn gptneox_says_its_conventions() {
    let file = Gguf::new()
        .str("general.architecture", "gptneox")
        .u32("gptneox.embedding_length", 80)
        .u32("gptneox.attention.head_count", 1)
        .u32("gptneox.rope.dimension_count", 56)
        .pair("gptneox.use_parallel_residual", BOOL, &[0])
        .tensor("blk.3.attn_qkv.bias", &[4], 1, &[0; 8]);
    let (_directory, path) = file.write();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    assert!(checkpoint.has_tensor("gpt_neox.layers.3.attention.query_key_value.bias"), "translated");
    let config = checkpoint.config().expect("a known architecture");
    assert_eq!((config.rows.qkv, config.rows.rope), (QkvRows::Blocked, RopeRows::HalfSplit), "GGUF's rows");
    assert_eq!(config.architecture().expect("a name"), "gpt_neox", "Hugging Face's name");
    assert!(!config.bool("use_parallel_residual").expect("a flag"), "as the metadata says");
    let rotated = f64::from(config.f32("rotary_pct").expect("a number")) * 80.0;
    assert_eq!(rotated as u32, 56, "0.7 in f32 would truncate to 55");
}

#[test]
fn a_vocabulary_alone_and_unknown_architectures_open() {
    let file = Gguf::new()
        .str("general.architecture", "mamba")
        .array("tokenizer.ggml.tokens", STRING, 2, &[string("a"), string("é")].concat())
        .array("tokenizer.ggml.scores", F32, 2, &[0, 0, 128, 63, 0, 0, 0, 64])
        .array("tokenizer.ggml.token_type", 5, 2, &[1, 0, 0, 0, 255, 255, 255, 255]);
    let (_directory, path) = file.write();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    assert_eq!(checkpoint.names().count(), 0, "no tensors");
    let metadata = checkpoint.gguf_metadata().expect("it is a GGUF");
    let strings = metadata.strings("tokenizer.ggml.tokens").expect("strings");
    assert_eq!(strings, Some(vec!["a", "é"]), "borrowed text");
    assert_eq!(metadata.f32s("tokenizer.ggml.scores").expect("floats"), Some(vec![1.0, 2.0]), "floats");
    assert_eq!(metadata.i32s("tokenizer.ggml.token_type").expect("integers"), Some(vec![1, -1]), "signed");
    assert_eq!(metadata.strings("tokenizer.ggml.merges").expect("absent"), None, "absent is no error");
    let error = metadata.u32("tokenizer.ggml.tokens").expect_err("of another type");
    assert_says(&error, &["\"tokenizer.ggml.tokens\": expected an integer", "found an array of 2"]);
    let error = checkpoint.config().expect_err("no table");
    assert_says(
        &error,
        &["model.gguf: GGUF architecture \"mamba\" is not supported; supported: llama, gptneox, falcon, qwen2"],
    );
    assert_refused(&path.with_file_name("none.gguf"), &["none.gguf"]);
}

#[test]
fn other_files_and_versions_are_refused() {
    let refuse = |change: fn(&mut Gguf), parts: &[&str]| {
        let mut gguf = Gguf::llama();
        change(&mut gguf);
        let (_directory, path) = gguf.write();
        assert_refused(&path, &[&["model.gguf"], parts].concat());
    };
    refuse(|gguf| gguf.version = 1, &["is GGUF version 1; versions 2 and 3 are supported"]);
    refuse(|gguf| gguf.version = 3 << 24, &["is a big-endian GGUF"]);
    refuse(|gguf| gguf.magic = *b"FUGG", &["is a big-endian GGUF"]);
    refuse(|gguf| gguf.magic = *b"PK\x03\x04", &["is not a GGUF file"]);
    refuse(|gguf| gguf.tensor_count = Some(u64::MAX), &["counts 18446744073709551615 tensors, but has only"]);
    refuse(|gguf| gguf.pair_count = Some(u64::MAX), &["counts 18446744073709551615 metadata pairs, but has only"]);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = Gguf::llama().bytes();
    for length in 1..whole.len() {
        let (_directory, path) = file("model.gguf", &whole[..length]);
        let error = Checkpoint::open(&path).map(|_| ()).expect_err("it is cut");
        let message = error.to_string();
        let says = message.contains("truncated") || message.contains("but has only") || message.contains("has left");
        assert!(says, "cut at {length}: {message}");
    }
}

#[test]
fn a_tensor_without_elements_is_still_behind_the_padding() {
    let whole = Gguf::new().tensor("a", &[0], 0, &[]).bytes();
    for length in 1..whole.len() {
        let (_directory, path) = file("model.gguf", &whole[..length]);
        assert!(Checkpoint::open(&path).is_err(), "cut at {length} of {}", whole.len());
    }
    let (_directory, path) = file("model.gguf", &whole[..whole.len() - 1]);
    assert_refused(&path, &["model.gguf: truncated: the padding before the tensors needs", "left; download it again"]);
    let (_directory, path) = file("model.gguf", &whole);
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    assert_eq!(checkpoint.tensor("a").expect("it is there").bytes, [0; 0], "nothing, behind the header");
}

#[test]
fn arrays_that_are_no_layers_numbers_stay_in_the_file() {
    const U8: u32 = 0;
    let bytes = vec![1; 5000];
    let (_directory, path) = Gguf::llama()
        .array("llama.feed_forward_length", U8, 1024, &bytes[..1024])
        .array("llama.block_count", U8, 1025, &bytes[..1025])
        .array("llama.quux", U8, 5000, &bytes)
        .write();
    let checkpoint = Checkpoint::open(&path).expect("keys are refused by who reads them");
    let config = checkpoint.config().expect("a known architecture");
    let layers = config.u32s("intermediate_size").expect("integers").map(|layers| layers.len());
    assert_eq!(layers, Some(1024), "as many as layers there can be");
    for (key, says) in [("num_hidden_layers", "found \"an array of 1025\""), ("llama.quux", "an array of 5000")] {
        assert_says(&config.u32s(key).expect_err("it is no list here"), &[key, says]);
    }
    let config = config.unobserved();
    assert!(config.unread().contains(&"llama.quux".to_owned()), "nobody asked for what is unknown");
}

#[track_caller]
fn assert_gguf_refused(gguf: &Gguf, parts: &[&str]) {
    let (_directory, path) = gguf.write();
    assert_refused(&path, &[&["model.gguf"], parts].concat());
}

#[test]
fn metadata_that_contradicts_itself_is_refused() {
    let refuse = |gguf: Gguf, parts: &[&str]| assert_gguf_refused(&gguf, parts);
    let new = Gguf::new;
    refuse(new().u32("a", 1).u32("a", 2), &["metadata \"a\" is there twice"]);
    refuse(new().pair("a", 77, &[0; 8]), &["metadata \"a\": value type 77 is unknown"]);
    refuse(new().pair("a", BOOL, &[2]), &["metadata \"a\": expected a flag, found [2]"]);
    refuse(new().array("a", 77, 1, &[0; 8]), &["metadata \"a\": element type 77 is unknown"]);
    refuse(new().array("a", U32, u64::MAX, &[0; 8]), &["\"a\" counts 18446744073709551615 elements"]);
    refuse(new().array("a", STRING, 1 << 40, &[0; 8]), &["\"a\" counts 1099511627776 elements"]);
    refuse(new().pair("a", STRING, &[&u64::MAX.to_le_bytes()[..], b"x"].concat()), &["metadata \"a\" needs 184"]);
    let not_text = [&2u64.to_le_bytes()[..], b"\xc3\x28"].concat();
    refuse(new().pair("a", STRING, &not_text), &["metadata \"a\" is not UTF-8"]);
    refuse(new().array("a", STRING, 1, &not_text), &["metadata \"a\" is not UTF-8"]);
    let nested = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat().repeat(9);
    refuse(new().pair("a", ARRAY, &nested), &["metadata \"a\": arrays are nested deeper than 4"]);
    refuse(new().u32("general.alignment", 24), &["general.alignment: expected a power of two, found 24"]);
    refuse(new().u32("general.alignment", 0), &["general.alignment: expected a power of two, found 0"]);
    refuse(new().str("general.alignment", "32"), &["\"general.alignment\": expected an integer", "found \"32\""]);
    refuse(new().u32("general.architecture", 1), &["\"general.architecture\": expected a string, found 1"]);
    refuse(new().u32("split.count", 3), &["is one of 3 parts of a split GGUF; merge them"]);
    let wide = Gguf::llama().str("llama.embedding_length", "wide");
    refuse(wide, &["metadata \"llama.embedding_length\" is there twice"]);
    let wide = new().str("general.architecture", "llama").str("llama.embedding_length", "wide");
    refuse(wide, &["\"llama.embedding_length\": expected an integer", "found \"wide\""]);
}

#[test]
fn tensors_that_contradict_the_file_are_refused() {
    let refuse = |gguf: Gguf, parts: &[&str]| assert_gguf_refused(&gguf, parts);
    let base = || Gguf::new().tensor("a", &[8], 0, &[0; 32]);
    refuse(base().info("a", &[8], 0, 32), &["tensor \"a\" is there twice"]);
    refuse(base().info("b", &[8], 0, 32), &["truncated: tensor \"b\" needs 32 bytes", "has 0 left"]);
    refuse(base().info("b", &[8], 0, 0), &["tensor \"b\": overlaps \"a\" by 32 bytes"]);
    refuse(base().info("b", &[8], 0, 48), &["tensor \"b\": offset 48 is misaligned: expected a multiple of 32"]);
    refuse(base().info("b", &[8], 0, 1 << 40), &["tensor \"b\": expected offset 32, right behind \"a\""]);
    refuse(Gguf::new().info("b", &[8], 0, 32), &["tensor \"b\": expected offset 0, right behind \"the header\""]);
    refuse(base().info("b", &[33, 2], 2, 32), &["tensor \"b\"", "rows of 33 weights are not whole blocks of 32"]);
    refuse(base().info("b", &[128, 2], 12, 32), &["tensor \"b\"", "rows of 128 weights are not whole blocks of 256"]);
    refuse(base().info("b", &[8], 99, 32), &["tensor \"b\": ggml type 99 is unknown"]);
    refuse(base().info("b", &[], 0, 32), &["tensor \"b\": expected 1 to 4 dimensions, found 0"]);
    refuse(base().info("b", &[1; 5], 0, 32), &["tensor \"b\": expected 1 to 4 dimensions, found 5"]);
    refuse(base().info("b", &[1 << 32, 1 << 32], 0, 32), &["tensor \"b\": shape", "too large for any file"]);
    let clash = Gguf::llama().tensor("model.embed_tokens.weight", &[8], 0, &[0; 32]);
    refuse(clash, &["tensor \"model.embed_tokens.weight\": is in", "only one can be meant"]);
}

#[test]
fn formats_that_cannot_be_read_are_named_when_asked_for() {
    let (_directory, path) = Gguf::llama().tensor("output.weight", &[256, 1], 17, &[0; 74]).write();
    let checkpoint = Checkpoint::open(&path).expect("other tensors can be read");
    let error = checkpoint.tensor("lm_head.weight").expect_err("not yet");
    assert_says(
        &error,
        &["model.gguf: tensor \"lm_head.weight\": iq2_xs (ggml type 17) is not supported; supported: f32"],
    );
}

#[test]
fn alignment_is_honoured() {
    let mut gguf = Gguf::new();
    gguf.alignment = 128;
    let gguf = gguf.u32("general.alignment", 128).tensor("a", &[1], 0, &[1; 4]).tensor("b", &[1], 0, &[2; 4]);
    let (_directory, path) = gguf.write();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    assert_eq!(checkpoint.tensor("a").expect("it is there").bytes, [1; 4], "behind the padded header");
    assert_eq!(checkpoint.tensor("b").expect("it is there").bytes, [2; 4], "at the next multiple of 128");
}
