"""Phi-1.5 and Phi-2, Phi-3 and its long contexts, Phi-4-mini."""

from .form import MAX_POSITIONS, config


def phi(**over) -> dict:
    """config.json of Phi-2."""
    return config({
        "architectures": ["PhiForCausalLM"],
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "hidden_act": "gelu_new",
        "hidden_size": 40,
        "intermediate_size": 160,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": MAX_POSITIONS,
        "model_type": "phi",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "partial_rotary_factor": 0.4,
        "qk_layernorm": False,
        "resid_pdrop": 0.1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "transformers_version": "4.37.0",
    }, over)


def phi3(**over) -> dict:
    """config.json of Phi-3-mini."""
    return config({
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "hidden_act": "silu",
        "hidden_size": 48,
        "intermediate_size": 68,
        "max_position_embeddings": MAX_POSITIONS,
        "model_type": "phi3",
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 3,
        "original_max_position_embeddings": MAX_POSITIONS,
        "pad_token_id": 3,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": 255,
        "tie_word_embeddings": False,
        "transformers_version": "4.40.2",
    }, over)


def longrope(pairs: int) -> dict:
    return {
        "long_factor": [round(1.05 + 5.5 * (i / pairs) ** 2, 4) for i in range(pairs)],
        "short_factor": [round(1.0 + 0.4 * i / pairs, 4) for i in range(pairs)],
        "type": "longrope",
    }


LONG = dict(max_position_embeddings=160, original_max_position_embeddings=40, sliding_window=256)
SHORT = dict(max_position_embeddings=2048, original_max_position_embeddings=512, sliding_window=4096)

VARIANTS = {
    "phi": dict(config=phi(), gguf="F32", tokens=40),
    "phi-qk-layernorm": dict(config=phi(num_key_value_heads=1, qk_layernorm=True, partial_rotary_factor=0.5), tokens=40),
    "phi3": dict(config=phi3(), gguf="F32", tokens=40),
    "phi3-window": dict(config=phi3(sliding_window=16, num_key_value_heads=1, hidden_size=36, intermediate_size=60)),
    # More tokens than the original context want the long factors, fewer the short ones.
    "phi3-longrope-long": dict(config=phi3(**LONG, rope_scaling=longrope(8)), gguf="F32"),
    "phi3-longrope-short": dict(config=phi3(**SHORT, rope_scaling=longrope(8)), gguf="F32", tokens=40),
    "phi4-mini": dict(
        config=phi3(**LONG, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, partial_rotary_factor=0.75,
                    rope_scaling=longrope(6), tie_word_embeddings=True, full_attn_mod=1, interpolate_factor=1,
                    lm_head_bias=False, mlp_bias=False, transformers_version="4.45.0"),
        gguf="F32",
        tokens=64,
    ),
}
