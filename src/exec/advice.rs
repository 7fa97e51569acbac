//! What a user may change of a model that does not fit.
//!
//! Every change named was planned, with all that a plan may choose by itself, and did fit: `plan` tries other budgets
//! and more streaming, here it is chunks, contexts and formats. Opens and loads nothing.

use super::place::{Candidate, Placed, place};
use super::{ExecError, ExecOptions, lower_checkpoint};
use crate::checkpoint::Checkpoint;
use crate::graph::{Graph, Quantize};
use crate::plan::PlanError;
use crate::quant::{BlockFormat, Q4_0};

/// Steps in which a shorter context is sought for a model that does not fit.
const CONTEXT_STEP: u32 = 64;

/// What lengths of prefill chunks are multiples of.
const CHUNK_STEP: u32 = 16;

/// The format that is tried for weights that are not quantized yet.
const QUANTIZED: Q4_0 = Q4_0;

/// Plans; where the model does not fit, also looks for shorter chunks, a shorter context and quantized weights that
/// would.
pub(super) fn place_or_advise(
    checkpoint: &Checkpoint,
    graph: &Graph,
    candidates: &[Candidate],
    options: &ExecOptions,
) -> Result<Placed, ExecError> {
    let unplaced = match place(graph, candidates, options) {
        Ok(placed) => return Ok(placed),
        Err(unplaced) => unplaced,
    };
    let mut error = unplaced.refusal();
    if matches!(error, PlanError::NoAdapter | PlanError::TooManyLayers { .. }) {
        return Err(error.into());
    }
    let chunk = shorter_chunk(graph, candidates, options, unplaced.chunk());
    let context = shorter_context(checkpoint, graph.context_length, candidates, options);
    let chunk = chunk.map(|tokens| format!("--prefill-chunk {tokens}"));
    let context = context.map(|positions| format!("--context-length {positions}"));
    let quantized = fits_quantized(checkpoint, candidates, options).then(|| format!("--quantize {}", QUANTIZED.name()));
    let would: Vec<String> = chunk.into_iter().chain(context).chain(quantized).collect();
    let would = (!would.is_empty()).then(|| format!("{} would do", would.join(" or ")));
    match (&mut error, would) {
        (PlanError::DoesNotFit { change, .. }, Some(would)) => *change = format!("{would}; or: {change}"),
        // Of such a buffer there is no more to say.
        (PlanError::TooLarge { change, .. }, Some(would)) => *change = would,
        _ => {}
    }
    Err(error.into())
}

/// Whether it would fit with weights that are not quantized yet in [`QUANTIZED`].
fn fits_quantized(checkpoint: &Checkpoint, candidates: &[Candidate], options: &ExecOptions) -> bool {
    if options.quantize.is_some() || options.draft {
        return false;
    }
    let quantize = Some(Quantize { format: &QUANTIZED, head: None, requantize: false });
    let options = ExecOptions { quantize, ..options.clone() };
    let quantized = lower_checkpoint(checkpoint, &options);
    quantized.is_ok_and(|(_, graph)| place(&graph, candidates, &options).is_ok())
}

/// Tokens of the longest chunk that would fit, in halves of one that does not.
fn shorter_chunk(graph: &Graph, candidates: &[Candidate], options: &ExecOptions, chunk: u32) -> Option<u32> {
    let half = |chunk: &u32| Some(chunk / 2 / CHUNK_STEP * CHUNK_STEP).filter(|half| *half > 0);
    let fits = |chunk: &u32| {
        let options = ExecOptions { prefill_chunk: Some(*chunk), ..options.clone() };
        place(graph, candidates, &options).is_ok()
    };
    std::iter::successors(half(&chunk), half).find(fits)
}

/// Positions of the longest context that would fit.
fn shorter_context(
    checkpoint: &Checkpoint,
    context_length: u32,
    candidates: &[Candidate],
    options: &ExecOptions,
) -> Option<u32> {
    let fits = |steps: u32| -> bool {
        let options = ExecOptions { context_length: Some(steps * CONTEXT_STEP), ..options.clone() };
        let shorter = lower_checkpoint(checkpoint, &options);
        shorter.is_ok_and(|(_, graph)| place(&graph, candidates, &options).is_ok())
    };
    let (mut enough, mut too_long) = (0, context_length.div_ceil(CONTEXT_STEP));
    while too_long - enough > 1 {
        let middle = u32::midpoint(enough, too_long);
        if fits(middle) { enough = middle } else { too_long = middle }
    }
    (enough > 0).then_some(enough * CONTEXT_STEP)
}
