//! A text in windows of tokens, as llama.cpp's perplexity tool cuts it, and what models say of the second halves.
//!
//! Windows do not overlap and the rest at the end is unused; BOS replaces the first token of a window where the
//! tokenizer adds one; scored are the predictions at positions `window / 2` to `window - 2`, so that each has at least
//! half a window to go by. Shared by `perplexity` and `compare`, which print. Invariant: f64 throughout, so figures do
//! not depend on how many windows there are.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use wgpt::exec::{Batch, Executor, LogitRows, Logits};
use wgpt::tokenizer::{Special, Tokenizer};

/// The tokens of a text and how they are cut.
#[derive(Debug)]
pub(super) struct Windows {
    tokens: Vec<u32>,
    /// Tokens of a window.
    length: usize,
    count: usize,
    /// What stands at the start of each.
    bos: Option<u32>,
}

impl Windows {
    /// The file's text in windows of `length` tokens, at most `chunks` of them.
    pub(super) fn of_file(file: &Path, tokenizer: &Tokenizer, length: u32, chunks: Option<u64>) -> Result<Self> {
        let text = read(file)?;
        let tokens = tokenizer.encode(&text, Special::Add)?;
        let length = length as usize;
        ensure!(
            tokens.len() >= length,
            "{}: {} tokens do not fill one window of {length}; give a longer text or a smaller --context",
            file.display(),
            tokens.len()
        );
        let bos = tokenizer.bos().filter(|bos| {
            let empty = tokenizer.encode("", Special::Add).unwrap_or_default();
            empty.first() == Some(bos)
        });
        let count = chunks.map_or(usize::MAX, |chunks| chunks as usize).min(tokens.len() / length);
        Ok(Self { tokens, length, count, bos })
    }

    /// Tokens of the text.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Tokens of one.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Each window, as models are given it.
    pub(super) fn iter(&self) -> impl Iterator<Item = Vec<u32>> {
        self.tokens.chunks_exact(self.length).take(self.count).map(|tokens| {
            let mut tokens = tokens.to_vec();
            if let Some(bos) = self.bos {
                tokens[0] = bos;
            }
            tokens
        })
    }
}

/// A file's text without the line break at its end: llama.cpp's tools drop it when they read a file.
pub(super) fn read(file: &Path) -> Result<String> {
    let mut text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// The logits at a window's scored positions, `(window - 1 - window / 2, vocab)`.
pub(super) fn scored_logits(executor: &mut dyn Executor, window: &[u32]) -> Result<Logits> {
    let first = window.len() / 2;
    // the first half is only context: its logits are not needed. The last token predicts nothing
    executor.forward(&Batch { tokens: &window[..first], position: 0, logits: LogitRows::Last })?;
    let scored = &window[first..window.len() - 1];
    Ok(executor.forward(&Batch { tokens: scored, position: first as u32, logits: LogitRows::All })?)
}

/// The tokens that should follow the scored positions.
pub(super) fn following(window: &[u32]) -> &[u32] {
    &window[window.len() / 2 + 1..]
}

/// `ln Σ exp(row)`: what a logit is above it, negative, is the logarithm of its token's probability.
pub(super) fn log_sum(row: &[f32]) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    largest + sum.ln()
}

/// Sums over all scored tokens, of negative log-likelihoods or whatever is averaged.
#[derive(Debug, Default)]
pub(super) struct Score {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Score {
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1.0;
        self.sum += value;
        self.squares += value * value;
    }

    pub(super) fn mean(&self) -> f64 {
        self.sum / self.count
    }

    /// The root of the mean square.
    pub(super) fn rms(&self) -> f64 {
        (self.squares / self.count).sqrt()
    }

    /// The mean's standard error.
    pub(super) fn mean_error(&self) -> f64 {
        let mean = self.mean();
        let variance = (self.squares / self.count - mean * mean).max(0.0);
        (variance / (self.count - 1.0).max(1.0)).sqrt()
    }

    /// `exp` of the mean.
    pub(super) fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// The perplexity's error: that of the mean, times the perplexity.
    pub(super) fn perplexity_error(&self) -> f64 {
        self.mean_error() * self.perplexity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_model_has_the_vocabulary_s_size_as_perplexity() {
        let mut score = Score::default();
        for _ in 0..50 {
            let row = [2.5; 50];
            score.add(log_sum(&row) - f64::from(row[7]));
        }
        assert!((score.perplexity() - 50.0).abs() < 1e-9, "found {}", score.perplexity());
        assert!(score.perplexity_error() < 1e-6, "no spread: {}", score.perplexity_error());
    }

    #[test]
    fn likelihoods_survive_large_logits() {
        let row = [1000.0, 999.0, -1000.0];
        let expected = (1.0 + f64::exp(-1.0)).ln();
        assert!((log_sum(&row) - 1000.0 - expected).abs() < 1e-9, "the best");
        assert!((log_sum(&row) + 1000.0 - expected - 2000.0).abs() < 1e-9, "far below it");
    }

    #[test]
    fn the_error_is_that_of_the_mean() {
        let mut score = Score::default();
        for nll in [1.0, 2.0, 3.0] {
            score.add(nll);
        }
        let expected = (2.0f64 / 3.0 / 2.0).sqrt() * 2.0f64.exp();
        assert!((score.perplexity_error() - expected).abs() < 1e-9, "found {}", score.perplexity_error());
        assert!((score.rms() - (14.0f64 / 3.0).sqrt()).abs() < 1e-12, "found {}", score.rms());
    }

    #[test]
    fn windows_have_bos_in_front_and_score_the_second_half() {
        let windows = Windows { tokens: (10..20).collect(), length: 4, count: 2, bos: Some(1) };
        let all: Vec<Vec<u32>> = windows.iter().collect();
        assert_eq!(all, [[1, 11, 12, 13], [1, 15, 16, 17]], "the rest is unused");
        assert_eq!(following(&all[1]), [17], "what position 2 should predict");
    }
}
