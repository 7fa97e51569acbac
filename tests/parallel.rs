//! Layers whose two parts read the same input: their last matrices are one where they can be, which changes nothing
//! but the number of dispatches.

mod common;

use std::path::Path;

use common::{all_adapters, nmse, repository};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{
    Activations, Batch, ExecError, ExecOptions, LogitRows, WeightSource, describe_checkpoint, lower_checkpoint, open,
};
use wgpt::gpu::{AdapterChoice, DeviceOptions};
use wgpt::graph::{Graph, LowerOptions, Quantize, Vector, lower};
use wgpt::model::{ModelSpec, NormSpec, Residual};
use wgpt::ops::KvFormat;
use wgpt::quant::{self, BlockFormat, FORMATS};

/// Tiny checkpoints of parallel layers.
const PARALLEL: [&str; 8] = [
    "tiny-falcon-7b",
    "tiny-falcon-11b",
    "tiny-falcon-40b",
    "tiny-gpt-neox-parallel",
    "tiny-gptj",
    "tiny-phi",
    "tiny-phi-qk-layernorm",
    "tiny-stablelm-2-12b",
];

fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(&repository("checkpoints").join(name)).expect("the checkpoint opens")
}

/// The ops of layer 0, in order.
fn ops(graph: &Graph) -> Vec<&'static str> {
    let unit = graph.units.iter().find(|unit| unit.name == "layer 0").expect("the layer is a unit");
    graph.nodes[unit.nodes.clone()].iter().map(|node| node.op.name()).collect()
}

#[test]
fn every_parallel_layer_is_one_matmul_shorter() {
    for name in PARALLEL {
        let checkpoint = checkpoint(name);
        let lowered = |apart| {
            let options = ExecOptions { apart, ..ExecOptions::default() };
            lower_checkpoint(&checkpoint, &options).expect("it lowers")
        };
        let ((spec, joined), (_, apart)) = (lowered(false), lowered(true));
        assert!(spec.layers.iter().all(|layer| layer.residual == Residual::Parallel), "{name} has parallel layers");
        assert_eq!(joined.nodes.len() + spec.layers.len(), apart.nodes.len(), "{name}: a node a layer");
        assert_eq!(joined.weights.len() + spec.layers.len(), apart.weights.len(), "{name}: a weight a layer");
        let values = |graph: &Graph| -> usize { graph.weights.iter().map(|w| w.rows() * w.cols()).sum() };
        assert_eq!(values(&joined), values(&apart), "{name}: all weights are there");
    }
    let (_, graph) =
        lower_checkpoint(&checkpoint("tiny-gpt-neox-parallel"), &ExecOptions::default()).expect("it lowers");
    let expected = ["layer_norm", "matmul", "rope_attention", "matmul", "matmul"];
    assert_eq!(ops(&graph), expected, "both norms at once, up right behind attention, then one matmul for o and down");
    assert!(graph.vectors.iter().any(|vector| matches!(vector, Vector::Sum(_))), "the biases are added at load");
}

/// Matmuls of layer 0 where the attention's last matrix and the MLP's are stored like this.
fn matmuls(spec: &ModelSpec, o: &'static dyn BlockFormat, down: &'static dyn BlockFormat) -> usize {
    let format_of = |tensor: &str| Some(if tensor.contains("4h_to_h") { down } else { o });
    let (kv_format, format_of) = (KvFormat::F16, &format_of);
    let options =
        LowerOptions { context_length: 64, kv_format, integer: false, format_of, ordered: &|_| None, apart: false };
    let graph = lower(spec, &options).expect("it lowers");
    ops(&graph).iter().filter(|op| **op == "matmul").count()
}

#[test]
fn matrices_that_can_t_be_one_stay_two() {
    let folder = tempfile::tempdir().expect("a folder");
    write_model(folder.path(), 256, 512);
    let spec = describe_checkpoint(&Checkpoint::open(folder.path()).expect("it opens")).expect("it is described");
    assert_eq!(matmuls(&spec, &quant::Q4K, &quant::Q4K), 3, "one format, whole blocks");
    assert_eq!(matmuls(&spec, &quant::Q4K, &quant::Q6K), 4, "two formats, as in mixes of k-quants");
    assert_eq!(matmuls(&spec, &quant::NF4, &quant::NF4), 3, "a scale for each block");
    assert_eq!(matmuls(&spec, &quant::NF4_DQ, &quant::NF4_DQ), 4, "256 blocks have a mean and a step in common");
    let mut wide = spec.clone();
    wide.layers[0].attention.o.weight.cols = 256 * 64;
    assert_eq!(matmuls(&wide, &quant::NF4_DQ, &quant::NF4_DQ), 3, "as many blocks as have them in common");
    let mut odd = spec.clone();
    odd.layers[0].attention.o.weight.cols = 128;
    assert_eq!(matmuls(&odd, &quant::Q4K, &quant::Q4K), 4, "a row that ends within a block");
    for norm in 0..2 {
        let mut normed = spec.clone();
        let layer = &mut normed.layers[0];
        *[&mut layer.attention_post_norm, &mut layer.mlp_post_norm][norm] = Some(NormSpec::plain_layer(1e-5));
        assert_eq!(matmuls(&normed, &quant::F16, &quant::F16), 4, "a norm behind one of them");
    }
    let mut sequential = spec.clone();
    sequential.layers[0].residual = Residual::Sequential;
    assert_eq!(matmuls(&sequential, &quant::F16, &quant::F16), 4, "an MLP that waits for attention");
    let mut experts = describe_checkpoint(&checkpoint("tiny-mixtral")).expect("it is described");
    experts.layers[0].residual = Residual::Parallel;
    assert_eq!(matmuls(&experts, &quant::F16, &quant::F16), 3, "qkv, o, router: experts have no one last matrix");
}

/// Where o and down read rows rounded to 8 bits, attention and up round what they make.
#[test]
fn attention_rounds_the_row_that_o_and_down_read() {
    let folder = tempfile::tempdir().expect("a folder");
    write_model(folder.path(), 256, 512);
    let spec = describe_checkpoint(&Checkpoint::open(folder.path()).expect("it opens")).expect("it is described");
    let lowered = |spec: &ModelSpec, integer, apart| {
        let format_of = |_: &str| Some(&quant::Q4_0 as &'static dyn BlockFormat);
        let (kv_format, format_of) = (KvFormat::F16, &format_of);
        let options = LowerOptions { context_length: 64, kv_format, integer, format_of, ordered: &|_| None, apart };
        let graph = lower(spec, &options).expect("it lowers");
        let outputs = graph.nodes.iter().find(|node| node.op.name() == "rope_attention").expect("it attends");
        (outputs.outputs.len(), ops(&graph).iter().filter(|op| **op == "quantize_row").count())
    };
    assert_eq!(lowered(&spec, false, false), (4, 0), "nothing is rounded");
    assert_eq!(lowered(&spec, true, false), (5, 0), "attention rounds its row, up its own");
    assert_eq!(lowered(&spec, true, true), (5, 0), "and so they do for two matrices");
    let mut small = spec.clone();
    (small.layers[0].attention.heads, small.layers[0].attention.kv_heads) = (64, 64);
    small.layers[0].attention.head_dim = 4;
    assert_eq!(lowered(&small, true, false), (4, 1), "heads that are no whole blocks");
}

const VOCAB: usize = 64;

/// A GPT-NeoX model of one parallel layer, its numbers seeded.
fn write_model(folder: &Path, hidden: usize, intermediate: usize) {
    let config = json!({
        "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu", "hidden_size": hidden,
        "intermediate_size": intermediate, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": VOCAB,
        "rotary_emb_base": 10000, "rotary_pct": 0.25, "layer_norm_eps": 1e-5, "max_position_embeddings": 64,
        "use_parallel_residual": true, "tie_word_embeddings": false,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("it writes");
    let layer = "gpt_neox.layers.0";
    let mut shapes = vec![("gpt_neox.embed_in.weight".to_owned(), vec![VOCAB, hidden])];
    shapes.push(("embed_out.weight".into(), vec![VOCAB, hidden]));
    let linears = [
        ("attention.query_key_value", 3 * hidden, hidden),
        ("attention.dense", hidden, hidden),
        ("mlp.dense_h_to_4h", intermediate, hidden),
        ("mlp.dense_4h_to_h", hidden, intermediate),
    ];
    for (name, rows, cols) in linears {
        shapes.push((format!("{layer}.{name}.weight"), vec![rows, cols]));
        shapes.push((format!("{layer}.{name}.bias"), vec![rows]));
    }
    let norms = [format!("{layer}.input_layernorm"), format!("{layer}.post_attention_layernorm")];
    for name in norms.into_iter().chain(["gpt_neox.final_layer_norm".to_owned()]) {
        shapes.extend([(format!("{name}.weight"), vec![hidden]), (format!("{name}.bias"), vec![hidden])]);
    }
    let mut state = 7u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            // Logits far from each other, and no part of the layer too small to be seen in them.
            let scale = if shape.len() == 1 { 1.0 } else { 4.0 / (shape[1] as f32).sqrt() };
            let count = shape.iter().product();
            let bytes = (0..count).flat_map(|_| (number() * scale).to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a shape that fits"))
    });
    let file = safetensors::serialize(views, None).expect("it serializes");
    std::fs::write(folder.join("model.safetensors"), file).expect("it writes");
}

const TOKENS: [u32; 7] = [3, 41, 5, 63, 0, 12, 12];

/// Logits of all tokens: most in one forward, the last two by themselves.
fn logits(checkpoint: &Checkpoint, options: &ExecOptions) -> Vec<f32> {
    let (mut executor, _) = open(checkpoint, options, &mut |_| ()).expect("the model loads");
    let mut forward = |tokens: &[u32], position| {
        executor.forward(&Batch { tokens, position, logits: LogitRows::All }).expect("the forward runs").values
    };
    [forward(&TOKENS[..5], 0), forward(&TOKENS[5..6], 5), forward(&TOKENS[6..], 6)].concat()
}

#[test]
fn as_one_they_compute_what_they_do_as_two_in_every_format() {
    let folder = tempfile::tempdir().expect("a folder");
    write_model(folder.path(), 256, 512);
    let checkpoint = Checkpoint::open(folder.path()).expect("it opens");
    let matrices = all_adapters()[0].features.iter().any(|name| name == "cooperative-matrix");
    // Small enough for several slices of the matrices that are not quantized.
    let device = DeviceOptions { max_binding: Some(256 << 10), ..DeviceOptions::default() };
    for format in FORMATS {
        let quantize = Some(Quantize { format: *format, head: Some(&quant::F32), requantize: false });
        let options = |adapter, apart| ExecOptions {
            adapter,
            apart,
            quantize,
            kv_format: Some(KvFormat::F32),
            device,
            ..ExecOptions::default()
        };
        let (_, graph) = lower_checkpoint(&checkpoint, &options(AdapterChoice::Host, false)).expect("it lowers");
        let joined = graph.weights.iter().filter(|weight| weight.specs.len() == 2).count();
        assert_eq!(joined, usize::from(!format.name().ends_with("_dq")), "{}", format.name());
        let two = logits(&checkpoint, &options(AdapterChoice::Host, true));
        let error = nmse(&two, &logits(&checkpoint, &options(AdapterChoice::Host, false)));
        assert!(error <= 1e-11, "{} on the host: nmse {error}", format.name());
        let exact = ExecOptions { activations: Some(Activations::F32), ..options(AdapterChoice::Default, false) };
        let error = nmse(&two, &logits(&checkpoint, &exact));
        assert!(error <= if matrices { 1e-4 } else { 1e-9 }, "{} on the adapter: nmse {error}", format.name());
        // A row of both rounded to 8 bits, where the format takes integer dot products.
        let rounded = ExecOptions { activations: Some(Activations::Q8), ..exact };
        let error = nmse(&two, &logits(&checkpoint, &rounded));
        assert!(error <= 1e-3, "{} with rounded rows: nmse {error}", format.name());
    }
}

#[test]
fn a_row_of_both_is_a_row_of_each_whatever_the_piece_it_is_read_in() {
    let folder = tempfile::tempdir().expect("a folder");
    // 8 MiB of f32: pieces have 4.
    write_model(folder.path(), 256, 8192);
    let checkpoint = Checkpoint::open(folder.path()).expect("it opens");
    for format in ["f32", "q8_0"] {
        let format = quant::format(format).expect("a format");
        let stored = |apart, name: &str| {
            let quantize = Some(Quantize { format, head: None, requantize: false });
            let options = ExecOptions { apart, quantize, ..ExecOptions::default() };
            let (_, graph) = lower_checkpoint(&checkpoint, &options).expect("it lowers");
            let weight = graph.weights.iter().find(|weight| weight.label().contains(name)).expect("it is there");
            let mut pieces: Vec<Vec<u8>> = Vec::new();
            let read = WeightSource::new(&checkpoint).stored(weight, |bytes| {
                pieces.push(bytes.to_vec());
                Ok::<(), ExecError>(())
            });
            read.expect("it is read");
            (weight.rows(), pieces)
        };
        let (rows, joined) = stored(false, "attention.dense.weight | ");
        assert_eq!(joined.len() > 1, format.name() == "f32", "{} pieces of {}", joined.len(), format.name());
        let (o, down) = (stored(true, "attention.dense.weight").1.concat(), stored(true, "4h_to_h").1.concat());
        let side_by_side = o.chunks_exact(o.len() / rows).zip(down.chunks_exact(down.len() / rows));
        let expected: Vec<u8> = side_by_side.flat_map(|(o, down)| [o, down].concat()).collect();
        assert!(joined.concat() == expected, "{}: rows of o, each with down's behind it", format.name());
    }
}
