"""Falcon in its four shapes, and MPT."""

from .form import DROP, config


def falcon(**over) -> dict:
    """config.json of Falcon 7B: no number of key-value heads, no context length, no base of RoPE."""
    return config({
        "alibi": False,
        "apply_residual_connection_post_layernorm": False,
        "architectures": ["FalconForCausalLM"],
        "attention_dropout": 0.0,
        "bias": False,
        "hidden_dropout": 0.0,
        "hidden_size": 60,
        "layer_norm_epsilon": 1e-05,
        "model_type": "falcon",
        "multi_query": True,
        "new_decoder_architecture": False,
        "num_attention_heads": 5,
        "num_hidden_layers": 2,
        "parallel_attn": True,
        "transformers_version": "4.27.4",
    }, over)


def mpt(attention: dict | None = None, **over) -> dict:
    """config.json of MPT 7B and 30B. `learned_pos_emb` is true in them, and means nothing beside ALiBi."""
    return config({
        "architectures": ["MPTForCausalLM"],
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": 8,
            "attn_impl": "torch",
            "attn_pdrop": 0,
            "attn_type": "multihead_attention",
            "attn_uses_sequence_id": False,
            "clip_qkv": None,
            "prefix_lm": False,
            "qk_ln": False,
            "softmax_scale": None,
            **(attention or {}),
        },
        "bos_token_id": DROP,
        "d_model": 36,
        "emb_pdrop": 0,
        "embedding_fraction": 1.0,
        "eos_token_id": DROP,
        "expansion_ratio": 4,
        "init_config": {"init_std": 0.02, "name": "kaiming_normal_", "verbose": 0},
        "init_device": "cpu",
        "initializer_range": DROP,
        "learned_pos_emb": True,
        "logit_scale": None,
        "max_seq_len": 256,
        "model_type": "mpt",
        "n_heads": 3,
        "n_layers": 2,
        "no_bias": True,
        "norm_type": "low_precision_layernorm",
        "resid_pdrop": 0,
        "tokenizer_name": "EleutherAI/gpt-neox-20b",
        "transformers_version": "4.28.1",
        "use_cache": False,
        "verbose": 0,
    }, over)


VARIANTS = {
    "falcon-7b": dict(config=falcon(), gguf="F32", tokens=40),
    "falcon-40b": dict(
        config=falcon(hidden_size=64, num_attention_heads=4, new_decoder_architecture=True, num_kv_heads=2),
        gguf="F32",
        tokens=40,
    ),
    "falcon-11b": dict(
        config=falcon(hidden_size=48, num_attention_heads=6, num_kv_heads=3, new_decoder_architecture=True,
                      num_ln_in_parallel_attn=1, ff_factor=2, ffn_hidden_size=96, activation="gelu",
                      max_position_embeddings=256, rope_scaling=None, rope_theta=500042,
                      tie_word_embeddings=False, transformers_version="4.39.2"),
        tokens=40,
    ),
    "falcon-rw": dict(
        # transformers rounds the ALiBi products to bfloat16; `exact_alibi` computes them in float32.
        config=falcon(hidden_size=36, num_attention_heads=3, alibi=True, multi_query=False, parallel_attn=False,
                      bias=True),
    ),
    "mpt": dict(config=mpt(), gguf="F32"),
    "mpt-clip": dict(config=mpt({"clip_qkv": 1.5}, d_model=40, n_heads=5), gguf="F32", tokens=40),
    "mpt-scale": dict(config=mpt({"softmax_scale": 0.4}, d_model=32, n_heads=4), tokens=24),
}
