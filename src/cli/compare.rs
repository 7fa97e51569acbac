//! `wgpt compare`: how far the predictions of one model are from another's, on the same text and windows.
//!
//! For each scored position the Kullback-Leibler divergence `Σ p_A ln (p_A / p_B)`, whether both find the same token
//! most probable, and how much the probability of the token that follows changes; and both perplexities, their ratio
//! with the error of the mean difference. llama.cpp's perplexity tool computes the same with `--kl-divergence`, from
//! logits that it stores in 16 bits; here both models are loaded and nothing is rounded. Invariant: a model compared
//! with itself has a divergence of exactly 0.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use wgpt::exec::{Logits, describe_checkpoint};
use wgpt::session::Language;

use super::args::ContextArgs;
use super::compare_args::CompareArgs;
use super::output::{Notes, Text};
use super::resolve::{self, Opened};
use super::windows::{Score, Windows, following, log_sum, read, scored_logits};

pub(super) fn run(args: &CompareArgs) -> Result<()> {
    let notes = Notes::new(args.quiet);
    let models = args.models();
    let [a, b] = [resolve::checkpoint(&models[0].checkpoint)?, resolve::checkpoint(&models[1].checkpoint)?];
    let words = [resolve::language(&a)?, resolve::language(&b)?];
    check_vocabularies([&a, &b], &words, &read(&args.text)?)?;
    let windows = Windows::of_file(&args.text, &words[0].tokenizer, args.context, args.chunks)?;
    let room = ContextArgs { context_length: Some(args.context) };
    let mut executors = [resolve::load(&a, &models[0], &room, notes)?, resolve::load(&b, &models[1], &room, notes)?];
    let tokens = windows.tokens().len();
    notes.line(format_args!("{tokens} tokens, {} windows of {}", windows.count(), windows.length()));
    let mut comparison = Comparison::default();
    for (index, window) in windows.iter().enumerate() {
        let [a, b] = &mut executors;
        let logits = [scored_logits(a.as_mut(), &window)?, scored_logits(b.as_mut(), &window)?];
        comparison.add_window(&logits, following(&window))?;
        if !args.quiet {
            eprint!("[{}] {:.5} ", index + 1, comparison.divergence.mean());
            let _ = std::io::stderr().flush();
        }
    }
    notes.line("");
    let paths = [a, b].map(|opened| opened.path.display().to_string());
    let shown = if args.json { format!("{}\n", comparison.json(&paths, &windows)) } else { comparison.text(&paths) };
    Text::new().show(&shown)?;
    for executor in &executors {
        notes.memory(&executor.memory());
    }
    Ok(())
}

/// Whether a token id means the same to both; distributions over different things have no distance.
fn check_vocabularies(opened: [&Opened; 2], words: &[Language; 2], text: &str) -> Result<()> {
    let names = opened.map(|opened| opened.path.display().to_string());
    let refused = |what: String| -> Result<()> {
        bail!(
            "{} and {} can't be compared: {what}; predictions compare only over one vocabulary, perplexities of each \
             model alone (`wgpt perplexity`) not at all",
            names[0],
            names[1]
        )
    };
    let mut rows = [0; 2];
    for (rows, opened) in rows.iter_mut().zip(opened) {
        *rows = describe_checkpoint(&opened.checkpoint)?.vocab_size();
    }
    if rows[0] != rows[1] {
        return refused(format!("the first predicts {} tokens, the second {}", rows[0], rows[1]));
    }
    let [a, b] = words.each_ref().map(|language| &language.tokenizer);
    for id in 0..rows[0] as u32 {
        // what only one of them names fills up the embedding of the other
        if let (Some(first), Some(second)) = (a.piece(id), b.piece(id))
            && first != second
        {
            return refused(format!("token {id} is {first:?} to the first and {second:?} to the second"));
        }
    }
    let special = wgpt::tokenizer::Special::Add;
    let (a, b) = (a.encode(text, special)?, b.encode(text, special)?);
    if a != b {
        let at = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        return refused(format!("their tokenizers cut the text differently from token {at} on"));
    }
    Ok(())
}

/// What is summed over scored positions.
#[derive(Debug, Default)]
struct Comparison {
    /// Negative log-likelihoods of A and of B.
    nll: [Score; 2],
    /// B's less A's.
    nll_change: Score,
    /// Σ p_A ln (p_A / p_B).
    divergence: Score,
    divergences: Vec<f64>,
    /// 1 where both find the same token most probable.
    same_top: Score,
    /// p_B - p_A of the token that follows.
    change: Score,
    absolute_change: Score,
}

impl Comparison {
    /// Scores of a window, with the tokens that should have been predicted.
    fn add_window(&mut self, logits: &[Logits; 2], following: &[u32]) -> Result<()> {
        for ((a, b), &next) in logits[0].rows().zip(logits[1].rows()).zip(following) {
            self.add(a, b, next as usize)?;
        }
        Ok(())
    }

    fn add(&mut self, a: &[f32], b: &[f32], next: usize) -> Result<()> {
        let sums = [log_sum(a), log_sum(b)];
        for (sum, name) in sums.iter().zip(["A", "B"]) {
            ensure!(sum.is_finite(), "a logit of {name} is no finite number; `wgpt logits` shows where");
        }
        let log = |row: &[f32], sum: f64, token: usize| f64::from(row[token]) - sum;
        let divergence: f64 = (0..a.len())
            .map(|token| {
                let of_a = log(a, sums[0], token);
                let p = of_a.exp();
                if p > 0.0 { p * (of_a - log(b, sums[1], token)) } else { 0.0 }
            })
            .sum();
        ensure!(divergence.is_finite(), "B gives a token no probability at all that A expects: no divergence");
        // rounding of the last bits may take a tiny one below the bound
        let divergence = divergence.max(0.0);
        self.divergence.add(divergence);
        self.divergences.push(divergence);
        self.same_top.add(f64::from(u8::from(best(a) == best(b))));
        let (of_a, of_b) = (log(a, sums[0], next), log(b, sums[1], next));
        self.nll[0].add(-of_a);
        self.nll[1].add(-of_b);
        self.nll_change.add(of_a - of_b);
        let change = of_b.exp() - of_a.exp();
        self.change.add(change);
        self.absolute_change.add(change.abs());
        Ok(())
    }

    fn json(&self, paths: &[String; 2], windows: &Windows) -> Value {
        let model = |index: usize| {
            let nll: &Score = &self.nll[index];
            json!({
                "checkpoint": paths[index],
                "perplexity": nll.perplexity(),
                "perplexity_error": nll.perplexity_error(),
            })
        };
        let sorted = self.sorted();
        json!({
            "a": model(0),
            "b": model(1),
            "tokens": windows.tokens().len(),
            "windows": windows.count(),
            "context": windows.length(),
            "scored": sorted.len(),
            "perplexity_ratio": self.nll_change.perplexity(),
            "perplexity_ratio_error": self.nll_change.perplexity_error(),
            "kl_divergence": {
                "mean": self.divergence.mean(),
                "mean_error": self.divergence.mean_error(),
                "median": quantile(&sorted, 0.5),
                "p99": quantile(&sorted, 0.99),
                "max": quantile(&sorted, 1.0),
            },
            "same_top_token": self.same_top.mean(),
            "same_top_token_error": self.same_top.mean_error(),
            "probability_change": {
                "mean": self.change.mean(),
                "mean_absolute": self.absolute_change.mean(),
                "rms": self.change.rms(),
            },
        })
    }

    fn text(&self, paths: &[String; 2]) -> String {
        let sorted = self.sorted();
        let [a, b] = &self.nll;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<24}{value}");
        };
        line("perplexity of A", format!("{:.4} ± {:.4}  {}", a.perplexity(), a.perplexity_error(), paths[0]));
        line("perplexity of B", format!("{:.4} ± {:.4}  {}", b.perplexity(), b.perplexity_error(), paths[1]));
        let ratio = &self.nll_change;
        line("ratio B / A", format!("{:.5} ± {:.5}", ratio.perplexity(), ratio.perplexity_error()));
        let divergence = &self.divergence;
        line("KL divergence, mean", format!("{:.6} ± {:.6}", divergence.mean(), divergence.mean_error()));
        for (name, share) in [("median", 0.5), ("99th percentile", 0.99), ("maximum", 1.0)] {
            line(&format!("  {name}"), format!("{:.6}", quantile(&sorted, share)));
        }
        let same = &self.same_top;
        line("same top token", format!("{:.3} ± {:.3} %", 100.0 * same.mean(), 100.0 * same.mean_error()));
        line("Δp, mean absolute", format!("{:.3} %", 100.0 * self.absolute_change.mean()));
        line("  root mean square", format!("{:.3} %", 100.0 * self.change.rms()));
        text
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.divergences.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// The most probable token; of several the first.
fn best(row: &[f32]) -> usize {
    let best = (0..row.len()).reduce(|best, token| if row[token] > row[best] { token } else { best });
    best.unwrap_or_default()
}

/// The value below which this share of the sorted ones are, between two neighbours in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share * last as f64;
    let below = at as usize;
    let part = at - below as f64;
    (1.0 - part) * sorted[below] + part * sorted[(below + 1).min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(rows: &[([f32; 3], [f32; 3], usize)]) -> Comparison {
        let mut comparison = Comparison::default();
        for (a, b, next) in rows {
            comparison.add(a, b, *next).expect("finite");
        }
        comparison
    }

    #[test]
    fn a_row_against_itself_is_no_distance_at_all() {
        let row = [0.3, -8.5, 77.25];
        let same = comparison(&[(row, row, 0), (row, row, 2)]);
        assert_eq!(same.divergence.mean(), 0.0, "exactly");
        assert_eq!(same.same_top.mean(), 1.0, "the same token");
        assert_eq!(same.nll_change.perplexity(), 1.0, "the same perplexity");
        assert_eq!(same.change.rms(), 0.0, "the same probability");
    }

    #[test]
    fn distances_are_those_of_the_distributions() {
        // shifts of all logits say nothing: probabilities ½ ¼ ¼ and ¼ ½ ¼
        let (two, one) = (std::f32::consts::LN_2 + 40.0, 40.0);
        let found = comparison(&[([two, one, one], [1.0, 1.0 + std::f32::consts::LN_2, 1.0], 0)]);
        let expected = 0.5 * 2f64.ln() - 0.25 * 2f64.ln();
        assert!((found.divergence.mean() - expected).abs() < 1e-6, "found {}", found.divergence.mean());
        assert_eq!(found.same_top.mean(), 0.0, "another token");
        assert!((found.change.mean() + 0.25).abs() < 1e-6, "½ became ¼: {}", found.change.mean());
        assert!((found.absolute_change.mean() - 0.25).abs() < 1e-6, "without its sign");
        assert!((found.nll_change.perplexity() - 2.0).abs() < 1e-5, "twice as surprised");
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        let mut comparison = Comparison::default();
        let error = comparison.add(&[0.0, f32::NAN], &[0.0, 1.0], 0).expect_err("no number").to_string();
        assert!(error.contains("logit of A"), "{error}");
        let error = comparison.add(&[0.0, 1.0], &[0.0, f32::NEG_INFINITY], 0).expect_err("no chance").to_string();
        assert!(error.contains("no probability"), "{error}");
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let sorted = [0.0, 1.0, 2.0, 10.0];
        assert_eq!(quantile(&sorted, 0.5), 1.5, "the median of four");
        assert_eq!(quantile(&sorted, 1.0), 10.0, "the largest");
        assert!((quantile(&sorted, 0.9) - 7.6).abs() < 1e-9, "in proportion");
        assert_eq!(quantile(&[3.0], 0.99), 3.0, "one alone");
    }
}
