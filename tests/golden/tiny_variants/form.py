"""How configs are put together."""

MAX_POSITIONS = 256
VOCAB_SIZE = 512  # that of the tokenizer

DROP = object()
"""Given for a key, takes it out of the config."""

COMMON = {
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.02,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": VOCAB_SIZE,
}


def config(base: dict, over: dict) -> dict:
    merged = {**COMMON, **base, **over}
    return {key: merged[key] for key in sorted(merged) if merged[key] is not DROP}


def version_5(base: dict, rope: dict, **over) -> dict:
    """The same config as transformers 5 writes it."""
    old = ("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq", "torch_dtype")
    rewritten = {key: value for key, value in base.items() if key not in old}
    rewritten.update(dtype="float32", rope_parameters=rope, transformers_version="5.24.0", **over)
    return {key: rewritten[key] for key in sorted(rewritten)}
