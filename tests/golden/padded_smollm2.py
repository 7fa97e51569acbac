#!/usr/bin/env python3
"""Writes SmolLM2-135M with rows that k-quants' blocks of 256 divide, as an f32 GGUF file.

Its rows are 576 (hidden size) and 1536 long; here the hidden size is 768. Every 256 of the new channels are 192 of the
old and 64 that are always zero, and to the 9 heads (3 of keys and values) come 3 (1) of zeros. RMSNorm divides by a
mean over more values, so eps shrinks by 576 / 768 and the norms' weights by its root: the function is the same one, to
the last bits of f32. For the table in docs/quantization.md; the file is 0.8 GB and never committed.

Run: python3 tests/golden/padded_smollm2.py checkpoints/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf PADDED.gguf
Used with: Python 3.11, numpy 2.4.6, gguf 0.19.0.
"""

import sys

import gguf
import numpy as np

OLD, NEW = 576, 768
OLD_HEADS, NEW_HEADS, OLD_KV_HEADS, NEW_KV_HEADS, HEAD_DIM = 9, 12, 3, 4, 64
# Where each old channel goes.
CHANNELS = np.arange(OLD) // 192 * 256 + np.arange(OLD) % 192


def widened(values: np.ndarray) -> np.ndarray:
    """The last axis from old channels to new ones."""
    out = np.zeros((*values.shape[:-1], NEW), np.float32)
    out[..., CHANNELS] = values
    return out


def rows_added(values: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((rows - len(values), values.shape[1]), np.float32)])


def padded(name: str, values: np.ndarray) -> np.ndarray:
    kind = name.split(".")[-2]
    if kind.endswith("norm"):
        return widened(values) * np.float32(np.sqrt(OLD / NEW))
    if kind in ("token_embd", "ffn_gate", "ffn_up"):
        return widened(values)
    if kind == "attn_q":
        return rows_added(widened(values), NEW_HEADS * HEAD_DIM)
    if kind in ("attn_k", "attn_v"):
        return rows_added(widened(values), NEW_KV_HEADS * HEAD_DIM)
    if kind == "ffn_down":
        return widened(values.T).T
    assert kind == "attn_output", name
    # Its columns are heads, its rows channels.
    return rows_added(widened(values.T), NEW_HEADS * HEAD_DIM).T


def main() -> None:
    reader = gguf.GGUFReader(sys.argv[1])
    writer = gguf.GGUFWriter(sys.argv[2], "llama")
    changed = {
        "llama.embedding_length": (OLD, NEW),
        "llama.attention.head_count": (OLD_HEADS, NEW_HEADS),
        "llama.attention.head_count_kv": (OLD_KV_HEADS, NEW_KV_HEADS),
        "general.file_type": (3, 0),
    }
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = field.contents()
        if key in changed:
            before, after = changed.pop(key)
            assert value == before, f"{key} is {value}"
            value = after
        if key == "llama.attention.layer_norm_rms_epsilon":
            value *= OLD / NEW
        nested = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, value, field.types[0], sub_type=nested)
    assert not changed, f"not in the file: {changed}"
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, np.ascontiguousarray(padded(tensor.name, values)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
