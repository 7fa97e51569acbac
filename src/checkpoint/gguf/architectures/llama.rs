//! Llama and the families that differ from it in a few tensors: Mixtral, Qwen, Phi-3, OLMo.

use serde_json::{Map, Value, json};

use super::{Architecture, Names, PARTIAL_ROTARY_FACTOR, PERMUTED, PLAIN, Translation, default, nothing};
use crate::checkpoint::CheckpointError;

/// Llama's tensors outside layers, under the names of most later families.
pub(super) const MODEL: Names =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

pub(super) const SILU: Option<(&str, &str)> = Some(("hidden_act", "silu"));

pub(super) const LLAMA: Architecture = Architecture {
    name: "llama",
    mark: None,
    model_type: "llama",
    rows: PERMUTED,
    activation: SILU,
    tensors: MODEL,
    layers: "model.layers",
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ],
    keys: &[],
    rotary_part: PARTIAL_ROTARY_FACTOR,
    flags: &[("attention_bias", "blk.0.attn_q.bias"), ("mlp_bias", "blk.0.ffn_gate.bias")],
    fixed: &[],
    derive: nothing,
};

/// Llama with a router.
pub(super) const MIXTRAL: Architecture = Architecture {
    mark: Some("blk.0.ffn_gate_inp.weight"),
    model_type: "mixtral",
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate_inp", "block_sparse_moe.gate"),
        ("ffn_gate_exps", "block_sparse_moe.experts.w1"),
        ("ffn_down_exps", "block_sparse_moe.experts.w2"),
        ("ffn_up_exps", "block_sparse_moe.experts.w3"),
        ("ffn_gate.*", "block_sparse_moe.experts.*.w1"),
        ("ffn_down.*", "block_sparse_moe.experts.*.w2"),
        ("ffn_up.*", "block_sparse_moe.experts.*.w3"),
    ],
    keys: &[("expert_count", "num_local_experts"), ("expert_used_count", "num_experts_per_tok")],
    flags: &[],
    ..LLAMA
};

pub(super) const QWEN2: Architecture =
    Architecture { name: "qwen2", model_type: "qwen2", rows: PLAIN, flags: &[], ..LLAMA };

const QWEN_EXPERTS: Names = &[
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
];

pub(super) const QWEN2_MOE: Architecture = Architecture {
    name: "qwen2moe",
    model_type: "qwen2_moe",
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate_inp", "mlp.gate"),
        ("ffn_gate_exps", "mlp.experts.gate_proj"),
        ("ffn_up_exps", "mlp.experts.up_proj"),
        ("ffn_down_exps", "mlp.experts.down_proj"),
        ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
        ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
        ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
        ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    ],
    keys: QWEN_EXPERTS,
    fixed: &[("norm_topk_prob", false)],
    derive: expert_sizes,
    ..QWEN2
};

/// The first files of Qwen2-MoE do not say how large an expert is; their tensors do.
fn expert_sizes(file: &Translation<'_>, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    if let Some([.., rows, _]) = file.shape("blk.0.ffn_up_exps.weight") {
        default(root, "moe_intermediate_size", json!(rows));
    }
    if let Some([rows, _]) = file.shape("blk.0.ffn_up_shexp.weight") {
        default(root, "shared_expert_intermediate_size", json!(rows));
    }
    Ok(())
}

pub(super) const QWEN3: Architecture = Architecture {
    name: "qwen3",
    model_type: "qwen3",
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ],
    flags: &[("attention_bias", "blk.0.attn_q.bias")],
    ..QWEN2
};

pub(super) const QWEN3_MOE: Architecture = Architecture {
    name: "qwen3moe",
    model_type: "qwen3_moe",
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate_inp", "mlp.gate"),
        ("ffn_gate_exps", "mlp.experts.gate_proj"),
        ("ffn_up_exps", "mlp.experts.up_proj"),
        ("ffn_down_exps", "mlp.experts.down_proj"),
    ],
    keys: QWEN_EXPERTS,
    fixed: &[("norm_topk_prob", true)],
    derive: expert_sizes,
    ..QWEN3
};

pub(super) const PHI3: Architecture = Architecture {
    name: "phi3",
    model_type: "phi3",
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_qkv", "self_attn.qkv_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_up", "mlp.gate_up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ],
    keys: &[("rope.scaling.original_context_length", "original_max_position_embeddings")],
    derive: longrope,
    ..QWEN2
};

/// A file with long and short factors says no more of it than the tensors themselves and the attention factor.
fn longrope(file: &Translation<'_>, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    if file.has("rope_factors_long.weight") {
        let mut scaling = Map::new();
        scaling.insert("rope_type".into(), "longrope".into());
        if let Some(factor) = root.remove(&file.key("rope.scaling.attn_factor")) {
            scaling.insert("attention_factor".into(), factor);
        }
        root.insert("rope_scaling".into(), scaling.into());
    }
    Ok(())
}

pub(super) const OLMO: Architecture = Architecture {
    name: "olmo",
    model_type: "olmo",
    layer_tensors: &[
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ],
    keys: &[("attention.clamp_kqv", "clip_qkv")],
    flags: &[],
    derive: fixed_epsilon,
    ..LLAMA
};

/// OLMo's config has no word for the epsilon, which is always the same.
fn fixed_epsilon(file: &Translation<'_>, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    if file.f32("attention.layer_norm_epsilon")? == Some(1e-5) {
        root.remove("layer_norm_eps");
    }
    Ok(())
}

pub(super) const OLMO2: Architecture = Architecture {
    name: "olmo2",
    model_type: "olmo2",
    layer_tensors: &[
        ("attn_q", "self_attn.q_proj"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    ..QWEN2
};
