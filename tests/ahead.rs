//! Tokens chosen on adapters and computed ahead are those of one forward and one choice on the host after the other:
//! on every plan, however they are chosen, and however a text ends.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Devices, all_adapters, golden, repository};
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{
    Batch, Chosen, ExecError, ExecOptions, Executor, GpuExecutor, GpuOptions, HostExecutor, Line, LogitRows, Logits,
    MemoryUse, Next, WeightSource, lower_checkpoint,
};
use wgpt::gpu::{Device, DeviceOptions};
use wgpt::graph::Graph;
use wgpt::plan::{OffloadMode, Placement, Plan, Residency};
use wgpt::sampler::{Sampler, SamplingParams};
use wgpt::session::{FinishReason, GenerateParams, Language, Outcome, Session};

const STORIES: &str = "wgpt-stories-4m";

/// Positions of the KV cache; none of these models was made for fewer.
const CONTEXT: u32 = 48;

fn lowered(checkpoint: &Checkpoint) -> Graph {
    let options = ExecOptions { context_length: Some(CONTEXT), ..ExecOptions::default() };
    lower_checkpoint(checkpoint, &options).expect("it lowers").1
}

fn gpu(checkpoint: &Checkpoint, plan: &Plan) -> GpuExecutor {
    let options = DeviceOptions { sibling: plan.adapters() > 1, ..DeviceOptions::default() };
    let open = |_| Device::open(all_adapters()[0].index, options).expect("the adapter opens");
    let devices = (0..plan.adapters()).map(open).collect();
    let (graph, source) = (lowered(checkpoint), WeightSource::new(checkpoint));
    GpuExecutor::new(graph, plan, devices, source, GpuOptions::default(), &mut |_| ()).expect("it loads")
}

/// Plans of every shape for this many units.
fn plans(units: usize) -> Vec<(&'static str, Plan)> {
    let make = |place: &dyn Fn(usize) -> (usize, bool)| {
        let placement = |(adapter, streamed)| Placement {
            adapter,
            residency: if streamed { Residency::Streamed } else { Residency::Resident },
        };
        Plan {
            placements: (0..units).map(|unit| placement(place(unit))).collect(),
            ring_slots: 2,
            offload_mode: OffloadMode::Pinned,
            in_place: true,
        }
    };
    vec![
        ("one adapter", make(&|_| (0, false))),
        ("split over two", make(&|unit| (usize::from(unit * 2 >= units), false))),
        ("there and back", make(&|unit| (usize::from(unit > 0 && unit + 1 < units), false))),
        ("all streamed", make(&|_| (0, true))),
        ("split, the second streams", make(&|unit| (usize::from(unit * 2 >= units), unit * 2 >= units))),
    ]
}

/// Ways to choose: each filter, and one that the host has to see to (a nucleus of nearly all).
fn samplings() -> Vec<SamplingParams> {
    let plain = SamplingParams { temperature: 1.0, top_k: 0, seed: 5, ..SamplingParams::default() };
    vec![
        SamplingParams::greedy(),
        SamplingParams { seed: 11, ..SamplingParams::default() },
        plain,
        SamplingParams { top_p: 0.9, ..plain },
        SamplingParams { top_k: 40, top_p: 0.8, min_p: 0.02, ..plain },
        SamplingParams { temperature: 50.0, top_p: 0.95, ..plain },
    ]
}

/// Tokens after the prompt until the context is full: forwards and choices in turn, or through a line.
fn decode(executor: &mut dyn Executor, prompt: &[u32], sampling: SamplingParams, ahead: bool) -> Vec<u32> {
    let never = AtomicBool::new(false);
    let limit = executor.vocab_size() - 1;
    let mut sampler = Sampler::new(sampling, 2).expect("valid parameters").with_vocab_limit(limit);
    let batch = Batch { tokens: prompt, position: 0, logits: LogitRows::Last };
    let mut token = sampler.sample(executor.forward(&batch).expect("it runs").last(), &[]).expect("a token");
    let (mut line, mut chosen) = (Line::default(), vec![token]);
    for position in prompt.len() as u32..CONTEXT {
        token = if ahead {
            let rule = |ahead| sampler.rule(ahead);
            let next = line.next(executor, (token, position), usize::MAX, &rule, &never).expect("it runs");
            let Some(Chosen::Token(token)) = next else { panic!("no token but {next:?}") };
            sampler.accept();
            token
        } else {
            let batch = Batch { tokens: &[token], position, logits: LogitRows::Last };
            sampler.sample(executor.forward(&batch).expect("it runs").last(), &[]).expect("a token")
        };
        chosen.push(token);
    }
    assert_eq!(executor.position(), CONTEXT, "the context is full");
    chosen
}

#[test]
fn every_plan_chooses_the_tokens_of_the_plain_way() {
    for name in ["tiny-llama-gqa", "tiny-llama-q4_k_m", "tiny-gemma2", "tiny-mixtral", STORIES] {
        let folder = repository("checkpoints").join(name);
        let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
        let units = lowered(&checkpoint).units.len();
        let prompt = &golden(&folder).tokens[..7];
        let mut devices = Devices::default();
        let mut texts = |plan: &Plan, ahead| {
            devices.with_executor(lowered(&checkpoint), plan, &checkpoint, GpuOptions::default(), |executor| {
                samplings().into_iter().map(|how| (how, decode(executor, prompt, how, ahead))).collect::<Vec<_>>()
            })
        };
        let plain = texts(&Plan::single(units), false);
        for (plan_name, plan) in plans(units) {
            assert_eq!(texts(&plan, true), plain, "{name}, {plan_name}");
        }
    }
}

#[test]
fn the_host_executor_decodes_through_the_same_calls() {
    let folder = repository("checkpoints/tiny-llama-gqa");
    let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
    let source = WeightSource::new(&checkpoint);
    let mut host = HostExecutor::new(lowered(&checkpoint), source, &mut |_| ()).expect("it loads");
    let prompt = &golden(&folder).tokens[..7];
    for how in samplings() {
        let expected = decode(&mut host, prompt, how, false);
        assert_eq!(decode(&mut host, prompt, how, true), expected, "{how:?}");
    }
}

#[test]
fn a_dropped_line_leaves_nothing_behind() {
    let folder = repository("checkpoints/tiny-llama-gqa");
    let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
    let units = lowered(&checkpoint).units.len();
    // What two adapters in turns have recorded for the next token is of the forward before, too.
    for plan in [Plan::single(units), plans(units).swap_remove(1).1] {
        dropped(&mut gpu(&checkpoint, &plan), &golden(&folder).tokens);
    }
}

fn dropped(executor: &mut GpuExecutor, tokens: &[u32]) {
    let (never, prompt) = (AtomicBool::new(false), &tokens[..7]);
    let greedy = SamplingParams::greedy();
    let expected = decode(executor, prompt, greedy, false);
    let after = tokens.len().min(9);
    let longer = decode(executor, &tokens[..after], greedy, false);
    let sampler = Sampler::new(greedy, 0).expect("valid parameters");
    for given_up_after in [1, 2, 5] {
        let batch = Batch { tokens: prompt, position: 0, logits: LogitRows::Last };
        executor.forward(&batch).expect("it runs");
        let (mut line, mut token) = (Line::default(), 3);
        for position in 7..7 + given_up_after {
            let next = line.next(executor, (token, position), 100, &|_| sampler.rule(0), &never);
            let Ok(Some(Chosen::Token(next))) = next else { panic!("no token but {next:?}") };
            token = next;
        }
        drop(line);
        let [begin, there] = [(prompt, &expected), (&tokens[..after], &longer)];
        for (prompt, expected) in if given_up_after == 2 { [there, begin] } else { [begin, there] } {
            let found = decode(executor, prompt, greedy, true);
            assert_eq!(&found, expected, "after {given_up_after} tokens of another");
        }
    }
    let rule = sampler.rule(0);
    let error = executor.queue(Next::Token(1), CONTEXT, &rule, &never).expect_err("the context is full").to_string();
    assert!(error.contains("do not fit"), "{error}");
    executor.forward(&Batch { tokens: prompt, position: 0, logits: LogitRows::Last }).expect("it runs");
    let error = executor.queue(Next::Token(1), 20, &rule, &never).expect_err("a gap").to_string();
    assert!(error.contains("holds only 7"), "{error}");
    let cancelled = executor.queue(Next::Token(1), 7, &rule, &AtomicBool::new(true)).expect("no error");
    assert!(cancelled.is_none() && executor.position() == 7, "a cancelled forward adds nothing");
}

/// An executor whose choices are all made on the host, one after the other.
struct Plain(GpuExecutor);

impl Executor for Plain {
    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits, ExecError> {
        self.0.forward(batch)
    }

    fn position(&self) -> u32 {
        self.0.position()
    }

    fn context_length(&self) -> u32 {
        self.0.context_length()
    }

    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn memory(&self) -> Vec<MemoryUse> {
        self.0.memory()
    }
}

/// Runs a text to its end, or sets the cancel flag after so many pieces.
fn text(session: &mut Session, prompt: &[u32], params: &GenerateParams, pieces: usize) -> (String, Outcome) {
    params.cancel.store(false, Ordering::Relaxed);
    let mut stream = session.generate(prompt, params).expect("a valid prompt");
    let mut text = String::new();
    for (number, piece) in stream.by_ref().enumerate() {
        text += &piece.expect("a piece").text;
        params.cancel.store(number + 1 >= pieces, Ordering::Relaxed);
    }
    let mut outcome = stream.into_outcome();
    outcome.stats.prefill = Default::default();
    outcome.stats.decode = Default::default();
    (text, outcome)
}

#[test]
fn texts_end_as_they_do_without_computing_ahead() {
    let checkpoint = Checkpoint::open(&repository("checkpoints").join(STORIES)).expect("the checkpoint opens");
    let units = lowered(&checkpoint).units.len();
    let session = |executor: Box<dyn Executor>| {
        let language = Language::of(&checkpoint).expect("it has a tokenizer");
        Session::new(executor, language.tokenizer, language.end_ids)
    };
    let mut plain = session(Box::new(Plain(gpu(&checkpoint, &Plan::single(units)))));
    let mut ahead = session(Box::new(gpu(&checkpoint, &Plan::single(units))));
    let prompt = plain.tokenizer().encode("Once upon a time", wgpt::tokenizer::Special::Add).expect("it encodes");
    let base = |sampling| GenerateParams { sampling, cancel: Arc::default(), ..GenerateParams::default() };
    let mut seen = Vec::new();
    for sampling in samplings() {
        let (whole, outcome) = text(&mut plain, &prompt, &base(sampling), usize::MAX);
        assert_eq!(text(&mut ahead, &prompt, &base(sampling), usize::MAX).0, whole, "{sampling:?}");
        let middle = &outcome.ids[outcome.ids.len() / 2..];
        let words: Vec<&str> = whole.split(' ').collect();
        let endings = [
            base(sampling),
            GenerateParams { max_new_tokens: Some(1), ..base(sampling) },
            GenerateParams { max_new_tokens: Some(9), stream: 4, ..base(sampling) },
            GenerateParams { stop: vec![words[words.len() / 2].into()], ..base(sampling) },
            GenerateParams { stop_tokens: vec![middle[..2].to_vec()], ..base(sampling) },
            GenerateParams { sampling: SamplingParams { repetition_penalty: 1.2, ..sampling }, ..base(sampling) },
        ];
        for params in &endings {
            for pieces in [usize::MAX, 3] {
                let expected = text(&mut plain, &prompt, params, pieces);
                // Also what the KV cache is said to hold afterwards: the next prompt reuses it.
                assert_eq!(text(&mut ahead, &prompt, params, pieces), expected, "{params:?} for {pieces} pieces");
                let longer = [&prompt[..], &expected.1.ids].concat();
                if longer.len() < CONTEXT as usize {
                    let next = text(&mut plain, &longer, &base(sampling), 4);
                    assert_eq!(text(&mut ahead, &longer, &base(sampling), 4), next, "what follows {params:?}");
                }
                seen.push(expected.1.finish);
            }
        }
    }
    use FinishReason::{Cancelled, ContextFull, MaxTokens, StopString, StopTokens};
    for reason in [Cancelled, ContextFull, MaxTokens, StopString, StopTokens] {
        assert!(seen.contains(&reason), "{reason:?} is among {seen:?}");
    }
}
