//! `attention`: causal softmax attention of queries over the KV cache.
//!
//! Single tokens are `decode`'s business; several (prefill) run tiles with an online softmax.

mod cases;
mod decode;
mod pieces;

use rayon::prelude::*;

pub(super) use self::cases::cases;
pub(super) use self::decode::Operands;
pub use self::pieces::Pieces;
use super::quantize_row::round_rows;
use super::{Bind, Call, Extent, HostInput, Kernel, KvFormat, Op, Phase, StateType, Step, Traits, stored_slot};
use crate::tensor::FEW_ROWS;

/// `softmax(softcap(q · kᵀ · scale) + causal mask) · v` (Vaswani et al. 2017); query heads share key/value heads in
/// equal groups (Ainslie et al. 2023).
///
/// Inputs: q `(tokens, heads · head_dim)`, key cache, value cache, and with [`Alibi`] the slopes, a vector `(heads)`.
/// Output: `(tokens, heads · head_dim)`, or a column range of a wider tensor. Token t sees positions
/// `0 ..= step.position + t`, or the last `window` of them.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads; divides `heads`.
    pub kv_heads: u32,
    /// Values of a head; at most [`Attention::MAX_HEAD_DIM`], a multiple of 4.
    pub head_dim: u32,
    /// Scores are multiplied by it.
    pub scale: f32,
    /// Positions seen, the token's own included.
    pub window: Option<u32>,
    /// Scores are bent to `±softcap` by tanh.
    pub softcap: Option<f32>,
    /// Position bias of the scores.
    pub alibi: Option<Alibi>,
    /// How the caches hold keys and values: what was turned on its way there is turned back.
    pub format: KvFormat,
    /// A second output holds the first in 8-bit blocks, as [`super::QuantizeRow`] makes them; written where rows are
    /// few. Heads are then multiples of a block.
    pub quantized: bool,
}

/// How the position bias of ALiBi (Press et al. 2022) is computed: added to the scaled scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Alibi {
    /// `slope · distance`, as the paper has it.
    Exact,
    /// `bf16(slope · bf16(position)) · scale`: Falcon's, whose models learned with these roundings.
    Rounded {
        /// What the rounded bias is multiplied by.
        scale: f32,
    },
}

impl Alibi {
    /// The bias of key `key` for the query at `position`.
    fn bias(self, slope: f32, key: usize, position: usize) -> f64 {
        match self {
            Self::Exact => f64::from(slope) * (key as f64 - position as f64),
            Self::Rounded { scale } => {
                let position = half::bf16::from_f32(key as f32).to_f32();
                half::bf16::from_f32(slope * position).to_f64() * f64::from(scale)
            }
        }
    }
}

/// Lanes that share query rows, and rows of a lane; `COLUMNS` and `ROWS` of attention_prefill.wgsl.
const COLUMNS: u32 = 16;
const ROWS: u32 = 4;

/// Invocations of a workgroup of turn.wgsl.
const TURN_LANES: u32 = 64;
/// Queries, and keys, of a tile of attention_matrix.wgsl.
const MATRIX_TILE: u32 = 64;

impl Attention {
    /// The largest head the prefill kernel has registers for.
    pub const MAX_HEAD_DIM: u32 = 256;

    /// What every kernel is specialised by.
    fn overrides(&self, state: StateType) -> Vec<(&'static str, f64)> {
        vec![
            ("HEAD_DIM", f64::from(self.head_dim)),
            ("CONTEXT_LENGTH", f64::from(state.context_length)),
            ("WINDOW", f64::from(self.window.unwrap_or(0))),
        ]
    }

    /// What the kernels that compute scores are specialised by besides.
    fn score_overrides(&self, state: StateType) -> Vec<(&'static str, f64)> {
        let mut overrides = self.overrides(state);
        overrides.extend([
            ("HEADS", f64::from(self.heads)),
            ("KV_HEADS", f64::from(self.kv_heads)),
            ("SCALE", f64::from(self.scale)),
            ("SOFTCAP", f64::from(self.softcap.unwrap_or(0.0))),
        ]);
        let (mode, scale) = match self.alibi {
            None => (0.0, 0.0),
            Some(Alibi::Exact) => (1.0, 0.0),
            Some(Alibi::Rounded { scale }) => (2.0, f64::from(scale)),
        };
        overrides.extend([("ALIBI", mode), ("ALIBI_SCALE", scale)]);
        overrides
    }

    /// What the kernels that compute scores read. Without ALiBi nothing reads slopes: q stands in for them.
    fn score_bindings(&self) -> Vec<(&'static str, Bind)> {
        vec![
            ("q", Bind::Input(0)),
            ("key_cache", Bind::Input(1)),
            ("value_cache", Bind::Input(2)),
            ("slopes", Bind::Input(if self.alibi.is_some() { 3 } else { 0 })),
        ]
    }

    /// Whether the cooperative matrix kernel takes these heads; f32 caches carry more than its f16 operands do.
    fn fits_matrices(&self, state: StateType, traits: &Traits) -> bool {
        // A tile of keys, one of weights, one of scores, and the flag.
        let memory = MATRIX_TILE * (self.head_dim * 2 + 16 + 144 + 160) + 16;
        traits.cooperative_matrix
            && state.format != KvFormat::F32
            && self.head_dim.is_multiple_of(16)
            && (32..=128).contains(&self.head_dim)
            && memory <= traits.workgroup_storage
    }

    fn prefill_matrix(&self, state: StateType, call: &Call<'_>) -> Kernel {
        Kernel {
            source: "attention_matrix",
            slots: vec![("KV", state.format.run_reader(self.head_dim)), stored_slot(call, 0)],
            overrides: self.score_overrides(state),
            bindings: [self.score_bindings(), vec![("output", Bind::Output(0))]].concat(),
            workgroups: [Extent::Tokens { per: MATRIX_TILE }, Extent::Fixed(self.heads), Extent::Fixed(1)],
            scratch: vec![],
        }
    }

    fn prefill(&self, state: StateType, call: &Call<'_>) -> Kernel {
        let PrefillShape { workgroup, keys } = PrefillShape::choose(call.traits);
        // Values pass through the keys' tile of COLUMNS · COLUMNS · keys quads, a power of two of positions at a time.
        let fit = COLUMNS * COLUMNS * keys / (self.head_dim / 4);
        let values = (1 << fit.max(1).ilog2()).min(COLUMNS * keys);
        let mut overrides = self.score_overrides(state);
        overrides.extend([
            ("WORKGROUP", f64::from(workgroup)),
            ("KEYS", f64::from(keys)),
            ("VALUES", f64::from(values)),
        ]);
        Kernel {
            source: "attention_prefill",
            slots: vec![("KV", state.format.reader()), stored_slot(call, 0)],
            overrides,
            bindings: [self.score_bindings(), vec![("output", Bind::Output(0))]].concat(),
            workgroups: [
                Extent::Tokens { per: workgroup / COLUMNS * ROWS },
                Extent::Fixed(self.heads),
                Extent::Fixed(1),
            ],
            scratch: vec![],
        }
    }

    /// A prefill kernel, and what turns its result back where the cache's values are turned.
    fn turned_back(&self, attention: Kernel, state: StateType) -> Vec<Kernel> {
        if state.format.span(self.head_dim) == 1 {
            return vec![attention];
        }
        let row_quads = self.heads * self.head_dim / 4;
        let mut overrides = state.format.turn_overrides(self.head_dim);
        overrides.push(("ROW_QUADS", f64::from(row_quads)));
        let turn = Kernel {
            source: "turn",
            slots: vec![],
            overrides,
            bindings: vec![("output", Bind::Output(0))],
            workgroups: [Extent::Fixed(row_quads.div_ceil(TURN_LANES)), Extent::Tokens { per: 1 }, Extent::Fixed(1)],
            scratch: vec![],
        };
        vec![attention, turn]
    }

    /// One head of one token: scores, softmax, weighted values, in two passes.
    fn head(&self, position: usize, slope: f32, query: &[f32], keys: &[f32], values: &[f32], output: &mut [f32]) {
        let head_dim = self.head_dim as usize;
        let oldest = self.window.map_or(0, |window| (position + 1).saturating_sub(window as usize));
        let seen = oldest * head_dim..(position + 1) * head_dim;
        let mut scores: Vec<f64> = keys[seen.clone()]
            .chunks_exact(head_dim)
            .enumerate()
            .map(|(at, key)| {
                let product: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                let score = product * f64::from(self.scale);
                let bent = self.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
                bent + self.alibi.map_or(0.0, |alibi| alibi.bias(slope, oldest + at, position))
            })
            .collect();
        let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for score in &mut scores {
            *score = (*score - maximum).exp();
        }
        let total: f64 = scores.iter().sum();
        let mut sums = vec![0.0; head_dim];
        for (weight, value) in scores.iter().zip(values[seen].chunks_exact(head_dim)) {
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum += weight * f64::from(*value);
            }
        }
        for (output, sum) in output.iter_mut().zip(sums) {
            *output = (sum / total) as f32;
        }
    }
}

/// Tiles of the prefill kernel.
struct PrefillShape {
    workgroup: u32,
    /// Keys of a lane in a tile of COLUMNS · keys.
    keys: u32,
}

impl PrefillShape {
    fn choose(traits: &Traits) -> Self {
        // Bytes of workgroup memory: (COLUMNS² · keys + workgroup · keys + workgroup) · 16.
        match traits {
            Traits { software: true, .. } => Self { workgroup: 32, keys: 2 },
            Traits { workgroup_storage, .. } if *workgroup_storage >= 26 << 10 => Self { workgroup: 128, keys: 4 },
            _ => Self { workgroup: 128, keys: 2 },
        }
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        assert!(self.head_dim <= Self::MAX_HEAD_DIM, "lowering refuses heads of {}", self.head_dim);
        let state = Call::state(&call.inputs[1]);
        match call.phase {
            Phase::Decode => self.by_decode(call, 1),
            Phase::Few => self.by_decode(call, FEW_ROWS),
            Phase::Prefill if self.fits_matrices(state, call.traits) => {
                self.turned_back(self.prefill_matrix(state, call), state)
            }
            Phase::Prefill => self.turned_back(self.prefill(state, call), state),
        }
    }

    fn writes_f16(&self, output: usize, call: &Call<'_>) -> bool {
        // What is turned back is so in its place.
        let turned = Call::state(&call.inputs[1]).format.span(self.head_dim) > 1;
        call.phase == Phase::Prefill && output == 0 && !turned
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let (heads, head_dim) = (self.heads as usize, self.head_dim as usize);
        let (q, keys, values) = (inputs[0].f32(), inputs[1].f32(), inputs[2].f32());
        let cache = keys.len() / self.kv_heads as usize;
        let group = heads / self.kv_heads as usize;
        let width = heads * head_dim;
        let rows = q.par_chunks_exact(width).zip(outputs[0].par_chunks_exact_mut(width)).enumerate();
        rows.for_each(|(token, (queries, output))| {
            let of_heads = queries.par_chunks_exact(head_dim).zip(output.par_chunks_exact_mut(head_dim)).enumerate();
            of_heads.for_each(|(head, (query, output))| {
                let rows = head / group * cache..(head / group + 1) * cache;
                let slope = self.alibi.map_or(0.0, |_| inputs[3].f32()[head]);
                self.head(step.position as usize + token, slope, query, &keys[rows.clone()], &values[rows], output);
                self.format.turn(output);
            });
        });
        if self.quantized && step.tokens <= FEW_ROWS {
            let (attended, rounded) = outputs.split_at_mut(1);
            rounded[0].copy_from_slice(attended[0]);
            round_rows(rounded[0]);
        }
    }
}
