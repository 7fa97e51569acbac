#!/usr/bin/env python3
"""Writes `checkpoints/tiny-llama-q4_k_m/` and `tiny-llama-mixed/`: GGUF files whose tensors are in different
formats, as published ones are, and their golden logits.

`q4_k_m` is laid out as llama.cpp's recipe of that name does it: q4_k, but q6_k for the head and for attn_v and
ffn_down of some layers, so that the matrices of one layer's input differ in format. `mixed` has every other
block format of `src/quant/` once, and q3_k twice. Blocks of 256 weights ask for a hidden size of 256.

The tensors are quantized by ggml's C code; the golden logits are what transformers answers with the tensors
dequantized again. Folder, seeds and golden file are otherwise as in `tiny_checkpoints.py`, whose functions do the
work.

Rerun: python3 tests/golden/tiny_quant.py [name ...]
       python3 tests/golden/tiny_quant.py --check          (recompute, compare, write nothing)
       python3 tests/golden/tiny_quant.py --cross-check    (golden against llama.cpp)
Made with the versions named in `tiny_checkpoints.py` and `ggml_blocks.py`.
"""

import argparse
import shutil
import tempfile
import zlib
from pathlib import Path

import gguf
import numpy as np
import tiny_checkpoints as tiny
import torch
import transformers
from ggml_blocks import c_quantize, qtype
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file

CONFIG = dict(hidden_size=256, intermediate_size=256, num_attention_heads=4, num_key_value_heads=1)

# The format of a tensor is that of the first word that its GGUF name starts with.
VARIANTS = {
    "llama-q4_k_m": dict(
        config=tiny.llama(**CONFIG),
        file_type=gguf.LlamaFileType.MOSTLY_Q4_K_M,
        formats={"output.": "q6_k", "blk.0.attn_v": "q6_k", "blk.0.ffn_down": "q6_k", "": "q4_k"},
        tokens=18,
    ),
    "llama-mixed": dict(
        config=tiny.llama(num_hidden_layers=1, **CONFIG),
        file_type=gguf.LlamaFileType.MOSTLY_Q3_K_M,
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


def write_gguf(folder: Path, out: Path, name: str, variant: dict) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA])
    writer.add_type("model")
    writer.add_name(f"tiny-{name}")
    tiny.llama_gguf_keys(writer, config, variant["config"])
    writer.add_file_type(variant["file_type"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    tiny.write_gguf_vocabulary(writer, folder, config.vocab_size)
    for hf_name, tensor in load_file(folder / "model.safetensors").items():
        new_name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        value = tiny.llama_gguf_tensor(hf_name, tensor.float().numpy(), config)
        if value.ndim == 1:
            writer.add_tensor(new_name, value)
            continue
        kind = next(kind for part, kind in variant["formats"].items() if new_name.startswith(part))
        writer.add_tensor(new_name, c_quantize(kind, value), raw_dtype=qtype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(name: str, variant: dict, out: Path) -> None:
    seed = zlib.crc32(name.encode())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tiny.write_json(folder / "config.json", variant["config"])
        tiny.write_tokenizer(folder, chat_template=False)
        tiny.write_weights(folder, variant, seed)
        write_gguf(folder, folder / "model.gguf", name, variant)
        parsed = transformers.AutoConfig.from_pretrained(folder)
        weights = tiny.gguf_to_hf(folder / "model.gguf", parsed)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        tokens = tiny.golden_tokens(parsed, variant["tokens"], seed)
        logits = tiny.forward(folder, tokens)
        assert torch.isfinite(logits).all()
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
        shutil.copyfile(folder / "model.gguf", out / "model.gguf")
    save_numpy({"tokens": tokens.numpy(), "logits": logits.numpy()}, out / "golden.safetensors")
    size = sum(f.stat().st_size for f in out.iterdir()) // 1000
    print(f"tiny-{name:22} {size:5} kB  logits rms {logits.square().mean().sqrt():6.2f}  max {logits.abs().max():6.2f}")


def cross_check(name: str) -> None:
    from llama_cpp import Model

    folder = tiny.CHECKPOINTS / f"tiny-{name}"
    golden = load_numpy(folder / "golden.safetensors")
    model = Model(folder / "model.gguf")
    got = model.logits(golden["tokens"].tolist())
    model.close()
    nmse = float(((got - golden["logits"]) ** 2).sum() / (golden["logits"] ** 2).sum())
    print(f"tiny-{name:22} NMSE against llama.cpp {nmse:.1e}")
    assert nmse < CROSS_CHECK, (name, nmse)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the checkpoints of mixed formats with golden logits.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--cross-check", action="store_true")
    args = parser.parse_args()
    for name in args.names or VARIANTS:
        name = name.removeprefix("tiny-")
        if args.cross_check:
            cross_check(name)
            continue
        if not args.check:
            make(name, VARIANTS[name], tiny.CHECKPOINTS / f"tiny-{name}")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            again = Path(scratch) / name
            make(name, VARIANTS[name], again)
            old, new = (load_numpy(f / "golden.safetensors") for f in (tiny.CHECKPOINTS / f"tiny-{name}", again))
            assert np.array_equal(old["tokens"], new["tokens"]), name
            assert np.allclose(old["logits"], new["logits"], rtol=1e-4, atol=1e-4), name


if __name__ == "__main__":
    main()
