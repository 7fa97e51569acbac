"""OLMo, whose norms have no weights, and OLMo 2, whose norms come after."""

from .form import DROP, MAX_POSITIONS, config


def olmo(**over) -> dict:
    """config.json of OLMo 1B and 7B."""
    return config({
        "architectures": ["OlmoForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": DROP,
        "clip_qkv": None,
        "hidden_act": "silu",
        "hidden_size": 48,
        "intermediate_size": 76,
        "max_position_embeddings": MAX_POSITIONS,
        "model_type": "olmo",
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 3,
        "pad_token_id": 1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "transformers_version": "4.40.0.dev0",
    }, over)


def olmo2(**over) -> dict:
    return olmo(**{
        "architectures": ["Olmo2ForCausalLM"],
        "clip_qkv": DROP,
        "model_type": "olmo2",
        "rms_norm_eps": 1e-06,
        "rope_theta": 500000,
        "tie_word_embeddings": False,
        "transformers_version": "4.47.0.dev0",
        **over,
    })


VARIANTS = {
    "olmo": dict(config=olmo(clip_qkv=1.5), gguf="F32", tokens=40),
    "olmo-untied": dict(config=olmo(tie_word_embeddings=False, hidden_size=40, num_attention_heads=2,
                                    num_key_value_heads=1), tokens=40),
    "olmo2": dict(config=olmo2(), gguf="F32", tokens=40),
    "olmo2-gqa": dict(config=olmo2(hidden_size=40, num_attention_heads=2, num_key_value_heads=1), gguf="F32", tokens=40),
}
