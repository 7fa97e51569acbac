//! Sessions on an executor that is a formula; conversations are in `chat`, guesses in `speculation`, prompt
//! styles in `style`.

mod chat;
mod speculation;
mod style;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::exec::{Batch, LogitRows, Logits};
use crate::tokenizer::Vocabulary;

/// Ids are bytes, 256 is EOS.
const EOS: u32 = 256;
const VOCAB: usize = 300;

/// A model that repeats a script: after a context that ends with `?`, `script` follows, byte by byte. It refuses a
/// batch that does not fit what it holds, and counts what it computes.
struct Scripted {
    script: Vec<u32>,
    held: Vec<u32>,
    context_length: u32,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    /// Position and length of every batch.
    batches: Vec<(u32, usize)>,
    /// Ids held after the last one.
    held: Vec<u32>,
    /// Fails the forward whose number this is.
    fail_at: Option<usize>,
    /// Set before the forward of this number.
    cancel_at: Option<(usize, Arc<AtomicBool>)>,
}

impl Scripted {
    fn logits(&self, context: &[u32]) -> Vec<f32> {
        let answered = context.iter().rev().take_while(|&&id| id != u32::from(b'?')).count();
        let next = self.script.get(answered).copied().unwrap_or(EOS);
        let mut values = vec![0.0; VOCAB];
        values[next as usize] = 10.0;
        // padding beyond the tokenizer's vocabulary, never to be chosen
        values[VOCAB - 1] = 20.0;
        values
    }
}

impl Executor for Scripted {
    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits, ExecError> {
        let mut log = self.log.lock().expect("no test panics while it holds the lock");
        let held = self.held.len() as u32;
        assert!(batch.position <= held, "a batch begins at {} where {held} are held", batch.position);
        self.held.truncate(batch.position as usize);
        if log.fail_at == Some(log.batches.len()) {
            return Err(ExecError::EmptyBatch);
        }
        self.held.extend_from_slice(batch.tokens);
        assert!(self.held.len() <= self.context_length as usize, "the context is never overfilled");
        log.batches.push((batch.position, batch.tokens.len()));
        log.held.clone_from(&self.held);
        if let Some((at, flag)) = &log.cancel_at
            && *at == log.batches.len()
        {
            flag.store(true, Ordering::Relaxed);
        }
        let first = match batch.logits {
            LogitRows::Last => self.held.len(),
            LogitRows::All => batch.position as usize + 1,
        };
        let values = (first..=self.held.len()).flat_map(|end| self.logits(&self.held[..end])).collect();
        Ok(Logits { values, vocab_size: VOCAB })
    }

    fn forward_unless(&mut self, batch: &Batch<'_>, cancel: &AtomicBool) -> Result<Option<Logits>, ExecError> {
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let logits = self.forward(batch)?;
        // As between the chunks of a prompt: what was computed of it is forgotten.
        if batch.tokens.len() > 1 && cancel.load(Ordering::Relaxed) {
            self.held.truncate(batch.position as usize);
            self.log.lock().expect("no test panics while it holds the lock").held.clone_from(&self.held);
            return Ok(None);
        }
        Ok(Some(logits))
    }

    fn position(&self) -> u32 {
        self.held.len() as u32
    }

    fn context_length(&self) -> u32 {
        self.context_length
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn memory(&self) -> Vec<MemoryUse> {
        Vec::new()
    }
}

/// A session whose model answers every question with `script`.
fn scripted(script: &str, context_length: u32) -> (Session, Arc<Mutex<Log>>) {
    let (executor, log) = executor(script, context_length);
    (Session::new(executor, byte_tokenizer(), vec![EOS]), log)
}

fn executor(script: &str, context_length: u32) -> (Box<Scripted>, Arc<Mutex<Log>>) {
    let log = Arc::new(Mutex::new(Log::default()));
    let script = script.bytes().map(u32::from).collect();
    (Box::new(Scripted { script, held: Vec::new(), context_length, log: Arc::clone(&log) }), log)
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn greedy() -> GenerateParams {
    GenerateParams { sampling: crate::sampler::SamplingParams::greedy(), ..GenerateParams::default() }
}

fn run(session: &mut Session, prompt: &str, params: &GenerateParams) -> (String, Outcome) {
    let mut stream = session.generate(&ids(prompt), params).expect("a valid prompt");
    let text = stream.by_ref().map(|piece| piece.expect("a forward").text).collect();
    (text, stream.into_outcome())
}

#[test]
fn a_text_ends_at_eos_which_is_not_part_of_it() {
    let (mut session, log) = scripted("héllo", 64);
    let (text, outcome) = run(&mut session, "say?", &greedy());
    assert_eq!(text, "héllo", "whole characters, no EOS");
    assert_eq!(outcome.finish, FinishReason::EndOfText, "the reason");
    assert_eq!(outcome.ids, ids("héllo"), "ids without EOS");
    assert_eq!((outcome.stats.prompt_tokens, outcome.stats.generated_tokens), (4, 7), "EOS is counted");
    let log = log.lock().expect("a lock");
    assert_eq!(log.batches[..2], [(0, 4), (4, 1)], "one prefill, then token by token");
}

#[test]
fn pieces_are_whole_characters() {
    let (mut session, _) = scripted("a🙂b", 64);
    let stream = session.generate(&ids("?"), &greedy()).expect("a valid prompt");
    let pieces: Vec<String> = stream.map(|piece| piece.expect("a forward").text).collect();
    assert_eq!(pieces, ["a", "", "", "", "🙂", "b", ""], "a piece a token, and one at the end");
}

#[test]
fn max_new_tokens_and_context_length_end_a_text() {
    let (mut session, _) = scripted("abcdefgh", 6);
    let limited = GenerateParams { max_new_tokens: Some(3), ..greedy() };
    let (text, outcome) = run(&mut session, "?", &limited);
    assert_eq!((text.as_str(), outcome.finish), ("abc", FinishReason::MaxTokens), "three tokens");
    let (text, outcome) = run(&mut session, "hm?", &greedy());
    assert_eq!((text.as_str(), outcome.finish), ("abcd", FinishReason::ContextFull), "six tokens and one more");
    let none = GenerateParams { max_new_tokens: Some(0), ..greedy() };
    assert_eq!(run(&mut session, "?", &none).0, "", "no tokens");
}

#[test]
fn stop_strings_end_a_text_and_what_was_held_back_is_released() {
    let (mut session, _) = scripted("one two th", 64);
    let stop = |text: &str| GenerateParams { stop: vec![text.into()], ..greedy() };
    let (text, outcome) = run(&mut session, "?", &stop("two"));
    assert_eq!((text.as_str(), outcome.finish), ("one ", FinishReason::StopString), "before the stop");
    let (text, outcome) = run(&mut session, "?", &stop("three"));
    assert_eq!((text.as_str(), outcome.finish), ("one two th", FinishReason::EndOfText), "an incomplete stop");
}

/// What a script gives with these stop sequences of tokens, and why it ended.
fn stopped_by(script: &str, stops: &[&[u8]], params: &GenerateParams) -> (String, Outcome) {
    let stop_tokens = stops.iter().map(|stop| stop.iter().map(|&byte| byte.into()).collect()).collect();
    let (mut session, _) = scripted(script, 64);
    run(&mut session, "?", &GenerateParams { stop_tokens, ..params.clone() })
}

#[test]
fn stop_sequences_of_tokens_end_a_text_and_swallow_nothing() {
    let cases: [(&str, &[&[u8]], &str, FinishReason); 5] = [
        ("123456", &[b"0", b"789"], "123456", FinishReason::EndOfText),
        ("12789", &[b"0", b"789"], "12", FinishReason::StopTokens),
        ("10", &[b"0", b"789"], "1", FinishReason::StopTokens),
        ("1127", &[b"12"], "1", FinishReason::StopTokens),
        ("1278", &[b"789"], "1278", FinishReason::EndOfText),
    ];
    for (script, stops, expected, finish) in cases {
        let (text, outcome) = stopped_by(script, stops, &greedy());
        assert_eq!((text.as_str(), outcome.finish), (expected, finish), "{script}");
        assert_eq!(outcome.ids, ids(expected), "{script}: the ids are the text's");
    }
    let limited = GenerateParams { max_new_tokens: Some(3), ..greedy() };
    let (text, outcome) = stopped_by("1789", &[b"789"], &limited);
    assert_eq!((text.as_str(), outcome.finish), ("178", FinishReason::MaxTokens), "held back, then released");
}

#[test]
fn stop_tokens_stop_strings_and_characters_work_together() {
    let with = |stop: &str| GenerateParams { stop: vec![stop.into()], ..greedy() };
    let (text, outcome) = stopped_by("ab<h>x", &[b"<h>"], &with("x"));
    assert_eq!((text.as_str(), outcome.finish), ("ab", FinishReason::StopTokens), "the first to complete");
    let (text, outcome) = stopped_by("ab<i>x", &[b"<h>"], &with("b<i"));
    assert_eq!((text.as_str(), outcome.finish), ("a", FinishReason::StopString), "found once the ids are released");
    let (text, outcome) = stopped_by("ab<h", &[b"<h>"], &with("<h"));
    assert_eq!((text.as_str(), outcome.finish), ("ab", FinishReason::StopString), "also when the text ends first");
    let half: &[u8] = &[0xC3, 0x28];
    assert_eq!(stopped_by("aéb", &[half], &greedy()).0, "aéb", "the first byte of a character was held back");
    let second: &[u8] = &[0xA9, b'!'];
    let (text, outcome) = stopped_by("aé!b", &[second], &greedy());
    assert_eq!((text.as_str(), outcome.finish), ("a\u{FFFD}", FinishReason::StopTokens), "a character cut in two");
}

#[test]
fn rows_beyond_the_vocabulary_are_never_chosen_however_tokens_are_chosen() {
    use crate::sampler::SamplingParams;
    let flat = SamplingParams { temperature: 50.0, top_k: 0, ..SamplingParams::default() };
    let ways = [
        SamplingParams::greedy(),
        flat,
        SamplingParams { top_k: 1, ..flat },
        SamplingParams { top_p: 0.99, ..flat },
        SamplingParams { min_p: 0.01, ..flat },
        SamplingParams { repetition_penalty: 1.3, ..flat },
    ];
    for sampling in ways {
        // the padding's logit is the largest of all
        let (mut session, _) = scripted("abc", 200);
        let params = GenerateParams { sampling, max_new_tokens: Some(150), ..GenerateParams::default() };
        let ids = run(&mut session, "?", &params).1.ids;
        let limit = session.tokenizer().vocab_size() as u32;
        assert!(ids.iter().all(|&id| id < limit), "{sampling:?}: {ids:?}");
        assert!(!ids.is_empty(), "{sampling:?}: something was chosen");
    }
}

#[test]
fn a_common_beginning_is_not_computed_again() {
    let (mut session, log) = scripted("x", 64);
    run(&mut session, "question one?", &greedy());
    let (_, outcome) = run(&mut session, "question two?", &greedy());
    assert_eq!(outcome.stats.reused_tokens, 9, "`question ` is held");
    let (_, outcome) = run(&mut session, "question two?", &greedy());
    assert_eq!(outcome.stats.reused_tokens, 12, "all but the last, whose logits are needed");
    assert_eq!(log.lock().expect("a lock").held, ids("question two?x"), "the last forward's context");
}

#[test]
fn a_failed_forward_leaves_a_usable_session() {
    let (mut session, log) = scripted("abc", 64);
    run(&mut session, "first?", &greedy());
    let batches = log.lock().expect("a lock").batches.len();
    log.lock().expect("a lock").fail_at = Some(batches + 1);
    let mut stream = session.generate(&ids("fir?"), &greedy()).expect("a valid prompt");
    assert!(stream.next().expect("a piece").is_ok(), "the prefill");
    assert!(stream.next().expect("an error").is_err(), "the first decode");
    assert!(stream.next().is_none(), "nothing after an error");
    log.lock().expect("a lock").fail_at = None;
    assert_eq!(run(&mut session, "fir?", &greedy()).0, "abc", "as if nothing had happened");
}

#[test]
fn the_cancel_flag_ends_a_text_between_tokens() {
    let (mut session, log) = scripted("abcdef", 64);
    let params = greedy();
    log.lock().expect("a lock").cancel_at = Some((3, Arc::clone(&params.cancel)));
    let (text, outcome) = run(&mut session, "?", &params);
    assert_eq!((text.as_str(), outcome.finish), ("abc", FinishReason::Cancelled), "after the third forward");
    params.cancel.store(false, Ordering::Relaxed);
    assert_eq!(run(&mut session, "?", &params).0, "abcdef", "the session goes on");
}

#[test]
fn a_long_prompt_goes_to_the_executor_whole() {
    let (mut session, log) = scripted("abc", 4096);
    let params = greedy();
    log.lock().expect("a lock").cancel_at = Some((1, Arc::clone(&params.cancel)));
    let (text, outcome) = run(&mut session, &"x".repeat(2000), &params);
    assert_eq!((text.as_str(), outcome.finish), ("", FinishReason::Cancelled), "nothing generated");
    assert_eq!(log.lock().expect("a lock").batches, [(0, 2000)], "which looks at the flag by itself");
}

#[test]
fn unusable_prompts_are_refused_before_anything_is_computed() {
    let (mut session, log) = scripted("abc", 8);
    assert!(matches!(session.generate(&[], &greedy()), Err(SessionError::EmptyPrompt)), "empty");
    let long = session.generate(&ids("123456789"), &greedy()).map(|_| ()).expect_err("too long").to_string();
    assert!(long.contains('9') && long.contains('8'), "says both lengths: {long}");
    assert!(log.lock().expect("a lock").batches.is_empty(), "no forward");
}

#[test]
fn the_same_seed_gives_the_same_text_and_streams_differ() {
    let (mut session, _) = scripted("", 64);
    let sampling = crate::sampler::SamplingParams { temperature: 5.0, top_k: 0, seed: 3, ..Default::default() };
    let params = |stream| GenerateParams { sampling, stream, max_new_tokens: Some(20), ..GenerateParams::default() };
    let first = run(&mut session, "?", &params(0)).1.ids;
    assert_eq!(run(&mut session, "?", &params(0)).1.ids, first, "repeatable, also from a warm cache");
    assert_ne!(run(&mut session, "?", &params(1)).1.ids, first, "another sample");
}

/// Ids are bytes; the EOS is written `<eos>`, 257 to 260 are the marks of a chat template.
fn byte_tokenizer() -> Tokenizer {
    byte_tokenizer_with(|_| ())
}

fn byte_tokenizer_with(edit: impl FnOnce(&mut Vocabulary)) -> Tokenizer {
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let marks = ["<eos>", "<u>", "<a>", "<s>"].map(str::to_owned);
    let mut token_types = vec![6; 256];
    token_types.resize(260, 3);
    let mut vocabulary = Vocabulary {
        model: "llama".into(),
        tokens: bytes.chain(marks).collect(),
        scores: vec![0.0; 260],
        token_types,
        bos: Some(EOS),
        eos: Some(EOS),
        unk: Some(EOS),
        add_bos: Some(false),
        add_space_prefix: Some(false),
        ..Vocabulary::default()
    };
    edit(&mut vocabulary);
    Tokenizer::from_vocabulary(vocabulary).expect("a vocabulary of bytes")
}
