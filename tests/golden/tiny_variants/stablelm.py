"""StableLM 3B, 1.6B and 12B. (StableLM alpha is a GPT-NeoX.)"""

from .form import MAX_POSITIONS, config


def stablelm(**over) -> dict:
    """config.json of StableLM 3B-4E1T and Zephyr 3B."""
    return config({
        "architectures": ["StableLmForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 48,
        "intermediate_size": 76,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": MAX_POSITIONS,
        "model_type": "stablelm",
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 3,
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
        "transformers_version": "4.38.0",
        "use_qkv_bias": False,
    }, over)


VARIANTS = {
    "stablelm-3b": dict(config=stablelm(), gguf="F32", tokens=40),
    "stablelm-2-1.6b": dict(config=stablelm(use_qkv_bias=True, hidden_size=40, num_attention_heads=2,
                                            num_key_value_heads=2, partial_rotary_factor=0.5), gguf="F32", tokens=40),
    "stablelm-2-12b": dict(
        config=stablelm(hidden_size=48, num_attention_heads=4, num_key_value_heads=2, qk_layernorm=True,
                        use_parallel_residual=True, partial_rotary_factor=0.5, attention_dropout=0.0,
                        hidden_dropout=0.0),
        gguf="F32",
        tokens=40,
    ),
}
