#!/usr/bin/env python3
"""Writes `checkpoints/tiny-llama-q4_k_m/` and `tiny-llama-mixed/`: GGUF files whose tensors are in different
formats, as published ones are, and their golden logits.

`q4_k_m` is laid out as llama.cpp's recipe of that name does it: q4_k, but q6_k for the head and for attn_v and
ffn_down of some layers, so that the matrices of one layer's input differ in format. `mixed` has every other
block format of `src/quant/` once, and q3_k twice. Blocks of 256 weights ask for a hidden size of 256.

The tensors are quantized by ggml's C code; the golden logits are what transformers answers with the tensors
dequantized again. Folder, seeds and golden file are otherwise as in `tiny_checkpoints.py`, whose functions do the
work.

Rerun: python3 tests/golden/tiny_mixed.py [name ...]
       python3 tests/golden/tiny_mixed.py --check          (recompute, compare, write nothing)
       python3 tests/golden/tiny_mixed.py --cross-check    (golden against llama.cpp)
Made with the versions named in `tiny_checkpoints.py` and `ggml_blocks.py`.
"""

import shutil
import tempfile
import zlib
from pathlib import Path

import tiny_checkpoints as tiny
import transformers
from ggml_blocks import c_quantize, qtype
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import save_file
from tiny_gguf import gguf_to_hf, write_gguf
from tiny_variants.llama import llama

CONFIG = dict(hidden_size=256, intermediate_size=256, num_attention_heads=4, num_key_value_heads=1)

# The format of a tensor is that of the first word that its GGUF name starts with.
VARIANTS = {
    "llama-q4_k_m": dict(
        config=llama(**CONFIG),
        kind="Q4_K_M",
        formats={"output.": "q6_k", "blk.0.attn_v": "q6_k", "blk.0.ffn_down": "q6_k", "": "q4_k"},
        tokens=18,
    ),
    "llama-mixed": dict(
        config=llama(num_hidden_layers=1, **CONFIG),
        kind="Q3_K_M",
        formats={
            "token_embd": "q5_k", "blk.0.attn_q": "q2_k", "blk.0.attn_k": "q3_k", "blk.0.attn_v": "q5_0",
            "blk.0.attn_output": "q5_1", "blk.0.ffn_gate": "iq4_nl", "blk.0.ffn_up": "iq4_xs",
            "blk.0.ffn_down": "mxfp4", "": "q3_k",
        },
        tokens=65,
    ),
}  # fmt: skip

# NMSE between the golden logits and llama.cpp's own, which rounds activations to 8 bits: as measured, times ten.
CROSS_CHECK = 2e-2


def make(name: str, variant: dict, out: Path) -> None:
    seed = zlib.crc32(name.encode())

    def quantize(tensor: str, value):
        kind = next(kind for part, kind in variant["formats"].items() if tensor.startswith(part))
        return c_quantize(kind, value), qtype(kind)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tiny.write_json(folder / "config.json", variant["config"])
        tiny.write_tokenizer(folder, chat_template=False)
        tiny.write_weights(folder, variant, seed)
        write_gguf(folder, folder / "model.gguf", name, variant["kind"], quantize)
        parsed = transformers.AutoConfig.from_pretrained(folder)
        weights = gguf_to_hf(folder / "model.gguf", parsed)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        tokens = tiny.golden_tokens(parsed, variant["tokens"], seed)
        logits = tiny.forward(folder, tokens)
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
        shutil.copyfile(folder / "model.gguf", out / "model.gguf")
    tiny.write_golden(name, out, tokens, logits)


def cross_check(name: str, _: dict) -> None:
    from llama_cpp import Model

    folder = tiny.CHECKPOINTS / f"tiny-{name}"
    golden = load_numpy(folder / "golden.safetensors")
    model = Model(folder / "model.gguf")
    got = model.logits(golden["tokens"].tolist())
    model.close()
    nmse = float(((got - golden["logits"]) ** 2).sum() / (golden["logits"] ** 2).sum())
    print(f"tiny-{name:22} NMSE against llama.cpp {nmse:.1e}")
    assert nmse < CROSS_CHECK, (name, nmse)


if __name__ == "__main__":
    tiny.run("Write the checkpoints of mixed formats with golden logits.", VARIANTS, make, cross_check)
