//! Guesses change no token: whoever guesses, however tokens are chosen, wherever the model is, and however a text ends.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use assert_cmd::Command;
use common::{golden, repository};
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{ExecOptions, Executor, open};
use wgpt::gpu::AdapterChoice;
use wgpt::graph::Quantize;
use wgpt::plan::Offload;
use wgpt::quant::format_called;
use wgpt::sampler::SamplingParams;
use wgpt::session::{
    Draft, DraftModel, FinishReason, GenerateParams, Guesses, Language, Outcome, PromptLookup, Session,
};
use wgpt::tokenizer::Special;

const STORIES: &str = "wgpt-stories-4m";

/// Positions of the KV cache; none of these models was made for fewer.
const CONTEXT: u32 = 96;

/// Guesses of a forward.
const TOKENS: usize = 7;

fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(&repository("checkpoints").join(name)).expect("the checkpoint opens")
}

fn executor(checkpoint: &Checkpoint, options: ExecOptions) -> Box<dyn Executor> {
    let context_length = Some(CONTEXT);
    open(checkpoint, &ExecOptions { context_length, ..options }, &mut |_| ()).expect("it loads").0
}

fn session(checkpoint: &Checkpoint, options: ExecOptions, draft: Option<Box<dyn Draft>>) -> Session {
    let language = Language::of(checkpoint).expect("it has a tokenizer");
    let session = Session::new(executor(checkpoint, options), language.tokenizer, language.end_ids);
    match draft {
        Some(draft) => session.with_draft(draft, TOKENS),
        None => session,
    }
}

fn lookup() -> Option<Box<dyn Draft>> {
    Some(Box::new(PromptLookup::default()))
}

fn model(checkpoint: &Checkpoint, options: ExecOptions) -> Option<Box<dyn Draft>> {
    Some(Box::new(DraftModel::new(executor(checkpoint, options))))
}

/// Ways to choose: each filter, a penalty, and one that the host has to see to (a nucleus of nearly all).
fn samplings() -> Vec<SamplingParams> {
    let plain = SamplingParams { temperature: 0.7, top_k: 0, seed: 5, ..SamplingParams::default() };
    vec![
        SamplingParams::greedy(),
        SamplingParams { repetition_penalty: 1.05, ..SamplingParams::greedy() },
        plain,
        SamplingParams { top_k: 5, seed: 11, ..plain },
        SamplingParams { top_p: 0.8, ..plain },
        SamplingParams { top_k: 40, top_p: 0.9, min_p: 0.05, ..plain },
        SamplingParams { repetition_penalty: 1.1, ..plain },
        SamplingParams { temperature: 50.0, top_p: 0.95, ..plain },
    ]
}

fn params(sampling: SamplingParams) -> GenerateParams {
    GenerateParams { sampling, cancel: Arc::default(), ..GenerateParams::default() }
}

/// Runs a text to its end, or sets the cancel flag after so many pieces; what became of guesses comes apart.
fn text(session: &mut Session, prompt: &[u32], params: &GenerateParams, pieces: usize) -> ((String, Outcome), Guesses) {
    params.cancel.store(false, Ordering::Relaxed);
    let mut stream = session.generate(prompt, params).expect("a valid prompt");
    let mut text = String::new();
    for (number, piece) in stream.by_ref().enumerate() {
        text += &piece.expect("a piece").text;
        params.cancel.store(number + 1 >= pieces, Ordering::Relaxed);
    }
    let mut outcome = stream.into_outcome();
    let guesses = outcome.stats.guesses.take().unwrap_or_default();
    outcome.stats.prefill = Default::default();
    outcome.stats.decode = Default::default();
    ((text, outcome), guesses)
}

fn whole(session: &mut Session, prompt: &[u32], sampling: SamplingParams) -> ((String, Outcome), Guesses) {
    text(session, prompt, &params(sampling), usize::MAX)
}

fn add(sum: &mut Guesses, guesses: Guesses) {
    sum.made += guesses.made;
    sum.accepted += guesses.accepted;
    sum.forwards += guesses.forwards;
}

/// A prompt that says the same thing three times, or as the story model would.
fn repetitive(name: &str, session: &Session) -> Vec<u32> {
    if name == STORIES {
        let story = "Lily had a red ball. Lily liked to play with the red ball. ".repeat(2) + "Lily had a";
        return session.tokenizer().encode(&story, Special::Add).expect("it encodes");
    }
    golden(&repository("checkpoints").join(name)).tokens[..6].repeat(3)
}

#[test]
fn guesses_change_no_token_of_any_family() {
    // Windows, softcaps, experts, blocks, ALiBi, learned positions, parallel layers.
    let families = [
        STORIES,
        "tiny-llama-q4_k_m",
        "tiny-gemma2",
        "tiny-mixtral",
        "tiny-phi3-window",
        "tiny-falcon-7b",
        "tiny-gpt2",
        "tiny-mpt",
    ];
    let mut all = [Guesses::default(); 2];
    for name in families {
        let checkpoint = checkpoint(name);
        let mut plain = session(&checkpoint, ExecOptions::default(), None);
        let mut looking = session(&checkpoint, ExecOptions::default(), lookup());
        // Rounded differently, the same model is a draft that is nearly always right.
        let rounded = Quantize { format: format_called("q8_0").expect("a format"), head: None, requantize: true };
        let rounded = ExecOptions { quantize: Some(rounded), ..ExecOptions::default() };
        let mut drafted = session(&checkpoint, ExecOptions::default(), model(&checkpoint, rounded));
        let prompt = repetitive(name, &plain);
        let mut sums = [Guesses::default(); 2];
        for sampling in samplings() {
            let expected = whole(&mut plain, &prompt, sampling).0;
            for (session, sum) in [&mut looking, &mut drafted].into_iter().zip(&mut sums) {
                let (found, guesses) = whole(session, &prompt, sampling);
                assert_eq!(found, expected, "{name}, {sampling:?}, {guesses:?}");
                add(sum, guesses);
            }
        }
        assert!(sums[1].accepted * 2 > sums[1].made, "{name}: the rounded model is a good draft: {:?}", sums[1]);
        add(&mut all[0], sums[0]);
        add(&mut all[1], sums[1]);
    }
    for sum in all {
        assert!(sum.accepted > 100 && sum.made > sum.accepted, "guesses were right and wrong: {sum:?}");
    }
}

#[test]
fn a_model_is_its_own_perfect_draft_however_tokens_are_chosen() {
    for name in [STORIES, "tiny-llama-gqa"] {
        let checkpoint = checkpoint(name);
        let host = ExecOptions { adapter: AdapterChoice::Host, ..ExecOptions::default() };
        for options in [ExecOptions::default(), host] {
            let mut plain = session(&checkpoint, options.clone(), None);
            let mut drafted = session(&checkpoint, options.clone(), model(&checkpoint, options.clone()));
            let prompt = repetitive(name, &plain)[..12].to_vec();
            for sampling in samplings() {
                let params = GenerateParams { max_new_tokens: Some(1 + 3 * (TOKENS + 1)), ..params(sampling) };
                let expected = text(&mut plain, &prompt, &params, usize::MAX).0;
                let (found, guesses) = text(&mut drafted, &prompt, &params, usize::MAX);
                assert_eq!(found, expected, "{name}, {sampling:?}");
                if found.1.finish == FinishReason::MaxTokens {
                    let perfect = Guesses { made: 3 * TOKENS, accepted: 3 * TOKENS, forwards: 4 };
                    assert_eq!(guesses, perfect, "{name}, {sampling:?}: the prompt and three times eight tokens");
                }
            }
        }
    }
}

#[test]
fn a_draft_that_knows_nothing_costs_no_token() {
    let (target, other) = (checkpoint("tiny-llama-gqa"), checkpoint("tiny-llama-mha"));
    let mut plain = session(&target, ExecOptions::default(), None);
    let mut drafted = session(&target, ExecOptions::default(), model(&other, ExecOptions::default()));
    let prompt = &golden(&repository("checkpoints/tiny-llama-gqa")).tokens[..9];
    let mut sum = Guesses::default();
    for sampling in samplings() {
        let expected = whole(&mut plain, prompt, sampling).0;
        let (found, guesses) = whole(&mut drafted, prompt, sampling);
        assert_eq!(found, expected, "{sampling:?}");
        add(&mut sum, guesses);
    }
    assert!(sum.made > 0 && sum.accepted * 4 < sum.made, "guesses were wrong: {sum:?}");
    assert!(sum.made < sum.forwards, "and few: {sum:?}");
}

#[test]
fn streamed_and_split_models_are_guessed_at_too() {
    let checkpoint = checkpoint(STORIES);
    let mut plain = session(&checkpoint, ExecOptions::default(), None);
    let prompt = repetitive(STORIES, &plain);
    let twice = AdapterChoice::List(vec![AdapterChoice::Index(0), AdapterChoice::Index(0)]);
    let placements = [
        ExecOptions { offload: Offload::All, ..ExecOptions::default() },
        ExecOptions { offload: Offload::Layers(3), ..ExecOptions::default() },
        ExecOptions { adapter: twice.clone(), ..ExecOptions::default() },
        ExecOptions { adapter: twice, offload: Offload::All, ..ExecOptions::default() },
    ];
    for options in placements {
        let drafts = [lookup(), model(&checkpoint, ExecOptions::default())];
        for draft in drafts {
            let mut guessing = session(&checkpoint, options.clone(), draft);
            let mut sum = Guesses::default();
            for sampling in [samplings()[0], samplings()[3]] {
                let ((expected, plainly), _) = whole(&mut plain, &prompt, sampling);
                let ((found, outcome), guesses) = whole(&mut guessing, &prompt, sampling);
                assert_eq!(found, expected, "{:?} {:?}, {sampling:?}", options.adapter, options.offload);
                assert_eq!((outcome.ids, outcome.finish), (plainly.ids, plainly.finish), "and the same tokens");
                add(&mut sum, guesses);
            }
            assert!(sum.accepted > 10, "{:?} {:?}: guesses were right: {sum:?}", options.adapter, options.offload);
        }
    }
}

#[test]
fn texts_end_as_they_do_without_guesses() {
    let checkpoint = checkpoint(STORIES);
    let mut plain = session(&checkpoint, ExecOptions::default(), None);
    let drafts = [lookup(), model(&checkpoint, ExecOptions::default())];
    let mut guessing = drafts.map(|draft| session(&checkpoint, ExecOptions::default(), draft));
    let prompt = repetitive(STORIES, &plain);
    let (mut seen, mut sum) = (Vec::new(), Guesses::default());
    for sampling in [samplings()[0], samplings()[3], samplings()[6]] {
        let expected = whole(&mut plain, &prompt, sampling).0;
        for session in &mut guessing {
            assert_eq!(whole(session, &prompt, sampling).0, expected, "{sampling:?}");
        }
        let (story, outcome) = expected;
        let middle = &outcome.ids[outcome.ids.len() / 2..];
        let words: Vec<&str> = story.split_inclusive(' ').collect();
        let endings = [
            params(sampling),
            GenerateParams { max_new_tokens: Some(1), ..params(sampling) },
            GenerateParams { max_new_tokens: Some(13), stream: 4, ..params(sampling) },
            GenerateParams { stop: vec![words[words.len() / 2].into()], ..params(sampling) },
            GenerateParams { stop: vec![words[words.len() / 3..][..3].concat()], ..params(sampling) },
            GenerateParams { stop_tokens: vec![middle[..2].to_vec()], ..params(sampling) },
        ];
        for params in &endings {
            for pieces in [usize::MAX, 5] {
                let expected = text(&mut plain, &prompt, params, pieces).0;
                seen.push(expected.1.finish);
                // Also what the KV cache is said to hold afterwards: the next prompt reuses it.
                let longer = [&prompt[..], &expected.1.ids].concat();
                let fits = longer.len() < CONTEXT as usize;
                let follows = fits.then(|| text(&mut plain, &longer, &self::params(sampling), 4).0);
                for session in &mut guessing {
                    let (found, guesses) = text(session, &prompt, params, pieces);
                    assert_eq!(found, expected, "{params:?} for {pieces} pieces");
                    add(&mut sum, guesses);
                    let found = fits.then(|| text(session, &longer, &self::params(sampling), 4).0);
                    assert_eq!(found, follows, "what follows {params:?}");
                }
            }
        }
    }
    use FinishReason::{Cancelled, ContextFull, MaxTokens, StopString, StopTokens};
    for reason in [Cancelled, ContextFull, MaxTokens, StopString, StopTokens] {
        assert!(seen.contains(&reason), "{reason:?} is among {seen:?}");
    }
    assert!(sum.accepted > 100 && sum.made > sum.accepted, "guesses were right and wrong: {sum:?}");
}

/// Exit code, stdout and stderr of the program, without the user's settings.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    command.current_dir(repository("")).args(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WGPT_")) {
        command.env_remove(name);
    }
    let output = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("whole UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const GENERATE: &[&str] =
    &["generate", "--checkpoint", "checkpoints/wgpt-stories-4m", "--context-length", "128", "--seed", "3", "--prompt"];
const PROMPT: &str = "Tom had a big cat. The cat was red. Tom had a big cat. The cat was";

fn generate(more: &[&str]) -> (String, String) {
    let (code, stdout, stderr) = run(&[GENERATE, &[PROMPT], more].concat());
    assert_eq!(code, Some(0), "{more:?}: {stderr}");
    (stdout, stderr)
}

/// Guesses made and accepted, tokens of a forward, and forwards, as the program tells.
fn told(stderr: &str) -> (usize, usize, f64, usize) {
    let line = stderr.lines().find(|line| line.starts_with("guesses: ")).unwrap_or_else(|| panic!("told: {stderr}"));
    let numbers: Vec<&str> = line.split(' ').filter(|word| word.starts_with(|c: char| c.is_ascii_digit())).collect();
    let whole = |at: usize| numbers[at].parse().unwrap_or_else(|_| panic!("a number: {line}"));
    (whole(0), whole(1), numbers[2].parse().expect("a number"), whole(3))
}

#[test]
fn the_program_guesses_as_it_is_told() {
    let draft = "checkpoints/wgpt-stories-4m";
    for sampling in [&["--temperature", "0"][..], &["--temperature", "0.6", "--top-p", "0.9"]] {
        let (plain, stderr) = generate(sampling);
        assert!(!stderr.contains("guesses"), "nothing guesses: {stderr}");
        let ways: [&[&str]; 5] = [
            &["--speculate", "lookup"],
            &["--draft", draft],
            &["--draft", draft, "--draft-adapter", "host", "--draft-tokens", "3"],
            &["--draft", draft, "--adapter", "host"],
            &["--speculate", "lookup", "--offload", "all"],
        ];
        for way in ways {
            let (stdout, stderr) = generate(&[sampling, way].concat());
            assert_eq!(stdout, plain, "{way:?}");
            let (made, accepted, each, forwards) = told(&stderr);
            assert!(made > 0 && accepted <= made && forwards > 0, "{way:?}: {stderr}");
            let loaded = stderr.lines().filter(|line| line.starts_with("loaded ")).count();
            assert_eq!(loaded, if way[0] == "--draft" { 2 } else { 1 }, "{way:?}: {stderr}");
            assert_eq!(stderr.contains(" (draft): "), way[0] == "--draft", "memory of both: {stderr}");
            if way == ["--draft", draft] {
                assert!(accepted == made && each > 5.0, "all right: {stderr}");
            }
        }
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let usage: &[(&[&str], &str)] = &[
        (&["--speculate", "lookup", "--draft", "x"], "cannot be used with"),
        (&["--speculate", "magic"], "possible values: lookup"),
        (&["--draft-tokens", "3"], "--speculate"),
        (&["--speculate", "lookup", "--draft-tokens", "0"], "--draft-tokens"),
        (&["--speculate", "lookup", "--draft-tokens", "16"], "1..=15"),
        (&["--draft-adapter", "host"], "--draft <PATH>"),
        (&["--speculate", "lookup", "--draft-adapter", "host"], "cannot be used with"),
    ];
    for (flags, part) in usage {
        let (code, stdout, stderr) = run(&[GENERATE, &["a"], flags].concat());
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{flags:?}: {stderr}");
        assert!(stderr.contains(part), "{flags:?} says {part:?}: {stderr}");
    }
    let stories = "checkpoints/wgpt-stories-4m";
    let refused: &[(&[&str], &[&str])] = &[
        (&["--draft", "checkpoints/tiny-llama-gqa"], &["--draft checkpoints/tiny-llama-gqa", "2048 tokens", "512"]),
        (&["--draft", "nowhere"], &["nowhere", "no such file"]),
        (&["--draft", stories, "--draft-adapter", "Voodoo2"], &["Voodoo2", "--draft-adapter"]),
        (&["--draft", stories, "--memory", "1MiB"], &["the draft could not be loaded", "--draft-adapter", "--memory"]),
        (&["--draft", stories, "--memory", "20MB"], &["the draft takes", "--draft-adapter", "does not fit"]),
    ];
    for (flags, parts) in refused {
        let (code, stdout, stderr) = run(&[GENERATE, &["a"], flags].concat());
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{flags:?}: {stderr}");
        for part in *parts {
            assert!(stderr.contains(part), "{flags:?} says {part:?}: {stderr}");
        }
    }
    let refused = |flags: &[&str]| {
        let (code, _, stderr) = run(&[GENERATE, &["a"], flags].concat());
        assert_eq!(code, Some(1), "{flags:?}: {stderr}");
        stderr
    };
    let draft = ["--draft", stories, "--memory"];
    let small = refused(&[&draft[..], &["10MB", "--offload"]].concat());
    assert!(small.contains("the draft could not be loaded") && small.contains("--memory "), "{small}");
    assert!(!small.contains("--offload") && !small.contains("--quantize"), "a draft is taken as it is: {small}");
    let other = refused(&["--memory", "10MB"]);
    assert!(other.contains("--quantize"), "as other models are not: {other}");
    // What is advised holds both models.
    let both = refused(&[&draft[..], &["20MB"]].concat());
    let advice = both.split_once("--memory ").and_then(|(_, rest)| rest.split_once(" would"));
    let (larger, _) = advice.unwrap_or_else(|| panic!("a budget: {both}"));
    let flags: Vec<&str> = larger.split(" with ").collect();
    let (code, _, stderr) = run(&[GENERATE, &["a"], &draft, &flags].concat());
    assert_eq!(code, Some(0), "{flags:?}: {stderr}");
}

#[test]
fn a_model_stands_back_for_its_draft() {
    let memory = ["--memory", "24MB", "--offload", "--temperature", "0"];
    let (plain, alone) = generate(&memory);
    let (stdout, beside) = generate(&[&memory[..], &["--draft", "checkpoints/wgpt-stories-4m"]].concat());
    assert_eq!(stdout, plain, "the same text");
    let total = |stderr: &str| -> f64 {
        let lines = stderr.lines().filter(|line| line.starts_with("memory on ") && !line.starts_with("memory on host"));
        let bytes = |line: &str| -> f64 {
            let (number, unit) = line.split("): ").last().and_then(|rest| rest.split_once(' ')).expect("a size");
            assert!(unit.starts_with("MB"), "{line}");
            number.parse().expect("a number")
        };
        lines.map(bytes).sum()
    };
    assert!(total(&alone) < total(&beside) && total(&beside) <= 24.0, "one budget for both: {alone}{beside}");
    assert!(!alone.contains("streamed)") && beside.contains("streamed)"), "what is left is less: {alone}{beside}");
}
