//! From what was typed to what can be used: checkpoint, tokenizer, executor, session, sampling parameters.
//!
//! The only file that knows both the flags and the rooms below; commands ask here and compute nothing themselves.
//! Invariant: the checkpoint is opened and found good before a device is, so that bad input costs no waiting.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use indicatif::ProgressBar;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{self, CacheReport, ExecOptions, Executor, LoadReport, Placed};
use wgpt::gptq::{self, GptqOptions, GptqReport};
use wgpt::gpu::{self, AdapterInfo};
use wgpt::graph::Graph;
use wgpt::plan::Offload;
use wgpt::sampler::SamplingParams;
use wgpt::session::{Chat, Language, SamplingDefaults, Session};

use super::args::{ChatArgs, ChatSamplingArgs, CheckpointArgs, ContextArgs, GenerateArgs, ModelArgs, SamplingArgs};
use super::embedded;
use super::output::{self, Notes, seconds};
use super::speculation::{Guesser, SpeculationArgs};
use super::{cache, plan, rates};

/// Where checkpoints are looked for.
const FOLDER: &str = "checkpoints";

/// The model that comes with wgpt.
const DEFAULT: &str = "wgpt-stories-4m";

/// A checkpoint and where it was found.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) checkpoint: Checkpoint,
}

/// Opens the checkpoint that the flag names, or the one that comes with wgpt.
pub(super) fn checkpoint(args: &CheckpointArgs) -> Result<Opened> {
    let path = match &args.checkpoint {
        Some(path) => find(path)?,
        None => default_checkpoint()?,
    };
    let checkpoint = Checkpoint::open(&path)?;
    Ok(Opened { path, checkpoint })
}

/// The checkpoint's tokenizer, chat template and EOS ids.
pub(super) fn language(opened: &Opened) -> Result<Language> {
    Ok(Language::of(&opened.checkpoint)?)
}

/// Loads the weights of the checkpoint onto the adapter of the flags.
pub(super) fn executor(model: &ModelArgs, context: &ContextArgs, notes: Notes) -> Result<(Opened, Box<dyn Executor>)> {
    let opened = checkpoint(&model.checkpoint)?;
    let executor = load(&opened, model, context, notes)?;
    Ok((opened, executor))
}

/// Loads everything that making text needs.
pub(super) fn session(args: &GenerateArgs, notes: Notes) -> Result<Session> {
    let opened = checkpoint(&args.model.checkpoint)?;
    let language = language(&opened)?;
    session_in(language, &opened, (&args.model, &args.context), &args.speculation, notes)
}

/// A session that speaks this language; a draft is loaded before the model.
fn session_in(
    Language { tokenizer, end_ids, .. }: Language,
    opened: &Opened,
    (model, context): (&ModelArgs, &ContextArgs),
    speculation: &SpeculationArgs,
    notes: Notes,
) -> Result<Session> {
    let guesser = Guesser::of(speculation, (opened, &tokenizer), (model, context), notes)?;
    let taken = guesser.as_ref().and_then(|guesser| guesser.taken);
    let loaded = load_as(opened, model, ExecOptions { taken, ..options(model, context) }, notes);
    let executor = match guesser.as_ref().and_then(Guesser::in_the_way) {
        Some(reason) => loaded.context(reason)?,
        None => loaded?,
    };
    let limit = exec::describe_checkpoint(&opened.checkpoint)?.max_context_length;
    let session = Session::new(executor, tokenizer, end_ids).with_limit(limit);
    Ok(match guesser {
        Some(guesser) => guesser.join(session),
        None => session,
    })
}

/// Loads everything that a conversation needs, and says what the checkpoint recommends for sampling.
pub(super) fn chat(args: &ChatArgs, notes: Notes) -> Result<(Chat, SamplingDefaults)> {
    let opened = checkpoint(&args.model.checkpoint)?;
    let language = language(&opened)?;
    let defaults = SamplingDefaults::of(&opened.checkpoint)?;
    let format = language.chat_format(args.template.as_deref())?;
    if let Some(system) = &args.system {
        format.check_system(system)?;
    }
    match (&args.template, format.is_plain()) {
        (Some(_), _) => notes.line(format_args!("talking in: {format}")),
        (None, true) => notes.line(
            "this checkpoint has no chat template, nor a name that calls for a style: what you type is given to the \
             model as it is; --template chooses a format",
        ),
        (None, false) if format.is_style() => {
            notes.line(format_args!("this checkpoint has no chat template; by its name it is spoken to in {format}"));
        }
        (None, false) => {}
    }
    let session = session_in(language, &opened, (&args.model, &args.context), &args.speculation, notes)?;
    Ok((Chat::new(session, format, args.system.as_deref()), defaults))
}

/// Where the checkpoint of the flags would go; nothing is loaded. Adapters that were never measured are measured first.
pub(super) fn plan(model: &ModelArgs, context: &ContextArgs, notes: Notes) -> Result<(Opened, Graph, Placed)> {
    let gptq = model.quantize.gptq();
    let opened = checkpoint(&model.checkpoint)?;
    let rates = rates::measured(&model.placement.choice(), model.placement.offload() != Offload::Never, notes);
    let options = ExecOptions { rates, ..options(model, context) };
    let foreseen = gptq.map(|gptq| foreseen(&opened, &gptq, &options)).transpose()?;
    if let Some((_, what)) = &foreseen {
        notes.line(what);
    }
    let checkpoint = foreseen.as_ref().map_or(&opened.checkpoint, |(rounded, _)| rounded);
    let (graph, placed) =
        exec::plan_checkpoint(checkpoint, &options).with_context(|| format!("{}: no plan", opened.path.display()))?;
    Ok((opened, graph, placed))
}

/// Every adapter, best first.
pub(super) fn adapters() -> Vec<AdapterInfo> {
    gpu::adapters()
}

/// The sampling parameters; a seed that was not given is made up and said, so that the text can be made again.
pub(super) fn sampling(args: &SamplingArgs, notes: Notes) -> SamplingParams {
    SamplingParams {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        seed: seed(args.seed, args.temperature, notes),
    }
}

/// The sampling parameters of a chat: what was typed, else what the checkpoint recommends, else those of
/// `generate`.
pub(super) fn chat_sampling(args: &ChatSamplingArgs, checkpoint: &SamplingDefaults, notes: Notes) -> SamplingParams {
    let own = SamplingParams::default();
    let temperature = args.temperature.or(checkpoint.temperature).unwrap_or(own.temperature);
    SamplingParams {
        temperature,
        top_k: args.top_k.or(checkpoint.top_k).unwrap_or(own.top_k),
        top_p: args.top_p.or(checkpoint.top_p).unwrap_or(own.top_p),
        min_p: args.min_p.or(checkpoint.min_p).unwrap_or(own.min_p),
        repetition_penalty: args.repetition_penalty.or(checkpoint.repetition_penalty).unwrap_or(own.repetition_penalty),
        seed: seed(args.seed, temperature, notes),
    }
}

fn seed(given: Option<u64>, temperature: f32, notes: Notes) -> u64 {
    given.unwrap_or_else(|| {
        // keys of the standard library's hash maps are random; 32 bits are enough and easy to type
        let seed = RandomState::new().hash_one(0) >> 32;
        if temperature > 0.0 {
            notes.line(format_args!("seed: {seed}"));
        }
        seed
    })
}

/// Loads the weights of an open checkpoint onto the adapter of the flags.
pub(super) fn load(
    opened: &Opened,
    model: &ModelArgs,
    context: &ContextArgs,
    notes: Notes,
) -> Result<Box<dyn Executor>> {
    load_as(opened, model, options(model, context), notes)
}

/// As [`load`], with the flags' options changed in some way.
fn load_as(opened: &Opened, model: &ModelArgs, mut options: ExecOptions, notes: Notes) -> Result<Box<dyn Executor>> {
    if options.adapter.is_several() || options.offload != Offload::Never {
        // Where layers go depends on what each adapter can do, and how they are streamed on its bus.
        options.rates = rates::measured(&options.adapter, false, notes);
    }
    let rounded = match model.quantize.gptq() {
        Some(gptq) => Some(calibrated(opened, model, &gptq, &options, notes)?),
        None => None,
    };
    Ok(open(opened, rounded.as_ref().unwrap_or(&opened.checkpoint), &options, notes)?.0)
}

/// Opens a checkpoint for computing, as it is in its file or in another version, and says what came of it.
pub(super) fn open(
    opened: &Opened,
    checkpoint: &Checkpoint,
    options: &ExecOptions,
    notes: Notes,
) -> Result<(Box<dyn Executor>, LoadReport)> {
    let start = Instant::now();
    let path = opened.path.display();
    let failed = || format!("{path}: could not be loaded");
    let (_, graph) = exec::lower_checkpoint(checkpoint, options).with_context(failed)?;
    let bar = notes.progress(graph.weights.iter().map(wgpt::graph::Weight::bytes).sum());
    let opened = exec::open(checkpoint, options, &mut loading(&bar, notes));
    let (executor, report) = opened.with_context(failed)?;
    bar.finish_and_clear();
    for notice in &report.notices {
        // what a user must know is said even to those who want quiet
        eprintln!("{notice}");
    }
    if let Some(quantized) = &report.quantized {
        notes.line(quantized);
    }
    if let Some(cache) = &report.cache {
        say_cached(cache, notes);
    }
    notes.line(format_args!("loaded {path} on {} in {}", report.place, seconds(start.elapsed())));
    for adapter in report.placed.iter().flat_map(|placed| &placed.adapters) {
        let (index, shapes) = (adapter.info.index, options.tuned.get(&adapter.info).len());
        if shapes > 0 {
            notes.line(format_args!(
                "adapter {index} runs {shapes} shapes that wgpt tune found (--no-tune: the defaults)"
            ));
        }
    }
    if let Some(placed) = report.placed.as_ref().filter(|placed| plan::is_worth_telling(placed)) {
        plan::runs(placed).iter().for_each(|run| notes.line(run));
    }
    Ok((executor, report))
}

/// The checkpoint as GPTQ would leave it, without its weights, and what would be done.
pub(super) fn foreseen(opened: &Opened, gptq: &GptqOptions, exec: &ExecOptions) -> Result<(Checkpoint, String)> {
    gptq::foresee(&opened.checkpoint, gptq, exec)
        .with_context(|| format!("{}: could not be quantized", opened.path.display()))
}

/// Shows how far loading is.
fn loading(bar: &ProgressBar, notes: Notes) -> impl FnMut(exec::Progress) {
    move |progress| match progress {
        exec::Progress::Loaded(count) | exec::Progress::Cached(count) => bar.inc(count),
        exec::Progress::Caching(total) => {
            bar.inc_length(total);
            let text = format!("packing {} for this start and the next ones", output::bytes(total));
            bar.suspend(|| notes.line(text));
        }
    }
}

/// Says what was read from the cache of packed weights, and what was written to it.
fn say_cached(CacheReport { folder, read, written, .. }: &CacheReport, notes: Notes) {
    let folder = folder.display();
    if *read > 0 {
        notes.line(format_args!("packed weights: {} read from {folder}", output::bytes(*read)));
    }
    if *written > 0 {
        let written = output::bytes(*written);
        notes.line(format_args!(
            "packed weights: {written} kept in {folder} for the next start; `wgpt cache clear` deletes them"
        ));
    }
}

/// The checkpoint with its linears rounded by GPTQ.
fn calibrated(
    opened: &Opened,
    model: &ModelArgs,
    options: &GptqOptions,
    exec: &ExecOptions,
    notes: Notes,
) -> Result<Checkpoint> {
    let texts = model.quantize.calibration.texts(&opened.checkpoint)?;
    let mut linears = Vec::new();
    let bar = notes.progress(0);
    let mut take = |linear| {
        linears.push(linear);
        Ok(())
    };
    let rounding = gptq::quantize(&opened.checkpoint, &texts, options, exec, &mut progress(&bar), &mut take);
    let report = rounding.with_context(|| format!("{}: could not be quantized", opened.path.display()))?;
    bar.finish_and_clear();
    say(&report, notes);
    Ok(opened.checkpoint.with_gptq(&linears))
}

/// Shows how far GPTQ is.
pub(super) fn progress(bar: &ProgressBar) -> impl FnMut(gptq::Progress) {
    |progress| match progress {
        gptq::Progress::Total(weights) => bar.set_length(weights),
        gptq::Progress::Rounded(weights) => bar.inc(weights),
    }
}

/// Says what GPTQ did.
pub(super) fn say(report: &GptqReport, notes: Notes) {
    for notice in &report.notices {
        // what a user must know is said even to those who want quiet
        eprintln!("{notice}");
    }
    notes.line(report);
}

/// What the flags say of where and how to compute.
pub(super) fn options(model: &ModelArgs, context: &ContextArgs) -> ExecOptions {
    ExecOptions {
        adapter: model.placement.choice(),
        memory: model.placement.memory(),
        offload: model.placement.offload(),
        offload_mode: model.placement.offload_mode,
        rates: rates::load(),
        tuned: model.placement.tuned(),
        activations: model.placement.activations,
        context_length: context.context_length,
        kv_format: model.kv.kv_cache,
        prefill_chunk: model.placement.prefill_chunk,
        quantize: model.quantize.wanted(),
        cache: if model.cache.no_cache { None } else { cache::folder() },
        pipelines: embedded::pipelines_folder(),
        ..ExecOptions::default()
    }
}

/// The path as given, or under `checkpoints/`.
pub(super) fn find(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path.to_owned());
    }
    let inside = Path::new(FOLDER).join(path);
    if path.is_relative() && inside.exists() {
        return Ok(inside);
    }
    let found = present(Path::new(FOLDER));
    let list = match found.is_empty() {
        true => format!("{FOLDER}/ holds none"),
        false => format!("{FOLDER}/ holds: {}", found.join(", ")),
    };
    Err(anyhow!(
        "checkpoint {}: no such file or folder; {list}. {FOLDER}/README.md says how to fetch more",
        path.display()
    ))
}

/// The checkpoint that comes with wgpt.
fn default_checkpoint() -> Result<PathBuf> {
    // In a checkout the folder itself, so that its model can be worked on; elsewhere the copy inside the program.
    let checkout = Path::new(FOLDER).join(DEFAULT);
    if checkout.join("config.json").exists() { Ok(checkout) } else { embedded::unpacked() }
}

/// Checkpoints in a folder: GGUF files and folders with a config.json, one or two levels deep.
fn present(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in children(folder) {
        let deeper = if is_checkpoint(&path) { vec![path] } else { children(&path) };
        let names = deeper.iter().filter(|path| is_checkpoint(path)).filter_map(|path| path.strip_prefix(folder).ok());
        found.extend(names.map(|name| name.display().to_string()));
    }
    found.sort();
    found
}

fn is_checkpoint(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf") || path.join("config.json").exists()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_goes_before_the_checkpoint_and_that_before_our_own() {
        let args = ChatSamplingArgs {
            temperature: Some(0.3),
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            seed: Some(7),
        };
        let checkpoint =
            SamplingDefaults { temperature: Some(0.0), top_k: Some(20), min_p: Some(0.1), ..Default::default() };
        let expected =
            SamplingParams { temperature: 0.3, top_k: 20, top_p: 1.0, min_p: 0.1, repetition_penalty: 1.0, seed: 7 };
        assert_eq!(chat_sampling(&args, &checkpoint, Notes::new(true)), expected, "each from where it is known");
        let silent = chat_sampling(&args, &SamplingDefaults::default(), Notes::new(true));
        assert_eq!((silent.temperature, silent.top_k), (0.3, 200), "a checkpoint that recommends nothing");
    }

    #[test]
    fn checkpoints_are_listed_two_levels_deep() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let root = folder.path();
        for path in ["one/config.json", "org/two/config.json", "three.gguf", "org/four.gguf", "org/notes.txt"] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        let expected = ["one", "org/four.gguf", "org/two", "three.gguf"];
        let found: Vec<String> = present(root).iter().map(|name| name.replace('\\', "/")).collect();
        assert_eq!(found, expected, "checkpoints only");
        assert!(present(&root.join("nowhere")).is_empty(), "a folder that is not there");
    }
}
