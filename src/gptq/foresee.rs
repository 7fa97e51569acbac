//! What rounding will make of a checkpoint, without a calibration text: for plans and for people.
//!
//! Computes nothing. Invariant: formats and sizes are those of the rounded checkpoint, unless all of a linear's zero
//! points turn out to be the middle one.

use super::targets::{Target, Targets};
use super::{GptqError, GptqOptions, WINDOW, working_graph};
use crate::checkpoint::{Checkpoint, PlannedGptq};
use crate::exec::{ExecOptions, describe_checkpoint};

/// The checkpoint as it will be, without the weights that are yet to be rounded; and what will be done, for people.
///
/// # Errors
/// As [`super::quantize`], but for what is wrong with a text.
pub fn foresee(
    checkpoint: &Checkpoint,
    options: &GptqOptions,
    exec: &ExecOptions,
) -> Result<(Checkpoint, String), GptqError> {
    let tokens = (WINDOW as u32).min(describe_checkpoint(checkpoint)?.max_context_length);
    let graph = working_graph(checkpoint, tokens, exec, options.requantize)?;
    let targets = Targets::of(checkpoint, &graph, options)?;
    let stages = targets.layers.iter().flat_map(|(_, stages)| stages).enumerate();
    let linears = stages.flat_map(|(input, stage)| {
        let targets = stage.targets.iter();
        targets.map(move |Target { tensor, rows, cols, .. }| PlannedGptq { tensor, rows: *rows, cols: *cols, input })
    });
    let planned = checkpoint.with_planned_gptq(linears, targets.group_size, options.act_order);
    // No text, so none that is too short.
    let report = targets.report(options, targets.all().count(), usize::MAX, String::new());
    let text = [report.summary()].into_iter().chain(report.notices.clone()).collect::<Vec<_>>();
    Ok((planned, text.join("; ")))
}
