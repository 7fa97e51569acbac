//! What the GGUF file's metadata says of the model, in the keys that llama.cpp reads.

use super::ConvertError;
use crate::checkpoint::{Checkpoint, GgufValue};
use crate::model::{MlpSpec, ModelSpec, Residual};
use crate::ops::NormKind;
use crate::quant::BlockFormat;

/// ggml's number for "mostly of this format" (`general.file_type`); of the k-quants its purest mixture.
const FILE_TYPES: &[(&str, u32)] = &[
    ("f32", 0),
    ("f16", 1),
    ("q4_0", 2),
    ("q4_1", 3),
    ("q8_0", 7),
    ("q5_0", 8),
    ("q5_1", 9),
    ("q2_k", 10),
    ("q3_k", 11),
    ("q4_k", 14),
    ("q5_k", 16),
    ("q6_k", 18),
    ("iq4_nl", 25),
    ("iq4_xs", 30),
    ("bf16", 32),
    ("mxfp4", 38),
];

/// Replaces what the pairs say of how the file was made.
pub(super) fn say_how_it_was_made(pairs: &mut Vec<(String, GgufValue)>, format: &dyn BlockFormat) {
    // The writer's alignment is the default one.
    let replaced = ["general.alignment", "general.file_type", "general.quantization_version"];
    pairs.retain(|(key, _)| !replaced.contains(&key.as_str()));
    let file_type = FILE_TYPES.iter().find(|(name, _)| *name == format.name());
    pairs.extend(file_type.map(|(_, number)| ("general.file_type".to_owned(), GgufValue::U32(*number))));
    pairs.push(("general.quantization_version".into(), GgufValue::U32(2)));
}

/// The architecture's own keys.
pub(super) fn of_model(checkpoint: &Checkpoint, spec: &ModelSpec) -> Result<Vec<(String, GgufValue)>, ConvertError> {
    let config = checkpoint.config()?;
    let (architecture, _) = checkpoint.gguf_architecture().expect("tensors were translated by its table");
    let name = checkpoint.path().file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    let mut pairs = vec![
        ("general.architecture".to_owned(), GgufValue::String(architecture.into())),
        ("general.type".to_owned(), GgufValue::String("model".into())),
        ("general.name".to_owned(), GgufValue::String(name)),
    ];
    let mut put = |key: &str, value: GgufValue| pairs.push((format!("{architecture}.{key}"), value));
    let first = &spec.layers[0];
    let attention = &first.attention;
    put("context_length", GgufValue::U32(spec.max_position_embeddings));
    put("embedding_length", GgufValue::U32(spec.hidden_size as u32));
    put("block_count", GgufValue::U32(spec.layers.len() as u32));
    put("feed_forward_length", GgufValue::U32(first.mlp.intermediate_size() as u32));
    put("attention.head_count", GgufValue::U32(attention.heads));
    put("attention.head_count_kv", GgufValue::U32(attention.kv_heads));
    put("vocab_size", GgufValue::U32(spec.vocab_size() as u32));
    if (attention.heads * attention.head_dim) as usize != spec.hidden_size || architecture == "qwen3" {
        put("attention.key_length", GgufValue::U32(attention.head_dim));
        put("attention.value_length", GgufValue::U32(attention.head_dim));
    }
    match spec.norm.kind {
        NormKind::Rms => put("attention.layer_norm_rms_epsilon", GgufValue::F32(spec.norm.eps)),
        NormKind::Layer => put("attention.layer_norm_epsilon", GgufValue::F32(spec.norm.eps)),
    }
    if let Some(window) = attention.window {
        put("attention.sliding_window", GgufValue::U32(window));
    }
    if let Some(rope) = &attention.rope {
        put("rope.dimension_count", GgufValue::U32(rope.rotary_dim));
        let newer = config.section("rope_parameters")?.map_or(Ok(None), |section| section.opt_f32("rope_theta"))?;
        let theta = config.opt_any_f32(&["rope_theta", "rotary_emb_base"])?.or(newer);
        put("rope.freq_base", GgufValue::F32(theta.unwrap_or(10000.0)));
    }
    if architecture == "gptneox" {
        put("use_parallel_residual", GgufValue::Bool(first.residual == Residual::Parallel));
    }
    if architecture == "falcon" {
        put("tensor_data_layout", GgufValue::String("jploski".into()));
    }
    debug_assert!(!matches!(first.mlp, MlpSpec::Experts(_)), "experts were refused before");
    Ok(pairs)
}
