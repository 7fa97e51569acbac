//! `wgpt logits`: what the model computes for given tokens, as a file or as text.
//!
//! Chooses nothing and tokenizes nothing. Invariant: a file is written whole or not at all.

use std::cmp::Ordering;
use std::path::Path;

use anyhow::{Context, Result};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use wgpt::exec::{Batch, LogitRows, Logits};
use wgpt::tokenizer::Tokenizer;

use super::args::{ContextArgs, LogitsArgs};
use super::output::{Notes, Text, check_file, write_file};
use super::resolve;

/// Tokens of each position that are shown as text.
const BEST: usize = 5;

pub(super) fn run(args: &LogitsArgs) -> Result<()> {
    let notes = Notes::new(args.model.quiet);
    args.output.as_deref().map_or(Ok(()), check_file)?;
    let room = ContextArgs { context_length: Some(args.tokens.len() as u32) };
    let (opened, mut executor) = resolve::executor(&args.model, &room, notes)?;
    let logits = executor.forward(&Batch { tokens: &args.tokens, position: 0, logits: LogitRows::All })?;
    match &args.output {
        Some(path) => write(path, &args.tokens, &logits)?,
        // ids are what was asked about: a checkpoint without a tokenizer serves too
        None => show(&args.tokens, &logits, resolve::language(&opened).ok().map(|language| language.tokenizer))?,
    }
    notes.memory(&executor.memory());
    Ok(())
}

fn write(path: &Path, tokens: &[u32], logits: &Logits) -> Result<()> {
    let values: Vec<u8> = logits.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let ids: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
    let tensors = [
        ("logits", TensorView::new(Dtype::F32, vec![tokens.len(), logits.vocab_size], &values)?),
        ("tokens", TensorView::new(Dtype::U32, vec![tokens.len()], &ids)?),
    ];
    let file = safetensors::serialize(tensors, None).context("the logits could not be written")?;
    write_file(path, &file)
}

fn show(tokens: &[u32], logits: &Logits, tokenizer: Option<Tokenizer>) -> Result<()> {
    let piece = |id: u32| match tokenizer.as_ref().and_then(|tokenizer| tokenizer.piece(id)) {
        Some(piece) => format!("{piece:?}"),
        None => "-".to_owned(),
    };
    let mut stdout = Text::new();
    for ((position, &token), row) in tokens.iter().enumerate().zip(logits.rows()) {
        stdout.show(&format!("{position}: after {token} {}\n", piece(token)))?;
        for id in best(row) {
            stdout.show(&format!("  {:>10.4}  {id} {}\n", row[id as usize], piece(id)))?;
        }
    }
    Ok(())
}

/// The ids of the largest logits, largest first, equal ones by id.
fn best(row: &[f32]) -> Vec<u32> {
    let rank = |a: &u32, b: &u32| -> Ordering { row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)) };
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    if ids.len() > BEST {
        ids.select_nth_unstable_by(BEST - 1, rank);
        ids.truncate(BEST);
    }
    ids.sort_unstable_by(rank);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_ties_by_id() {
        assert_eq!(best(&[0.0, 3.0, -1.0, 3.0, 7.0, 0.5, 2.0]), [4, 1, 3, 6, 5], "five of seven");
        assert_eq!(best(&[1.0, 2.0]), [1, 0], "fewer than five");
    }
}
