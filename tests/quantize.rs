//! Weights quantized while they load, and written as GGUF: which formats weights get, that the file computes what the
//! load computes, and that what can't be done is refused by name.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{committed_checkpoints, golden, nmse, repository};
use wgpt::checkpoint::{Checkpoint, RopeRows};
use wgpt::convert::{FAMILIES, to_gguf};
use wgpt::exec::{Batch, ExecOptions, LogitRows, lower_checkpoint, open};
use wgpt::gptq::{self, GptqOptions};
use wgpt::gpu::AdapterChoice;
use wgpt::graph::Quantize;
use wgpt::ops::KvFormat;
use wgpt::quant::{self, FORMATS};
use wgpt::session::Language;

fn quantize(name: &str) -> Quantize {
    Quantize { format: quant::format(name).expect("a format"), head: None, requantize: false }
}

fn checkpoint(path: &str) -> Checkpoint {
    Checkpoint::open(&repository("checkpoints").join(path)).expect("the checkpoint opens")
}

fn options(quantize: Option<Quantize>) -> ExecOptions {
    ExecOptions { adapter: AdapterChoice::Host, kv_format: Some(KvFormat::F32), quantize, ..ExecOptions::default() }
}

fn logits(checkpoint: &Checkpoint, quantize: Option<Quantize>, tokens: &[u32]) -> Vec<f32> {
    let (mut executor, _) = open(checkpoint, &options(quantize), &mut |_| ()).expect("the model loads");
    let batch = Batch { tokens, position: 0, logits: LogitRows::All };
    executor.forward(&batch).expect("the forward runs").values
}

/// Weights of a loaded model by format.
fn formats(checkpoint: &Checkpoint, quantize: Option<Quantize>) -> BTreeMap<&'static str, usize> {
    let (_, graph) = lower_checkpoint(checkpoint, &options(quantize)).expect("it lowers");
    let mut counts = BTreeMap::new();
    for weight in &graph.weights {
        *counts.entry(weight.format.name()).or_default() += 1;
    }
    counts
}

fn write(checkpoint: &Checkpoint, quantize: Quantize, folder: &Path) -> Result<Checkpoint, String> {
    let output = folder.join("out.gguf");
    let written = to_gguf(checkpoint, &quantize, &output, &mut |_| ()).map_err(|error| error.to_string())?;
    assert_eq!(std::fs::metadata(&output).expect("it is there").len(), written.bytes, "bytes written");
    Checkpoint::open(&output).map_err(|error| error.to_string())
}

#[test]
fn loaded_weights_have_the_format_asked_for_or_the_nearest_of_shorter_blocks() {
    // Rows of 64 and 96, too short for the blocks of k-quants, and of 80, which are no whole blocks of any format.
    let llama = checkpoint("tiny-llama-gqa");
    assert_eq!(
        formats(&llama, Some(quantize("q8_0"))).keys().collect::<Vec<_>>(),
        [&"f32", &"q8_0"],
        "f32: rows of 80"
    );
    let short = formats(&llama, Some(quantize("q4_k")));
    assert_eq!(short.keys().collect::<Vec<_>>(), [&"f32", &"q5_0", &"q8_0"], "q8_0: the head");
    let moe = formats(&checkpoint("tiny-qwen2-moe"), Some(quantize("q4_0")));
    let plain = formats(&checkpoint("tiny-qwen2-moe"), None);
    assert!(moe.contains_key("q4_0") && moe.contains_key("q8_0"), "experts and head: {moe:?}");
    let kept: usize = moe.iter().filter(|(name, _)| plain.contains_key(*name)).map(|(_, count)| count).sum();
    assert!(kept >= 2, "routers and the shared experts' gates keep their numbers: {moe:?}");
    // Rows of 256, and a head that is named.
    let wide = checkpoint("tiny-llama-q4_k_m");
    let named = Quantize { head: Some(&quant::Q5K), requantize: true, ..quantize("q3_k") };
    assert_eq!(formats(&wide, Some(named)).keys().collect::<Vec<_>>(), [&"q3_k", &"q5_k"], "quantized anew");
    assert_eq!(formats(&wide, Some(quantize("q3_k"))), formats(&wide, None), "what is quantized is kept");
}

#[test]
fn quantized_logits_are_near_in_the_order_of_the_bits() {
    let folder = repository("checkpoints/wgpt-stories-4m");
    let (stories, golden) = (Checkpoint::open(&folder).expect("it opens"), golden(&folder));
    let tokens = &golden.tokens[..24];
    let exact = logits(&stories, None, tokens);
    // Rows of 192 and 768: every 32-weight format, and nf4 and fp4 with their 64.
    let bounds = [
        ("q8_0", 1e-4),
        ("int8", 1e-4),
        ("q5_1", 2e-3),
        ("q5_0", 3e-3),
        ("q4_1", 1e-2),
        ("q4_0", 2e-2),
        ("iq4_nl", 1e-2),
        ("nf4", 1.5e-2),
        ("nf4-dq", 1.5e-2),
        ("fp4", 3e-2),
        ("fp4-dq", 3e-2),
    ];
    for (name, bound) in bounds {
        let wanted = Quantize { format: quant::format_called(name).expect("a format"), head: None, requantize: false };
        let error = nmse(&exact, &logits(&stories, Some(wanted), tokens));
        assert!(error > 0.0 && error < bound, "{name}: nmse {error}");
    }
}

/// Every tiny GGUF file; one per family and one per quantization.
fn gguf_files() -> Vec<PathBuf> {
    let files = committed_checkpoints().into_iter().map(|folder| folder.join("model.gguf"));
    files.filter(|file| file.is_file()).collect()
}

#[test]
fn a_gguf_file_rewritten_computes_what_quantizing_at_load_does() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    for file in gguf_files() {
        let original = Checkpoint::open(&file).expect("it opens");
        let wanted = Quantize { requantize: true, ..quantize("q4_k") };
        let copy =
            write(&original, wanted, scratch.path()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let tokens = &golden(file.parent().expect("a folder")).tokens[..12];
        let (expected, found) = (logits(&original, Some(wanted), tokens), logits(&copy, None, tokens));
        assert!(expected == found, "{}: nmse {}", file.display(), nmse(&expected, &found));
        let (before, after) = (original.gguf_metadata(), copy.gguf_metadata());
        let keys = |metadata: Option<&wgpt::checkpoint::GgufMetadata>| {
            let keys = metadata.expect("a GGUF file").keys().map(str::to_owned);
            keys.filter(|key| !key.starts_with("general.")).collect::<Vec<_>>()
        };
        assert_eq!(keys(before), keys(after), "{}: every key is there", file.display());
        std::fs::remove_file(scratch.path().join("out.gguf")).expect("it was written");
    }
}

#[test]
fn a_hugging_face_folder_written_as_gguf_computes_what_quantizing_at_load_does() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (mut families, mut refused) = (BTreeMap::new(), Vec::new());
    for folder in committed_checkpoints() {
        let original = Checkpoint::open(&folder).expect("it opens");
        if original.gguf_metadata().is_some() {
            continue;
        }
        let family = original.config().and_then(|config| config.architecture()).expect("a family").to_owned();
        match written_alike(&original, &folder, scratch.path()) {
            Ok(()) => *families.entry(family).or_insert(0) += 1,
            Err(error) => {
                let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
                let known = REFUSED.iter().find(|(refused, _)| *refused == name).map(|(_, part)| *part);
                assert!(error.contains(known.unwrap_or("without tokenizer.json")), "{name} is not taken: {error}");
                refused.push(name);
            }
        }
    }
    let written: Vec<_> = families.keys().map(String::as_str).collect();
    let mut expected = FAMILIES.to_vec();
    expected.sort_unstable();
    assert_eq!(written, expected, "one of each family at least; refused: {refused:#?}");
    let at_least =
        [("llama", 7), ("falcon", 3), ("gpt_neox", 4), ("phi3", 5), ("stablelm", 3), ("mpt", 2), ("olmo2", 2)];
    for (family, count) in at_least {
        assert!(families[family] >= count, "{family}: {families:?}; refused: {refused:#?}");
    }
}

/// Folders that GGUF, or llama.cpp behind it, has no word for, and what each is refused for. Those whose weights are
/// quantized already have no tokenizer here.
const REFUSED: &[(&str, &str)] = &[
    ("tiny-falcon-rw", "post_attention_layernorm"),
    ("tiny-gemma2-scalar", "scale"),
    ("tiny-gemma3-multimodal", "gemma3 model"),
    ("tiny-gpt-bigcode-mha", "activation"),
    ("tiny-gptj", "gptj"),
    ("tiny-llama-rope-condensed", "would rotate otherwise"),
    ("tiny-llama-rope-dynamic", "max_context_length"),
    ("tiny-llama-rope-dynamic-beyond", "max_context_length"),
    ("tiny-llama-rope-yarn-attention", "magnitude"),
    ("tiny-llama-rope-yarn-mscale", "magnitude"),
    ("tiny-mistral", "sliding_window"),
    ("tiny-mpt-scale", "scale"),
    ("tiny-phi-qk-layernorm", "q_layernorm"),
    ("tiny-qwen2-moe-sparse-step", "mlp.gate_proj"),
    ("tiny-qwen2-window", "window"),
    ("tiny-qwen3-moe-mlp-only", "mlp.gate_proj"),
];

/// Writes a folder as it is and in two formats, and compares logits; or what it is refused for.
fn written_alike(original: &Checkpoint, folder: &Path, scratch: &Path) -> Result<(), String> {
    let tokens = &golden(folder).tokens[..12];
    for format in ["f32", "q8_0", "q4_0"] {
        let copy = write(original, quantize(format), scratch).inspect_err(|error| {
            assert!(error.contains("written as GGUF"), "{}: {error}", folder.display());
            assert_eq!(std::fs::read_dir(scratch).expect("a folder").count(), 0, "nothing is left behind");
        })?;
        let (expected, found) = (logits(original, Some(quantize(format)), tokens), logits(&copy, None, tokens));
        // GGUF orders a Llama head's rows otherwise, and q · k adds up in that order.
        let permuted = original.gguf_architecture().is_some_and(|(_, rows)| rows.rope == RopeRows::Interleaved);
        let same = if permuted { nmse(&expected, &found) < 1e-10 } else { expected == found };
        assert!(same, "{} in {format}: nmse {}", folder.display(), nmse(&expected, &found));
        std::fs::remove_file(scratch.join("out.gguf")).expect("it was written");
    }
    Ok(())
}

#[test]
fn what_gguf_has_no_word_for_is_refused() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let refusal = |path: &str, name: &str| {
        write(&checkpoint(path), quantize(name), scratch.path()).map(|_| ()).expect_err("it is refused")
    };
    let error = refusal("tiny-llama-gqa", "nf4");
    assert!(error.contains("nf4") && error.contains("at load"), "{error}");
    let error = refusal("tiny-gptj", "q4_0");
    assert!(error.contains("gptj") && error.contains("gpt_neox"), "names it and what can be: {error}");
    // A scaling that the keys do not say.
    let error = refusal("tiny-llama-rope-dynamic", "q4_0");
    assert!(error.contains("another model"), "{error}");
    assert_eq!(std::fs::read_dir(scratch.path()).expect("a folder").count(), 0, "nothing is left behind");
}

/// A copy of a tiny checkpoint's folder whose texts end with these ids.
fn ending_with(ids: &str) -> (tempfile::TempDir, Checkpoint) {
    let (folder, source) = (tempfile::tempdir().expect("a folder"), repository("checkpoints/tiny-llama-gqa"));
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(source.join(name), folder.path().join(name)).expect("copied");
    }
    let config = format!("{{\"eos_token_id\": {ids}}}");
    std::fs::write(folder.path().join("generation_config.json"), config).expect("written");
    let checkpoint = Checkpoint::open(folder.path()).expect("it opens");
    (folder, checkpoint)
}

#[test]
fn every_end_of_text_of_a_folder_is_written_or_it_is_refused() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    // The tokenizer's own EOS is 2; 202 is a newline, and no row of the head gives 512.
    for (ids, expected) in [("null", &[0, 2][..]), ("[0, 202]", &[0, 2, 202]), ("[2, 512]", &[2])] {
        let (_folder, checkpoint) = ending_with(ids);
        let copy = write(&checkpoint, quantize("f32"), scratch.path()).expect("it is written");
        assert_eq!(Language::of(&copy).expect("a vocabulary").end_ids, expected, "{ids}");
        std::fs::remove_file(scratch.path().join("out.gguf")).expect("it was written");
    }
    // More than there are words for; and a letter, which as an end would be looked for inside words.
    for (ids, parts) in [
        ("[0, 1, 2, 3]", &["the tokens [0, 1, 3] beside EOS", "words for 2 of these", "generation_config.json"][..]),
        ("[0, 72]", &["other ids from token", "leave them out of eos_token_id"]),
    ] {
        let (_folder, checkpoint) = ending_with(ids);
        let error = write(&checkpoint, quantize("f32"), scratch.path()).map(|_| ()).expect_err("it is refused");
        for part in parts {
            assert!(error.contains(part), "{ids}: {error}");
        }
        assert_eq!(std::fs::read_dir(scratch.path()).expect("a folder").count(), 0, "nothing is left behind");
    }
}

/// A copy of a tiny checkpoint with one weight replaced.
fn damaged(weight: f32) -> (tempfile::TempDir, Checkpoint) {
    let (folder, source) = (tempfile::tempdir().expect("a folder"), repository("checkpoints/tiny-llama-gqa"));
    std::fs::copy(source.join("config.json"), folder.path().join("config.json")).expect("copied");
    let file = std::fs::read(source.join("model.safetensors")).expect("read");
    let tensors = safetensors::SafeTensors::deserialize(&file).expect("safetensors");
    let mut tensors: Vec<_> = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    let down = tensors.iter_mut().find(|(name, ..)| name.ends_with("layers.1.mlp.down_proj.weight")).expect("there");
    assert_eq!(down.1, safetensors::Dtype::F32, "the tiny Llama is f32");
    let columns = down.2[1];
    down.3[4 * (3 * columns + 7)..][..4].copy_from_slice(&weight.to_le_bytes());
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).expect("a view");
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).expect("safetensors");
    std::fs::write(folder.path().join("model.safetensors"), bytes).expect("written");
    let checkpoint = Checkpoint::open(folder.path()).expect("it opens");
    (folder, checkpoint)
}

#[test]
fn weights_that_a_format_can_t_hold_are_named() {
    for (weight, part) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf"), (1e30, "beyond")] {
        let (_folder, checkpoint) = damaged(weight);
        let error = open(&checkpoint, &options(Some(quantize("q4_0"))), &mut |_| ()).map(|_| ()).expect_err("refused");
        let error = error.to_string();
        for part in [part, "layers.1.mlp.down_proj.weight", "row 3", "q4_0"] {
            assert!(error.contains(part), "{weight} names {part}: {error}");
        }
    }
}

#[test]
fn weights_that_gptq_can_t_round_are_named() {
    let rounding = GptqOptions { group_size: Some(32), ..GptqOptions::default() };
    let text = [(0..32).collect::<Vec<u32>>()];
    for (weight, part) in
        [(f32::NAN, "weight 7 is NaN"), (f32::NEG_INFINITY, "weight 7 is -inf"), (1e30, "beyond what f16 holds")]
    {
        let (_folder, checkpoint) = damaged(weight);
        let rounded = gptq::quantize(&checkpoint, &text, &rounding, &options(None), &mut |_| (), &mut |_| Ok(()));
        let error = rounded.map(|_| ()).expect_err("it is refused").to_string();
        for part in [part, "layers.1.mlp.down_proj.weight", "row 3"] {
            assert!(error.contains(part), "{weight} names {part}: {error}");
        }
    }
}

#[test]
fn every_format_loads_from_every_other_s_weights() {
    let wide = checkpoint("tiny-llama-q4_k_m");
    for format in FORMATS {
        let wanted = Quantize { format: *format, head: Some(*format), requantize: true };
        let counts = formats(&wide, Some(wanted));
        assert_eq!(counts.keys().collect::<Vec<_>>(), [&format.name()], "rows of 256 suit all");
        let found = logits(&wide, Some(wanted), &[1, 2, 3]);
        assert!(found.iter().all(|logit| logit.is_finite()), "{}: logits are numbers", format.name());
    }
}
