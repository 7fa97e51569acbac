//! Decode makes the same bits of a token whether one kernel does it all from the fused row or several do, and whether
//! it is alone in its forward or one of a few.

mod common;

use common::all_adapters;
use wgpt::exec::FilledCase;
use wgpt::gpu::{Device, DeviceOptions, Tier};
use wgpt::ops::{
    Alibi, Attention, Call, Case, CaseInput, HostInput, Kernel, KvFormat, Op, Phase, RopeAppend, RopeAttention,
    RopeStyle, StateType, Step,
};
use wgpt::tensor::{Dim, TensorType};

/// The op by the kernels that take several tokens, also where it has one.
#[derive(Debug)]
struct Several(RopeAttention);

impl Op for Several {
    fn name(&self) -> &'static str {
        "several"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        self.0.kernels(&Call { phase: Phase::Few, ..call.clone() })
    }

    fn reference(&self, step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        self.0.reference(step, inputs, outputs);
    }
}

/// Room in the caches, more than a few positions: the forwards end in one workgroup's share, behind it, and between.
const CONTEXT: u32 = 1100;

fn row(columns: u32) -> TensorType {
    TensorType::f32([Dim::Tokens, Dim::Fixed(columns)])
}

/// A forward of these tokens' rows from `position`, over these caches.
fn case(op: &RopeAttention, several: bool, rows: &[f32], position: u32, caches: Option<[&[f32]; 2]>) -> Case {
    let Attention { heads, kv_heads, head_dim, format, quantized, .. } = op.attention.clone();
    let width = (heads + 2 * kv_heads) * head_dim;
    let tokens = rows.len() as u32 / width;
    let state = StateType { kv_heads, context_length: CONTEXT, head_dim, format };
    let cache = |index: usize| match caches {
        Some(caches) => CaseInput::Cache(state, caches[index].to_vec()),
        None => CaseInput::State(state),
    };
    let mut inputs = vec![
        CaseInput::Values(rows.to_vec()),
        CaseInput::RopeTable { positions: CONTEXT as usize, rotary_dim: op.rope.rotary_dim as usize },
    ];
    let slopes = (1..=heads).map(|head| 0.02 * head as f32).collect();
    inputs.extend(op.attention.alibi.map(|_| CaseInput::Values(slopes)));
    let output = row(heads * head_dim);
    let mut outputs =
        vec![CaseInput::Activation(output.clone()), CaseInput::Activation(row(heads * head_dim)), cache(0), cache(1)];
    outputs.extend(quantized.then(|| CaseInput::Activation(output.rounded())));
    Case {
        label: format!("{op:?}"),
        op: if several { Box::new(Several(op.clone())) } else { Box::new(op.clone()) },
        inputs,
        outputs,
        step: Step::new(tokens, position, 1),
        max_nmse: 0.0,
    }
}

fn run(device: &Device, case: &Case) -> Vec<Vec<f32>> {
    let filled = FilledCase::new(case, 5);
    let found = filled.prepare(device).and_then(|prepared| prepared.run(device)).expect("the case runs");
    assert!(found.guards_intact, "{}: wrote behind an output", case.label);
    found.outputs
}

/// Every token of a forward of several has the bits that it has alone, by either way.
fn same_bits(device: &Device, op: &RopeAttention, position: u32, tokens: u32) {
    let &Attention { heads, kv_heads, head_dim, .. } = &op.attention;
    let width = ((heads + 2 * kv_heads) * head_dim) as usize;
    let rows: Vec<f32> = (0..tokens as usize * width).map(|i| ((i * 7919 + 13) % 1009) as f32 / 400.0 - 1.2).collect();
    let all = run(device, &case(op, true, &rows, position, None));
    let attended = (heads * head_dim) as usize;
    for token in 0..tokens as usize {
        let row = &rows[token * width..][..width];
        for several in [true, false] {
            let alone = case(op, several, row, position + token as u32, Some([&all[2], &all[3]]));
            let found = run(device, &alone);
            let what = format!("token {token} of {tokens} from {position}, several: {several}, {op:?}");
            let row = token * attended..(token + 1) * attended;
            assert!(found[0] == all[0][row.clone()], "{what}: attended to something else");
            assert!(found[2] == all[2] && found[3] == all[3], "{what}: the caches hold something else");
            if op.attention.quantized {
                assert!(found[4] == all[4][row], "{what}: rounded to something else");
            }
        }
    }
}

fn op(heads: u32, kv_heads: u32, head_dim: u32, format: KvFormat) -> RopeAttention {
    let (style, rotary_dim) = (RopeStyle::HalfSplit, head_dim / 2);
    RopeAttention {
        rope: RopeAppend { heads, kv_heads, head_dim, rotary_dim, style, clip: None, format },
        attention: Attention {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            window: None,
            softcap: None,
            alibi: None,
            format,
            quantized: false,
        },
    }
}

fn check(options: DeviceOptions) {
    for adapter in all_adapters() {
        let device = Device::open(adapter.index, options).expect("the adapter opens");
        for format in KvFormat::ALL {
            for (heads, kv_heads, head_dim) in [(3, 3, 80), (7, 1, 64), (4, 2, 100)] {
                for (position, tokens) in [(0, 3), (509, 6), (1020, 2)] {
                    same_bits(&device, &op(heads, kv_heads, head_dim, format), position, tokens);
                }
            }
        }
        let mut changed = vec![op(4, 2, 96, KvFormat::F16); 4];
        changed[0].rope.style = RopeStyle::Interleaved;
        changed[0].attention.window = Some(600);
        changed[1].attention.alibi = Some(Alibi::Exact);
        changed[1].attention.window = Some(70);
        changed[2].attention.alibi = Some(Alibi::Rounded { scale: 0.125 });
        changed[2].attention.softcap = Some(5.0);
        changed[2].rope.clip = Some(0.5);
        changed[3].attention.quantized = true;
        for op in changed {
            for (position, tokens) in [(40, 16), (510, 4)] {
                same_bits(&device, &op, position, tokens);
            }
        }
    }
}

#[test]
fn a_token_has_the_same_bits_however_it_is_decoded() {
    check(DeviceOptions { tier: Tier::Full, checks: false, ..DeviceOptions::default() });
}

#[test]
fn a_token_has_the_same_bits_on_plain_webgpu() {
    check(DeviceOptions { tier: Tier::Plain, checks: true, ..DeviceOptions::default() });
}
