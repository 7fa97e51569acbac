//! What a user may change of a model that does not fit.
//!
//! Every change named was planned, with all that a plan may choose by itself, and did fit: `plan` tries other budgets
//! and more streaming, here it is chunks and contexts. Opens and loads nothing.

use super::place::{Candidate, Placed, place};
use super::{ExecError, ExecOptions, lower_checkpoint};
use crate::checkpoint::Checkpoint;
use crate::graph::Graph;
use crate::plan::PlanError;

/// Steps in which a shorter context is sought for a model that does not fit.
const CONTEXT_STEP: u32 = 64;

/// What lengths of prefill chunks are multiples of.
const CHUNK_STEP: u32 = 16;

/// Plans; where the model does not fit, also looks for shorter chunks and for a shorter context that would.
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
    let would: Vec<String> = chunk.into_iter().chain(context).collect();
    let would = (!would.is_empty()).then(|| format!("{} would do", would.join(" or ")));
    match (&mut error, would) {
        (PlanError::DoesNotFit { change, .. }, Some(would)) => *change = format!("{would}; or: {change}"),
        // Of such a buffer there is no more to say.
        (PlanError::TooLarge { change, .. }, Some(would)) => *change = would,
        _ => {}
    }
    Err(error.into())
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
