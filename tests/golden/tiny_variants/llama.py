"""GPT-NeoX, Llama and what is called Llama, Mistral, and every way to stretch RoPE."""

from .form import DROP, MAX_POSITIONS, config


def gpt_neox(**over) -> dict:
    """config.json of the Pythia generation, before transformers 5."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "attention_bias": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": 48,
        "initializer_range": 0.02,
        "intermediate_size": 120,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": MAX_POSITIONS,
        "model_type": "gpt_neox",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.24.0",
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": 512,
        **over,
    }


def llama(**over) -> dict:
    """config.json of the Llama 2 and 3 generation, before transformers 5."""
    merged = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": 48,
        "initializer_range": 0.02,
        "intermediate_size": 88,
        "max_position_embeddings": MAX_POSITIONS,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.43.0",
        "use_cache": True,
        "vocab_size": 512,
        **over,
    }
    return {key: value for key, value in merged.items() if value is not DROP}


def mistral(**over) -> dict:
    """config.json of Mistral 7B v0.1."""
    return config({
        "architectures": ["MistralForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 48,
        "intermediate_size": 76,
        "max_position_embeddings": MAX_POSITIONS,
        "model_type": "mistral",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 16,
        "tie_word_embeddings": False,
        "transformers_version": "4.34.0.dev0",
    }, over)


def stretched(**over) -> dict:
    """A little Llama for one more way to scale RoPE."""
    return llama(**{"hidden_size": 40, "intermediate_size": 60, "num_attention_heads": 2, "num_key_value_heads": 1,
                    "tie_word_embeddings": True, **over})


VARIANTS = {
    # name: config, and how the weights are stored
    "gpt-neox-parallel": dict(config=gpt_neox(), gguf="F32"),
    "gpt-neox-sequential": dict(
        # Embedding rows 512..576 have no token: published models pad the vocabulary likewise.
        config=gpt_neox(hidden_size=40, intermediate_size=160, rotary_pct=1.0, use_parallel_residual=False,
                        vocab_size=576, rotary_emb_base=500),
    ),
    "gpt-neox-f16": dict(
        config=gpt_neox(hidden_size=64, intermediate_size=128, num_attention_heads=4, torch_dtype="float16"),
        store="float16",
        # Pythia's files also hold the causal mask and the rotary table of that time; a reader skips them.
        leftovers=True,
    ),
    "llama-mha": dict(config=llama(num_key_value_heads=DROP), gguf="F32"),
    "llama-gqa": dict(
        config=llama(hidden_size=64, intermediate_size=96, head_dim=20, tie_word_embeddings=True),
        gguf="F32",
        chat_template=True,
    ),
    "llama-sharded": dict(
        config=llama(hidden_size=80, intermediate_size=104, num_attention_heads=5, num_key_value_heads=1,
                     torch_dtype="bfloat16", rms_norm_eps=1e-06),
        store="bfloat16",
        shards=3,
        gguf="BF16",
    ),
    "llama-rope-llama3": dict(
        config=llama(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1,
                     num_hidden_layers=3, tie_word_embeddings=True, rope_theta=500.0,
                     rope_scaling={"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                                   "original_max_position_embeddings": 64, "rope_type": "llama3"}),
        tokens=200,
        gguf="F32",
    ),
    "llama-rope-linear": dict(
        # The spelling of transformers 5.
        config=llama(hidden_size=40, num_attention_heads=2, num_key_value_heads=1, head_dim=20,
                     rope_theta=DROP, rope_scaling=DROP, torch_dtype=DROP, pad_token_id=None, dtype="float32",
                     transformers_version="5.23.0",
                     rope_parameters={"factor": 2.0, "rope_theta": 10000.0, "rope_type": "linear"}),
        gguf="F32",
    ),
    "llama-rope-yarn": dict(
        config=llama(num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
                     rope_scaling={"factor": 4.0, "original_max_position_embeddings": 64, "type": "yarn"}),
        gguf="F32",
    ),
    "llama-rope-dynamic": dict(
        config=llama(hidden_size=36, intermediate_size=100, num_attention_heads=3, num_key_value_heads=3,
                     rope_scaling={"factor": 2.0, "type": "dynamic"}),
        gguf="F32",
    ),
    "llama-bias": dict(
        config=llama(hidden_size=32, intermediate_size=72, num_attention_heads=2, num_key_value_heads=1,
                     attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        gguf="F32",
    ),
    # GGUF only: every matrix in one block format, norms float32.
    **{
        f"llama-{kind.lower()}": dict(
            config=llama(hidden_size=64, intermediate_size=96, tie_word_embeddings=kind == "Q4_1"),
            gguf=kind,
            gguf_only=True,
        )
        for kind in ("Q8_0", "Q4_0", "Q4_1")
    },
    "mistral": dict(config=mistral()),
    "mistral-nemo": dict(
        # Later ones have no window, and heads that do not add up to the hidden size.
        config=mistral(attention_dropout=0.0, head_dim=20, sliding_window=None, rope_theta=1000000.0),
        gguf="F32",
        tokens=40,
    ),
    # 65 tokens where 32 fit: the base grows with the length of the forward.
    "llama-rope-dynamic-beyond": dict(
        config=stretched(max_position_embeddings=32, rope_scaling={"factor": 4.0, "type": "dynamic"}),
    ),
    # LongChat's first config.json: positions divided by a key that only its own loader reads.
    "llama-rope-condensed": dict(
        config=stretched(rope_condense_ratio=4),
        golden_config={"rope_scaling": {"factor": 4.0, "type": "linear"}},
        tokens=40,
    ),
    "llama-rope-yarn-attention": dict(
        config=stretched(rope_theta=1000.0,
                         rope_scaling={"attention_factor": 0.8, "beta_fast": 16.0, "beta_slow": 2.0, "factor": 4.0,
                                       "original_max_position_embeddings": 64, "rope_type": "yarn"}),
        tokens=40,
    ),
    "llama-rope-yarn-mscale": dict(
        config=stretched(rope_theta=1000.0,
                         rope_scaling={"factor": 4.0, "mscale": 1.5, "mscale_all_dim": 0.5,
                                       "original_max_position_embeddings": 64, "type": "yarn"}),
        tokens=40,
    ),
}
