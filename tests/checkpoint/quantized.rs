//! Checkpoints that other libraries quantized: what their linears become, and how each lie is called.
//!
//! That the weights are right is shown by the golden logits of these folders (`tests/models.rs`).

use std::fs;
use std::path::Path;

use ::safetensors::tensor::TensorView;
use ::safetensors::{Dtype, SafeTensors, serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{ExecOptions, lower_checkpoint, open};
use wgpt::gpu::AdapterChoice;

use crate::assert_refused;
use crate::files::copy;

const DOWN: &str = "model.layers.0.mlp.down_proj.weight";
const GATE: &str = "model.layers.0.mlp.gate_proj.weight";

fn tiny(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints").join(name)
}

/// A tiny checkpoint with `quantization_config` changed: keys merged, null removes one.
fn configured(name: &str, changes: &Value) -> TempDir {
    let folder = copy(&tiny(name));
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a config")).expect("JSON");
    let section = config["quantization_config"].as_object_mut().expect("a section");
    for (key, value) in changes.as_object().expect("an object") {
        section.remove(key);
        if !value.is_null() {
            section.insert(key.clone(), value.clone());
        }
    }
    fs::write(path, config.to_string()).expect("it writes");
    folder
}

/// A tensor in the making: type, shape, bytes.
type Made = (Dtype, Vec<usize>, Vec<u8>);

/// A tiny checkpoint with one tensor changed, or taken away.
fn with_tensor(name: &str, tensor: &str, change: impl Fn(Made) -> Option<Made>) -> TempDir {
    let folder = copy(&tiny(name));
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("the weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    assert!(file.tensor(tensor).is_ok(), "{name} has {tensor}");
    let all = file.tensors().into_iter().filter_map(|(name, view)| {
        let made = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Some((name.clone(), if name == tensor { change(made)? } else { made }))
    });
    let all: Vec<(String, Made)> = all.collect();
    let views = all.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("a shape that fits"))
    });
    fs::write(&path, serialize(views, None).expect("it serializes")).expect("it writes");
    folder
}

#[test]
fn linears_become_one_tensor_in_the_format_that_holds_them() {
    let table = [
        ("tiny-llama-gptq", DOWN, "u4_g128"),
        ("tiny-llama-gptq-sym", DOWN, "q4_0"),
        ("tiny-llama-gptq-asym-32", DOWN, "u4_g32"),
        ("tiny-llama-gptq-int8", DOWN, "u8_g32"),
        ("tiny-llama-gptq-int8-32", DOWN, "q8_0"),
        ("tiny-llama-gptq-act-order", DOWN, "f16"),
        ("tiny-llama-awq", DOWN, "u4_g128"),
        ("tiny-llama-bnb-nf4", GATE, "nf4"),
        ("tiny-llama-bnb-nf4", DOWN, "f16"),
        ("tiny-llama-bnb-fp4", GATE, "fp4"),
        ("tiny-llama-fp8", GATE, "f8_e4m3_g128"),
        ("tiny-llama-fp8", DOWN, "f8_e4m3_g32"),
        ("tiny-llama-fp8-rows", DOWN, "f8_e4m3_g32"),
        ("tiny-llama-fp8-tensor", DOWN, "f8_e4m3_g32"),
    ];
    for (name, tensor, format) in table {
        let checkpoint = Checkpoint::open(&tiny(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let view = checkpoint.tensor(tensor).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(view.format.name(), format, "{name}: {tensor}");
        assert!(view.is_composed(), "{name}: {tensor}");
        let other = if tensor == DOWN { GATE } else { DOWN };
        let other = checkpoint.tensor(other).expect("it is there");
        assert_eq!([view.rows(), view.cols()], [other.cols(), other.rows()], "{name}: (out, in)");
        // Rows are the same whether they are read together, from the middle of a tile, or one by one.
        let together = view.rows_from(3..view.rows());
        let by_row: Vec<u8> = (3..view.rows()).flat_map(|row| view.row(row).into_owned()).collect();
        assert!(together == by_row, "{name}: {tensor}");
        for part in ["qweight", "qzeros", "scales", "g_idx", "weight_scale", "weight.absmax", "input_scale"] {
            let left = checkpoint.names().find(|name| name.ends_with(&format!(".{part}")));
            assert_eq!(left, None, "{name}: nothing is left over");
        }
    }
}

#[test]
fn what_the_config_asks_for_and_is_not_built_is_refused_by_name() {
    let table = [
        ("tiny-llama-gptq", json!({"quant_method": "hqq"}), "quant_method\" is hqq"),
        ("tiny-llama-gptq", json!({"quant_method": null}), "quantization_config.quant_method\" is missing"),
        ("tiny-llama-gptq", json!({"bits": 3}), "bits\" is 3, which is not supported; supported: 4, 8"),
        ("tiny-llama-gptq", json!({"checkpoint_format": "marlin"}), "checkpoint_format\" is marlin"),
        ("tiny-llama-gptq", json!({"is_marlin_format": true}), "is_marlin_format\" is true"),
        ("tiny-llama-gptq", json!({"dynamic": {"-:q": {}}}), "dynamic\" is set"),
        ("tiny-llama-gptq", json!({"pack_dtype": "int64"}), "pack_dtype\" is int64"),
        ("tiny-llama-gptq", json!({"group_size": 48}), "group_size\" is 48"),
        ("tiny-llama-gptq", json!({"group_size": 0}), "group_size\" is 0"),
        ("tiny-llama-gptq", json!({"group_size": -2}), "group_size\": expected an integer"),
        ("tiny-llama-awq", json!({"version": "GEMV"}), "version\" is gemv"),
        ("tiny-llama-awq", json!({"zero_point": false}), "zero_point\" is false"),
        ("tiny-llama-awq", json!({"bits": 3}), "bits\" is 3"),
        ("tiny-llama-bnb-nf4", json!({"load_in_8bit": true}), "load_in_8bit\" is true"),
        ("tiny-llama-bnb-nf4", json!({"bnb_4bit_quant_storage": "bfloat16"}), "quant_storage\" is bfloat16"),
        ("tiny-llama-fp8", json!({"fmt": "e5m2"}), "fmt\" is e5m2"),
        ("tiny-llama-fp8", json!({"weight_block_size": [128, 100]}), "weight_block_size\" is [128, 100]"),
        ("tiny-llama-fp8-rows", json!({"format": "pack-quantized"}), "format\" is pack-quantized"),
        ("tiny-llama-fp8-rows", json!({"config_groups": {}}), "config_groups\" is without group_0"),
        (
            "tiny-llama-fp8-rows",
            json!({"config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 8}}}}),
            "weights\" is 8-bit int",
        ),
    ];
    for (name, changes, expected) in table {
        assert_refused(configured(name, &changes).path(), &["config.json", expected]);
    }
}

/// A tiny checkpoint as it was published before configs had a section: a file beside it, with some keys changed.
fn older(name: &str, file: &str, section: Value) -> TempDir {
    let folder = copy(&tiny(name));
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a config")).expect("JSON");
    config.as_object_mut().expect("an object").remove("quantization_config");
    fs::write(path, config.to_string()).expect("it writes");
    fs::write(folder.path().join(file), section.to_string()).expect("it writes");
    folder
}

#[test]
fn what_stands_in_a_file_beside_older_configs_is_read() {
    let gptq = json!({"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": false, "sym": false});
    let awq = json!({"zero_point": true, "q_group_size": 128, "w_bit": 4, "version": "GEMM"});
    for (name, file, section) in
        [("tiny-llama-gptq", "quantize_config.json", gptq), ("tiny-llama-awq", "quant_config.json", awq)]
    {
        let (expected, found) = (tiny(name), older(name, file, section));
        let [expected, found] = [expected.as_path(), found.path()]
            .map(|path| Checkpoint::open(path).unwrap_or_else(|error| panic!("{name}: {error}")));
        let [expected, found] = [&expected, &found].map(|checkpoint| checkpoint.tensor(DOWN).expect("it is there"));
        assert!(expected.rows_from(0..128) == found.rows_from(0..128), "{name}: the same weights");
    }
    let folder = older("tiny-llama-gptq", "quantize_config.json", json!({"bits": 4, "group_size": 128, "rotate": 1}));
    assert_refused(folder.path(), &["quantize_config.json", "\"rotate\" is set, which is not supported"]);
    let folder = older("tiny-llama-gptq", "quantize_config.json", json!({"bits": 2, "group_size": 128}));
    assert_refused(folder.path(), &["quantize_config.json: \"bits\" is 2"]);
}

#[test]
fn scales_of_activations_are_left_out() {
    let folder = with_tensor("tiny-llama-fp8", "model.norm.weight", Some);
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("the weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let scale = 0.5f32.to_le_bytes();
    let further = ["k_proj.k_scale", "v_proj.output_scale", "q_proj.input_scale"];
    let further = further.map(|name| {
        let view = TensorView::new(Dtype::F32, vec![], &scale).expect("a shape that fits");
        (format!("model.layers.0.self_attn.{name}"), view)
    });
    let all = file.tensors().into_iter().chain(further);
    fs::write(&path, serialize(all, None).expect("it serializes")).expect("it writes");
    let checkpoint = Checkpoint::open(folder.path()).expect("it opens");
    let scales: Vec<_> = checkpoint.names().filter(|name| name.ends_with("_scale")).collect();
    assert!(scales.is_empty(), "{scales:?}");
}

#[test]
fn squares_of_compressed_tensors_are_those_of_fp8() {
    let weights = json!({"type": "float", "num_bits": 8, "strategy": "block", "block_structure": [128, 128]});
    let changes = json!({
        "quant_method": "compressed-tensors", "format": "float-quantized", "weight_block_size": null, "fmt": null,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    });
    let folder = configured("tiny-llama-fp8", &changes);
    let [expected, found] = [tiny("tiny-llama-fp8").as_path(), folder.path()]
        .map(|path| Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}")));
    let [expected, found] = [&expected, &found].map(|checkpoint| checkpoint.tensor(DOWN).expect("it is there"));
    assert!(expected.rows_from(0..128) == found.rows_from(0..128), "the same weights");
}

#[test]
fn shapes_that_contradict_the_config_say_what_was_expected() {
    let table = [
        ("tiny-llama-gptq", json!({"group_size": 64}), "qzeros\": expected shape [4, 16]"),
        ("tiny-llama-gptq", json!({"bits": 8}), "8 bits), found"),
        ("tiny-llama-awq", json!({"group_size": 32}), "qzeros\": expected shape"),
        ("tiny-llama-fp8", json!({"weight_block_size": [64, 128]}), "weight_scale_inv\": expected shape"),
        ("tiny-llama-fp8", json!({"weight_block_size": null}), "one scale, or one for each row"),
    ];
    for (name, changes, expected) in table {
        assert_refused(configured(name, &changes).path(), &["model.safetensors", expected]);
    }
}

#[test]
fn parts_that_are_missing_or_misshapen_are_named() {
    let part = |part: &str| format!("model.layers.0.mlp.down_proj.{part}");
    for (name, gone, says) in [
        ("tiny-llama-gptq", "qzeros", "down_proj.qzeros\" is missing"),
        ("tiny-llama-awq", "scales", "down_proj.scales\" is missing"),
        ("tiny-llama-bnb-nf4", "weight", "down_proj.weight\" is missing"),
        ("tiny-llama-bnb-nf4", "weight.quant_map", "quant_map\" is missing"),
        ("tiny-llama-bnb-nf4", "weight.nested_absmax", "nested_absmax\" is missing"),
        ("tiny-llama-bnb-nf4", "weight.quant_state.bitsandbytes__nf4", "bitsandbytes__nf4\" is missing"),
        ("tiny-llama-fp8", "weight_scale_inv", "weight_scale\" is missing"),
    ] {
        assert_refused(with_tensor(name, &part(gone), |_| None).path(), &["model.safetensors", says]);
    }
    let scattered = |(dtype, shape, mut data): Made| {
        data[..4].copy_from_slice(&(-3i32).to_le_bytes());
        Some((dtype, shape, data))
    };
    let folder = with_tensor("tiny-llama-gptq", &part("g_idx"), scattered);
    assert_refused(folder.path(), &["g_idx\": input 0 is in group -3, expected 0 to 1"]);
    let folder = with_tensor("tiny-llama-gptq", &part("qweight"), |(_, shape, data)| Some((Dtype::F32, shape, data)));
    assert_refused(folder.path(), &["qweight\": expected I32 or U32, found f32"]);
    let folder = with_tensor("tiny-llama-gptq", &part("qweight"), |(dtype, shape, data)| {
        Some((dtype, vec![shape[0] * shape[1]], data))
    });
    assert_refused(folder.path(), &["qweight\": expected two dimensions, found [4096]"]);
    let state = part("weight.quant_state.bitsandbytes__nf4");
    for (json, says) in [
        ("{", "does not describe a quantization"),
        (r#"{"quant_type": "int7", "blocksize": 64, "shape": [64, 96]}"#, "quant_type \"int7\" is not supported"),
        (r#"{"quant_type": "nf4", "blocksize": 0, "shape": [64, 96]}"#, "in blocks of 0"),
        (r#"{"quant_type": "nf4", "blocksize": 64, "shape": [64, 97]}"#, "weight\": expected shape"),
        (r#"{"quant_type": "nf4", "blocksize": 64, "shape": [64, 96]}"#, "nested_blocksize"),
        (r#"{"quant_type": "nf4", "blocksize": 64, "shape": [18446744073709551615, 2]}"#, "in blocks of 64"),
    ] {
        let folder = with_tensor("tiny-llama-bnb-nf4", &state, |_| {
            Some((Dtype::U8, vec![json.len()], json.as_bytes().to_vec()))
        });
        assert_refused(folder.path(), &[says]);
    }
}

#[test]
fn scales_that_are_no_numbers_are_found_when_the_weights_load() {
    let part = |part: &str| format!("model.layers.0.mlp.down_proj.{part}");
    let broken = |number: Vec<u8>| {
        move |(dtype, shape, mut data): Made| {
            data[..number.len()].copy_from_slice(&number);
            Some((dtype, shape, data))
        }
    };
    let half = half::f16::NAN.to_le_bytes().to_vec();
    let float = f32::INFINITY.to_le_bytes().to_vec();
    for (name, tensor, number) in [
        ("tiny-llama-gptq", "scales", half.clone()),
        ("tiny-llama-gptq-sym", "scales", half.clone()),
        ("tiny-llama-gptq-act-order", "scales", half.clone()),
        ("tiny-llama-awq", "scales", half),
        ("tiny-llama-bnb-fp4", "weight.absmax", float.clone()),
        ("tiny-llama-bnb-nf4", "weight.nested_absmax", float.clone()),
        ("tiny-llama-fp8", "weight_scale_inv", float),
        ("tiny-llama-fp8", "weight", vec![0x7f]),
    ] {
        let folder = with_tensor(name, &part(tensor), broken(number));
        let checkpoint = Checkpoint::open(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let options = ExecOptions { adapter: AdapterChoice::Host, ..ExecOptions::default() };
        let error = open(&checkpoint, &options, &mut |_| ()).map(|_| ()).expect_err(name).to_string();
        assert!(
            error.contains("mlp.down_proj.weight\": row 0") && error.contains("NaN or infinite"),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_bias_that_adds_nothing_is_no_surprise_and_one_that_does_is() {
    let bias = "model.layers.0.mlp.down_proj.bias";
    let folder = with_tensor("tiny-llama-gptq-sym", bias, |(dtype, shape, mut data)| {
        data[1] = 0x3c;
        Some((dtype, shape, data))
    });
    let checkpoint = Checkpoint::open(folder.path()).expect("the files themselves are sound");
    let options = ExecOptions { adapter: AdapterChoice::Host, ..ExecOptions::default() };
    let error = open(&checkpoint, &options, &mut |_| ()).map(|_| ()).expect_err("llama has no such bias").to_string();
    assert!(error.contains(bias), "{error}");
}

#[test]
fn weights_that_grow_are_announced() {
    let notices = |name: &str| {
        let checkpoint = Checkpoint::open(&tiny(name)).expect("it opens");
        let options = ExecOptions { adapter: AdapterChoice::Host, ..ExecOptions::default() };
        open(&checkpoint, &options, &mut |_| ()).expect("it loads").1.notices.join("\n")
    };
    assert!(notices("tiny-llama-bnb-nf4").contains("weights are held as f16"), "rows that are no whole blocks");
    assert!(!notices("tiny-llama-gptq").contains("held as f16"), "its groups are neighbours");
    assert!(!notices("tiny-llama-gptq-act-order").contains("held as f16"), "its groups can be sorted");
}

#[test]
fn act_order_stays_at_four_bits_with_the_columns_sorted() {
    let checkpoint = Checkpoint::open(&tiny("tiny-llama-gptq-act-order")).expect("it opens");
    let view = checkpoint.tensor(DOWN).expect("it is there");
    let (sorted, order) = view.ordered().expect("its groups are whole");
    assert_eq!((view.format.name(), sorted.format.name()), ("f16", "q4_0"), "two ways to read it");
    let mut inputs = order.to_vec();
    inputs.sort_unstable();
    assert!(inputs.iter().enumerate().all(|(place, input)| place == *input as usize), "every input once");
    assert!(order.windows(2).any(|pair| pair[0] > pair[1]), "in another order");
    let (mut plain, mut of_sorted) = (vec![0.0; view.cols()], vec![0.0; view.cols()]);
    for row in 0..view.rows() {
        view.format.dequantize(&view.row(row), &mut plain);
        sorted.format.dequantize(&sorted.row(row), &mut of_sorted);
        for (value, input) in of_sorted.iter().zip(&*order) {
            assert_eq!(half::f16::from_f32(*value).to_f32(), plain[*input as usize], "row {row}, input {input}");
        }
    }
    let (_, graph) = lower_checkpoint(&checkpoint, &ExecOptions::default()).expect("it lowers");
    let linears: Vec<_> = graph.weights.iter().filter(|weight| weight.ordered).collect();
    assert_eq!(linears.len(), 14, "seven linears in two layers, each with an order of its own");
    assert!(linears.iter().all(|weight| weight.format.name() == "q4_0"), "4 bits and a scale");
    let held = |name: &str| {
        let checkpoint = Checkpoint::open(&tiny(name)).expect("it opens");
        let (executor, _) = open(&checkpoint, &ExecOptions::default(), &mut |_| ()).expect("it loads");
        executor.memory()[0].weights
    };
    // The same model, its groups neighbours; besides, an order of f32 numbers for each linear.
    let (sorted, plain) = (held("tiny-llama-gptq-act-order"), held("tiny-llama-gptq-int8-32"));
    assert!(sorted < plain, "{sorted} bytes on the adapter, {plain} with 8 bits");
}

#[test]
fn groups_that_are_not_whole_become_f16() {
    let folder =
        with_tensor("tiny-llama-gptq-act-order", &DOWN.replace("weight", "g_idx"), |(dtype, shape, mut data)| {
            let other = if data[0] == 0 { 1 } else { 0 };
            data[0] = other;
            Some((dtype, shape, data))
        });
    let checkpoint = Checkpoint::open(folder.path()).expect("it opens");
    assert!(checkpoint.tensor(DOWN).expect("it is there").ordered().is_none(), "one group has an input more");
    let options = ExecOptions { adapter: AdapterChoice::Host, ..ExecOptions::default() };
    let notices = open(&checkpoint, &options, &mut |_| ()).expect("it loads").1.notices.join("\n");
    assert!(notices.contains("1 weights are held as f16"), "{notices}");
}
