//! `wgpt perplexity`: how well a model predicts a text, by llama.cpp's method.
//!
//! Perplexity is `exp` of the mean negative log-likelihood of the tokens that `windows` says are scored, its error the
//! standard error of that mean times the perplexity. Invariant: f64 throughout.

use std::io::Write;

use anyhow::Result;

use super::args::{ContextArgs, PerplexityArgs};
use super::output::{Notes, Text};
use super::resolve;
use super::windows::{Score, Windows, following, log_sum, scored_logits};

pub(super) fn run(args: &PerplexityArgs) -> Result<()> {
    let notes = Notes::new(args.model.quiet);
    let opened = resolve::checkpoint(&args.model.checkpoint)?;
    let tokenizer = resolve::language(&opened)?.tokenizer;
    let windows = Windows::of_file(&args.file, &tokenizer, args.context, args.chunks)?;
    let room = ContextArgs { context_length: Some(args.context) };
    let mut executor = resolve::load(&opened, &args.model, &room, notes)?;
    let tokens = windows.tokens().len();
    notes.line(format_args!("{tokens} tokens, {} windows of {}", windows.count(), windows.length()));
    let mut score = Score::default();
    for (index, window) in windows.iter().enumerate() {
        let logits = scored_logits(executor.as_mut(), &window)?;
        for (row, &next) in logits.rows().zip(following(&window)) {
            score.add(log_sum(row) - f64::from(row[next as usize]));
        }
        if !args.model.quiet {
            eprint!("[{}] {:.4} ", index + 1, score.perplexity());
            let _ = std::io::stderr().flush();
        }
    }
    notes.line("");
    Text::new().show(&format!("PPL = {:.4} ± {:.5}\n", score.perplexity(), score.perplexity_error()))?;
    notes.memory(&executor.memory());
    Ok(())
}
