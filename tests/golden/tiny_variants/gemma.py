"""Gemma 1, 2 and 3, the last also as the text half of a multimodal checkpoint."""

from .form import DROP, MAX_POSITIONS, config, version_5


def gemma(**over) -> dict:
    """config.json of Gemma 2B: embeddings are tied without a word about it."""
    return config({
        "architectures": ["GemmaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 20,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 48,
        "intermediate_size": 88,
        "max_position_embeddings": MAX_POSITIONS,
        "model_type": "gemma",
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "pad_token_id": 3,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "transformers_version": "4.38.0.dev0",
    }, over)


def gemma2(**over) -> dict:
    return gemma(**{
        "architectures": ["Gemma2ForCausalLM"],
        "attn_logit_softcapping": 3.0,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": 8.0,
        "head_dim": 12,
        "model_type": "gemma2",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "query_pre_attn_scalar": 12,
        "rope_scaling": DROP,
        "sliding_window": 16,
        "transformers_version": "4.42.4",
        **over,
    })


def gemma3(**over) -> dict:
    """config.json of Gemma 3 1B: every `sliding_window_pattern`-th layer sees all tokens."""
    return gemma2(**{
        "architectures": ["Gemma3ForCausalLM"],
        "attn_logit_softcapping": None,
        "eos_token_id": [0, 2],
        "final_logit_softcapping": None,
        "hidden_act": DROP,
        "model_type": "gemma3_text",
        "head_dim": 12,
        "hidden_size": 36,
        "intermediate_size": 40,
        "num_attention_heads": 3,
        "num_hidden_layers": 7,
        "num_key_value_heads": 1,
        "rope_local_base_freq": 10000,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000,
        "sliding_window_pattern": 6,
        "transformers_version": "4.50.0.dev0",
        **over,
    })


def gemma3_multimodal() -> dict:
    """config.json of Gemma 3 4B and up, in the form of transformers 5; every layer is named by its kind."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    text = version_5(
        gemma3(architectures=DROP, cache_implementation=DROP, sliding_window_pattern=DROP, hidden_size=40, intermediate_size=88,
               num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=24),
        {
            "full_attention": {"factor": 8.0, "rope_theta": 1000000.0, "rope_type": "linear"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        _sliding_window_pattern=6,
        layer_types=kinds,
        tie_word_embeddings=True,
        use_bidirectional_attention=False,
    )
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 4,
        "dtype": "float32",
        "eoi_token_index": 5,
        "eos_token_id": [0, 2],
        "image_token_index": 6,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 4,
        "model_type": "gemma3",
        "text_config": text,
        "tie_word_embeddings": True,
        "transformers_version": "5.24.0",
        "vision_config": {
            "hidden_size": 8,
            "image_size": 8,
            "intermediate_size": 8,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "patch_size": 4,
            "vision_use_head": False,
        },
    }


VARIANTS = {
    "gemma": dict(config=gemma(), gguf="F32", tokens=40),
    "gemma2": dict(config=gemma2(), gguf="F32"),
    # Gemma 2 27B scales scores by another number than its head dimension.
    "gemma2-scalar": dict(config=gemma2(query_pre_attn_scalar=40, num_hidden_layers=3, hidden_size=32), tokens=40),
    "gemma3": dict(config=gemma3(), gguf="F32"),
    # The file also holds a few tensors of the vision half.
    "gemma3-multimodal": dict(config=gemma3_multimodal(), prefix="language_model.", leftovers=True),
}
