//! A checkpoint as a Hugging Face folder in GPTQ's layout, as transformers, vLLM and others read it.
//!
//! Rounded linears become `qweight`, `qzeros`, `scales` and `g_idx`; all other tensors are copied as they are, the files
//! of the tokenizer too. Invariant: the folder appears whole or not at all, and nothing is overwritten.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::targets::{Target, Targets};
use super::{GptqError, GptqOptions, GptqReport, Progress, quantize, working_graph};
use crate::checkpoint::{
    Checkpoint, CheckpointError, GptqLinear, SafetensorsWriter, TensorView, partial, sweep_partials,
};
use crate::exec::ExecOptions;

const CONFIG: &str = "config.json";

/// What is copied where it is there.
const COMPANIONS: &[&str] = &[
    "LICENSE",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// Rounds a checkpoint and writes it as the folder `output`; the result also says how many bytes its weights take.
///
/// # Errors
/// As [`quantize`]; a GGUF file, whose config is not Hugging Face's; an output that is there already or can't be
/// written.
pub fn to_folder(
    checkpoint: &Checkpoint,
    texts: &[Vec<u32>],
    options: &GptqOptions,
    exec: &ExecOptions,
    output: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(GptqReport, u64), GptqError> {
    let refuse = |path: &Path, reason: &str| GptqError::NotWritten { path: path.into(), reason: reason.into() };
    if checkpoint.gguf_metadata().is_some() {
        let reason = "a GGUF file has no config.json to write beside GPTQ weights: take the folder it was made from, or \
                      use gptq.int4 while it loads (wgpt generate --quantize gptq.int4)";
        return Err(refuse(checkpoint.path(), reason));
    }
    if output.exists() {
        return Err(refuse(output, "is there already; name another --output"));
    }
    let partial = partial(output).ok_or_else(|| refuse(output, "is not the name of a folder"))?;
    let unwritten = |source: io::Error| refuse(output, &format!("cannot write: {source}"));
    sweep_partials(output);
    fs::create_dir_all(&partial).map_err(unwritten)?;
    let written = write(checkpoint, texts, options, exec, &partial, progress)
        .and_then(|written| fs::rename(&partial, output).map(|()| written).map_err(unwritten));
    written.inspect_err(|_| drop(fs::remove_dir_all(&partial))).map_err(|error| match error {
        // A user knows the output by the name they gave it.
        GptqError::Checkpoint(CheckpointError::Io { path, source }) if path.starts_with(&partial) => unwritten(source),
        error => error,
    })
}

fn write(
    checkpoint: &Checkpoint,
    texts: &[Vec<u32>],
    options: &GptqOptions,
    exec: &ExecOptions,
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(GptqReport, u64), GptqError> {
    let tokens = texts.first().map_or(0, Vec::len) as u32;
    let graph = working_graph(checkpoint, tokens, exec, options.requantize)?;
    let targets = Targets::of(checkpoint, &graph, options)?;
    let others = others(checkpoint, &targets)?;
    let mut listed: Vec<(String, &str, Vec<usize>)> =
        others.iter().map(|(view, dtype)| (view.name.to_owned(), *dtype, view.shape.to_vec())).collect();
    for target in targets.all() {
        listed.extend(layout(target, targets.group_size));
    }
    let mut file = SafetensorsWriter::create(&folder.join("model.safetensors"), &listed)?;
    for (view, _) in &others {
        file.write(view.name, &view.rows_from(0..view.rows()))?;
    }
    let mut put = |linear: GptqLinear| -> Result<(), GptqError> {
        for (name, bytes) in linear.tensors() {
            file.write(&name, bytes)?;
        }
        Ok(())
    };
    let report = quantize(checkpoint, texts, options, exec, progress, &mut put)?;
    let bytes = file.finish()?;
    write_config(checkpoint, &report, options, folder)?;
    for name in COMPANIONS {
        if let Some(from) = checkpoint.companion(name) {
            fs::copy(&from, folder.join(name)).map_err(|source| CheckpointError::Io { path: from, source })?;
        }
    }
    Ok((report, bytes))
}

/// Names, dtypes and shapes of the tensors that a target becomes.
fn layout(target: &Target, group_size: Option<usize>) -> Vec<(String, &'static str, Vec<usize>)> {
    GptqLinear::layout(&target.tensor, target.rows, target.cols, group_size).into()
}

/// The tensors that stay, with their dtypes. Masks and tables in types that wgpt does not read are no weights.
fn others<'c>(checkpoint: &'c Checkpoint, targets: &Targets) -> Result<Vec<(TensorView<'c>, &'static str)>, GptqError> {
    let rounded: HashMap<&str, &Target> = targets.all().map(|target| (&*target.tensor, target)).collect();
    let stay = checkpoint.tensors().filter(|view| !rounded.contains_key(view.name));
    let with_dtype = |view: TensorView<'c>| match view.format.name() {
        "f32" if !view.is_composed() => Ok((view, "F32")),
        "f16" if !view.is_composed() => Ok((view, "F16")),
        "bf16" if !view.is_composed() => Ok((view, "BF16")),
        _ => Err(GptqError::Quantized { tensor: view.name.into(), format: view.format.name() }),
    };
    stay.map(with_dtype).collect()
}

/// The checkpoint's config with a section that says how to read the linears.
fn write_config(
    checkpoint: &Checkpoint,
    report: &GptqReport,
    options: &GptqOptions,
    folder: &Path,
) -> Result<(), GptqError> {
    let missing = || GptqError::NotWritten { path: checkpoint.path().into(), reason: format!("{CONFIG} is gone") };
    let path = checkpoint.companion(CONFIG).ok_or_else(missing)?;
    let text = fs::read(&path).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
    let malformed =
        |error| CheckpointError::Malformed { file: path.clone(), reason: format!("not valid JSON: {error}") };
    let mut config: Map<String, Value> = serde_json::from_slice(&text).map_err(malformed)?;
    let section = json!({
        "quant_method": "gptq",
        "bits": 4,
        "group_size": report.group_size.map_or(-1, |size| size as i64),
        "damp_percent": options.damp,
        "desc_act": options.act_order,
        "static_groups": false,
        "sym": false,
        "true_sequential": true,
        "lm_head": false,
        "checkpoint_format": "gptq",
    });
    config.insert("quantization_config".into(), section);
    let mut text = serde_json::to_string_pretty(&config).unwrap_or_default();
    text.push('\n');
    let path = folder.join(CONFIG);
    fs::write(&path, text).map_err(|source| CheckpointError::Io { path, source })?;
    Ok(())
}
