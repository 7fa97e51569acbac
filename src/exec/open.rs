//! From a checkpoint and a user's wishes to an executor.

use std::cell::RefCell;

use super::load::{WeightSource, check_tensors};
use super::{ExecError, Executor, GpuExecutor, GpuOptions, HostExecutor};
use crate::checkpoint::Checkpoint;
use crate::gpu::{AdapterChoice, Device, DeviceOptions, GpuError, adapters, choose};
use crate::graph::{Graph, GraphError, LowerOptions, Quantize, QuantizedFormats, lower};
use crate::model::{ModelSpec, Source, describe};
use crate::ops::KvFormat;
use crate::plan::Plan;

/// Positions of the KV cache where nobody says otherwise: what chats need, without the memory of the longest models.
const DEFAULT_CONTEXT: u32 = 4096;

/// A user's wishes.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// Where to run.
    pub adapter: AdapterChoice,
    /// Positions of the KV cache; by default the model's own, at most 4096.
    pub context_length: Option<u32>,
    /// Tokens of one prefill forward.
    pub prefill_chunk: Option<u32>,
    /// How keys and values are held; by default f32 for f32 checkpoints and f16 for all others.
    pub kv_format: Option<KvFormat>,
    /// How much of the adapter to use.
    pub device: DeviceOptions,
    /// Quantize weights while they load; none takes them as they are stored.
    pub quantize: Option<Quantize>,
}

/// What was decided on the way.
#[derive(Debug, Clone)]
pub struct LoadReport {
    /// The adapter's name, or `host`.
    pub place: String,
    /// Things a user should be told once.
    pub notices: Vec<String>,
    /// What was quantized, where that was asked for.
    pub quantized: Option<QuantizedFormats>,
}

/// The model a checkpoint describes.
///
/// # Errors
/// An unknown family or a config it can't be read from.
pub fn describe_checkpoint(checkpoint: &Checkpoint) -> Result<ModelSpec, ExecError> {
    let has_tensor = |name: &str| checkpoint.has_tensor(name);
    Ok(describe(&Source { config: checkpoint.config()?, has_tensor: &has_tensor })?)
}

/// The graph of a checkpoint, all tensors checked.
///
/// # Errors
/// An unsupported model, a context longer than the model's, or tensors that don't fit it.
pub fn lower_checkpoint(checkpoint: &Checkpoint, options: &ExecOptions) -> Result<(ModelSpec, Graph), ExecError> {
    lower_quantized(checkpoint, options).map(|(spec, graph, _)| (spec, graph))
}

fn lower_quantized(
    checkpoint: &Checkpoint,
    options: &ExecOptions,
) -> Result<(ModelSpec, Graph, Option<QuantizedFormats>), ExecError> {
    let spec = describe_checkpoint(checkpoint)?;
    let limit = spec.max_context_length;
    let context_length = options.context_length.unwrap_or(spec.max_position_embeddings.min(DEFAULT_CONTEXT));
    if context_length > limit || context_length == 0 {
        return Err(ExecError::ContextTooLong { wanted: context_length, limit });
    }
    // A tensor that is there in a format no one reads is not missing: its own error says more.
    let unreadable = RefCell::new(None);
    let format_of = |name: &str| match checkpoint.tensor(name) {
        Ok(view) => Some(view.format),
        Err(error) => {
            unreadable.borrow_mut().get_or_insert(error);
            None
        }
    };
    let quantized = options.quantize.map(|quantize| quantize.choose(&spec, &format_of));
    let format_of = |name: &str| {
        let stored = format_of(name)?;
        Some(quantized.as_ref().and_then(|quantized| quantized.format_of(name)).unwrap_or(stored))
    };
    let exact = format_of(&spec.embedding.parts[0].tensor).is_some_and(|format| format.name() == "f32");
    let kv_format = options.kv_format.unwrap_or(if exact { KvFormat::F32 } else { KvFormat::F16 });
    let lowered = lower(&spec, &LowerOptions { context_length, kv_format, format_of: &format_of });
    let graph = match (lowered, unreadable.into_inner()) {
        (Err(GraphError::MissingTensor(_)), Some(error)) => return Err(error.into()),
        (lowered, _) => lowered?,
    };
    check_tensors(checkpoint, &spec, &graph)?;
    Ok((spec, graph, quantized))
}

/// What to say of linears that take more memory than they were quantized to.
fn widened(checkpoint: &Checkpoint) -> Option<String> {
    let count = checkpoint.tensors().filter(|view| view.is_composed() && view.format.name() == "f16").count();
    let why = "they are quantized in a way that no weight format of wgpt has (act-order groups, bitsandbytes' tables)";
    (count > 0).then(|| format!("{count} weights are held as f16, four times their size in the file: {why}"))
}

/// Opens a checkpoint for computing: on the adapter asked for, or on the host where there is none. `progress` is told
/// of bytes loaded.
///
/// # Errors
/// Whatever is wrong with the checkpoint, the adapter or their sizes.
pub fn open(
    checkpoint: &Checkpoint,
    options: &ExecOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<(Box<dyn Executor>, LoadReport), ExecError> {
    let (_, graph, quantized) = lower_quantized(checkpoint, options)?;
    let source = WeightSource::new(checkpoint);
    let mut notices: Vec<String> = widened(checkpoint).into_iter().collect();
    let present = match options.adapter {
        AdapterChoice::Host => Vec::new(),
        _ => adapters(),
    };
    let chosen = match choose(&options.adapter, &present) {
        Ok(info) => Some(info),
        Err(GpuError::NoAdapter) if options.adapter == AdapterChoice::Default => {
            notices.push("no GPU adapter found: computing on the host".to_owned());
            None
        }
        Err(_) if options.adapter == AdapterChoice::Host => None,
        Err(error) => return Err(error.into()),
    };
    let Some(info) = chosen else {
        let executor = HostExecutor::new(graph, source, progress)?;
        return Ok((Box::new(executor), LoadReport { place: "host".into(), notices, quantized }));
    };
    let device = Device::open(info.index, options.device)?;
    let plan = Plan::single(graph.units.len());
    let gpu = GpuOptions { prefill_chunk: options.prefill_chunk.unwrap_or(GpuOptions::default().prefill_chunk) };
    let executor = GpuExecutor::new(graph, &plan, vec![device], source, gpu, progress)?;
    Ok((Box::new(executor), LoadReport { place: info.name.clone(), notices, quantized }))
}
