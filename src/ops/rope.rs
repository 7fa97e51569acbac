//! `rope_append`: rotary embedding of queries and keys, append of keys and values to the cache.
//!
//! Models without rotary embedding (ALiBi, learned positions) run it with nothing rotated.

use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, KvFormat, Op, StateType, Step};
use crate::tensor::{Dim, TensorType};

/// Which values of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// `(i, i + rotary_dim / 2)`, as GPT-NeoX and Hugging Face's Llama have it.
    HalfSplit,
    /// `(2i, 2i + 1)`, as GPT-J and the paper (Su et al. 2021) have it.
    Interleaved,
}

/// Inputs: qkv `(tokens, (heads + 2 kv_heads) · head_dim)`, rows `[q | k | v]`; table vector
/// `(positions, rotary_dim / 2, 2)` of cosines and sines, scaling included. Outputs: q `(tokens, heads · head_dim)`,
/// key cache, value cache, written at rows `step.position + token`. With a `rotary_dim` of 0 the table is not read. For
/// caches in blocks heads are also turned ([`KvFormat::turn`]); [`super::Attention`] turns its result back.
#[derive(Debug, Clone)]
pub struct RopeAppend {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Values of a head.
    pub head_dim: u32,
    /// The first values of a head, which are rotated; the others are copied.
    pub rotary_dim: u32,
    /// Which values are pairs.
    pub style: RopeStyle,
    /// q, k and v are first brought within ± this (`clip_qkv`).
    pub clip: Option<f32>,
    /// How the caches hold keys and values.
    pub format: KvFormat,
}

const INVOCATIONS: u32 = 64;

impl RopeAppend {
    /// What shaders/lib/rotary.wgsl is specialised by, besides heads.
    pub(super) fn rotary_overrides(&self) -> [(&'static str, f64); 3] {
        [
            ("ROTARY_DIM", f64::from(self.rotary_dim)),
            ("CLIP", f64::from(self.clip.unwrap_or(0.0))),
            ("INTERLEAVED", f64::from(u8::from(self.style == RopeStyle::Interleaved))),
        ]
    }

    fn clipped(&self, value: f32) -> f32 {
        self.clip.map_or(value, |most| value.clamp(-most, most))
    }

    /// A head's values at the position whose cosines and sines are `turns`.
    fn rotate(&self, head: &[f32], turns: &[f32], output: &mut [f32]) {
        let head: Vec<f32> = head.iter().map(|value| self.clipped(*value)).collect();
        output.copy_from_slice(&head);
        for (pair, turn) in turns.chunks_exact(2).enumerate() {
            let (first, second) = match self.style {
                RopeStyle::HalfSplit => (pair, pair + self.rotary_dim as usize / 2),
                RopeStyle::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (cosine, sine) = (f64::from(turn[0]), f64::from(turn[1]));
            let (a, b) = (f64::from(head[first]), f64::from(head[second]));
            output[first] = (a * cosine - b * sine) as f32;
            output[second] = (b * cosine + a * sine) as f32;
        }
    }
}

impl Op for RopeAppend {
    fn name(&self) -> &'static str {
        "rope_append"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let state = Call::state(&call.outputs[1]);
        let head_lanes = state.format.head_lanes(self.head_dim);
        let lanes = (self.heads + 2 * self.kv_heads) * head_lanes;
        vec![Kernel {
            source: "rope_append",
            slots: vec![("APPEND", state.format.writer())],
            overrides: [
                &[
                    ("HEADS", f64::from(self.heads)),
                    ("KV_HEADS", f64::from(self.kv_heads)),
                    ("HEAD_DIM", f64::from(self.head_dim)),
                    ("CONTEXT_LENGTH", f64::from(state.context_length)),
                    ("HEAD_LANES", f64::from(head_lanes)),
                ][..],
                &self.rotary_overrides(),
                &state.format.turn_overrides(self.head_dim),
            ]
            .concat(),
            bindings: vec![
                ("qkv", Bind::Input(0)),
                ("table", Bind::Input(1)),
                ("q", Bind::Output(0)),
                ("key_cache", Bind::Output(1)),
                ("value_cache", Bind::Output(2)),
            ],
            workgroups: [Extent::Fixed(lanes.div_ceil(INVOCATIONS)), Extent::Tokens { per: 1 }, Extent::Fixed(1)],
            scratch: vec![],
        }]
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let (heads, kv_heads, head_dim) = (self.heads as usize, self.kv_heads as usize, self.head_dim as usize);
        let (qkv, table) = (inputs[0].f32(), inputs[1].f32());
        let [q, keys, values] = outputs else {
            panic!("rope_append has the outputs q, key cache and value cache, not {}", outputs.len());
        };
        let context_length = keys.len() / (kv_heads * head_dim);
        for token in 0..step.tokens as usize {
            let position = step.position as usize + token;
            let turns = &table[position * self.rotary_dim as usize..][..self.rotary_dim as usize];
            let row = &qkv[token * (heads + 2 * kv_heads) * head_dim..];
            for head in 0..heads {
                let output = &mut q[(token * heads + head) * head_dim..][..head_dim];
                self.rotate(&row[head * head_dim..][..head_dim], turns, output);
                self.format.turn(output);
            }
            for head in 0..kv_heads {
                let at = (head * context_length + position) * head_dim;
                self.rotate(&row[(heads + head) * head_dim..][..head_dim], turns, &mut keys[at..at + head_dim]);
                self.format.turn(&mut keys[at..at + head_dim]);
                self.format.round_row(&mut keys[at..at + head_dim]);
                let value = &row[(heads + kv_heads + head) * head_dim..][..head_dim];
                values[at..at + head_dim].iter_mut().zip(value).for_each(|(to, from)| *to = self.clipped(*from));
                self.format.turn(&mut values[at..at + head_dim]);
                self.format.round_row(&mut values[at..at + head_dim]);
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes = [
        // tokens, position, heads, kv_heads, head_dim, rotary_dim, context_length
        (1, 0, 4, 4, 12, 12, 8),
        (1, 30, 9, 3, 64, 64, 31),
        (5, 7, 4, 4, 80, 20, 16),
        (3, 2, 7, 1, 64, 64, 9),
        (16, 0, 3, 1, 100, 100, 16),
        (6, 10, 2, 2, 256, 64, 20),
        (4, 1, 3, 3, 20, 0, 8),
    ];
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        for format in KvFormat::ALL {
            for (tokens, position, heads, kv_heads, head_dim, rotary_dim, context_length) in shapes {
                let state = CaseInput::State(StateType { kv_heads, context_length, head_dim, format });
                let clip = (head_dim % 20 == 0).then_some(0.5);
                cases.push(Case {
                    label: format!(
                        "rope_append {style:?} {format:?} tokens {tokens} at {position}/{context_length} \
                         heads {heads}/{kv_heads}x{head_dim} rotary {rotary_dim} clip {clip:?}"
                    ),
                    op: Box::new(RopeAppend { heads, kv_heads, head_dim, rotary_dim, style, clip, format }),
                    inputs: vec![
                        CaseInput::Activation(TensorType::f32([
                            Dim::Tokens,
                            Dim::Fixed((heads + 2 * kv_heads) * head_dim),
                        ])),
                        CaseInput::RopeTable { positions: context_length as usize, rotary_dim: rotary_dim as usize },
                    ],
                    outputs: vec![
                        CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(heads * head_dim)])),
                        state.clone(),
                        state,
                    ],
                    step: Step::new(tokens, position, 1),
                    max_nmse: match format {
                        KvFormat::F32 => 1e-12,
                        KvFormat::F16 => 1e-6,
                        // Room for one value that rotation's last bit took to the code beside.
                        KvFormat::Q8_0 => 2e-5,
                        KvFormat::Q4_0 => 5e-4,
                    },
                });
            }
        }
    }
    cases
}
