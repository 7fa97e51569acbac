"""Qwen2, Qwen3, and the mixtures of experts: Mixtral, Qwen2-MoE, Qwen3-MoE."""

from .form import DROP, MAX_POSITIONS, config, version_5


def qwen2(**over) -> dict:
    """config.json of Qwen2 and Qwen2.5. A `sliding_window` counts only with `use_sliding_window`."""
    return config({
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 36,
        "intermediate_size": 76,
        "max_position_embeddings": MAX_POSITIONS,
        "max_window_layers": 2,
        "model_type": "qwen2",
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 16,
        "tie_word_embeddings": True,
        "transformers_version": "4.40.1",
        "use_mrope": False,
        "use_sliding_window": False,
    }, over)


def qwen3(**over) -> dict:
    return qwen2(**{
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "head_dim": 20,
        "hidden_size": 40,
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_scaling": None,
        "sliding_window": None,
        "transformers_version": "4.51.0",
        "use_mrope": DROP,
        **over,
    })


EXPERTS = {
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 20,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}


def qwen2_moe(**over) -> dict:
    return qwen2(**{
        **EXPERTS,
        "architectures": ["Qwen2MoeForCausalLM"],
        "hidden_size": 32,
        "intermediate_size": 56,
        "model_type": "qwen2_moe",
        "norm_topk_prob": False,
        "num_attention_heads": 2,
        "shared_expert_intermediate_size": 44,
        "tie_word_embeddings": False,
        "use_mrope": DROP,
        **over,
    })


def qwen3_moe(**over) -> dict:
    return qwen3(**{
        **EXPERTS,
        "architectures": ["Qwen3MoeForCausalLM"],
        "head_dim": 12,
        "hidden_size": 32,
        "model_type": "qwen3_moe",
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
        **over,
    })


def mixtral(**over) -> dict:
    return config({
        "architectures": ["MixtralForCausalLM"],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 36,
        "intermediate_size": 52,
        "max_position_embeddings": MAX_POSITIONS,
        "model_type": "mixtral",
        "num_attention_heads": 3,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "transformers_version": "4.36.0.dev0",
    }, over)


VARIANTS = {
    "qwen2": dict(config=qwen2(), gguf="F32"),
    "qwen2-window": dict(config=qwen2(num_hidden_layers=3, max_window_layers=1, use_sliding_window=True,
                                      tie_word_embeddings=False, intermediate_size=60)),
    "qwen3": dict(config=qwen3(), gguf="F32", tokens=40),
    "qwen3-v5": dict(
        config=version_5(
            qwen3(hidden_size=32, head_dim=12, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=False),
            {"rope_theta": 1000000.0, "rope_type": "default"},
            layer_types=["full_attention", "full_attention"],
            pad_token_id=None,
        ),
        tokens=40,
    ),
    "mixtral": dict(config=mixtral(), gguf="F32"),
    "qwen2-moe": dict(config=qwen2_moe(), gguf="F32", tokens=40),
    "qwen2-moe-sparse-step": dict(config=qwen2_moe(decoder_sparse_step=2), tokens=40),
    "qwen3-moe": dict(config=qwen3_moe(), gguf="F32", tokens=40),
    "qwen3-moe-mlp-only": dict(config=qwen3_moe(mlp_only_layers=[0], num_hidden_layers=3), tokens=40),
}
