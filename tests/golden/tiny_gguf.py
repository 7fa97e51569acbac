"""Writes a tiny checkpoint as GGUF, as llama.cpp's converter would.

Which keys a converter writes, what it calls a tensor and what it does to its rows are facts of that program
(llama.cpp's `conversion/`, read in 2026); what it does not write is not written here either, though a model may
need it: no window for Mistral and Qwen2, no RoPE base for Falcon, Phi-2, StableLM and Gemma, no score scale for
Gemma, no activation anywhere. `tiny_checkpoints.py --cross-check` compares llama.cpp's own logits.
"""

import json
import math
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import load_file

Tensors = dict[str, np.ndarray]


def rotate_rows_for_gguf(weight: np.ndarray, heads: int) -> np.ndarray:
    """(heads * head_dim, ...): each head's halves a, b become a0 b0 a1 b1 ... (Interleaved RoPE)."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(np.swapaxes(halves, 1, 2)).reshape(weight.shape)


def rotate_rows_from_gguf(weight: np.ndarray, heads: int) -> np.ndarray:
    pairs = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return np.ascontiguousarray(np.swapaxes(pairs, 1, 2)).reshape(weight.shape)


def split_fused_rows(weight: np.ndarray, groups: int, queries: int) -> np.ndarray:
    """(groups * (queries + 2) * head_dim, ...): q.. k v per group of heads -> all q, all k, all v."""
    grouped = weight.reshape(groups, queries + 2, -1, *weight.shape[1:])
    parts = (grouped[:, :queries], grouped[:, queries], grouped[:, queries + 1])
    return np.concatenate([part.reshape(-1, *weight.shape[1:]) for part in parts])


def rotated_for_gguf(tensors: Tensors, config) -> Tensors:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    rotated = {}
    for name, value in tensors.items():
        part = next((part for part in heads if part in name), None)
        rotated[name] = rotate_rows_for_gguf(value, heads[part]) if part else value
    return rotated


def llama_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    rope = config.rope_parameters
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if "head_dim" in raw:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim or config.hidden_size // config.num_attention_heads)
    expert_keys(writer, raw)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif rope["rope_type"] == "llama3":
        d = config.head_dim
        frequency = rope["rope_theta"] ** (-np.arange(0, d, 2) / d)
        turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
        divisors = 1.0 / ((1.0 - smooth) / factor + smooth)
        writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))


def gpt_neox_tensors(tensors: Tensors, config) -> Tensors:
    groups = config.num_attention_heads
    return {
        name: split_fused_rows(value, groups, 1) if "query_key_value" in name else value
        for name, value in tensors.items()
    }


def gpt_neox_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    head_dim = config.hidden_size // config.num_attention_heads
    assert config.rope_parameters["rope_theta"] == 10000, "this converter writes no rope.freq_base"
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(int(config.rope_parameters["partial_rotary_factor"] * head_dim))
    writer.add_head_count(config.num_attention_heads)
    writer.add_parallel_residual(config.use_parallel_residual)
    writer.add_layer_norm_eps(config.layer_norm_eps)


# ---------------------------------------------------------------------------- other families


def expert_keys(writer: gguf.GGUFWriter, raw: dict) -> None:
    if count := raw.get("num_local_experts", raw.get("num_experts")):
        writer.add_expert_count(count)
        writer.add_expert_used_count(raw["num_experts_per_tok"])


def common_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    """What the converter writes for every family that does not say otherwise."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    else:
        assert rope["rope_type"] == "default"
    writer.add_rope_freq_base(rope["rope_theta"])
    if "rms_norm_eps" in raw:
        writer.add_layer_norm_rms_eps(raw["rms_norm_eps"])
    expert_keys(writer, raw)
    if "head_dim" in raw:
        writer.add_key_length(raw["head_dim"])
        writer.add_value_length(raw["head_dim"])


def falcon_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    assert config.rope_parameters["rope_theta"] == 10000, "this converter writes no rope.freq_base"
    writer.add_context_length(2048)
    writer.add_tensor_data_layout("jploski")
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(4 * config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(raw.get("num_kv_heads", 1))
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def falcon_tensors(tensors: Tensors, config) -> Tensors:
    groups = config.num_kv_heads if config.new_decoder_architecture else 1
    queries = config.num_attention_heads // groups
    return {
        name: split_fused_rows(value, groups, queries) if "query_key_value" in name else value
        for name, value in tensors.items()
    }


def qwen_moe_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    common_keys(writer, config, raw)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if shared := raw.get("shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(shared)


def qwen_moe_tensors(tensors: Tensors, config) -> Tensors:
    stacked = stack(tensors, "mlp.experts.{}.", config.num_experts, "mlp.experts.")
    return {name: value.squeeze() if "shared_expert_gate" in name else value for name, value in stacked.items()}


def mixtral_tensors(tensors: Tensors, config) -> Tensors:
    stacked = stack(rotated_for_gguf(tensors, config), "block_sparse_moe.experts.{}.", config.num_local_experts,
                    "feed_forward.experts.")
    return {name.removeprefix("model.") if "feed_forward" in name else name: value for name, value in stacked.items()}


def stack(tensors: Tensors, numbered: str, count: int, together: str) -> Tensors:
    """Tensors of every number from 0 to `count` become one, with one dimension more in front."""
    stacked = {}
    for name, value in tensors.items():
        if (first := numbered.format(0)) in name:
            parts = [tensors[name.replace(first, numbered.format(i))] for i in range(count)]
            stacked[name.replace(first, together)] = np.stack(parts)
        elif not any(numbered.format(i) in name for i in range(1, count)):
            stacked[name] = value
    return stacked


def phi_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    assert config.rope_parameters["rope_theta"] == 10000, "this converter writes no rope.freq_base"
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(4 * config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_rope_dimension_count(int(raw["partial_rotary_factor"] * config.hidden_size) // config.num_attention_heads)


def phi3_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    original = raw["original_max_position_embeddings"]
    rotated = int(raw.get("partial_rotary_factor", 1.0) * config.hidden_size) // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(rotated)
    writer.add_rope_freq_base(raw["rope_theta"])
    writer.add_sliding_window(raw["sliding_window"] or 0)
    if rope := raw["rope_scaling"]:
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
        for which in ("long", "short"):
            writer.add_tensor(f"rope_factors_{which}.weight", np.array(rope[f"{which}_factor"], dtype=np.float32))


def gemma_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    if config.model_type == "gemma2":
        assert config.query_pre_attn_scalar == config.head_dim, "llama.cpp assumes so"
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)


def gemma3_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    assert config.query_pre_attn_scalar == config.head_dim and raw["sliding_window_pattern"] == 6
    common_keys(writer, config, raw)
    writer.add_sliding_window(config.sliding_window)


def gemma_tensors(tensors: Tensors, config) -> Tensors:
    return {name: value + 1 if name.endswith("norm.weight") else value for name, value in tensors.items()}


def stablelm_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    assert config.rope_parameters["rope_theta"] == 10000, "this converter writes no rope.freq_base"
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    head_dim = config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(int(raw["partial_rotary_factor"] * head_dim))
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_parallel_residual(raw.get("use_parallel_residual", True))
    writer.add_layer_norm_eps(config.layer_norm_eps)


def stablelm_tensors(tensors: Tensors, config) -> Tensors:
    for part, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
        tensors = stack(tensors, part + "_layernorm.norms.{}.", heads, part + "_layernorm.")
    return tensors


def olmo_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    common_keys(writer, config, raw)
    writer.add_layer_norm_eps(1e-5)
    if raw["clip_qkv"] is not None:
        writer.add_clamp_kqv(raw["clip_qkv"])


def gpt2_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    """GPT-2 and, with one key more, GPT-BigCode."""
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    if config.model_type == "gpt_bigcode":
        writer.add_head_count_kv(1)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def gpt2_tensors(tensors: Tensors, config) -> Tensors:
    conv1d = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    kept = {name: value for name, value in tensors.items() if not name.endswith(".attn.bias")}
    return {
        "transformer." + name: np.ascontiguousarray(value.T) if name.endswith(conv1d) else value
        for name, value in kept.items()
    }


def mpt_keys(writer: gguf.GGUFWriter, config, raw: dict) -> None:
    attention = raw["attn_config"]
    assert attention["softmax_scale"] is None, "GGUF has no word for it"
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(4 * config.d_model)
    writer.add_head_count(config.n_heads)
    writer.add_layer_norm_eps(1e-5)
    if attention["clip_qkv"] is not None:
        writer.add_clamp_kqv(attention["clip_qkv"])
    writer.add_max_alibi_bias(attention["alibi_bias_max"] if attention["alibi"] else 0.0)


def unchanged(tensors: Tensors, config) -> Tensors:
    return tensors


GGUF_ARCH = {
    # model_type: architecture, the keys, what is done to the tensors
    "llama": (gguf.MODEL_ARCH.LLAMA, llama_keys, rotated_for_gguf),
    "mistral": (gguf.MODEL_ARCH.LLAMA, llama_keys, rotated_for_gguf),
    "mixtral": (gguf.MODEL_ARCH.LLAMA, llama_keys, mixtral_tensors),
    "gpt_neox": (gguf.MODEL_ARCH.GPTNEOX, gpt_neox_keys, gpt_neox_tensors),
    "falcon": (gguf.MODEL_ARCH.FALCON, falcon_keys, falcon_tensors),
    "qwen2": (gguf.MODEL_ARCH.QWEN2, common_keys, unchanged),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, common_keys, unchanged),
    "qwen2_moe": (gguf.MODEL_ARCH.QWEN2MOE, qwen_moe_keys, qwen_moe_tensors),
    "qwen3_moe": (gguf.MODEL_ARCH.QWEN3MOE, qwen_moe_keys, qwen_moe_tensors),
    "phi": (gguf.MODEL_ARCH.PHI2, phi_keys, unchanged),
    "phi3": (gguf.MODEL_ARCH.PHI3, phi3_keys, unchanged),
    "gemma": (gguf.MODEL_ARCH.GEMMA, gemma_keys, gemma_tensors),
    "gemma2": (gguf.MODEL_ARCH.GEMMA2, gemma_keys, gemma_tensors),
    "gemma3_text": (gguf.MODEL_ARCH.GEMMA3, gemma3_keys, gemma_tensors),
    "stablelm": (gguf.MODEL_ARCH.STABLELM, stablelm_keys, stablelm_tensors),
    "olmo": (gguf.MODEL_ARCH.OLMO, olmo_keys, rotated_for_gguf),
    "olmo2": (gguf.MODEL_ARCH.OLMO2, common_keys, unchanged),
    "gpt2": (gguf.MODEL_ARCH.GPT2, gpt2_keys, gpt2_tensors),
    "gpt_bigcode": (gguf.MODEL_ARCH.STARCODER, gpt2_keys, unchanged),
    "mpt": (gguf.MODEL_ARCH.MPT, mpt_keys, unchanged),
}


def write_gguf_vocabulary(writer: gguf.GGUFWriter, folder: Path, vocab_size: int) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    kinds = [gguf.TokenType.UNUSED] * vocab_size
    for token, i in tokenizer["model"]["vocab"].items():
        tokens[i], kinds[i] = token, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    ids = {token: i for i, token in enumerate(tokens)}
    writer.add_bos_token_id(ids[settings["bos_token"]])
    writer.add_eos_token_id(ids[settings["eos_token"]])
    writer.add_unk_token_id(ids[settings["unk_token"]])
    writer.add_pad_token_id(ids[settings["pad_token"]])
    writer.add_add_bos_token(settings["add_bos_token"])
    if "chat_template" in settings:
        writer.add_chat_template(settings["chat_template"])


def write_gguf(folder: Path, out: Path, name: str, kind: str, quantize=None) -> None:
    """`quantize(tensor, value)` gives the bytes and the type of a matrix, by default those of `kind` by gguf's Python."""
    raw = json.loads((folder / "config.json").read_text())
    config = transformers.AutoConfig.from_pretrained(folder)
    arch, keys, convert = GGUF_ARCH[config.model_type]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_type("model")
    # By the word "phi3" llama.cpp knows Phi-3's own vocabulary, which this one is not.
    writer.add_name(f"tiny-{name}".replace("phi3", "phi 3"))
    keys(writer, config, raw)
    file_type = "ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_gguf_vocabulary(writer, folder, config.vocab_size)

    tensors = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors.update(load_file(file))
    tensors = {hf_name: tensor.float().numpy() for hf_name, tensor in tensors.items()}
    for hf_name, value in convert(tensors, config).items():
        new_name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        assert new_name, hf_name
        if quantize and value.ndim == 2:
            data, qtype = quantize(new_name, value)
            writer.add_tensor(new_name, data, raw_dtype=qtype)
        elif kind != "F32" and value.ndim == 2:
            qtype = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(new_name, gguf.quants.quantize(value, qtype), raw_dtype=qtype)
        else:
            writer.add_tensor(new_name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_to_hf(file: Path, config) -> dict[str, torch.Tensor]:
    """Dequantized tensors of a llama-architecture GGUF under their Hugging Face names."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    back = {}
    for hf_name in transformers.AutoModelForCausalLM.from_config(config).state_dict():
        back[names.get_name(hf_name, try_suffixes=(".weight", ".bias"))] = hf_name
    tensors = {}
    for tensor in gguf.GGUFReader(file).tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if ".attn_q." in tensor.name:
            value = rotate_rows_from_gguf(value, config.num_attention_heads)
        elif ".attn_k." in tensor.name:
            value = rotate_rows_from_gguf(value, config.num_key_value_heads)
        tensors[back[tensor.name]] = torch.from_numpy(np.ascontiguousarray(value))
    return tensors
