//! Families with attention and MLP side by side, always or in one size: Falcon, Phi-2, StableLM.

use serde_json::{Map, Value};

use super::llama::{LLAMA, QWEN2, SILU};
use super::{Architecture, PLAIN, Translation, nothing};
use crate::checkpoint::CheckpointError;

/// Falcon 7B, and 11B, which has its one norm in the newer architecture.
pub(super) const FALCON: Architecture = Architecture {
    name: "falcon",
    mark: None,
    model_type: "falcon",
    rows: PLAIN,
    activation: Some(("activation", "gelu")),
    tensors: &[
        ("token_embd", "transformer.word_embeddings"),
        ("output_norm", "transformer.ln_f"),
        ("output", "lm_head"),
    ],
    layers: "transformer.h",
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_qkv", "self_attention.query_key_value"),
        ("attn_output", "self_attention.dense"),
        ("ffn_up", "mlp.dense_h_to_4h"),
        ("ffn_down", "mlp.dense_4h_to_h"),
    ],
    keys: &[
        ("attention.head_count_kv", "num_kv_heads"),
        ("feed_forward_length", "ffn_hidden_size"),
        ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
    ],
    rotary_part: ("partial_rotary_factor", false),
    flags: &[("bias", "blk.0.attn_qkv.bias")],
    fixed: &[("alibi", false), ("parallel_attn", true)],
    derive: falcon,
};

/// Falcon 40B and 180B.
pub(super) const FALCON_TWO_NORMS: Architecture = Architecture {
    mark: Some("blk.0.attn_norm_2.weight"),
    layer_tensors: &[
        ("attn_norm", "ln_mlp"),
        ("attn_norm_2", "ln_attn"),
        ("attn_qkv", "self_attention.query_key_value"),
        ("attn_output", "self_attention.dense"),
        ("ffn_up", "mlp.dense_h_to_4h"),
        ("ffn_down", "mlp.dense_4h_to_h"),
    ],
    fixed: &[("alibi", false), ("parallel_attn", true), ("new_decoder_architecture", true)],
    derive: nothing,
    ..FALCON
};

/// With one norm, more than one key-value head means the newer architecture.
fn falcon(file: &Translation<'_>, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    let newer = file.u32("attention.head_count_kv")?.is_some_and(|heads| heads > 1);
    root.insert("new_decoder_architecture".into(), newer.into());
    root.insert("multi_query".into(), true.into());
    if newer {
        root.insert("num_ln_in_parallel_attn".into(), 1.into());
    }
    Ok(())
}

pub(super) const PHI2: Architecture = Architecture {
    name: "phi2",
    model_type: "phi",
    activation: Some(("hidden_act", "gelu_new")),
    tensors: &[("token_embd", "model.embed_tokens"), ("output_norm", "model.final_layernorm"), ("output", "lm_head")],
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_qkv", "self_attn.qkv_proj"),
        ("attn_output", "self_attn.dense"),
        ("ffn_up", "mlp.fc1"),
        ("ffn_down", "mlp.fc2"),
    ],
    rotary_part: ("partial_rotary_factor", true),
    ..QWEN2
};

pub(super) const STABLELM: Architecture = Architecture {
    name: "stablelm",
    model_type: "stablelm",
    activation: SILU,
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_q_norm", "self_attn.q_layernorm.norms"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_k_norm", "self_attn.k_layernorm.norms"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ],
    keys: &[("use_parallel_residual", "use_parallel_residual")],
    rotary_part: ("partial_rotary_factor", true),
    flags: &[("use_qkv_bias", "blk.0.attn_q.bias"), ("qk_layernorm", "blk.0.attn_q_norm.weight")],
    rows: PLAIN,
    derive: stablelm,
    ..LLAMA
};

/// The converter says yes to parallel residuals where the config says nothing; the second norm knows better.
fn stablelm(file: &Translation<'_>, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    root.insert("use_parallel_residual".into(), (!file.has("blk.0.ffn_norm.weight")).into());
    Ok(())
}
