//! `wgpt bench`: prompt and generation throughput.
//!
//! Measures prompts of random token ids and greedy generation after one, without a tokenizer. Invariant: every figure
//! is from repeats after a warm-up of the same work, since a GPU that has idled runs at a fraction of its clock.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use comfy_table::{Table, presets};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use wgpt::exec::{Batch, Chosen, Executor, Line, LogitRows, Profile};
use wgpt::sampler::{Rule, SamplingParams};

use super::args::{BenchArgs, BenchFormat, ContextArgs};
use super::output::{Notes, Text, check_file, write_file};
use super::profile::{Profiled, trace};
use super::resolve;

/// Least time of warm-up work: below this a GPU that was idle still runs slow.
const WARM_UP: Duration = Duration::from_millis(150);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// One forward of all tokens.
    Prompt,
    /// Greedy, token by token.
    Generation,
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Figure {
    checkpoint: String,
    place: String,
    kind: Kind,
    tokens: u32,
    /// Tokens in the context before.
    depth: u32,
    repeats: u32,
    /// Tokens a second.
    mean: f64,
    /// Sample standard deviation of the repeats.
    deviation: f64,
    /// Where the time goes, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<serde_json::Value>,
}

/// A kind of forward and its tokens.
type Test = (Kind, u32);

pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let notes = Notes::new(args.model.quiet);
    args.trace.as_deref().map_or(Ok(()), check_file)?;
    let lengths = |kind, list: &[u32]| list.iter().filter(|n| **n > 0).map(|&n| (kind, n)).collect::<Vec<_>>();
    let tests =
        [lengths(Kind::Prompt, &args.prompt_tokens), lengths(Kind::Generation, &args.generated_tokens)].concat();
    let longest = tests.iter().map(|(_, tokens)| *tokens).max().unwrap_or(1);
    let depth = args.depth;
    let room = ContextArgs { context_length: Some(depth.saturating_add(longest)) };
    let (opened, mut executor) = resolve::executor(&args.model, &room, notes)?;
    let holding = executor.memory().into_iter().filter(|memory| memory.weights + memory.kv_cache > 0);
    let place = holding.map(|memory| memory.place).collect::<Vec<_>>().join(" + ");
    let profiled = args.profile || args.trace.is_some();
    if profiled {
        check_profile(executor.as_mut(), &tests)?;
    }
    let mut figures = Vec::new();
    if depth > 0 {
        let before = random_ids(executor.as_ref(), depth);
        executor.forward(&Batch { tokens: &before, position: 0, logits: LogitRows::Last })?;
    }
    for (kind, tokens) in tests.iter().copied() {
        let rates = measure(executor.as_mut(), (kind, tokens), depth, args.repeats)?;
        let (mean, deviation) = mean_and_deviation(&rates);
        notes.line(format_args!("{}: {mean:.2} ± {deviation:.2} tokens/s", label(kind, tokens, depth)));
        let (checkpoint, place) = (opened.path.display().to_string(), place.clone());
        let (repeats, profile) = (args.repeats, None);
        figures.push(Figure { checkpoint, place, kind, tokens, depth, repeats, mean, deviation, profile });
    }
    let profiles = if profiled { profiles(executor.as_mut(), &figures)? } else { Vec::new() };
    Text::new().show(&shown(figures, &profiles, args)?)?;
    if let Some(file) = &args.trace {
        write_file(file, trace(&profiles).as_bytes())?;
    }
    notes.memory(&executor.memory());
    Ok(())
}

/// The result: figures, and profiles where they are to be seen too. In JSON they are part of their figures, as tables they
/// follow all of them.
fn shown(mut figures: Vec<Figure>, profiles: &[Profiled], args: &BenchArgs) -> Result<String> {
    let profiles = if args.profile { profiles } else { &[] };
    if args.format == BenchFormat::Json {
        figures.iter_mut().zip(profiles).for_each(|(figure, profile)| figure.profile = Some(profile.json()));
        return format(&figures, args.format);
    }
    Ok(format(&figures, args.format)? + &profiles.iter().map(Profiled::tables).collect::<String>())
}

/// Refuses what can't be profiled, before anything is measured.
fn check_profile(executor: &mut dyn Executor, tests: &[Test]) -> Result<()> {
    for (kind, tokens) in tests {
        executor.check_profile(if *kind == Kind::Prompt { *tokens } else { 1 })?;
    }
    // Whether there is a clock shows when it is read.
    executor.profile(&Batch { tokens: &[0], position: 0, logits: LogitRows::Last })?;
    Ok(())
}

/// The forwards of all figures, timed one by one.
fn profiles(executor: &mut dyn Executor, figures: &[Figure]) -> Result<Vec<Profiled>> {
    let one = |figure: &Figure| {
        let Figure { kind, tokens, depth, mean, .. } = *figure;
        let profile = profile(executor, kind, tokens, depth)?;
        let of_forward = if kind == Kind::Prompt { f64::from(tokens) } else { 1.0 };
        Ok(Profiled { label: label(kind, tokens, depth), profile, forward: of_forward / mean })
    };
    figures.iter().map(one).collect()
}

fn random_ids(executor: &dyn Executor, tokens: u32) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(u64::from(tokens));
    let vocab = executor.vocab_size() as u32;
    (0..tokens).map(|_| random.next_u32() % vocab).collect()
}

/// Where the time goes in one forward of that kind, the last one, right behind the same work untimed.
fn profile(executor: &mut dyn Executor, kind: Kind, tokens: u32, depth: u32) -> Result<Profile> {
    let ids = random_ids(executor, tokens);
    once(executor, kind, &ids, depth)?;
    let first = if kind == Kind::Prompt { 0 } else { ids.len() - 1 };
    Ok(executor.profile(&Batch { tokens: &ids[first..], position: depth + first as u32, logits: LogitRows::Last })?)
}

/// Tokens a second of each repeat.
fn measure(executor: &mut dyn Executor, (kind, tokens): Test, depth: u32, repeats: u32) -> Result<Vec<f64>> {
    let ids = random_ids(executor, tokens);
    let warm_up = Instant::now();
    while {
        once(executor, kind, &ids, depth)?;
        warm_up.elapsed() < WARM_UP
    } {}
    (0..repeats)
        .map(|_| {
            let start = Instant::now();
            once(executor, kind, &ids, depth)?;
            Ok(f64::from(tokens) / start.elapsed().as_secs_f64())
        })
        .collect()
}

/// One measurement behind `depth` tokens, which the context holds.
fn once(executor: &mut dyn Executor, kind: Kind, ids: &[u32], depth: u32) -> Result<()> {
    if kind == Kind::Prompt {
        executor.forward(&Batch { tokens: ids, position: depth, logits: LogitRows::Last })?;
        return Ok(());
    }
    let (mut line, mut token, never) = (Line::default(), ids[0], AtomicBool::new(false));
    let greedy = Rule { params: SamplingParams::greedy(), limit: executor.vocab_size(), uniform: 0.0 };
    for position in 0..ids.len() {
        let last = (token, depth + position as u32);
        match line.next(executor, last, ids.len() - position, &|_| greedy, &never)? {
            Some(Chosen::Token(next)) => token = next,
            Some(Chosen::Failed(error)) => bail!(error),
            other => unreachable!("nobody cancels, and greedy is always decided: {other:?}"),
        }
    }
    Ok(())
}

fn mean_and_deviation(rates: &[f64]) -> (f64, f64) {
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let squares: f64 = rates.iter().map(|rate| (rate - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

/// llama.cpp's names of the two tests, which people know.
fn label(kind: Kind, tokens: u32, depth: u32) -> String {
    let short = if kind == Kind::Prompt { "pp" } else { "tg" };
    let behind = if depth > 0 { format!(" @ d{depth}") } else { String::new() };
    format!("{short}{tokens}{behind}")
}

fn format(figures: &[Figure], format: BenchFormat) -> Result<String> {
    Ok(match format {
        BenchFormat::Json => serde_json::to_string_pretty(figures)? + "\n",
        BenchFormat::Csv => {
            let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            let line = |f: &Figure| {
                let (checkpoint, place, test) =
                    (quoted(&f.checkpoint), quoted(&f.place), label(f.kind, f.tokens, f.depth));
                format!("{checkpoint},{place},{test},{},{:.4},{:.4}\n", f.repeats, f.mean, f.deviation)
            };
            let header = "checkpoint,place,test,repeats,tokens_per_second,deviation\n".to_owned();
            header + &figures.iter().map(line).collect::<String>()
        }
        BenchFormat::Md => {
            let mut table = Table::new();
            table.load_style(presets::ASCII_MARKDOWN).set_header(["checkpoint", "place", "test", "tokens/s"]);
            for f in figures {
                let rate = format!("{:.2} ± {:.2}", f.mean, f.deviation);
                table.add_row([f.checkpoint.clone(), f.place.clone(), label(f.kind, f.tokens, f.depth), rate]);
            }
            format!("{table}\n")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2.0f64.sqrt()), "two repeats");
        assert_eq!(mean_and_deviation(&[5.0]), (5.0, 0.0), "one repeat has no spread");
    }

    #[test]
    fn every_form_holds_the_figures() {
        let (checkpoint, place) = ("a \"b\"".to_owned(), "host".to_owned());
        let figure = Figure {
            checkpoint,
            place,
            kind: Kind::Prompt,
            tokens: 512,
            depth: 64,
            repeats: 3,
            mean: 10.5,
            deviation: 0.25,
            profile: None,
        };
        let csv = format(std::slice::from_ref(&figure), BenchFormat::Csv).expect("csv");
        assert!(csv.ends_with("\"a \"\"b\"\"\",\"host\",pp512 @ d64,3,10.5000,0.2500\n"), "{csv}");
        let md = format(std::slice::from_ref(&figure), BenchFormat::Md).expect("markdown");
        assert!(md.contains("pp512 @ d64") && md.contains("10.50 ± 0.25"), "{md}");
        let json = format(&[figure], BenchFormat::Json).expect("json");
        let value: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
        assert_eq!((&value[0]["kind"], &value[0]["mean"]), (&"prompt".into(), &10.5.into()), "{json}");
    }
}
