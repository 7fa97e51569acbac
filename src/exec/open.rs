//! From a checkpoint and a user's wishes to an executor.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::advice::place_or_advise;
use super::gpu::Refusal;
use super::load::{WeightSource, check_tensors};
use super::packed_cache::{CacheReport, PackedCache};
use super::place::{Candidate, Placed, candidates};
use super::room::MemoryLimit;
use super::{ExecError, Executor, GpuExecutor, HostExecutor, MeasuredRates, Progress, TunedShapes};
use crate::checkpoint::Checkpoint;
use crate::gpu::{AdapterChoice, Device, DeviceOptions, GpuError, adapters};
use crate::graph::{Graph, GraphError, LowerOptions, Quantize, QuantizedFormats, lower};
use crate::model::{ModelSpec, Source, describe};
use crate::ops::KvFormat;
use crate::plan::{Bytes, Offload, OffloadMode, Residency};

/// Positions of the KV cache where nobody says otherwise: what chats need, without the memory of the longest models.
const DEFAULT_CONTEXT: u32 = 4096;

/// Plans that are tried where an adapter does not hold what it was thought to.
const ATTEMPTS: usize = 6;

/// A user's wishes.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// Where to run.
    pub adapter: AdapterChoice,
    /// How much memory of each adapter to use.
    pub memory: MemoryLimit,
    /// Bytes of an adapter, by its index, that another model of this run has taken: so much less is for this one.
    pub taken: Option<(usize, u64)>,
    /// How much to stream from the host.
    pub offload: Offload,
    /// It is a draft: taken as it is stored and never streamed, so that no error advises otherwise.
    pub draft: bool,
    /// Where streamed weights stay between forwards; by default in host memory where that holds them.
    pub offload_mode: Option<OffloadMode>,
    /// What adapters were measured to do; others are taken to be as others of their class.
    pub rates: MeasuredRates,
    /// Positions of the KV cache; by default the model's own, at most 4096.
    pub context_length: Option<u32>,
    /// Tokens of one prefill forward; by default 512, more where weights are streamed and more hide that, fewer where
    /// memory is short or buffers are too large.
    pub prefill_chunk: Option<u32>,
    /// How keys and values are held; by default f32 for f32 checkpoints and f16 for all others.
    pub kv_format: Option<KvFormat>,
    /// How decode and forwards of few tokens take activations where weights are quantized; by default as is best for
    /// the adapters.
    pub activations: Option<Activations>,
    /// How much of the adapter to use.
    pub device: DeviceOptions,
    /// Workgroup shapes that were found to be best on adapters; others use the defaults of their class.
    pub tuned: TunedShapes,
    /// Folder that compiled pipelines are kept in from run to run; by default they are not.
    pub pipelines: Option<PathBuf>,
    /// Quantize weights while they load; none takes them as they are stored.
    pub quantize: Option<Quantize>,
    /// Where packed weights are kept for the next start; none keeps nothing.
    pub cache: Option<PathBuf>,
    /// Keep matrices of different inputs apart that could be one, for whoever looks at what each of them reads.
    pub apart: bool,
}

/// What decode and forwards of few tokens multiply quantized weights by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// Activations as they are.
    F32,
    /// Activations rounded to 8 bits, sixteen to a scale, for integer dot products.
    Q8,
}

/// What was decided on the way.
#[derive(Debug, Clone)]
pub struct LoadReport {
    /// The adapters' names, or `host`.
    pub place: String,
    /// Where every unit is; nothing on the host.
    pub placed: Option<Placed>,
    /// Things a user should be told once.
    pub notices: Vec<String>,
    /// What was quantized, where that was asked for.
    pub quantized: Option<QuantizedFormats>,
    /// What was read from the cache of packed weights and written to it; none where nothing of it is worth keeping.
    pub cache: Option<CacheReport>,
}

/// The model a checkpoint describes.
///
/// # Errors
/// An unknown family or a config it can't be read from.
pub fn describe_checkpoint(checkpoint: &Checkpoint) -> Result<ModelSpec, ExecError> {
    let has_tensor = |name: &str| checkpoint.has_tensor(name);
    Ok(describe(&Source { config: checkpoint.config()?, has_tensor: &has_tensor })?)
}

/// Positions of the KV cache of a model, where so many are wanted or nobody says.
///
/// # Errors
/// More than the model was made for, or none.
pub fn context_length(spec: &ModelSpec, wanted: Option<u32>) -> Result<u32, ExecError> {
    let limit = spec.max_context_length;
    let wanted = wanted.unwrap_or(spec.max_position_embeddings.min(DEFAULT_CONTEXT));
    if wanted > limit || wanted == 0 { Err(ExecError::ContextTooLong { wanted, limit }) } else { Ok(wanted) }
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
    let context_length = context_length(&spec, options.context_length)?;
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
    // What is quantized anew is made from the inputs in their own order.
    let kept = |name: &str| quantized.as_ref().is_none_or(|quantized| quantized.format_of(name).is_none());
    let ordered = |name: &str| {
        let (view, order) = checkpoint.tensor(name).ok()?.ordered().filter(|_| kept(name))?;
        Some((view.format, order))
    };
    let exact = format_of(&spec.embedding.parts[0].tensor).is_some_and(|format| format.name() == "f32");
    let kv_format = options.kv_format.unwrap_or(if exact { KvFormat::F32 } else { KvFormat::F16 });
    let held = |name: &str| ordered(name).map(|(format, _)| format).or_else(|| format_of(name));
    let any_integer = || checkpoint.tensors().any(|view| held(view.name).is_some_and(|format| format.integer()));
    let integer = options.activations == Some(Activations::Q8) && any_integer();
    let (format_of, ordered, apart) = (&format_of, &ordered, options.apart);
    let lowered = lower(&spec, &LowerOptions { context_length, kv_format, integer, format_of, ordered, apart });
    let graph = match (lowered, unreadable.into_inner()) {
        (Err(GraphError::MissingTensor(_)), Some(error)) => return Err(error.into()),
        (lowered, _) => lowered?,
    };
    check_tensors(checkpoint, &spec, &graph)?;
    Ok((spec, graph, quantized))
}

/// What to say of linears that take more memory than they were quantized to.
fn widened(checkpoint: &Checkpoint, graph: &Graph) -> Option<String> {
    let as_f16 = graph.weights.iter().filter(|weight| weight.format.name() == "f16");
    let tensors: BTreeSet<&str> =
        as_f16.flat_map(|weight| &weight.specs).flat_map(|spec| &spec.parts).map(|part| &*part.tensor).collect();
    let composed = |name: &&str| checkpoint.tensor(name).is_ok_and(|view| view.is_composed());
    let count = tensors.into_iter().filter(composed).count();
    let why = "they are quantized in a way that no weight format of wgpt has (bitsandbytes' tables, act-order groups \
               of several sizes or of experts)";
    (count > 0).then(|| format!("{count} weights are held as f16, four times their size in the file: {why}"))
}

/// A checkpoint's graph and where it would go; opens no adapter and loads nothing.
///
/// # Errors
/// Whatever is wrong with the checkpoint, the adapters or their sizes.
pub fn plan_checkpoint(checkpoint: &Checkpoint, options: &ExecOptions) -> Result<(Graph, Placed), ExecError> {
    let candidates = find(options)?.ok_or(ExecError::NothingToPlan)?;
    let options = settled(options, Some(&candidates));
    let (_, graph) = lower_checkpoint(checkpoint, &options)?;
    let placed = place_or_advise(checkpoint, &graph, &candidates, &options)?;
    Ok((graph, placed))
}

/// Opens a checkpoint for computing: on the adapters asked for, or on the host where there is none.
///
/// # Errors
/// Whatever is wrong with the checkpoint, the adapters or their sizes.
pub fn open(
    checkpoint: &Checkpoint,
    options: &ExecOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Box<dyn Executor>, LoadReport), ExecError> {
    let cache = options.cache.as_deref().map(PackedCache::new);
    let found = find(options)?;
    let options = settled(options, found.as_deref());
    let (_, graph, quantized) = lower_quantized(checkpoint, &options)?;
    let widened = widened(checkpoint, &graph);
    let source = WeightSource::cached(checkpoint, cache.as_ref());
    let (executor, mut report) = match found {
        Some(candidates) => open_placed(source, &options, graph, candidates, progress)?,
        None => {
            let notice = "no GPU adapter found: computing on the host".to_owned();
            let notices = if options.adapter == AdapterChoice::Host { vec![] } else { vec![notice] };
            tracing::info!("no plan: the host computes {} units", graph.units.len());
            let executor = HostExecutor::new(graph, source, progress)?;
            let report = LoadReport { place: "host".into(), placed: None, notices, quantized: None, cache: None };
            (Box::new(executor) as Box<dyn Executor>, report)
        }
    };
    report.notices.extend(widened);
    report.quantized = quantized;
    if let Some(mut used) = cache.map(|cache| cache.take_report()) {
        report.notices.append(&mut used.notices);
        report.cache = (used.read + used.written > 0).then_some(used);
    }
    Ok((executor, report))
}

/// The options with what they leave open and the adapters decide.
fn settled(options: &ExecOptions, found: Option<&[Candidate]>) -> ExecOptions {
    // A CPU's vectors are no faster at integers.
    let integer = found.is_some_and(|found| found.iter().all(|candidate| !candidate.profile.traits.software));
    let best = if integer { Activations::Q8 } else { Activations::F32 };
    ExecOptions { activations: Some(options.activations.unwrap_or(best)), ..options.clone() }
}

/// The adapters that may be used; `None` for the host.
fn find(options: &ExecOptions) -> Result<Option<Vec<Candidate>>, ExecError> {
    if options.adapter == AdapterChoice::Host {
        return if options.needs_adapter() { Err(ExecError::HostNeedsNoMemory) } else { Ok(None) };
    }
    let present = adapters();
    match candidates(options, &present) {
        // Who asks for a budget or for streaming wants an adapter.
        Err(ExecError::Gpu(GpuError::NoAdapter))
            if options.adapter == AdapterChoice::Default && !options.needs_adapter() =>
        {
            Ok(None)
        }
        found => found.map(Some),
    }
}

/// Opens an adapter as the options say.
pub(super) fn open_device(index: usize, device: DeviceOptions, options: &ExecOptions) -> Result<Device, GpuError> {
    let mut device = Device::open(index, device)?;
    options.tuned.apply(&mut device);
    if let Some(folder) = &options.pipelines {
        device.keep_pipelines(folder);
    }
    Ok(device)
}

/// Opens the adapters of a plan; devices that have one in common, with each other or with another model's, as siblings.
fn open_devices(placed: &Placed, options: &ExecOptions) -> Result<Vec<Device>, GpuError> {
    let indices: Vec<usize> = placed.adapters.iter().map(|adapter| adapter.info.index).collect();
    let open = |index: &usize| {
        let twice = indices.iter().filter(|other| *other == index).count() > 1;
        let beside = options.taken.is_some_and(|(taken, _)| taken == *index);
        let sibling = options.device.sibling || twice || beside;
        open_device(*index, DeviceOptions { sibling, ..options.device }, options)
    };
    indices.iter().map(open).collect()
}

/// An error behind what an adapter refused before.
fn after(refused: &[String], error: ExecError) -> ExecError {
    match refused {
        [] => error,
        _ => ExecError::AfterRefusal { refused: refused.join("; "), error: Box::new(error) },
    }
}

/// Opens the adapters of a plan. Where one of them does not hold its part after all, the next smaller plan is made.
fn open_placed(
    source: WeightSource<'_>,
    options: &ExecOptions,
    mut graph: Graph,
    mut candidates: Vec<Candidate>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Box<dyn Executor>, LoadReport), ExecError> {
    let (mut notices, mut options, checkpoint) = (Vec::new(), options.clone(), source.checkpoint());
    for attempt in 1.. {
        let placed = place_or_advise(checkpoint, &graph, &candidates, &options);
        let placed = placed.map_err(|error| after(&notices, error))?;
        for (number, part) in placed.adapters.iter().enumerate() {
            let units = placed.plan.placements.iter().filter(|placement| placement.adapter == number);
            let streamed = units.clone().filter(|placement| placement.residency == Residency::Streamed).count();
            let (index, count, held) = (part.info.index, units.count(), Bytes(part.bytes.taken(part.apart)));
            tracing::info!("plan: {count} units on adapter {index}, {streamed} of them streamed, {held} held there");
        }
        let devices = open_devices(&placed, &options)?;
        match GpuExecutor::build(graph, &placed.plan, devices, source, (placed.extents, placed.least_piece), progress) {
            Ok(executor) => {
                executor.save_pipelines();
                notices.extend(placed.notices.clone());
                let names: Vec<&str> = placed.adapters.iter().map(|adapter| adapter.info.name.as_str()).collect();
                let place = names.join(" + ");
                let report = LoadReport { place, placed: Some(placed), notices, quantized: None, cache: None };
                return Ok((Box::new(executor), report));
            }
            Err(Refusal { adapter, held, error: error @ ExecError::Gpu(GpuError::OutOfMemory { .. }) })
                if attempt < ATTEMPTS && held > 0 =>
            {
                notices.push(format!("{error}; planning again with {} there", Bytes(held)));
                let budget = &mut candidates[placed.adapters[adapter].candidate].budget;
                (budget.bytes, budget.most) = (Some(held), Some(held));
                graph = lower_checkpoint(checkpoint, &options)?.1;
            }
            Err(Refusal { error: ExecError::Gpu(error @ GpuError::HostMemory { .. }), .. })
                if placed.plan.streams() && placed.plan.offload_mode == OffloadMode::Pinned =>
            {
                if options.offload_mode.is_some() {
                    return Err(after(&notices, ExecError::PinnedMemory(error)));
                }
                notices.push(format!("{error}; streamed weights are left in the checkpoint's file"));
                options.offload_mode = Some(OffloadMode::Mapped);
                graph = lower_checkpoint(checkpoint, &options)?.1;
            }
            Err(refusal) => return Err(after(&notices, refusal.error)),
        }
    }
    unreachable!("the last attempt returns")
}
