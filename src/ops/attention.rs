//! `attention`: causal softmax attention of queries over the KV cache.
//!
//! One token (decode) splits the context into pieces, so that a long one fills the adapter, and joins them with a
//! second kernel. Several tokens (prefill) run tiles with an online softmax. The pieces' length is a constant: what
//! a token sees depends on its position, never on how much room the cache has.

use rayon::prelude::*;

use super::{
    Bind, Call, Case, CaseInput, Columns, Extent, HostInput, Kernel, KvFormat, Op, Phase, StateType, Step, Traits,
    reduce_slot,
};
use crate::tensor::{Dim, TensorType};

/// `softmax(softcap(q · kᵀ · scale) + causal mask) · v` (Vaswani et al. 2017); query heads share key/value heads in
/// equal groups (Ainslie et al. 2023).
///
/// Inputs: q `(tokens, heads · head_dim)`, key cache, value cache, and with [`Alibi`] the slopes, a vector `(heads)`.
/// Output: `(tokens, heads · head_dim)`, or a column range of a wider tensor. Token t sees positions `0 ..= step.position + t`, or the last `window` of them.
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
    /// Set where the output is part of a wider tensor.
    pub columns: Option<Columns>,
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

/// Positions of one decode workgroup: enough to hide its start, few enough that 2048 positions fill a large GPU.
const PIECE: u32 = 128;
/// Query heads that share the reads of a decode workgroup at most; `MAX_HEADS` of attention_decode.wgsl.
const TILE_HEADS: u32 = 4;
/// Lanes that share query rows, and rows of a lane; `COLUMNS` and `ROWS` of attention_prefill.wgsl.
const COLUMNS: u32 = 16;
const ROWS: u32 = 4;

/// Invocations of a workgroup of turn.wgsl.
const TURN_LANES: u32 = 64;
/// Queries, and keys, of a tile of attention_matrix.wgsl.
const MATRIX_TILE: u32 = 32;

impl Attention {
    /// The largest head the prefill kernel has registers for.
    pub const MAX_HEAD_DIM: u32 = 256;

    fn columns(&self) -> Columns {
        self.columns.unwrap_or(Columns::whole(self.heads * self.head_dim))
    }

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

    /// Where the kernels that write rows of the output begin, and how wide the rows are.
    fn column_overrides(&self) -> [(&'static str, f64); 2] {
        let Columns { start, of } = self.columns();
        [("FIRST_COLUMN", start.into()), ("OUTPUT_COLUMNS", of.into())]
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

    fn decode(&self, state: StateType, traits: &Traits) -> Vec<Kernel> {
        let quads = self.head_dim / 4;
        // A lane for every quad of a value at least.
        let workgroup = if traits.software { quads.next_power_of_two().max(16) } else { 128 };
        let group = self.heads / self.kv_heads;
        let tile_heads = group.min(TILE_HEADS);
        let pieces = state.context_length.div_ceil(PIECE);
        let scratch = vec![u64::from(self.heads) * u64::from(pieces) * u64::from(1 + quads) * 16];
        let mut overrides = self.score_overrides(state);
        let reduce = reduce_slot(traits, workgroup, &mut overrides);
        overrides.extend([
            ("WORKGROUP", f64::from(workgroup)),
            ("LANES", f64::from(workgroup)),
            ("TILE_HEADS", f64::from(tile_heads)),
            ("PIECE", f64::from(PIECE)),
        ]);
        let parts = Kernel {
            source: "attention_decode",
            slots: vec![("KV", state.format.reader()), reduce],
            overrides,
            bindings: [self.score_bindings(), vec![("partials", Bind::Scratch(0))]].concat(),
            workgroups: [
                Extent::Context { per: PIECE },
                Extent::Fixed(self.kv_heads * group.div_ceil(tile_heads)),
                Extent::Fixed(1),
            ],
            scratch: scratch.clone(),
        };
        let mut overrides = self.overrides(state);
        overrides.extend([("PIECE", f64::from(PIECE)), ("FIRST_COLUMN", self.columns().start.into())]);
        overrides.extend(state.format.turn_overrides(self.head_dim));
        let combine = Kernel {
            source: "attention_combine",
            slots: vec![],
            overrides,
            bindings: vec![("partials", Bind::Scratch(0)), ("output", Bind::Output(0))],
            workgroups: [Extent::Fixed(self.heads), Extent::Fixed(1), Extent::Fixed(1)],
            scratch,
        };
        vec![parts, combine]
    }

    /// Whether the cooperative matrix kernel takes these heads; f32 caches carry more than its f16 operands do.
    fn fits_matrices(&self, state: StateType, traits: &Traits) -> bool {
        let memory = MATRIX_TILE * (3 * (self.head_dim * 2 + 16) + 80 + (self.head_dim + 4) * 4);
        traits.cooperative_matrix
            && state.format != KvFormat::F32
            && self.head_dim.is_multiple_of(16)
            && (32..=128).contains(&self.head_dim)
            && memory <= traits.workgroup_storage
    }

    fn prefill_matrix(&self, state: StateType) -> Kernel {
        Kernel {
            source: "attention_matrix",
            slots: vec![("KV", state.format.reader())],
            overrides: [self.score_overrides(state), self.column_overrides().to_vec()].concat(),
            bindings: [self.score_bindings(), vec![("output", Bind::Output(0))]].concat(),
            workgroups: [Extent::Tokens { per: MATRIX_TILE }, Extent::Fixed(self.heads), Extent::Fixed(1)],
            scratch: vec![],
        }
    }

    fn prefill(&self, state: StateType, traits: &Traits) -> Kernel {
        let PrefillShape { workgroup, keys } = PrefillShape::choose(traits);
        // Values pass through the keys' tile of COLUMNS · COLUMNS · keys quads, a power of two of positions at a time.
        let fit = COLUMNS * COLUMNS * keys / (self.head_dim / 4);
        let values = (1 << fit.max(1).ilog2()).min(COLUMNS * keys);
        let mut overrides = self.score_overrides(state);
        overrides.extend([
            ("WORKGROUP", f64::from(workgroup)),
            ("KEYS", f64::from(keys)),
            ("VALUES", f64::from(values)),
        ]);
        overrides.extend(self.column_overrides());
        Kernel {
            source: "attention_prefill",
            slots: vec![("KV", state.format.reader())],
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
        overrides.extend(self.column_overrides());
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
            Phase::Decode => self.decode(state, call.traits),
            Phase::Few | Phase::Prefill if self.fits_matrices(state, call.traits) => {
                self.turned_back(self.prefill_matrix(state), state)
            }
            Phase::Few | Phase::Prefill => self.turned_back(self.prefill(state, call.traits), state),
        }
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let (heads, head_dim) = (self.heads as usize, self.head_dim as usize);
        let (q, keys, values) = (inputs[0].f32(), inputs[1].f32(), inputs[2].f32());
        let cache = keys.len() / self.kv_heads as usize;
        let group = heads / self.kv_heads as usize;
        let (Columns { start, of }, width) = (self.columns(), heads * head_dim);
        let rows = q.par_chunks_exact(width).zip(outputs[0].par_chunks_exact_mut(of as usize)).enumerate();
        rows.for_each(|(token, (queries, row))| {
            let output = &mut row[start as usize..][..width];
            let of_heads = queries.par_chunks_exact(head_dim).zip(output.par_chunks_exact_mut(head_dim)).enumerate();
            of_heads.for_each(|(head, (query, output))| {
                let rows = head / group * cache..(head / group + 1) * cache;
                let slope = self.alibi.map_or(0.0, |_| inputs[3].f32()[head]);
                self.head(step.position as usize + token, slope, query, &keys[rows.clone()], &values[rows], output);
                self.format.turn(output);
            });
        });
    }
}

struct Shape {
    tokens: u32,
    position: u32,
    context_length: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
}

pub(super) fn cases() -> Vec<Case> {
    let shape = |tokens, position, context_length, heads, kv_heads, head_dim| Shape {
        tokens,
        position,
        context_length,
        heads,
        kv_heads,
        head_dim,
    };
    let shapes = [
        // decode: the first position, within and across pieces, a full context, MHA, GQA, MQA
        shape(1, 0, 40, 4, 4, 12),
        shape(1, 39, 40, 9, 3, 64),
        shape(1, 127, 300, 3, 3, 80),
        shape(1, 128, 300, 7, 1, 64),
        shape(1, 699, 700, 4, 2, 256),
        shape(1, 300, 512, 16, 2, 100),
        // prefill: less than a tile, several, from a position, a full context
        shape(2, 0, 64, 3, 3, 12),
        shape(5, 3, 8, 9, 3, 64),
        shape(33, 0, 40, 4, 4, 80),
        shape(70, 130, 200, 7, 1, 64),
        shape(65, 31, 96, 2, 1, 256),
        shape(40, 100, 300, 4, 2, 100),
        shape(17, 15, 32, 2, 2, 128),
    ];
    let variants = [(None, None), (Some(1), None), (Some(37), None), (None, Some(3.0)), (Some(150), Some(20.0))];
    let mut cases = Vec::new();
    for format in KvFormat::ALL {
        for (window, softcap) in variants {
            for shape in &shapes {
                // Sharp scores now and then: outliers must neither overflow nor vanish.
                let scale = if shape.head_dim == 64 { 2.0 } else { (shape.head_dim as f32).sqrt().recip() };
                cases.push(case(shape, format, scale, window, softcap, None));
            }
        }
    }
    for shape in &shapes {
        let scale = (shape.head_dim as f32).sqrt().recip();
        cases.push(case(shape, KvFormat::F32, scale, None, None, Some(Alibi::Exact)));
        cases.push(case(shape, KvFormat::F32, scale, Some(37), None, Some(Alibi::Rounded { scale: 0.125 })));
    }
    cases.push(case(&shapes[3], KvFormat::F32, 1e4, None, None, None));
    cases.push(case(&shapes[9], KvFormat::F32, 1e4, None, None, None));
    // Decode, and both prefill kernels: the other columns keep what is in them.
    for shape in [&shapes[1], &shapes[8], &shapes[9]] {
        for (start, format) in [(0, KvFormat::F16), (20, KvFormat::F16), (20, KvFormat::Q8_0)] {
            cases.push(column_case(shape, start, format));
        }
    }
    cases
}

/// Attention into a column range of a wider output.
fn column_case(shape: &Shape, start: u32, format: KvFormat) -> Case {
    let op = Attention {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        scale: 0.1,
        window: None,
        softcap: None,
        alibi: None,
        format,
        columns: Some(Columns { start, of: shape.heads * shape.head_dim + 28 }),
    };
    let whole = case(shape, format, op.scale, None, None, None);
    let rows = TensorType::f32([Dim::Tokens, Dim::Fixed(op.columns().of)]);
    Case {
        label: format!("{} tokens at {} {op:?}", shape.tokens, shape.position),
        op: Box::new(op),
        outputs: vec![CaseInput::Activation(rows)],
        ..whole
    }
}

fn case(
    shape: &Shape,
    format: KvFormat,
    scale: f32,
    window: Option<u32>,
    softcap: Option<f32>,
    alibi: Option<Alibi>,
) -> Case {
    let Shape { tokens, position, context_length, heads, kv_heads, head_dim } = *shape;
    let rows = CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(heads * head_dim)]));
    let state = CaseInput::State(StateType { kv_heads, context_length, head_dim, format });
    let op = Attention { heads, kv_heads, head_dim, scale, window, softcap, alibi, format, columns: None };
    let mut inputs = vec![rows.clone(), state.clone(), state];
    inputs.extend(alibi.map(|_| CaseInput::Vector(heads as usize)));
    Case {
        label: format!("{tokens} tokens at {position}/{context_length} {format:?} {op:?}"),
        op: Box::new(op),
        inputs,
        outputs: vec![rows],
        step: Step::new(tokens, position, 1),
        max_nmse: match format {
            KvFormat::F32 => 1e-10,
            // Blocks become f16 on their way to the matrices of prefill, f16 caches are it already.
            KvFormat::Q8_0 | KvFormat::Q4_0 if tokens > 1 => 3e-6,
            KvFormat::F16 | KvFormat::Q8_0 | KvFormat::Q4_0 => 1e-6,
        },
    }
}
