//! Guessing ahead: flags for what guesses, and the draft they come to.
//!
//! Shared by the commands that make text. A draft model is opened before the model itself, since it is the smaller one:
//! what it takes of an adapter is then known, and the model's plan has the rest. Invariant: a draft that does not go
//! with the model is refused before anything is loaded.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use wgpt::exec::{self, ExecOptions, MemoryLimit, describe_checkpoint};
use wgpt::gpu::{AdapterChoice, DeviceOptions, choose};
use wgpt::plan::{Bytes, Offload};
use wgpt::session::{Draft, DraftModel, PromptLookup, Session};
use wgpt::tokenizer::Tokenizer;

use super::args::{CheckpointArgs, ContextArgs, ModelArgs};
use super::output::Notes;
use super::placement::{PlacementArgs, adapter};
use super::resolve::{self, Opened};

/// What guesses the next tokens. Texts stay the same whatever it guesses.
#[derive(Debug, Args)]
pub(super) struct SpeculationArgs {
    /// Guess ahead without a second model and verify the guesses in one forward; the text stays the same. lookup: it
    /// goes on as it did where its last tokens stood before, which pays where a text repeats itself or its prompt
    #[arg(long, value_name = "HOW", env = "WGPT_SPECULATE", value_enum, group = "guesser")]
    speculate: Option<Speculate>,

    /// Guess ahead by a smaller checkpoint of the same vocabulary, as --checkpoint, and verify its guesses in one
    /// forward; the text stays the same
    #[arg(long, value_name = "PATH", env = "WGPT_DRAFT", group = "guesser")]
    draft: Option<PathBuf>,

    /// Adapter of the draft: an index, a part of a name, or `host` [default: the model's, the first of several]
    #[arg(
        long,
        value_name = "INDEX|NAME|host",
        env = "WGPT_DRAFT_ADAPTER",
        requires = "draft",
        conflicts_with = "speculate"
    )]
    draft_adapter: Option<String>,

    /// Tokens to guess at once at most
    #[arg(long, value_name = "N", env = "WGPT_DRAFT_TOKENS", default_value_t = 7, requires = "guesser", value_parser = clap::value_parser!(u8).range(1..=15))]
    draft_tokens: u8,
}

/// Ways to guess without a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Speculate {
    /// What followed the last tokens before
    Lookup,
}

/// A draft, ready to guess.
pub(super) struct Guesser {
    draft: Box<dyn Draft>,
    tokens: usize,
    /// The adapter it is on, and what it takes there.
    pub(super) taken: Option<(usize, u64)>,
}

impl Guesser {
    /// Whom the flags ask for, if anyone.
    pub(super) fn of(
        args: &SpeculationArgs,
        model: (&Opened, &Tokenizer),
        flags: (&ModelArgs, &ContextArgs),
        notes: Notes,
    ) -> Result<Option<Self>> {
        let (draft, taken): (Box<dyn Draft>, _) = match (&args.draft, args.speculate) {
            (Some(path), _) => {
                let (draft, taken) = draft_model(path, args, model, flags, notes)?;
                (Box::new(draft), taken)
            }
            (None, Some(Speculate::Lookup)) => (Box::new(PromptLookup::default()), None),
            (None, None) => return Ok(None),
        };
        Ok(Some(Self { draft, tokens: args.draft_tokens.into(), taken }))
    }

    /// The session with its guesses.
    pub(super) fn join(self, session: Session) -> Session {
        session.with_draft(self.draft, self.tokens)
    }

    /// What to say of a model that could not be loaded beside it.
    pub(super) fn in_the_way(&self) -> Option<String> {
        let (_, bytes) = self.taken?;
        Some(format!("the draft takes {} of the same memory; --draft-adapter puts it elsewhere", Bytes(bytes)))
    }
}

/// Opens the draft's checkpoint, checks its vocabulary and loads it.
fn draft_model(
    path: &std::path::Path,
    args: &SpeculationArgs,
    (opened, tokenizer): (&Opened, &Tokenizer),
    (model, context): (&ModelArgs, &ContextArgs),
    notes: Notes,
) -> Result<(DraftModel, Option<(usize, u64)>)> {
    let draft = resolve::checkpoint(&CheckpointArgs { checkpoint: Some(path.to_owned()) })?;
    let named = || format!("--draft {}", draft.path.display());
    let spec = describe_checkpoint(&draft.checkpoint).with_context(named)?;
    let words = resolve::language(&draft).with_context(named)?;
    DraftModel::check_vocabulary(tokenizer, &words.tokenizer, spec.vocab_size()).with_context(named)?;
    let length = exec::context_length(&describe_checkpoint(&opened.checkpoint)?, context.context_length)?;
    let adapter = match &args.draft_adapter {
        Some(name) => adapter(name),
        None => first(model.placement.choice()),
    };
    // Where both are on one adapter they take turns.
    let (sibling, memory) = beside(&adapter, &model.placement);
    let options = ExecOptions {
        memory,
        adapter,
        offload: Offload::Never,
        draft: true,
        offload_mode: None,
        // A draft of fewer positions guesses as far as it has them.
        context_length: Some(length.min(spec.max_context_length)),
        kv_format: None,
        quantize: None,
        device: DeviceOptions { sibling, ..DeviceOptions::default() },
        ..resolve::options(model, context)
    };
    let loaded = resolve::open(&draft, &draft.checkpoint, &options, notes);
    let (executor, report) =
        loaded.context("the draft could not be loaded: leave out --draft, or put it elsewhere with --draft-adapter")?;
    let taken = report.placed.map(|placed| {
        let bytes = executor.memory().iter().map(|place| place.weights + place.kv_cache + place.other).sum();
        (placed.adapters[0].info.index, bytes)
    });
    Ok((DraftModel::new(executor), taken))
}

/// One adapter of those that the model is on.
fn first(choice: AdapterChoice) -> AdapterChoice {
    match choice {
        AdapterChoice::Best(_) => AdapterChoice::Default,
        AdapterChoice::List(mut list) if !list.is_empty() => first(list.swap_remove(0)),
        single => single,
    }
}

/// Whether the draft's adapter is one of the model's, and what of the model's memory limit concerns it.
fn beside(draft: &AdapterChoice, model: &PlacementArgs) -> (bool, MemoryLimit) {
    let present = resolve::adapters();
    // The host has no limit; a choice that names none is refused when it is opened.
    let (Ok(own), Ok(chosen)) = (choose(draft, &present), choose(&model.choice(), &present)) else {
        return (false, MemoryLimit::Default);
    };
    let both = chosen.iter().any(|info| info.index == own[0].index);
    (both, model.memory().beside(own[0], &chosen))
}
