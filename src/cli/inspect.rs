//! `wgpt inspect`: what a checkpoint holds.
//!
//! Reads headers, config and tokenizer, no weights and no adapter. Invariant: a checkpoint that wgpt cannot run is
//! still shown, with the reason.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{ExecOptions, lower_checkpoint};
use wgpt::graph::{Graph, Weight};
use wgpt::model::{MlpSpec, ModelSpec, Residual};
use wgpt::session::Language;

use super::args::InspectArgs;
use super::output::{Text, bytes};
use super::resolve;

/// Everything that is shown.
#[derive(Debug, Serialize)]
struct Report {
    checkpoint: String,
    files: Vec<String>,
    /// `None` where wgpt cannot run it, or there are no weights.
    model: Option<Model>,
    /// Why there is no model.
    model_problem: Option<String>,
    /// Bytes of the weight matrices as an adapter holds them, quantized where that was asked for.
    packed_bytes: Option<u64>,
    /// What the KV cache takes besides.
    kv_cache: Option<KvCache>,
    /// What --quantize does to them.
    quantized: Option<String>,
    parameters: u64,
    /// By format name.
    formats: BTreeMap<&'static str, Stored>,
    tokenizer: Option<Words>,
    /// Why there is no tokenizer.
    tokenizer_problem: Option<String>,
}

/// Tensors of one format.
#[derive(Debug, Default, Serialize)]
struct Stored {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

/// The shape of the model, in config words.
#[derive(Debug, Serialize)]
struct Model {
    family: &'static str,
    layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    /// All experts, and those that compute a token.
    experts: Option<(u32, u32)>,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    vocab_size: usize,
    max_position_embeddings: u32,
    tied_embeddings: bool,
    parallel_residual: bool,
}

/// The KV cache, with room for as many tokens as commands give it by default.
#[derive(Debug, Serialize)]
struct KvCache {
    format: &'static str,
    context_length: u32,
    bytes: u64,
}

/// What the checkpoint says about text.
#[derive(Debug, Serialize)]
struct Words {
    vocab_size: usize,
    bos: Option<String>,
    end_of_text: Vec<String>,
    /// Whether it brings one.
    chat_template: bool,
    /// Names of those it brings.
    chat_templates: Vec<String>,
    /// How `chat` would talk, without `--template`.
    chat_format: String,
}

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let gptq = args.quantize.gptq();
    let opened = resolve::checkpoint(&args.checkpoint)?;
    let checkpoint = &opened.checkpoint;
    let formats = formats(checkpoint);
    let quantize = args.quantize.wanted();
    let options = ExecOptions { quantize, kv_format: args.kv.kv_cache, ..ExecOptions::default() };
    let rounded = gptq.map(|gptq| resolve::foreseen(&opened, &gptq, &options)).transpose()?;
    let (lowered, model_problem) = if formats.is_empty() {
        (None, Some("no weights".to_owned()))
    } else {
        split(lower_checkpoint(rounded.as_ref().map_or(checkpoint, |(rounded, _)| rounded), &options))
    };
    let stored = |name: &str| checkpoint.tensor(name).ok().map(|view| view.format);
    let quantized = lowered.as_ref().zip(quantize).map(|((spec, _), wanted)| wanted.choose(spec, &stored).to_string());
    let quantized = quantized.or(rounded.as_ref().map(|(_, what)| what.clone()));
    let packed_bytes = lowered.as_ref().map(|(_, graph)| graph.weights.iter().map(Weight::bytes).sum());
    let kv_cache = lowered.as_ref().and_then(|(_, graph)| kv_cache(graph));
    let (tokenizer, tokenizer_problem) = split(Language::of(checkpoint).map(|language| words(&language)));
    let report = Report {
        checkpoint: opened.path.display().to_string(),
        files: checkpoint.files().iter().map(|file| file.display().to_string()).collect(),
        model: lowered.map(|(spec, _)| model(&spec)),
        model_problem,
        packed_bytes,
        kv_cache,
        quantized,
        parameters: formats.values().map(|stored| stored.parameters).sum(),
        formats,
        tokenizer,
        tokenizer_problem,
    };
    let text = if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { describe(&report) };
    Ok(Text::new().show(&text)?)
}

fn split<T, E: ToString>(result: Result<T, E>) -> (Option<T>, Option<String>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

fn formats(checkpoint: &Checkpoint) -> BTreeMap<&'static str, Stored> {
    let mut formats: BTreeMap<&'static str, Stored> = BTreeMap::new();
    for view in checkpoint.tensors() {
        let stored = formats.entry(view.format.name()).or_default();
        stored.tensors += 1;
        stored.parameters += view.shape.iter().map(|&dim| dim as u64).product::<u64>();
        stored.bytes += view.bytes.len() as u64;
    }
    formats
}

fn model(spec: &ModelSpec) -> Model {
    let first = &spec.layers[0];
    // Layers of a mixture may be dense here and there.
    let mixtures = spec.layers.iter().filter_map(|layer| match &layer.mlp {
        MlpSpec::Experts(experts) => Some((experts, &layer.mlp)),
        _ => None,
    });
    let (experts, mlp) = mixtures.map(|(experts, mlp)| (Some(experts), mlp)).next().unwrap_or((None, &first.mlp));
    Model {
        family: spec.family,
        layers: spec.layers.len(),
        hidden_size: spec.hidden_size,
        intermediate_size: mlp.intermediate_size(),
        experts: experts.map(|experts| (experts.experts, experts.top_k)),
        heads: first.attention.heads,
        kv_heads: first.attention.kv_heads,
        head_dim: first.attention.head_dim,
        vocab_size: spec.vocab_size(),
        max_position_embeddings: spec.max_position_embeddings,
        tied_embeddings: spec.is_tied(),
        parallel_residual: first.residual == Residual::Parallel,
    }
}

fn kv_cache(graph: &Graph) -> Option<KvCache> {
    let bytes = graph.units.iter().map(|unit| unit.kv_bytes).sum();
    Some(KvCache { format: graph.kv_format()?.name(), context_length: graph.context_length, bytes })
}

fn words(language: &Language) -> Words {
    let tokenizer = &language.tokenizer;
    let piece = |id: u32| tokenizer.piece(id).unwrap_or_else(|| id.to_string());
    Words {
        vocab_size: tokenizer.vocab_size(),
        bos: tokenizer.bos().map(piece),
        end_of_text: language.end_ids.iter().map(|&id| piece(id)).collect(),
        chat_template: language.chat_templates().next().is_some(),
        chat_templates: language.chat_templates().map(str::to_owned).collect(),
        chat_format: language
            .chat_format(None)
            .map_or_else(|error| format!("not possible: {error}"), |f| f.to_string()),
    }
}

/// The report as text: a name and a value a line.
fn describe(report: &Report) -> String {
    let mut lines = vec![("checkpoint", report.checkpoint.clone())];
    lines.extend(report.files.iter().map(|file| ("file", file.clone())));
    if let Some(model) = &report.model {
        let (heads, kv_heads, head_dim) = (model.heads, model.kv_heads, model.head_dim);
        let residual = if model.parallel_residual { "parallel" } else { "sequential" };
        let tied = if model.tied_embeddings { ", tied to the head" } else { "" };
        lines.extend([
            ("family", model.family.to_owned()),
            ("layers", format!("{}, {residual} residual", model.layers)),
            ("hidden", format!("{}, {} in the MLP", model.hidden_size, model.intermediate_size)),
            (
                "experts",
                model.experts.map_or("none".to_owned(), |(all, top_k)| format!("{all}, {top_k} of them for a token")),
            ),
            ("attention", format!("{heads} heads, {kv_heads} key/value heads, {head_dim} wide")),
            ("embedding", format!("{} rows{tied}", model.vocab_size)),
            ("context", format!("{} tokens", model.max_position_embeddings)),
        ]);
    }
    lines.extend(report.model_problem.iter().map(|problem| ("model", format!("cannot run: {problem}"))));
    lines.push(("parameters", report.parameters.to_string()));
    for (name, stored) in &report.formats {
        lines.push(("format", format!("{name}: {} tensors, {}", stored.tensors, bytes(stored.bytes))));
    }
    lines.extend(report.packed_bytes.map(|packed| ("on adapter", format!("{} of weights", bytes(packed)))));
    lines.extend(report.kv_cache.iter().map(|KvCache { format, context_length, bytes: held }| {
        ("KV cache", format!("{} in {format} for {context_length} tokens", bytes(*held)))
    }));
    lines.extend(report.quantized.iter().map(|quantized| ("quantize", quantized.clone())));
    if let Some(words) = &report.tokenizer {
        let (bos, end) = (words.bos.as_deref().unwrap_or("none"), words.end_of_text.join(" "));
        lines.push(("tokenizer", format!("{} tokens, BOS {bos}, end of text {end}", words.vocab_size)));
        let others = if words.chat_templates.len() > 1 {
            format!(", of: {}", words.chat_templates.join(", "))
        } else {
            String::new()
        };
        lines.push(("chat", words.chat_format.clone() + &others));
    }
    lines.extend(report.tokenizer_problem.iter().map(|problem| ("tokenizer", problem.clone())));
    lines.iter().map(|(name, value)| format!("{name:<11} {value}\n")).collect()
}
