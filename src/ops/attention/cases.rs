//! Cases of attention: kernels and reference compute the same.

use super::{Alibi, Attention};
use crate::ops::{Case, CaseInput, KvFormat, StateType, Step};
use crate::tensor::{Dim, TensorType};

struct Shape {
    tokens: u32,
    position: u32,
    context_length: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
}

pub(in crate::ops) fn cases() -> Vec<Case> {
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
        shape(33, 0, 40, 4, 4, 48),
        shape(70, 130, 200, 7, 1, 32),
        shape(65, 31, 96, 2, 1, 256),
        shape(40, 100, 300, 4, 2, 100),
        shape(17, 15, 32, 2, 2, 128),
        shape(130, 70, 200, 4, 4, 80),
    ];
    let variants = [(None, None), (Some(1), None), (Some(37), None), (None, Some(3.0)), (Some(150), Some(20.0))];
    let mut cases = Vec::new();
    for (number, format) in KvFormat::ALL.into_iter().enumerate() {
        for (index, shape) in shapes.iter().enumerate() {
            // Windows and caps do not know the format: each shape has others with each.
            let (window, softcap) = variants[(number + index) % variants.len()];
            // Sharp scores now and then: outliers must neither overflow nor vanish.
            let scale = if [32, 64].contains(&shape.head_dim) { 2.0 } else { (shape.head_dim as f32).sqrt().recip() };
            cases.push(case(shape, format, scale, window, softcap, None));
        }
    }
    // decode: the last position of one workgroup, the first of two, several pieces
    for shape in [shape(1, 511, 600, 4, 2, 64), shape(1, 512, 600, 3, 1, 80), shape(1, 1999, 2000, 6, 2, 96)] {
        cases.extend(KvFormat::ALL.map(|format| case(&shape, format, 0.1, None, None, None)));
        cases.push(case(&shape, KvFormat::F16, 0.1, Some(600), Some(20.0), None));
    }
    for shape in &shapes {
        let scale = (shape.head_dim as f32).sqrt().recip();
        cases.push(case(shape, KvFormat::F32, scale, None, None, Some(Alibi::Exact)));
        cases.push(case(shape, KvFormat::F32, scale, Some(37), None, Some(Alibi::Rounded { scale: 0.125 })));
    }
    // Results of f16, by both kernels of prompts.
    for (shape, format) in [(&shapes[8], KvFormat::F16), (&shapes[9], KvFormat::F32), (&shapes[13], KvFormat::F16)] {
        let mut case = case(shape, format, 0.1, None, None, None);
        case.halve_outputs();
        cases.push(case);
    }
    cases.push(case(&shapes[3], KvFormat::F32, 1e4, None, None, None));
    cases.push(case(&shapes[9], KvFormat::F32, 1e4, None, None, None));
    cases
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
    let op = Attention { heads, kv_heads, head_dim, scale, window, softcap, alibi, format, quantized: false };
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
