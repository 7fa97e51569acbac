"""GPT-2, GPT-BigCode (StarCoder, SantaCoder) and GPT-J."""

from .form import config

SUMMARY = {
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
}
POSITIONS = 96


def gpt2(**over) -> dict:
    """config.json of the first GPT-2 checkpoints: no word about tied embeddings."""
    return config({
        **SUMMARY,
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": POSITIONS,
        "n_embd": 36,
        "n_head": 3,
        "n_layer": 2,
        "n_positions": POSITIONS,
        "resid_pdrop": 0.1,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "transformers_version": "4.10.0",
    }, over)


def gpt_bigcode(**over) -> dict:
    """config.json of StarCoder."""
    return config({
        **SUMMARY,
        "activation_function": "gelu",
        "architectures": ["GPTBigCodeForCausalLM"],
        "attention_softmax_in_fp32": True,
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "inference_runner": 0,
        "layer_norm_epsilon": 1e-05,
        "max_batch_size": None,
        "max_sequence_length": None,
        "model_type": "gpt_bigcode",
        "multi_query": True,
        "n_embd": 36,
        "n_head": 3,
        "n_inner": 144,
        "n_layer": 2,
        "n_positions": POSITIONS,
        "pad_key_length": True,
        "pre_allocate_kv_cache": False,
        "resid_pdrop": 0.1,
        "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True,
        "transformers_version": "4.28.1",
        "validate_runner_input": True,
    }, over)


def gptj(**over) -> dict:
    """config.json of GPT-J 6B."""
    return config({
        **SUMMARY,
        "activation_function": "gelu_new",
        "architectures": ["GPTJForCausalLM"],
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "gradient_checkpointing": False,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gptj",
        "n_embd": 36,
        "n_head": 3,
        "n_inner": None,
        "n_layer": 2,
        "n_positions": POSITIONS,
        "resid_pdrop": 0.0,
        "rotary": True,
        "rotary_dim": 8,
        "scale_attn_weights": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}},
        "tie_word_embeddings": False,
        "tokenizer_class": "GPT2Tokenizer",
        "transformers_version": "4.18.0.dev0",
    }, over)


VARIANTS = {
    # OpenAI's files have no `transformer.` before the names, but the causal masks of that time.
    "gpt2": dict(config=gpt2(), gguf="F32", tokens=40, prefix="-transformer.", leftovers=True),
    "gpt2-prefixed": dict(config=gpt2(n_embd=40, n_head=2, n_inner=100), tokens=40),
    "gpt-bigcode": dict(config=gpt_bigcode(), gguf="F32", tokens=40),
    "gpt-bigcode-mha": dict(config=gpt_bigcode(multi_query=False, n_inner=None, activation_function="gelu_pytorch_tanh",
                                               n_embd=40, n_head=2), tokens=40),
    "gptj": dict(config=gptj(), tokens=40, leftovers=True),
}
