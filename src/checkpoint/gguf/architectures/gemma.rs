//! Gemma 1 to 3. Their files do not say how scores are scaled: llama.cpp knows it by the number of layers.

use serde_json::{Map, Value, json};

use super::llama::{LLAMA, QWEN2};
use super::{Architecture, Names, Translation, default};
use crate::checkpoint::CheckpointError;

const GELU: &str = "gelu_pytorch_tanh";

pub(super) const GEMMA: Architecture = Architecture {
    name: "gemma",
    model_type: "gemma",
    activation: Some(("hidden_act", GELU)),
    layer_tensors: LLAMA.layer_tensors,
    ..QWEN2
};

const SOFTCAPS: Names =
    &[("attn_logit_softcapping", "attn_logit_softcapping"), ("final_logit_softcapping", "final_logit_softcapping")];

pub(super) const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    model_type: "gemma2",
    activation: Some(("hidden_activation", GELU)),
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_norm", "pre_feedforward_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    keys: SOFTCAPS,
    derive: gemma2,
    ..GEMMA
};

/// The first files say neither the caps nor the window.
fn gemma2(file: &Translation<'_>, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    default(root, "attn_logit_softcapping", 50.0);
    default(root, "final_logit_softcapping", 30.0);
    default(root, "sliding_window", 4096);
    score_scale(file, root, 46)
}

pub(super) const GEMMA3: Architecture = Architecture {
    name: "gemma3",
    model_type: "gemma3_text",
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_norm", "pre_feedforward_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    keys: &[
        SOFTCAPS[0],
        SOFTCAPS[1],
        ("rope.freq_base_swa", "rope_local_base_freq"),
        ("attention.sliding_window_pattern", "sliding_window_pattern"),
    ],
    derive: gemma3,
    ..GEMMA2
};

/// Without a window every layer sees all tokens; with one, every sixth does unless the file says otherwise.
fn gemma3(file: &Translation<'_>, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    default(root, "rope_local_base_freq", 10000.0);
    if !root.contains_key("sliding_window") {
        root.insert("sliding_window_pattern".into(), json!(1));
    } else if let Some(Value::Array(layers)) = root.get("sliding_window_pattern") {
        let kind = |slides: &Value| if *slides == json!(true) { "sliding_attention" } else { "full_attention" };
        let kinds: Value = layers.iter().map(kind).collect();
        root.remove("sliding_window_pattern");
        root.insert("layer_types".into(), kinds);
    }
    default(root, "sliding_window_pattern", 6);
    score_scale(file, root, 62)
}

/// The largest model, of `layers` layers, divides scores by the root of its hidden size per head, the others by the
/// root of their head dimension.
fn score_scale(file: &Translation<'_>, root: &mut Map<String, Value>, layers: u32) -> Result<(), CheckpointError> {
    let largest = file.u32("block_count")? == Some(layers);
    let scalar = if largest { file.hidden_per_head()? } else { file.head_dim()? };
    if let Some(scalar) = scalar {
        root.insert("query_pre_attn_scalar".into(), scalar.into());
    }
    Ok(())
}
