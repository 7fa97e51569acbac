//! `wgpt perplexity`: how well a model predicts a text, by llama.cpp's method.
//!
//! Windows of `--context` tokens, no overlap, the rest at the end unused; BOS replaces the first token of a window
//! where the tokenizer adds one; scored are the predictions at positions `context / 2` to `context - 2`, so that
//! each has at least half a window to go by. Perplexity is `exp` of the mean negative log-likelihood, its error the
//! standard error of that mean times the perplexity. Invariant: f64 throughout, so figures do not depend on how many
//! windows there are.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use wgpt::exec::{Batch, Executor, LogitRows};
use wgpt::tokenizer::Special;

use super::args::{ContextArgs, PerplexityArgs};
use super::output::{Notes, Text};
use super::resolve;

pub(super) fn run(args: &PerplexityArgs) -> Result<()> {
    let notes = Notes::new(args.model.quiet);
    let mut text =
        std::fs::read_to_string(&args.file).with_context(|| format!("{}: cannot read", args.file.display()))?;
    // llama.cpp's tools drop it when they read a file
    if text.ends_with('\n') {
        text.pop();
    }
    let room = ContextArgs { context_length: Some(args.context) };
    let (opened, mut executor) = resolve::executor(&args.model, &room, notes)?;
    let tokenizer = resolve::language(&opened)?.tokenizer;
    let tokens = tokenizer.encode(&text, Special::Add)?;
    let window = args.context as usize;
    ensure!(
        tokens.len() >= window,
        "{}: {} tokens do not fill one window of {window}; give a longer text or a smaller --context",
        args.file.display(),
        tokens.len()
    );
    let starts_with_bos = tokenizer.bos().filter(|bos| {
        let empty = tokenizer.encode("", Special::Add).unwrap_or_default();
        empty.first() == Some(bos)
    });
    let windows = args.chunks.map_or(usize::MAX, |chunks| chunks as usize).min(tokens.len() / window);
    notes.line(format_args!("{} tokens, {windows} windows of {window}", tokens.len()));
    let mut score = Score::default();
    for (index, tokens) in tokens.chunks_exact(window).take(windows).enumerate() {
        score_window(executor.as_mut(), tokens, starts_with_bos, &mut score)?;
        if !args.model.quiet {
            eprint!("[{}] {:.4} ", index + 1, score.perplexity());
            let _ = std::io::stderr().flush();
        }
    }
    notes.line("");
    Text::new().show(&format!("PPL = {:.4} ± {:.5}\n", score.perplexity(), score.error()))?;
    notes.memory(&executor.memory());
    Ok(())
}

fn score_window(executor: &mut dyn Executor, tokens: &[u32], bos: Option<u32>, score: &mut Score) -> Result<()> {
    let mut tokens = tokens.to_vec();
    if let Some(bos) = bos {
        tokens[0] = bos;
    }
    let first = tokens.len() / 2;
    // the first half is only context: its logits are not needed. The last token predicts nothing
    executor.forward(&Batch { tokens: &tokens[..first], position: 0, logits: LogitRows::Last })?;
    let scored = &tokens[first..tokens.len() - 1];
    let logits = executor.forward(&Batch { tokens: scored, position: first as u32, logits: LogitRows::All })?;
    for (row, &next) in logits.rows().zip(&tokens[first + 1..]) {
        score.add(negative_log_likelihood(row, next as usize));
    }
    Ok(())
}

/// `-ln softmax(row)[token]`.
fn negative_log_likelihood(row: &[f32], token: usize) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    largest + sum.ln() - f64::from(row[token])
}

/// Sums over all scored tokens.
#[derive(Debug, Default)]
struct Score {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Score {
    fn add(&mut self, nll: f64) {
        self.count += 1.0;
        self.sum += nll;
        self.squares += nll * nll;
    }

    fn perplexity(&self) -> f64 {
        (self.sum / self.count).exp()
    }

    fn error(&self) -> f64 {
        let mean = self.sum / self.count;
        let variance = (self.squares / self.count - mean * mean).max(0.0);
        (variance / (self.count - 1.0).max(1.0)).sqrt() * self.perplexity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_model_has_the_vocabulary_s_size_as_perplexity() {
        let mut score = Score::default();
        for token in 0..50 {
            score.add(negative_log_likelihood(&[2.5; 50], token));
        }
        assert!((score.perplexity() - 50.0).abs() < 1e-9, "found {}", score.perplexity());
        assert!(score.error() < 1e-6, "no spread: {}", score.error());
    }

    #[test]
    fn likelihoods_survive_large_logits() {
        let row = [1000.0, 999.0, -1000.0];
        let expected = (1.0 + f64::exp(-1.0)).ln();
        assert!((negative_log_likelihood(&row, 0) - expected).abs() < 1e-9, "the best");
        assert!((negative_log_likelihood(&row, 2) - expected - 2000.0).abs() < 1e-9, "far below it");
    }

    #[test]
    fn the_error_is_that_of_the_mean() {
        let mut score = Score::default();
        for nll in [1.0, 2.0, 3.0] {
            score.add(nll);
        }
        let expected = (2.0f64 / 3.0 / 2.0).sqrt() * 2.0f64.exp();
        assert!((score.error() - expected).abs() < 1e-9, "found {}", score.error());
    }
}
