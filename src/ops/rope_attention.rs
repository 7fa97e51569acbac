//! `rope_attention`: rotary embedding, append to the cache, and attention, of a fused row.
//!
//! It is [`RopeAppend`] and [`Attention`] one after the other; of one token, where the cache has no blocks, in one kernel.
//! Invariant: the bits are those of the two.

use super::attention::Operands;
use super::{
    Alibi, Attention, Bind, Call, Case, CaseInput, HostInput, Kernel, KvFormat, Op, Phase, RopeAppend, RopeStyle,
    StateType, Step,
};
use crate::tensor::{Dim, TensorType};

/// Inputs: qkv and the table of [`RopeAppend`], then [`Attention`]'s slopes where it has any. Outputs: what was attended
/// to, q, key cache, value cache, and with `attention.quantized` the first one rounded. q is [`RopeAppend`]'s, and left
/// alone where nothing but the fused kernel runs.
#[derive(Debug, Clone)]
pub struct RopeAttention {
    /// What is done to the row first; agrees with `attention` in heads and format.
    pub rope: RopeAppend,
    /// What is done then.
    pub attention: Attention,
}

impl RopeAttention {
    /// Whether one token's kernel does it all: blocks are turned and rounded by more lanes than a head has there.
    const fn fuses(&self) -> bool {
        !self.attention.format.has_blocks()
    }

    /// rope_append's kernels, then attention's.
    fn both(&self, call: &Call<'_>) -> Vec<Kernel> {
        let [q, keys, values] = [1, 2, 3].map(|output| call.outputs[output].clone());
        let between = [q, keys, values];
        let append = Call { outputs: &between, ..call.clone() };
        let attention = Call { inputs: &between, ..call.clone() };
        let appended = |bind| match bind {
            Bind::Output(n) => Bind::Output(n + 1),
            other => other,
        };
        let attended = |bind| match bind {
            Bind::Input(3) => Bind::Input(2),
            Bind::Input(n) => Bind::Output(n + 1),
            Bind::Output(1) => Bind::Output(4),
            other => other,
        };
        let rebound = |mut kernel: Kernel, to: &dyn Fn(Bind) -> Bind| {
            kernel.bindings.iter_mut().for_each(|(_, bind)| *bind = to(*bind));
            kernel
        };
        let first = self.rope.kernels(&append).into_iter().map(|kernel| rebound(kernel, &appended));
        first.chain(self.attention.kernels(&attention).into_iter().map(|kernel| rebound(kernel, &attended))).collect()
    }
}

impl Op for RopeAttention {
    fn name(&self) -> &'static str {
        "rope_attention"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        if call.phase != Phase::Decode || !self.fuses() {
            return self.both(call);
        }
        let operands = Operands {
            queries: vec![("qkv", Bind::Input(0)), ("table", Bind::Input(1))],
            keys: Bind::Output(2),
            values: Bind::Output(3),
            slopes: Bind::Input(if self.attention.alibi.is_some() { 2 } else { 0 }),
            output: Bind::Output(0),
            rounded: Bind::Output(4),
        };
        self.attention.fused(&self.rope, Call::state(&call.outputs[2]), call.traits, operands)
    }

    fn writes_f16(&self, output: usize, call: &Call<'_>) -> bool {
        call.phase == Phase::Prefill && output == 0 && self.attention.format.span(self.attention.head_dim) == 1
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let (attended, rest) = outputs.split_at_mut(1);
        let (states, rounded) = rest.split_at_mut(3);
        let [q, keys, values] = states else { unreachable!("three were split off") };
        let mut rotated = q.to_vec();
        self.rope.reference(step, &inputs[..2], &mut [&mut rotated, keys, values]);
        let mut operands = vec![HostInput::F32(&rotated), HostInput::F32(keys), HostInput::F32(values)];
        operands.extend(inputs.get(2).map(|slopes| HostInput::F32(slopes.f32())));
        let mut results: Vec<&mut [f32]> = attended.iter_mut().chain(rounded).map(|output| &mut **output).collect();
        self.attention.reference(step, &operands, &mut results);
        if step.tokens > 1 || !self.fuses() {
            q.copy_from_slice(&rotated);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // tokens, position, context_length, heads, kv_heads, head_dim, rotary_dim: MHA, GQA, MQA; the first position, the
    // last of one workgroup, the first of two, several pieces, a full context; a prompt
    let shapes = [
        (1, 0, 40, 4, 4, 12, 12),
        (1, 38, 40, 9, 3, 64, 64),
        (1, 510, 600, 3, 3, 80, 20),
        (1, 511, 600, 4, 2, 100, 100),
        (1, 512, 600, 7, 1, 64, 64),
        (1, 1999, 2000, 6, 1, 96, 32),
        (1, 699, 700, 4, 2, 256, 64),
        (1, 1023, 1030, 2, 2, 20, 0),
        (1, 767, 2000, 12, 2, 128, 128),
        (5, 510, 600, 4, 2, 80, 20),
    ];
    for format in KvFormat::ALL {
        // Caches in blocks have rope_append's kernel and attention's, which their own cases try.
        let shapes = if format.has_blocks() { &shapes[3..6] } else { &shapes[..] };
        for &(tokens, position, context_length, heads, kv_heads, head_dim, rotary_dim) in shapes {
            let plain = Plain { tokens, position, context_length, heads, kv_heads, head_dim, rotary_dim, format };
            cases.push(plain.case(|_| ()));
        }
    }
    for (index, (tokens, position, context_length, heads, kv_heads, head_dim, rotary_dim)) in
        shapes.into_iter().enumerate()
    {
        let format = KvFormat::F16;
        let plain = Plain { tokens, position, context_length, heads, kv_heads, head_dim, rotary_dim, format };
        cases.push(plain.case(|op| match index % 4 {
            0 => {
                (op.rope.style, op.rope.clip) = (RopeStyle::Interleaved, Some(0.5));
                (op.attention.window, op.attention.softcap) = (Some(600), Some(20.0));
            }
            1 => (op.attention.window, op.attention.alibi) = (Some(37), Some(Alibi::Exact)),
            2 => op.attention.alibi = Some(Alibi::Rounded { scale: 0.125 }),
            _ => {
                op.rope.style = RopeStyle::Interleaved;
                op.attention.window = Some(600);
            }
        }));
    }
    // Rounded rows.
    for (position, heads, kv_heads, head_dim) in [(38, 4, 2, 80), (511, 2, 2, 64), (513, 6, 1, 96), (1200, 2, 2, 256)] {
        for format in [KvFormat::F16, KvFormat::Q8_0] {
            let (tokens, context_length) = (1, 1300);
            let rotary_dim = head_dim / 2;
            let plain = Plain { tokens, position, context_length, heads, kv_heads, head_dim, rotary_dim, format };
            cases.push(plain.case(|op| op.attention.quantized = true));
        }
    }
    cases
}

/// Sizes of a case.
struct Plain {
    tokens: u32,
    position: u32,
    context_length: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    rotary_dim: u32,
    format: KvFormat,
}

impl Plain {
    /// A case of these sizes, changed in other ways.
    fn case(&self, change: impl FnOnce(&mut RopeAttention)) -> Case {
        let &Self { tokens, position, context_length, heads, kv_heads, head_dim, rotary_dim, format } = self;
        let style = RopeStyle::HalfSplit;
        let scale = (head_dim as f32).sqrt().recip();
        let mut op = RopeAttention {
            rope: RopeAppend { heads, kv_heads, head_dim, rotary_dim, style, clip: None, format },
            attention: Attention {
                heads,
                kv_heads,
                head_dim,
                scale,
                window: None,
                softcap: None,
                alibi: None,
                format,
                quantized: false,
            },
        };
        change(&mut op);
        let row = |columns| TensorType::f32([Dim::Tokens, Dim::Fixed(columns)]);
        let state = CaseInput::State(StateType { kv_heads, context_length, head_dim, format });
        let mut inputs = vec![
            CaseInput::Activation(row((heads + 2 * kv_heads) * head_dim)),
            CaseInput::RopeTable { positions: context_length as usize, rotary_dim: rotary_dim as usize },
        ];
        inputs.extend(op.attention.alibi.map(|_| CaseInput::Vector(heads as usize)));
        let output = row(heads * head_dim);
        let q = CaseInput::Activation(row(heads * head_dim));
        let mut outputs = vec![CaseInput::Activation(output.clone()), q, state.clone(), state];
        outputs.extend(op.attention.quantized.then(|| CaseInput::Activation(output.rounded())));
        Case {
            label: format!("{tokens} tokens at {position}/{context_length} {op:?}"),
            inputs,
            outputs,
            step: Step::new(tokens, position, 1),
            // As of rope_append and attention; a value half-way between two codes may fall to either side.
            max_nmse: match format {
                KvFormat::F32 => 1e-10,
                KvFormat::F16 if op.attention.quantized => 5e-6,
                KvFormat::F16 => 1e-6,
                KvFormat::Q8_0 => 2e-5,
                KvFormat::Q4_0 => 5e-4,
            },
            op: Box::new(op),
        }
    }
}
