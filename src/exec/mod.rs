//! Executors: who computes a forward.
//!
//! [`Executor`] is all the product (session, commands) knows of computing. `GpuExecutor` plays a plan's steps on
//! adapters, `HostExecutor` runs every op's reference on the host. [`Line`] decodes with tokens chosen where the logits
//! are. How a token is chosen is the sampler's to say, when a text ends the session's; command lines are not read here.
//! Invariant: an executor's KV cache holds exactly the first `position` tokens it was given, and a forward that failed
//! leaves the cache at the position it had before.

mod advice;
mod ahead;
mod alone;
mod build;
mod checkpoint_weights;
mod chooser;
mod gpu;
mod gram;
mod handover;
mod host;
mod lane;
mod load;
mod open;
mod overlap;
mod packed;
mod packed_cache;
mod place;
mod play;
mod probe;
mod rates;
mod room;
mod single;
mod stream;
mod tune;
mod tuned;
mod unit;
mod uploads;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sampler::Rule;

pub use crate::ops::Chosen;
pub use ahead::{Line, Next, Ticket};
pub use gpu::{GpuExecutor, GpuOptions};
pub use gram::Gram;
pub use host::HostExecutor;
pub use load::{Progress, WeightSource, check_tensors};
pub use open::{
    Activations, ExecOptions, LoadReport, context_length, describe_checkpoint, lower_checkpoint, open, plan_checkpoint,
};
pub use packed_cache::{CacheReport, CachedCheckpoint, PackedCache};
pub use place::{Placed, PlacedAdapter};
pub use probe::{probe, probe_host};
pub use rates::MeasuredRates;
pub use room::MemoryLimit;
pub use single::{CaseResult, FilledCase, PlacedCase, PreparedCase};
pub use tune::{TuneEffort, TuneResult, tune};
pub use tuned::{TunedShape, TunedShapes, WeightShape};
pub use unit::{UnitInput, UnitPlace, UnitRunner};

/// Tokens of one forward.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Token ids, at least one; split into prefill chunks by the executor.
    pub tokens: &'a [u32],
    /// Position of the first one: the tokens of the KV cache that stay valid. May be lower than what the cache
    /// holds (the rest is then forgotten), never higher.
    pub position: u32,
    /// Whose logits to compute.
    pub logits: LogitRows,
}

/// Which tokens' logits a forward returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// The last token's: generating.
    Last,
    /// Every token's: scoring.
    All,
}

/// Logits of one forward.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// f32 `(rows, vocab_size)`, row-major.
    pub values: Vec<f32>,
    /// Logits of a row; the model's padded vocabulary, which may exceed the tokenizer's.
    pub vocab_size: usize,
}

impl Logits {
    /// The rows, each `vocab_size` long.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocab_size)
    }

    /// The last row.
    pub fn last(&self) -> &[f32] {
        &self.values[self.values.len() - self.vocab_size..]
    }
}

/// Memory in use at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryUse {
    /// The adapter's name, or `host`.
    pub place: String,
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of KV cache.
    pub kv_cache: u64,
    /// Bytes of activations, staging and readback buffers.
    pub other: u64,
}

/// Computes forwards of one model for one sequence.
pub trait Executor: Send {
    /// Runs the batch and returns the logits it asked for.
    ///
    /// # Errors
    /// A token id outside the vocabulary, a position beyond what the cache holds, more tokens than the context
    /// has room for, a lost device, or memory that ran out.
    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits, ExecError>;

    /// As [`Self::forward`], unless `cancel` is set before the end: then nothing is returned and the cache is at the
    /// batch's position. A streamed plan looks before each layer, where a token may take seconds.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn forward_unless(&mut self, batch: &Batch<'_>, cancel: &AtomicBool) -> Result<Option<Logits>, ExecError> {
        if cancel.load(Ordering::Relaxed) { Ok(None) } else { self.forward(batch).map(Some) }
    }

    /// Forwards that are worth queuing beyond the one whose choice is taken next; none, where queuing is computing.
    fn ahead(&self) -> usize {
        0
    }

    /// Queues the forward of one token at `position`, as [`Self::forward_unless`] would compute it, with the choice of
    /// the token after it. The KV cache counts as holding the token at once. `None` when cancelled.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn queue(
        &mut self,
        next: Next<'_>,
        position: u32,
        rule: &Rule,
        cancel: &AtomicBool,
    ) -> Result<Option<Ticket>, ExecError> {
        ahead::queue_plainly(self, next, position, rule, cancel)
    }

    /// What a queued forward chose; waits for it. The tickets of the last `1 + ahead` forwards queued can be taken.
    ///
    /// # Errors
    /// A lost device.
    fn take(&mut self, ticket: &Ticket) -> Result<Chosen, ExecError> {
        match &ticket.0 {
            ahead::Queued::Known(chosen) => Ok(chosen.clone()),
            ahead::Queued::Submitted { .. } => panic!("a ticket is taken from the executor that gave it"),
        }
    }

    /// Tokens the KV cache holds; those of queued forwards included.
    fn position(&self) -> u32;

    /// Tokens the KV cache has room for.
    fn context_length(&self) -> u32;

    /// Logits of a row.
    fn vocab_size(&self) -> usize;

    /// What is allocated where.
    fn memory(&self) -> Vec<MemoryUse>;

    /// Whether [`Self::profile`] can be asked for batches of so many tokens: to be known before a long measurement.
    ///
    /// # Errors
    /// What is in the way.
    fn check_profile(&self, _tokens: u32) -> Result<(), ExecError> {
        Err(ExecError::NoProfile)
    }

    /// Runs the batch, one prefill chunk at most, and says how long each kernel took.
    ///
    /// # Errors
    /// As [`Self::forward`]; an executor whose kernels have no clock, or a plan whose kernels are not in one place.
    fn profile(&mut self, _batch: &Batch<'_>) -> Result<Profile, ExecError> {
        Err(ExecError::NoProfile)
    }
}

/// Where the time of a forward goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Every kernel, in the order that they run in.
    pub kernels: Vec<KernelTime>,
    /// Seconds from the start of the first to the end of the last when none of them is timed: timing keeps them from
    /// overlapping, so their sum is more.
    pub span: f64,
}

/// How long one kernel of a forward took.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelTime {
    /// The unit that it belongs to: the embedding, a layer, the head.
    pub unit: String,
    /// What it computes: the name of its result, as the graph prints it.
    pub result: String,
    /// The kernel's file.
    pub kernel: &'static str,
    /// Seconds, waiting for the kernel before it included.
    pub seconds: f64,
}

impl From<crate::checkpoint::CheckpointError> for ExecError {
    fn from(error: crate::checkpoint::CheckpointError) -> Self {
        Self::Checkpoint(Arc::new(error))
    }
}

impl From<crate::model::ModelError> for ExecError {
    fn from(error: crate::model::ModelError) -> Self {
        Self::Model(Arc::new(error))
    }
}

/// What every executor checks before it computes.
fn check_batch(batch: &Batch<'_>, held: u32, context_length: u32, vocab_size: usize) -> Result<(), ExecError> {
    if batch.tokens.is_empty() {
        return Err(ExecError::EmptyBatch);
    }
    if batch.position > held {
        return Err(ExecError::PositionAhead { position: batch.position, held });
    }
    if batch.position as usize + batch.tokens.len() > context_length as usize {
        let (tokens, position) = (batch.tokens.len(), batch.position);
        return Err(ExecError::ContextFull { tokens, position, context_length });
    }
    match batch.tokens.iter().find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(ExecError::TokenOutOfRange { id: *id, vocab_size }),
        None => Ok(()),
    }
}

/// What can go wrong while loading weights or computing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecError {
    /// A token id the model has no embedding for.
    #[error("token id {id} is outside the model's vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id given.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// More tokens than the context holds.
    #[error("{tokens} tokens from position {position} do not fit the context of {context_length}")]
    ContextFull {
        /// Tokens of the batch.
        tokens: usize,
        /// Where it starts.
        position: u32,
        /// Room of the KV cache.
        context_length: u32,
    },
    /// A batch that starts where the cache does not reach.
    #[error("the batch starts at position {position}, but the KV cache holds only {held} tokens")]
    PositionAhead {
        /// Where the batch starts.
        position: u32,
        /// Tokens held.
        held: u32,
    },
    /// A profile of what is not in one place.
    #[error(
        "a profile is of one adapter that holds the whole model: choose one with --adapter, not the host, which has no \
         clock for kernels, and leave out --adapters and --offload"
    )]
    NoProfile,
    /// A profile of more than one prefill chunk.
    #[error(
        "a profile is of one prefill chunk, and {tokens} tokens are more than its {chunk}: give --prefill-chunk {tokens}"
    )]
    LongProfile {
        /// What was asked for.
        tokens: u32,
        /// Tokens of a chunk.
        chunk: u32,
    },
    /// No tokens.
    #[error("a forward needs at least one token")]
    EmptyBatch,
    /// The checkpoint could not be read.
    #[error(transparent)]
    Checkpoint(Arc<crate::checkpoint::CheckpointError>),
    /// The config describes no model wgpt runs.
    #[error(transparent)]
    Model(Arc<crate::model::ModelError>),
    /// The model can't be lowered.
    #[error(transparent)]
    Graph(#[from] crate::graph::GraphError),
    /// The model does not fit.
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),
    /// A tensor that is not as the model needs it.
    #[error("{file}: tensor \"{tensor}\": expected {expected}, found {found}")]
    Tensor {
        /// The file it is in.
        file: String,
        /// Its name.
        tensor: String,
        /// The shape or kind needed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A block whose scales are not numbers.
    #[error(
        "{file}: tensor \"{tensor}\": row {row}, weights {} to {}: the scales of this {format} block are NaN or infinite; \
         the file is damaged: fetch or convert it again",
        .weights.start, .weights.end - 1
    )]
    Scale {
        /// The file it is in.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// Its row.
        row: usize,
        /// The block's weights in that row.
        weights: std::ops::Range<usize>,
        /// The format.
        format: &'static str,
    },
    /// Weights that a format can't hold.
    #[error("{file}: tensor \"{tensor}\": row {row} can't be quantized to {format}: {reason}")]
    NotQuantizable {
        /// The file it is in.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// Its row.
        row: usize,
        /// The format wanted.
        format: &'static str,
        /// What is in the way.
        reason: String,
    },
    /// Tensors the model has no use for: a sign that the checkpoint is not what its config says.
    #[error(
        "{file}: {count} tensors are not part of a {family} model of this config, the first is \"{tensor}\" {found}; \
         expected nothing by that name"
    )]
    UnknownTensors {
        /// The file it is in.
        file: String,
        /// How many.
        count: usize,
        /// The first one.
        tensor: String,
        /// Its shape.
        found: String,
        /// The model's family.
        family: &'static str,
    },
    /// A context longer than the model was made for.
    #[error("a context of {wanted} tokens is more than the {limit} positions the model was made for")]
    ContextTooLong {
        /// What was asked for.
        wanted: u32,
        /// The model's own.
        limit: u32,
    },
    /// A budget for an adapter that nobody asked for.
    #[error("--memory names adapter {adapter} ({name}), which is not used; add it to --adapters")]
    UnusedBudget {
        /// Its index.
        adapter: usize,
        /// Its name.
        name: String,
    },
    /// More budgets for an adapter than it has uses.
    #[error(
        "--memory names adapter {adapter} ({name}) {entries} times, which is used {uses} times: leave entries out, or list \
         the adapter as often in --adapters"
    )]
    SurplusBudget {
        /// Its index.
        adapter: usize,
        /// Its name.
        name: String,
        /// How often it is given one.
        entries: usize,
        /// How often it is used.
        uses: usize,
    },
    /// Budgets or streaming without an adapter.
    #[error(
        "--memory, --memory-fraction, --offload and --offload-mode are about adapters; leave them out with --adapter host"
    )]
    HostNeedsNoMemory,
    /// There is nothing more to try where an adapter held less than it was thought to.
    #[error("{refused}; {error}")]
    AfterRefusal {
        /// What was refused, and done about it.
        refused: String,
        /// Why that was not enough.
        error: Box<Self>,
    },
    /// Host memory for streamed weights that were to be pinned.
    #[error("{0}; with --offload-mode mapped streamed weights stay in the checkpoint's file")]
    PinnedMemory(crate::gpu::GpuError),
    /// A plan for the host.
    #[error("there is nothing to plan: without an adapter everything is computed in host memory")]
    NothingToPlan,
    /// The device said no.
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
}
