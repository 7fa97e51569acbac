//! Logits to token: greedy, temperature, top-k, top-p, min-p, repetition penalty, seed.
//!
//! Knows nothing of text, of when to stop, or of where logits come from. The filters run in this order:
//!
//! 1. repetition penalty: the logit of every token already in the context is divided by it where positive,
//!    multiplied by it where negative (CTRL, arXiv:1909.05858);
//! 2. temperature 0: the largest logit wins, nothing is drawn;
//! 3. top-k: exactly the k largest stay;
//! 4. temperature, softmax;
//! 5. top-p: the smallest set of largest probabilities whose sum reaches p stays, at least one (arXiv:1904.09751);
//! 6. min-p: what is less probable than `min_p` times the most probable goes (arXiv:2407.01082);
//! 7. one draw from what is left.
//!
//! Equal logits rank by index, lowest first. Invariant: the same logits, parameters, stream and draw number give
//! the same token on every machine, since only IEEE basic operations are used, in index order, on f64, and the
//! n-th draw of a stream depends on nothing but the seed.

use std::cmp::Ordering;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How tokens are chosen. [`SamplingParams::validate`] says what is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParams {
    /// Flattens (above 1) or sharpens (below 1) the distribution; 0 is greedy.
    pub temperature: f32,
    /// Tokens kept by logit; 0 keeps all.
    pub top_k: usize,
    /// Probability mass kept; 1 keeps all.
    pub top_p: f32,
    /// Least probability kept, relative to the largest; 0 keeps all.
    pub min_p: f32,
    /// Penalty on tokens already in the context; 1 is none.
    pub repetition_penalty: f32,
    /// Key of the random stream.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 200, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplingParams {
    /// Greedy: always the largest logit.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every number against its range.
    ///
    /// # Errors
    /// The first parameter out of range, with the range.
    pub fn validate(&self) -> Result<(), SampleError> {
        let check = |name, value: f32, ok: bool, range| {
            if ok { Ok(()) } else { Err(SampleError::OutOfRange { name, value, range }) }
        };
        let finite = f32::is_finite;
        let share = |value: f32| (0.0..=1.0).contains(&value);
        let (temperature, penalty) = (self.temperature, self.repetition_penalty);
        check("temperature", temperature, finite(temperature) && temperature >= 0.0, "0 or more")?;
        check("top-p", self.top_p, share(self.top_p), "from 0 to 1")?;
        check("min-p", self.min_p, share(self.min_p), "from 0 to 1")?;
        check("repetition penalty", penalty, finite(penalty) && penalty > 0.0, "more than 0")
    }
}

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// A parameter outside its range.
    #[error("{name} must be {range}, found {value}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: f32,
        /// What is allowed.
        range: &'static str,
    },
    /// The model computed something that is not a logit.
    #[error("the logit of token {token} is {value}: the model's numbers overflowed or its weights are damaged")]
    NotANumber {
        /// The first such token.
        token: u32,
        /// NaN or infinity.
        value: f32,
    },
    /// Every token is masked.
    #[error("no token can be chosen: none of the {0} logits is above minus infinity")]
    NothingLeft(usize),
}

/// How one token is chosen, as plain data: whoever holds the logits can do it, an adapter too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Filters and temperature; the repetition penalty, which needs the context, and the seed, which has been drawn
    /// from, are not looked at.
    pub params: SamplingParams,
    /// Token ids at or above it are never chosen.
    pub limit: usize,
    /// The number drawn for this token, in `[0, 1)`; greedy does not look at it.
    pub uniform: f64,
}

impl Rule {
    /// The token it chooses from these logits `(vocab_size)`.
    ///
    /// # Errors
    /// A logit that is NaN or plus infinity, or none above minus infinity.
    pub fn choose(&self, logits: &[f32]) -> Result<u32, SampleError> {
        let params = SamplingParams { repetition_penalty: 1.0, ..self.params };
        let (candidates, ranked) = (Vec::new(), Vec::new());
        let mut sampler = Sampler { params, stream: 0, draws: 0, vocab_limit: self.limit, candidates, ranked };
        sampler.choose(logits, &[], self.uniform)
    }
}

/// A token still in the race.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    logit: f32,
}

impl Candidate {
    /// Best first: larger logit, then lower index.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// Chooses tokens; holds the random stream and scratch memory, nothing of the text.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    stream: u64,
    draws: u64,
    vocab_limit: usize,
    /// In index order at all times, so that sums do not depend on how filters select.
    candidates: Vec<Candidate>,
    ranked: Vec<Candidate>,
}

impl Sampler {
    /// A sampler on one stream of the seed; different streams of one seed are independent texts.
    ///
    /// # Errors
    /// A parameter out of range.
    pub fn new(params: SamplingParams, stream: u64) -> Result<Self, SampleError> {
        params.validate()?;
        let (candidates, ranked) = (Vec::new(), Vec::new());
        Ok(Self { params, stream, draws: 0, vocab_limit: usize::MAX, candidates, ranked })
    }

    /// A sampler that goes on with the same draws, as this one would.
    #[must_use]
    pub fn twin(&self) -> Self {
        let Self { params, stream, draws, vocab_limit, .. } = *self;
        // Without the scratch memory, which may be large.
        Self { params, stream, draws, vocab_limit, candidates: Vec::new(), ranked: Vec::new() }
    }

    /// Never chooses a token id at or above `limit`: a model's vocabulary may be padded beyond its tokenizer's.
    #[must_use]
    pub fn with_vocab_limit(mut self, limit: usize) -> Self {
        self.vocab_limit = limit;
        self
    }

    /// Chooses the next token from its logits `(vocab_size)`, given the ids already in the context.
    ///
    /// # Errors
    /// A logit that is NaN or plus infinity, or none above minus infinity.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, SampleError> {
        let id = self.choose(logits, history, self.rule(0).uniform)?;
        self.accept();
        Ok(id)
    }

    /// Whether a choice depends on nothing but the logits: then [`Self::rule`] says all about it.
    pub fn needs_no_history(&self) -> bool {
        self.params.repetition_penalty == 1.0
    }

    /// How the token after the next `ahead` ones is chosen.
    pub fn rule(&self, ahead: u64) -> Rule {
        let greedy = self.params.temperature == 0.0;
        let uniform = if greedy { 0.0 } else { self.uniform(self.draws + ahead) };
        Rule { params: self.params, limit: self.vocab_limit, uniform }
    }

    /// Goes on to the next number of the stream: a token has been chosen by [`Self::rule`] of 0.
    pub fn accept(&mut self) {
        if self.params.temperature != 0.0 {
            self.draws += 1;
        }
    }

    fn choose(&mut self, logits: &[f32], history: &[u32], uniform: f64) -> Result<u32, SampleError> {
        let logits = &logits[..logits.len().min(self.vocab_limit)];
        if self.params.temperature == 0.0 && self.needs_no_history() {
            return largest(logits);
        }
        self.gather(logits, history)?;
        let best = self.candidates.iter().min_by(|a, b| a.rank(b)).copied();
        let best = best.ok_or(SampleError::NothingLeft(logits.len()))?;
        if self.params.temperature == 0.0 {
            return Ok(best.token);
        }
        self.keep_top_k();
        self.keep_top_p(best.logit);
        self.keep_min_p(best.logit);
        Ok(self.draw(best.logit, uniform))
    }

    /// Fills `candidates` with every token that is not masked, repetition penalty applied.
    fn gather(&mut self, logits: &[f32], history: &[u32]) -> Result<(), SampleError> {
        self.candidates.clear();
        for (token, &logit) in (0u32..).zip(logits) {
            if logit.is_nan() || logit == f32::INFINITY {
                return Err(SampleError::NotANumber { token, value: logit });
            }
            self.candidates.push(Candidate { token, logit });
        }
        let penalty = self.params.repetition_penalty;
        if penalty != 1.0 {
            for &token in history {
                // read from `logits`, so that a token that occurs often is penalised once
                if let Some(&logit) = logits.get(token as usize) {
                    let penalised = if logit > 0.0 { logit / penalty } else { logit * penalty };
                    self.candidates[token as usize].logit = penalised.min(f32::MAX);
                }
            }
        }
        self.candidates.retain(|candidate| candidate.logit != f32::NEG_INFINITY);
        Ok(())
    }

    fn keep_top_k(&mut self) {
        let k = self.params.top_k;
        if k == 0 || k >= self.candidates.len() {
            return;
        }
        self.ranked.clone_from(&self.candidates);
        let (_, last, _) = self.ranked.select_nth_unstable_by(k - 1, Candidate::rank);
        let last = *last;
        self.candidates.retain(|candidate| candidate.rank(&last) != Ordering::Greater);
    }

    fn keep_top_p(&mut self, best: f32) {
        if self.params.top_p >= 1.0 {
            return;
        }
        let wanted = f64::from(self.params.top_p) * self.mass(best);
        self.ranked.clone_from(&self.candidates);
        let (mut sorted, mut sum) = (0, 0.0);
        // the set is nearly always small: sort only as many of the best as it turns out to need
        while sorted < self.ranked.len() {
            let rest = &mut self.ranked[sorted..];
            let take = (3 * sorted).max(64).min(rest.len());
            if take < rest.len() {
                rest.select_nth_unstable_by(take - 1, Candidate::rank);
            }
            let head = &mut rest[..take];
            head.sort_unstable_by(Candidate::rank);
            for &last in &*head {
                sum += weight(last, best, self.params.temperature);
                if sum >= wanted {
                    self.candidates.retain(|candidate| candidate.rank(&last) != Ordering::Greater);
                    return;
                }
            }
            sorted += take;
        }
        // rounding kept the sum just below a mass close to the whole: everything stays
    }

    fn keep_min_p(&mut self, best: f32) {
        if self.params.min_p > 0.0 {
            let (least, temperature) = (f64::from(self.params.min_p), self.params.temperature);
            // the best one weighs exactly 1, so it always stays
            self.candidates.retain(|&candidate| weight(candidate, best, temperature) >= least);
        }
    }

    fn draw(&self, best: f32, uniform: f64) -> u32 {
        let target = uniform * self.mass(best);
        let mut sum = 0.0;
        let mut chosen = None;
        for &candidate in &self.candidates {
            let weight = weight(candidate, best, self.params.temperature);
            if weight > 0.0 {
                chosen = Some(candidate.token);
                sum += weight;
                if sum > target {
                    break;
                }
            }
        }
        chosen.expect("the best candidate weighs 1 and no filter drops it")
    }

    /// Unnormalised probability of all candidates together, added in index order.
    fn mass(&self, best: f32) -> f64 {
        self.candidates.iter().map(|&candidate| weight(candidate, best, self.params.temperature)).sum()
    }

    /// A number of the stream, in `[0, 1)`. Addressed by counter: the n-th draw needs no draws before it.
    fn uniform(&self, draw: u64) -> f64 {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.params.seed.to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(key);
        random.set_stream(self.stream);
        random.set_word_pos(2 * u128::from(draw));
        // the upper 53 bits fill an f64's mantissa
        (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The token of the largest logit, as [`Candidate::rank`] has it, in loops that compilers make vectors of.
fn largest(logits: &[f32]) -> Result<u32, SampleError> {
    // As `f32::total_cmp`: the bits, those of negative numbers turned round.
    let order = |logit: f32| {
        let bits = logit.to_bits().cast_signed();
        bits ^ (((bits >> 31).cast_unsigned()) >> 1).cast_signed()
    };
    let wrong = |logit: f32| logit.is_nan() || logit == f32::INFINITY;
    let (mut any_wrong, mut best) = (false, order(f32::NEG_INFINITY));
    for &logit in logits {
        any_wrong |= wrong(logit);
        best = best.max(order(logit));
    }
    if any_wrong {
        let (token, value) = (0..).zip(logits).find(|(_, logit)| wrong(**logit)).expect("there is one");
        return Err(SampleError::NotANumber { token, value: *value });
    }
    let first = logits.iter().position(|logit| *logit != f32::NEG_INFINITY && order(*logit) == best);
    first.map(|token| token as u32).ok_or(SampleError::NothingLeft(logits.len()))
}

/// A candidate's probability divided by the best one's: `exp((logit - best) / temperature)`.
fn weight(candidate: Candidate, best: f32, temperature: f32) -> f64 {
    exp((f64::from(candidate.logit) - f64::from(best)) / f64::from(temperature))
}

/// `e^x` for `x <= 0`, within 1e-15 of exact, from additions and multiplications only: the C library's `exp`
/// differs in the last bits between platforms, and a draw may turn on them.
fn exp(x: f64) -> f64 {
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    if x < -700.0 {
        // below 1e-304: beside the best candidate's weight of 1 this is nothing
        return 0.0;
    }
    // x = k ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts keeps r exact
    let k = (x * std::f64::consts::LOG2_E).round();
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    // Taylor to the 13th power: the remainder is below 1e-17
    let series = (1..=13).rev().fold(1.0, |sum, n| 1.0 + r * sum / f64::from(n));
    // k is within -1010..=0, so 2^k is a normal number
    series * f64::from_bits(((1023 + k as i64) as u64) << 52)
}

#[cfg(test)]
mod tests;
