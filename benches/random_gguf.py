#!/usr/bin/env python3
"""Writes a GGUF file with random weights in the shape of a real model, to measure speed and memory at full size.

usage: python3 benches/random_gguf.py SHAPE OUT.gguf [f16|q8_0|q4_0|q4_k|q2_k|iq4_xs]     (no SHAPE: lists them)

Weights repeat one random tile: right for timing, meaningless as text. Needs numpy and the PyPI package `gguf`; the
vocabularies are those of `checkpoints/vocab/`, padded to the model's size.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

VOCABULARIES = Path(__file__).resolve().parents[1] / "checkpoints" / "vocab"

# layers, hidden, heads, key/value heads, feed-forward, vocabulary, rotated values of a head
SHAPES = {
    "gpt-neox-2.8b": dict(arch="gptneox", layers=32, hidden=2560, heads=32, kv=32, ff=10240, vocab=50432, rotary=80),
    "stablelm-alpha-3b": dict(arch="gptneox", layers=16, hidden=4096, heads=32, kv=32, ff=16384, vocab=50432, rotary=32),
    "falcon-7b": dict(arch="falcon", layers=32, hidden=4544, heads=71, kv=1, ff=18176, vocab=65024, rotary=64),
    "falcon-40b": dict(arch="falcon", layers=60, hidden=8192, heads=128, kv=8, ff=32768, vocab=65024, rotary=64),
    "llama-3-8b": dict(arch="llama", layers=32, hidden=4096, heads=32, kv=8, ff=14336, vocab=128256, rotary=128),
    "qwen3-30b-a3b": dict(arch="qwen3moe", layers=48, hidden=2048, heads=32, kv=4, ff=768, vocab=151936, rotary=128,
                          head_dim=128, experts=128, top_k=8),
}
# weights and bytes of a block, where its f16 numbers begin, and these: scales that keep activations small
BLOCKS = {"q8_0": (32, 34, 0, [0.0003]), "q4_0": (32, 18, 0, [0.004]), "q4_k": (256, 144, 0, [0.0001, 0.001]),
          "q2_k": (256, 84, 80, [0.002, 0.003]), "iq4_xs": (256, 136, 0, [0.00002])}
TYPES = {kind: gguf.GGMLQuantizationType[kind.upper()] for kind in ["f16", *BLOCKS]}
FILE_TYPES = {"f16": 1, "q8_0": 7, "q4_0": 2, "q4_k": 15, "q2_k": 10, "iq4_xs": 30}


def tile(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "f16":
        return (rng.standard_normal(1 << 24) * 0.02).astype(np.float16).view(np.uint8)
    _, size, start, scales = BLOCKS[kind]
    blocks = rng.integers(0, 256, (1 << 19, size), dtype=np.uint8)
    blocks[:, start : start + 2 * len(scales)] = np.array(scales, np.float16).view(np.uint8)
    return blocks.reshape(-1)


def row_bytes(kind: str, cols: int) -> int:
    if kind == "f16":
        return cols * 2
    weights, size, *_ = BLOCKS[kind]
    if cols % weights:
        sys.exit(f"rows of {cols} are no whole blocks of {kind}")
    return cols // weights * size


def tensors(s: dict) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes: one dimension is a norm or bias, more a matrix."""
    d, ff = s["hidden"], s["ff"]
    head_dim = s.get("head_dim", d // s["heads"])
    q, kv = s["heads"] * head_dim, s["kv"] * head_dim
    made = [("token_embd.weight", (s["vocab"], d))]
    for layer in range(s["layers"]):
        at = f"blk.{layer}."
        if s["arch"] in ("gptneox", "falcon"):
            norms = ["attn_norm"]
            norms += ["ffn_norm"] if s["arch"] == "gptneox" else ["attn_norm_2"] if s["kv"] > 1 else []
            made += [(at + norm + part, (d,)) for norm in norms for part in (".weight", ".bias")]
            linears = [("attn_qkv", q + 2 * kv, d), ("attn_output", d, q), ("ffn_up", ff, d), ("ffn_down", d, ff)]
            if s["arch"] == "gptneox":
                made += [(f"{at}{name}.bias", (rows,)) for name, rows, _ in linears]
        else:
            made += [(at + "attn_norm.weight", (d,)), (at + "ffn_norm.weight", (d,))]
            linears = [("attn_q", q, d), ("attn_k", kv, d), ("attn_v", kv, d), ("attn_output", d, q)]
            if "experts" in s:
                made += [(at + f"attn_{x}_norm.weight", (head_dim,)) for x in "qk"]
                made += [(at + "ffn_gate_inp.weight", (s["experts"], d))]
                stacks = [("gate", ff, d), ("up", ff, d), ("down", d, ff)]
                made += [(f"{at}ffn_{name}_exps.weight", (s["experts"], rows, cols)) for name, rows, cols in stacks]
            else:
                linears += [("ffn_gate", ff, d), ("ffn_up", ff, d), ("ffn_down", d, ff)]
        made += [(f"{at}{name}.weight", (rows, cols)) for name, rows, cols in linears]
    made += [("output_norm.weight", (d,))]
    made += [("output_norm.bias", (d,))] if s["arch"] in ("gptneox", "falcon") else []
    return made + [("output.weight", (s["vocab"], d))]


def write_metadata(writer: gguf.GGUFWriter, s: dict, name: str, kind: str) -> None:
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_context_length(8192)
    writer.add_embedding_length(s["hidden"])
    writer.add_block_count(s["layers"])
    writer.add_feed_forward_length(s["ff"])
    writer.add_head_count(s["heads"])
    writer.add_head_count_kv(s["kv"])
    writer.add_rope_dimension_count(s["rotary"])
    if s["arch"] in ("gptneox", "falcon"):
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(500000.0)
    if s["arch"] == "gptneox":
        writer.add_parallel_residual(True)
    if "experts" in s:
        writer.add_key_length(s["head_dim"])
        writer.add_value_length(s["head_dim"])
        writer.add_expert_count(s["experts"])
        writer.add_expert_used_count(s["top_k"])
        writer.add_expert_feed_forward_length(s["ff"])


def write_vocabulary(writer: gguf.GGUFWriter, s: dict) -> None:
    family = "falcon" if s["arch"] == "falcon" else "gpt-neox"
    fields = gguf.GGUFReader(VOCABULARIES / f"ggml-vocab-{family}.gguf").fields
    values = lambda key: [fields[key].parts[i] for i in fields[key].data]
    tokens = [bytes(part) for part in values("tokenizer.ggml.tokens")]
    kinds = [int(part[0]) for part in values("tokenizer.ggml.token_type")]
    padding = max(0, s["vocab"] - len(tokens))
    end = 11 if family == "falcon" else 0
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("falcon" if family == "falcon" else "olmo")
    writer.add_token_list(tokens + [f"[PAD{i}]".encode() for i in range(padding)])
    writer.add_token_types(kinds + [int(gguf.TokenType.UNUSED)] * padding)
    writer.add_token_merges([bytes(part).decode() for part in values("tokenizer.ggml.merges")])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(f"{__doc__}\nshapes: {', '.join(SHAPES)}")
    name, out, kind = sys.argv[1], sys.argv[2], (sys.argv[3:] or ["f16"])[0]
    s = SHAPES[name]
    writer = gguf.GGUFWriter(out, s["arch"])
    write_metadata(writer, s, name, kind)
    write_vocabulary(writer, s)
    source = tile(kind)
    made = tensors(s)
    for tensor, shape in made:
        if len(shape) == 1 or "ffn_gate_inp" in tensor:
            writer.add_tensor_info(tensor, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
        else:
            stored = (*shape[:-1], row_bytes(kind, shape[-1]))
            writer.add_tensor_info(tensor, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=TYPES[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, shape in made:
        if len(shape) == 1:
            writer.write_tensor_data(np.full(shape, 0.0 if tensor.endswith("bias") else 1.0, np.float32))
        elif "ffn_gate_inp" in tensor:
            writer.write_tensor_data(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
        else:
            stored = (*shape[:-1], row_bytes(kind, shape[-1]))
            writer.write_tensor_data(np.resize(source, stored))
    writer.close()


if __name__ == "__main__":
    main()
