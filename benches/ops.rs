//! Kernels at model sizes, against the rate at which the device reads a large matrix, measured in the same run.
//!
//! `cargo bench --bench ops -- [--adapter INDEX] [--filter TEXT] [--smoke]`; `--smoke` runs small sizes once, to show
//! that it works.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::Instant;

use wgpt::exec::{ExecError, FilledCase};
use wgpt::gpu::{Device, DeviceOptions};
use wgpt::ops::{Attention, Case, CaseInput, KvFormat, Matmul, RopeAppend, RopeAttention, RopeStyle, StateType, Step};
use wgpt::quant::{BlockFormat, FORMATS};
use wgpt::tensor::{Dim, TensorType};

/// Seconds of work before anything is timed, and of each timed run: an idle GPU runs at a fraction of its clock.
const WARM_UP: f64 = 0.2;

/// Formats and rows of which forwards of few tokens are timed.
const FEW_FORMATS: [&str; 5] = ["f16", "q8_0", "q4_0", "q4_k", "nf4"];
const FEW: [u32; 4] = [1, 2, 8, 16];

struct Figure {
    case: Case,
    bytes: f64,
    flops: f64,
}

fn matmul(format: &'static dyn BlockFormat, tokens: u32, rows: usize, cols: usize) -> Figure {
    // SmolLM2's rows of 576 are not whole blocks of 256.
    let cols = cols.next_multiple_of(format.block_len());
    let weight = format.layout(rows, cols).bytes as f64;
    let activations = f64::from(tokens) * (rows + cols) as f64 * 4.0;
    let case = Case {
        label: format!("matmul {} {tokens}x{cols} by {rows}", format.name()),
        op: Box::new(Matmul::plain()),
        inputs: vec![
            CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(cols as u32)])),
            CaseInput::Weight { format, rows, cols, slice_rows: rows },
        ],
        outputs: vec![CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(rows as u32)]))],
        step: Step::new(tokens, 0, 1),
        max_nmse: 0.0,
    };
    Figure { case, bytes: weight + activations, flops: 2.0 * f64::from(tokens) * (rows * cols) as f64 }
}

/// The same as one row and few are computed by default: formats of integer codes times rounded rows.
fn few(format: &'static dyn BlockFormat, tokens: u32, rows: usize, cols: usize) -> Figure {
    let mut figure = matmul(format, tokens, rows, cols);
    if format.integer() {
        figure.case.label += ", rounded";
        figure.case.op = Box::new(Matmul { quantized: true, ..Matmul::plain() });
        let rounded = figure.case.inputs.iter().find_map(|input| match input {
            CaseInput::Activation(ty) => Some(CaseInput::Activation(ty.rounded())),
            _ => None,
        });
        figure.case.inputs.extend(rounded);
    }
    figure
}

fn attention(tokens: u32, context: u32, heads: u32, head_dim: u32, format: KvFormat) -> Figure {
    let state = StateType { kv_heads: heads, context_length: context, head_dim, format };
    let width = heads * head_dim;
    let row = TensorType::f32([Dim::Tokens, Dim::Fixed(width)]);
    let op = Attention {
        heads,
        kv_heads: heads,
        head_dim,
        scale: 0.1,
        window: None,
        softcap: None,
        alibi: None,
        format,
        quantized: false,
    };
    let pairs = f64::from(tokens) * (f64::from(context) - f64::from(tokens) / 2.0);
    Figure {
        case: Case {
            label: format!("attention {tokens} tokens, context {context}, {heads} heads of {head_dim}, {format} cache"),
            op: Box::new(op),
            inputs: vec![CaseInput::Activation(row.clone()), CaseInput::State(state), CaseInput::State(state)],
            outputs: vec![CaseInput::Activation(row)],
            step: Step::new(tokens, context - tokens, 1),
            max_nmse: 0.0,
        },
        bytes: 2.0 * state.bytes() as f64,
        flops: 4.0 * pairs * f64::from(width),
    }
}

/// A token from its fused row: rope, append and attention, and its row rounded as integer matmuls read it.
fn rope_attention(context: u32, heads: u32, kv_heads: u32, head_dim: u32, format: KvFormat) -> Figure {
    let Figure { mut case, bytes, flops } = attention(1, context, heads, head_dim, format);
    let rotary_dim = head_dim / 4;
    let op = RopeAttention {
        rope: RopeAppend { heads, kv_heads, head_dim, rotary_dim, style: RopeStyle::HalfSplit, clip: None, format },
        attention: Attention {
            heads,
            kv_heads,
            head_dim,
            scale: 0.1,
            window: None,
            softcap: None,
            alibi: None,
            format,
            quantized: true,
        },
    };
    let row = |columns| TensorType::f32([Dim::Tokens, Dim::Fixed(columns)]);
    let state = CaseInput::State(StateType { kv_heads, context_length: context, head_dim, format });
    let attended = row(heads * head_dim);
    case.label = format!("rope_attention, context {context}, {heads}/{kv_heads} heads of {head_dim}, {format} cache");
    case.op = Box::new(op);
    case.inputs = vec![
        CaseInput::Activation(row((heads + 2 * kv_heads) * head_dim)),
        CaseInput::RopeTable { positions: context as usize, rotary_dim: rotary_dim as usize },
    ];
    case.outputs = vec![
        CaseInput::Activation(attended.clone()),
        CaseInput::Activation(attended.clone()),
        state.clone(),
        state,
        CaseInput::Activation(attended.rounded()),
    ];
    Figure { case, bytes: bytes * f64::from(kv_heads) / f64::from(heads), flops }
}

/// Seconds of one run of `work`, from as many runs as fill the warm-up time.
fn time(smoke: bool, mut work: impl FnMut(usize) -> Result<(), ExecError>) -> Result<f64, ExecError> {
    work(1)?;
    if smoke {
        return Ok(0.0);
    }
    let start = Instant::now();
    work(2)?;
    let times = (WARM_UP / (start.elapsed().as_secs_f64() / 2.0)).clamp(1.0, 20_000.0) as usize;
    work(times)?;
    let start = Instant::now();
    work(times)?;
    Ok(start.elapsed().as_secs_f64() / times as f64)
}

/// Bytes a second at which the device reads the largest matrix it binds, up to 1 GiB: the ceiling of decode.
fn read_bandwidth(device: &Device, smoke: bool) -> Result<f64, ExecError> {
    let bytes = if smoke || device.traits.software { 16 << 20 } else { 1 << 30 };
    let rows = (bytes.min(device.max_binding) / (4 * 4096)) as usize;
    let figure = matmul(&wgpt::quant::F32, 1, rows, 4096);
    Ok(figure.bytes / seconds(device, &figure.case, smoke)?)
}

/// Seconds of one run of a case.
fn seconds(device: &Device, case: &Case, smoke: bool) -> Result<f64, ExecError> {
    let prepared = FilledCase::new(case, 1).prepare(device)?;
    time(smoke, |times| {
        for start in (0..times).step_by(200) {
            prepared.submit(device, 200.min(times - start))?;
        }
        Ok(device.flush()?)
    })
}

/// Shapes of a GPT-NeoX 2.8B token, o and down apart and as one; on a software adapter those of SmolLM2-135M.
fn figures(device: &Device, smoke: bool) -> Vec<Figure> {
    let shapes: &[(usize, usize)] = match (smoke, device.traits.software) {
        (true, _) => &[(64, 64)],
        (_, true) => &[(960, 576), (576, 576), (3072, 576), (576, 1536), (49152, 576)],
        _ => &[(7680, 2560), (2560, 2560), (10240, 2560), (2560, 10240), (2560, 12800), (50432, 2560)],
    };
    let prompt = if device.traits.software { 64 } else { 512 };
    let mut figures = Vec::new();
    for format in FORMATS {
        for (rows, cols) in shapes {
            figures.push(matmul(*format, 1, *rows, *cols));
        }
        // The head, which is last, computes one row of a prompt.
        let layer = &shapes[..shapes.len().max(2) - 1];
        figures.extend(layer.iter().map(|(rows, cols)| matmul(*format, prompt, *rows, *cols)));
    }
    for format in FORMATS.iter().filter(|format| FEW_FORMATS.contains(&format.name())) {
        for (rows, cols) in shapes {
            figures.extend(FEW.iter().map(|tokens| few(*format, *tokens, *rows, *cols)));
        }
    }
    let contexts: &[u32] = if smoke { &[64] } else { &[512, 2048, 8192] };
    for format in KvFormat::ALL {
        figures.extend(contexts.iter().map(|context| attention(1, *context, 32, 80, format)));
        figures.extend(contexts.iter().map(|context| rope_attention(*context, 32, 32, 80, format)));
        figures.extend(contexts.iter().map(|context| rope_attention(*context, 32, 8, 128, format)));
        figures.push(if smoke { attention(16, 16, 4, 16, format) } else { attention(prompt, 512, 32, 80, format) });
    }
    figures
}

fn main() -> Result<(), ExecError> {
    let arguments: Vec<String> = std::env::args().collect();
    let smoke = arguments.iter().any(|argument| argument == "--smoke");
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    let index = value("--adapter").and_then(|index| index.parse().ok()).unwrap_or(0);
    let device = Device::open(index, DeviceOptions::default())?;
    let ceiling = read_bandwidth(&device, smoke)?;
    if smoke {
        println!("{}: every kind of kernel once, untimed", device.info.name);
    } else {
        println!("{}: reads {:.0} GB/s", device.info.name, ceiling / 1e9);
    }
    println!("{:<64} {:>10} {:>9} {:>9} {:>9}", "case", "µs", "GB/s", "of reads", "TFLOP/s");
    let wanted = value("--filter").unwrap_or_default();
    for Figure { case, bytes, flops } in figures(&device, smoke) {
        if !case.label.contains(&wanted) {
            continue;
        }
        let seconds = seconds(&device, &case, smoke)?;
        if smoke {
            println!("{:<64}       ran", case.label);
            continue;
        }
        println!(
            "{:<64} {:>10.2} {:>9.1} {:>8.0}% {:>9.3}",
            case.label,
            seconds * 1e6,
            bytes / seconds / 1e9,
            100.0 * bytes / seconds / ceiling,
            flops / seconds / 1e12
        );
    }
    Ok(())
}
