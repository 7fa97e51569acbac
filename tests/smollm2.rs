//! A real model, SmolLM2-135M-Instruct in Q4_1, against what other engines make of the same weights in float32.
//!
//! `./checkpoints/fetch-smollm2` brings the file; `tests/golden/smollm2.json` says how the references were made.

mod common;

use std::path::PathBuf;

use common::repository;
use serde_json::Value;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{Batch, ExecOptions, Executor, LogitRows, open};
use wgpt::gpu::{AdapterChoice, DeviceOptions};
use wgpt::session::Language;
use wgpt::tokenizer::{Message, Special};

fn model() -> Checkpoint {
    let path: PathBuf = repository("checkpoints/smollm2");
    assert!(path.is_dir(), "fetch the model first: ./checkpoints/fetch-smollm2");
    Checkpoint::open(&path).expect("the model opens")
}

fn golden() -> Value {
    let text = std::fs::read_to_string(repository("tests/golden/smollm2.json")).expect("the references are there");
    serde_json::from_str(&text).expect("they are JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("a list of ids").iter();
    ids.map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn executor(checkpoint: &Checkpoint, adapter: AdapterChoice, context_length: u32) -> Box<dyn Executor> {
    let options = ExecOptions { adapter, context_length: Some(context_length), ..ExecOptions::default() };
    open(checkpoint, &options, &mut |_| ()).expect("the model loads").0
}

fn best(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.expect("logits are not empty").0 as u32
}

/// The greedy continuation, as long as the reference's.
fn greedy(executor: &mut dyn Executor, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut reply = Vec::new();
    let mut batch = prompt.to_vec();
    let mut position = 0;
    while reply.len() < count {
        let logits = executor.forward(&Batch { tokens: &batch, position, logits: LogitRows::Last });
        position += batch.len() as u32;
        let next = best(logits.expect("the forward runs").last());
        reply.push(next);
        batch = vec![next];
    }
    reply
}

#[test]
fn greedy_replies_are_the_float32_references_token_for_token() {
    let checkpoint = model();
    let language = Language::of(&checkpoint).expect("it has a tokenizer");
    let golden = golden();
    let mut executor = executor(&checkpoint, AdapterChoice::Default, 256);
    for prompt in golden["prompts"].as_array().expect("prompts").iter().chain([&golden["chat"]]) {
        let text = prompt["text"].as_str().expect("a text");
        let tokens = language.tokenizer.encode(text, Special::None).expect("it encodes");
        assert_eq!(tokens, ids(&prompt["ids"]), "ids of {text:?}");
        let expected = ids(&prompt["reply_ids"]);
        let reply = greedy(&mut *executor, &tokens, expected.len());
        assert_eq!(reply, expected, "reply to {text:?}");
        let decoded = language.tokenizer.decode(&reply, true);
        assert_eq!(decoded, prompt["reply"].as_str().expect("a reply"), "its text");
    }
}

#[test]
fn weights_cut_into_row_slices_give_the_same_reply() {
    let checkpoint = model();
    // The embedding, which is the head as well, takes 30 MB: four slices of 8 MiB.
    let device = DeviceOptions { max_binding: Some(8 << 20), ..DeviceOptions::default() };
    let options = ExecOptions { context_length: Some(64), prefill_chunk: Some(32), device, ..ExecOptions::default() };
    let (mut executor, _) = open(&checkpoint, &options, &mut |_| ()).expect("the model loads");
    let prompt = &golden()["prompts"][0];
    let reply = greedy(&mut *executor, &ids(&prompt["ids"]), 12);
    assert_eq!(reply, ids(&prompt["reply_ids"])[..12], "reply to {:?}", prompt["text"]);
}

#[test]
fn the_chat_template_renders_as_the_reference_does() {
    let language = Language::of(&model()).expect("it has a tokenizer");
    let template = language.chat_template().expect("it parses").expect("the file carries one");
    let chat = &golden()["chat"];
    let messages = chat["messages"].as_array().expect("messages").iter();
    let text = |message: &Value, key: &str| message[key].as_str().expect("a text").to_owned();
    let messages: Vec<Message> =
        messages.map(|m| Message { role: text(m, "role"), content: text(m, "content") }).collect();
    let rendered = template.render(&messages, true).expect("it renders");
    assert_eq!(rendered, chat["text"].as_str().expect("a text"), "the rendered conversation");
}

/// Perplexity of the first windows as llama.cpp's tool computes it: the second half of each window is scored.
fn perplexity(executor: &mut dyn Executor, tokens: &[u32], window: usize, windows: usize) -> f64 {
    let (mut sum, mut scored) = (0.0, 0);
    for tokens in tokens.chunks_exact(window).take(windows) {
        let logits = executor.forward(&Batch { tokens, position: 0, logits: LogitRows::All }).expect("it runs");
        let rows = logits.rows().enumerate().skip(window / 2).take(window / 2 - 1);
        for (position, row) in rows {
            let most = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
            let total: f64 = row.iter().map(|value| (f64::from(*value) - most).exp()).sum();
            sum += total.ln() + most - f64::from(row[tokens[position + 1] as usize]);
            scored += 1;
        }
    }
    (sum / f64::from(scored)).exp()
}

#[test]
fn perplexity_is_the_float32_reference_s_within_a_thousandth() {
    let checkpoint = model();
    let language = Language::of(&checkpoint).expect("it has a tokenizer");
    let golden = &golden()["perplexity"];
    let text = std::fs::read_to_string(repository("tests/golden/perplexity.txt")).expect("the text is there");
    let tokens = language.tokenizer.encode(&text, Special::None).expect("it encodes");
    assert_eq!(tokens.len() as u64, golden["tokens"].as_u64().expect("a count"), "tokens of the text");
    // One window on the adapter, which may be a CPU; all of them through `wgpt perplexity`.
    let expected = golden["after_each_window"][0].as_f64().expect("a figure");
    let found = perplexity(&mut *executor(&checkpoint, AdapterChoice::Default, 512), &tokens, 512, 1);
    assert!((found / expected - 1.0).abs() < 1e-3, "perplexity {found}, the reference has {expected}");
}
