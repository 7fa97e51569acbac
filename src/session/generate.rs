//! One generation: the stream of pieces, why it ended, and what it cost.
//!
//! Chooses tokens and finds the end; does not render conversations and prints nothing. Invariant: all pieces
//! together are exactly the decoded text up to the end, whole characters each, without any part of a stop.
//!
//! Ids pass the stop sequences first, then the decoder, then the stop strings: a token that may belong to a stop
//! sequence is not text yet.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::SessionError;
use super::cache::Cache;
use super::continuation::Continuation;
use super::speculation::{Guesses, Speculation};
use super::stop::{Matched, StopMatcher};
use super::stop_tokens::{Ids, StopTokens};
use crate::sampler::{Sampler, SamplingParams};
use crate::tokenizer::{Decoder, Tokenizer};

/// How to continue a prompt.
#[derive(Debug, Clone, Default)]
pub struct GenerateParams {
    /// Tokens to generate at most; `None` until the context is full.
    pub max_new_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Which random stream of the seed: the sample's or the turn's number.
    pub stream: u64,
    /// Strings that end the text; none of them is part of it.
    pub stop: Vec<String>,
    /// Sequences of tokens that end the text; none of them is part of it.
    pub stop_tokens: Vec<Vec<u32>>,
    /// Ends the text when set, between two tokens. Shared with whoever catches Ctrl-C.
    pub cancel: Arc<AtomicBool>,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model chose one of the checkpoint's EOS ids.
    EndOfText,
    /// A stop string was complete.
    StopString,
    /// A stop sequence of tokens was complete.
    StopTokens,
    /// `max_new_tokens` were generated.
    MaxTokens,
    /// The KV cache has no room for another token.
    ContextFull,
    /// The cancel flag was set.
    Cancelled,
}

/// What a text cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, tokens that the KV cache held already.
    pub reused_tokens: usize,
    /// Time of the prefill, the first token's choice included: the time to the first token.
    pub prefill: Duration,
    /// Tokens generated, those that ended the text included.
    pub generated_tokens: usize,
    /// Time from the first token to the last.
    pub decode: Duration,
    /// What became of guesses, where the session speculates.
    pub guesses: Option<Guesses>,
}

impl Stats {
    /// Prompt tokens computed a second.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens - self.reused_tokens, self.prefill)
    }

    /// Tokens a second after the first, which the prefill brought.
    pub fn decode_rate(&self) -> f64 {
        rate(self.generated_tokens.saturating_sub(1), self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// A piece of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The token that released it; `None` for text that was held back until the end.
    pub id: Option<u32>,
    /// Whole characters; empty while a character or a possible stop is incomplete.
    pub text: String,
}

/// What is known when a text has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Why it ended.
    pub finish: FinishReason,
    /// What it cost.
    pub stats: Stats,
    /// The ids generated, without an EOS or a stop sequence, with the tokens of a stop string.
    pub ids: Vec<u32>,
}

/// One generation, a token at each call of [`Iterator::next`]. Dropping it early is safe.
pub struct TokenStream<'s> {
    continuation: Continuation<'s>,
    speculation: Option<Speculation<'s>>,
    end_ids: &'s [u32],
    decoder: Decoder,
    stop: StopMatcher,
    stop_tokens: StopTokens,
    cancel: Arc<AtomicBool>,
    max_new_tokens: usize,
    /// The prompt and what was generated.
    context: Vec<u32>,
    /// Tokens at its end that ended the text and are not part of it: an EOS, a stop sequence.
    closing: usize,
    stats: Stats,
    finish: Option<FinishReason>,
    failed: bool,
}

impl<'s> TokenStream<'s> {
    pub(super) fn new(
        cache: &'s mut Cache,
        speculation: Option<Speculation<'s>>,
        tokenizer: &Tokenizer,
        end_ids: &'s [u32],
        prompt: &[u32],
        params: &GenerateParams,
    ) -> Result<Self, SessionError> {
        let sampler = Sampler::new(params.sampling, params.stream)?.with_vocab_limit(tokenizer.vocab_size());
        let mut decoder = tokenizer.decoder(true);
        decoder.prime(prompt);
        let reused_tokens = cache.reusable(prompt);
        let stats = Stats { prompt_tokens: prompt.len(), reused_tokens, ..Stats::default() };
        Ok(Self {
            continuation: Continuation::new(cache, sampler),
            speculation,
            end_ids,
            decoder,
            stop: StopMatcher::new(params.stop.iter().cloned()),
            stop_tokens: StopTokens::new(params.stop_tokens.iter().cloned()),
            cancel: Arc::clone(&params.cancel),
            max_new_tokens: params.max_new_tokens.unwrap_or(usize::MAX),
            context: prompt.to_vec(),
            closing: 0,
            stats,
            finish: None,
            failed: false,
        })
    }

    /// Why the text ended, once it has.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// What the text cost so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Everything known about the text; one that was not read to its end counts as cancelled.
    pub fn into_outcome(mut self) -> Outcome {
        let mut ids = self.context.split_off(self.stats.prompt_tokens);
        ids.truncate(ids.len() - self.closing);
        Outcome { finish: self.finish.unwrap_or(FinishReason::Cancelled), stats: self.stats, ids }
    }

    /// Generates one token, or ends the text.
    fn step(&mut self) -> Result<Piece, SessionError> {
        let start = Instant::now();
        if self.stats.generated_tokens >= self.max_new_tokens {
            return Ok(self.end(FinishReason::MaxTokens));
        }
        if self.context.len() > self.continuation.cache.executor().context_length() as usize {
            return Ok(self.end(FinishReason::ContextFull));
        }
        let Some(id) = self.choose()? else { return Ok(self.end(FinishReason::Cancelled)) };
        self.count(id, start);
        if self.end_ids.contains(&id) {
            self.closing = 1;
            return Ok(self.end(FinishReason::EndOfText));
        }
        let text = match self.stop_tokens.push(id) {
            Ids::Certain(ids) => self.decode(&ids),
            Ids::Stop { before, length } => {
                self.closing = length;
                let text = self.decode(&before);
                return Ok(self.close(text, FinishReason::StopTokens));
            }
        };
        Ok(match self.stop.push(&text) {
            Matched::Text(text) => Piece { id: Some(id), text },
            Matched::Stop(text) => {
                self.finish = Some(FinishReason::StopString);
                Piece { id: Some(id), text }
            }
        })
    }

    fn decode(&mut self, ids: &[u32]) -> String {
        ids.iter().filter_map(|&id| self.decoder.push(id)).collect()
    }

    /// The next token, or `None` when cancelled.
    fn choose(&mut self) -> Result<Option<u32>, SessionError> {
        let wanted = self.max_new_tokens - self.stats.generated_tokens;
        let Self { continuation, speculation, context, cancel, stats, .. } = self;
        let Some(speculation) = speculation else { return continuation.next(context, wanted, cancel) };
        let id = speculation.next(continuation, context, wanted, cancel);
        stats.guesses = Some(speculation.counts());
        id
    }

    fn count(&mut self, id: u32, start: Instant) {
        self.context.push(id);
        let first = self.stats.generated_tokens == 0;
        let clock = if first { &mut self.stats.prefill } else { &mut self.stats.decode };
        *clock += start.elapsed();
        self.stats.generated_tokens += 1;
    }

    /// Ends the text and releases what was held back.
    fn end(&mut self, reason: FinishReason) -> Piece {
        let held = self.stop_tokens.finish();
        let text = self.decode(&held);
        self.close(text, reason)
    }

    /// Ends the text with `last` and what the decoder held back, which may still complete a stop string.
    fn close(&mut self, mut last: String, reason: FinishReason) -> Piece {
        self.finish = Some(reason);
        last.extend(self.decoder.finish());
        let text = match self.stop.push(&last) {
            Matched::Text(text) => text + &self.stop.finish(),
            Matched::Stop(text) => {
                self.finish = Some(FinishReason::StopString);
                text
            }
        };
        Piece { id: None, text }
    }
}

impl Iterator for TokenStream<'_> {
    type Item = Result<Piece, SessionError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_some() || self.failed {
            return None;
        }
        let piece = self.step();
        self.failed = piece.is_err();
        Some(piece)
    }
}

impl std::fmt::Debug for TokenStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stats = &self.stats;
        f.debug_struct("TokenStream").field("finish", &self.finish).field("stats", stats).finish_non_exhaustive()
    }
}
