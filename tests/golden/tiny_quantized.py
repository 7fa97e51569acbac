#!/usr/bin/env python3
"""Writes `checkpoints/tiny-llama-{gptq,awq,bnb,fp8}*/`: safetensors as other libraries quantize them, and golden logits.

Everything is packed here by numpy, from the definitions of the layouts:

  GPTQ   qweight (in * bits / 32, out) int32: neighbouring inputs of an output share a word, from the lowest bits up;
         qzeros (groups, out * bits / 32): neighbouring outputs likewise, unless `gptq_v2` less a one for each,
         subtracted from the word as GPTQModel does;
         scales (groups, out) float16; g_idx (in): each input's group. Weight = (code - zero) * scale.
  AWQ    qweight (in, out / 8): nibble n of a word is output 8w + [0, 2, 4, 6, 1, 3, 5, 7][n]; qzeros likewise.
  bnb    two weights a byte, the first in the upper half; blocks of 64 run over rows; value = table[code] * absmax;
         with double quantization absmax = table256[byte] * absmax of 256 of them + offset.
  FP8    e4m3 bytes, and what they are multiplied by: for 128 x 128 weights, or for a row.

The golden logits are what transformers answers with the weights these formulas give, float32 throughout. Weights
of bitsandbytes' rows that are not whole blocks are rounded to float16 first, as their library does.

Rerun: python3 tests/golden/tiny_quantized.py [name ...]
       python3 tests/golden/tiny_quantized.py --check         (recompute, compare, write nothing)
       python3 tests/golden/tiny_quantized.py --cross-check   (the files against the libraries that write such)
Made with the versions named in `tiny_checkpoints.py`; cross-checked with bitsandbytes 0.50.2, autoawq 0.2.9,
auto-gptq 0.7.1 (of the latter two one module each is loaded).
"""

import importlib.util
import json
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import tiny_checkpoints as tiny
import torch
from safetensors.torch import load_file, save_file
from tiny_variants.llama import llama

SMALL = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, tie_word_embeddings=True)
WIDE = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=1, tie_word_embeddings=True)
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def gptq(**over) -> dict:
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, "damp_percent": 0.1, "desc_act": False, "sym": True,
            "true_sequential": True, "model_name_or_path": None, "model_file_base_name": "model", "static_groups": False,
            **over}  # fmt: skip


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True,
       "modules_to_not_convert": None}  # fmt: skip


def bnb(kind: str, double: bool) -> dict:
    return {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "_load_in_4bit": True,
            "_load_in_8bit": False, "bnb_4bit_compute_dtype": "float16", "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": double, "llm_int8_threshold": 6.0,
            "llm_int8_has_fp16_weight": False, "llm_int8_enable_fp32_cpu_offload": False,
            "llm_int8_skip_modules": None}  # fmt: skip


FP8_BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
FP8_TENSOR = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
FP8_ROWS = {
    "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head"], "kv_cache_scheme": None, "global_compression_ratio": 1.5,
    "config_groups": {"group_0": {
        "targets": ["Linear"], "output_activations": None,
        "input_activations": {"dynamic": True, "num_bits": 8, "strategy": "token", "symmetric": True, "type": "float"},
        "weights": {"dynamic": False, "num_bits": 8, "strategy": "channel", "symmetric": True, "type": "float",
                    "observer": "minmax", "group_size": None, "block_structure": None},
    }},
}  # fmt: skip

VARIANTS = {
    "llama-gptq": dict(sizes=WIDE, config=gptq(group_size=128, sym=False)),
    "llama-gptq-sym": dict(sizes=SMALL, config=gptq(checkpoint_format="gptq_v2"), biases=True),
    "llama-gptq-asym-32": dict(sizes=SMALL, config=gptq(sym=False, checkpoint_format="gptq_v2")),
    "llama-gptq-int8": dict(sizes=SMALL, config=gptq(bits=8, group_size=-1, sym=False)),
    "llama-gptq-int8-32": dict(sizes=SMALL, config=gptq(bits=8, checkpoint_format="gptq")),
    "llama-gptq-act-order": dict(sizes=SMALL, config=gptq(desc_act=True)),
    "llama-awq": dict(sizes=WIDE, config=AWQ),
    "llama-bnb-nf4": dict(sizes=SMALL, config=bnb("nf4", double=True)),
    "llama-bnb-fp4": dict(sizes=SMALL, config=bnb("fp4", double=False)),
    "llama-fp8": dict(sizes={**WIDE, "intermediate_size": 192}, config=FP8_BLOCKS),
    "llama-fp8-rows": dict(sizes=SMALL, config=FP8_ROWS),
    "llama-fp8-tensor": dict(sizes=SMALL, config=FP8_TENSOR),
}


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


# ---------------------------------------------------------------------------- GPTQ and AWQ


def to_codes(weight: np.ndarray, group: np.ndarray, bits: int, symmetric: bool):
    """Codes (out, in), scales and zero points (groups, out), rounded to nearest."""
    most = 2**bits - 1
    columns = [weight[:, group == g] for g in range(group.max() + 1)]
    low = np.stack([np.minimum(c.min(1), 0) for c in columns])
    high = np.stack([np.maximum(c.max(1), 0) for c in columns])
    if symmetric:
        high = np.maximum(high, -low)
        low = -high
    scales = half((high - low) / most)
    zeros = np.full_like(scales, (most + 1) // 2) if symmetric else np.clip(np.round(-low / scales), 0, most)
    codes = np.clip(np.round(weight / scales.T[:, group]) + zeros.T[:, group], 0, most)
    return codes.astype(np.uint32), scales, zeros.astype(np.uint32)


def pack_rows(values: np.ndarray, bits: int) -> np.ndarray:
    """Neighbours of the first axis into words, from the lowest bits up."""
    per = 32 // bits
    parts = values.reshape(-1, per, *values.shape[1:]).astype(np.uint32)
    return sum(parts[:, i] << np.uint32(bits * i) for i in range(per)).astype(np.uint32).view(np.int32)


def pack_awq(values: np.ndarray) -> np.ndarray:
    parts = values.reshape(values.shape[0], -1, 8).astype(np.uint32)
    words = sum(parts[..., output] << np.uint32(4 * nibble) for nibble, output in enumerate(AWQ_ORDER))
    return words.astype(np.uint32).view(np.int32)


def quantize_gptq(weight: np.ndarray, config: dict, rng) -> tuple[dict, np.ndarray]:
    bits, inputs = config["bits"], weight.shape[1]
    size = inputs if config["group_size"] == -1 else config["group_size"]
    group = np.arange(inputs) // size
    if config["desc_act"]:
        group = group[rng.permutation(inputs)]
    codes, scales, zeros = to_codes(weight, group, bits, config["sym"])
    if not config["sym"]:
        # A zero point of 0, which in the first layout borrows from the next.
        zeros[0, 0] = 0
        codes[0] = np.where(group == 0, codes[0] % (2**bits - 1), codes[0])
    words = np.ascontiguousarray(pack_rows(zeros.T, bits).T).view(np.uint32)
    if config.get("checkpoint_format") != "gptq_v2":
        words = words - np.uint32(0x11111111 if bits == 4 else 0x01010101)
    tensors = {
        "qweight": pack_rows(codes.T, bits),
        "qzeros": np.ascontiguousarray(words).view(np.int32),
        "scales": scales.astype(np.float16),
        "g_idx": group.astype(np.int32),
    }
    exact = (codes.astype(np.float32) - zeros.T[:, group].astype(np.float32)) * scales.T[:, group]
    return tensors, exact


def quantize_awq(weight: np.ndarray, config: dict, rng) -> tuple[dict, np.ndarray]:
    group = np.arange(weight.shape[1]) // config["group_size"]
    codes, scales, zeros = to_codes(weight, group, 4, symmetric=False)
    tensors = {"qweight": pack_awq(codes.T), "qzeros": pack_awq(zeros), "scales": scales.astype(np.float16)}
    return tensors, (codes.astype(np.float32) - zeros.T[:, group].astype(np.float32)) * scales.T[:, group]


# ---------------------------------------------------------------------------- bitsandbytes

NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)  # fmt: skip
FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3], np.float32) / np.float32(12)


def dynamic_map() -> np.ndarray:
    """The 8-bit table of double quantization (Dettmers 2015): decades with ever more steps, both signs, 0 and 1."""
    values = [0.0, 1.0]
    for i in range(7):
        ends = np.linspace(0.1, 1, 2**i + 1)
        means = (ends[:-1] + ends[1:]) / 2 * 10.0 ** (i - 6)
        values += [*means, *-means]
    return np.sort(np.array(values, np.float32))


def nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    return np.abs(values[..., None] - table).argmin(-1).astype(np.uint8)


def quantize_bnb(weight: np.ndarray, config: dict, rng) -> tuple[dict, np.ndarray]:
    kind, double = config["bnb_4bit_quant_type"], config["bnb_4bit_use_double_quant"]
    table = NF4 if kind == "nf4" else FP4
    blocks = weight.reshape(-1, 64)
    absmax = np.abs(blocks).max(1).astype(np.float32)
    state = {"quant_type": kind, "blocksize": 64, "dtype": "float16", "shape": list(weight.shape)}
    nested = {}
    if double:
        offset = absmax.mean(dtype=np.float32)
        padded = np.zeros((-(-absmax.size // 256), 256), np.float32)
        padded.flat[: absmax.size] = absmax - offset
        outer = np.abs(padded).max(1)
        table256 = dynamic_map()
        codes = nearest(padded / outer[:, None], table256)
        absmax = (table256[codes] * outer[:, None]).flat[: absmax.size] + offset
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
        nested = {"weight.nested_absmax": outer, "weight.nested_quant_map": table256}
    codes = nearest(blocks / absmax[:, None], table).ravel()
    tensors = {
        "weight": (codes[0::2] << 4 | codes[1::2]).reshape(-1, 1),
        "weight.absmax": codes_of_absmax(padded, nested, absmax.size) if double else absmax,
        "weight.quant_map": table,
        f"weight.quant_state.bitsandbytes__{kind}": np.frombuffer(json.dumps(state).encode(), np.uint8),
        **nested,
    }
    exact = (table[codes].reshape(-1, 64) * absmax[:, None]).reshape(weight.shape)
    return tensors, exact if weight.shape[1] % 64 == 0 else half(exact)


def codes_of_absmax(padded: np.ndarray, nested: dict, count: int) -> np.ndarray:
    scaled = padded / nested["weight.nested_absmax"][:, None]
    return nearest(scaled, nested["weight.nested_quant_map"]).ravel()[:count]


# ---------------------------------------------------------------------------- FP8


def quantize_fp8(weight: np.ndarray, config: dict, rng) -> tuple[dict, np.ndarray]:
    rows, cols = weight.shape
    high, wide = config.get("weight_block_size") or ((1, cols) if config is FP8_ROWS else (rows, cols))
    scales = np.stack([
        [np.abs(weight[r : r + high, c : c + wide]).max() / 448 for c in range(0, cols, wide)]
        for r in range(0, rows, high)
    ]).astype(np.float32)  # fmt: skip
    name = "weight_scale_inv" if config is FP8_BLOCKS else "weight_scale"
    if config is FP8_ROWS:
        scales = torch.from_numpy(scales).bfloat16().float().numpy()
    spread = scales.repeat(high, 0)[:rows].repeat(wide, 1)[:, :cols]
    codes = torch.from_numpy(weight / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    tensors = {"weight": codes, name: torch.from_numpy(scales).bfloat16() if config is FP8_ROWS else scales}
    if config is FP8_TENSOR:
        tensors |= {name: scales.reshape(()), "input_scale": np.array(0.02, np.float32)}
    return tensors, codes.float().numpy() * spread


METHODS = {
    "gptq": quantize_gptq, "awq": quantize_awq, "bitsandbytes": quantize_bnb, "fp8": quantize_fp8,
    "compressed-tensors": quantize_fp8,
}  # fmt: skip


def make(name: str, variant: dict, folder: Path) -> None:
    seed = zlib.crc32(name.encode())
    rng = np.random.default_rng([seed, 11])
    config = llama(torch_dtype="float16", **variant["sizes"])
    quantize = METHODS[variant["config"]["quant_method"]]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        tiny.write_json(scratch / "config.json", config)
        tiny.write_weights(scratch, variant, seed)
        stored, plain = {}, {}
        for tensor, value in load_file(scratch / "model.safetensors").items():
            if ".layers." not in tensor or value.dim() == 1:
                stored[tensor] = value.half()
                plain[tensor] = value.half().float()
                continue
            linear = tensor.removesuffix(".weight")
            parts, values = quantize(value.float().numpy(), variant["config"], rng)
            plain[tensor] = torch.from_numpy(np.ascontiguousarray(values, np.float32))
            for part, content in parts.items():
                content = content if isinstance(content, torch.Tensor) else torch.from_numpy(np.array(content))
                stored[f"{linear}.{part}"] = content.contiguous()
            if variant.get("biases"):
                stored[f"{linear}.bias"] = torch.zeros(value.shape[0], dtype=torch.float16)
        save_file(plain, scratch / "model.safetensors", metadata={"format": "pt"})
        parsed = tiny.text_config(scratch)
        tokens = tiny.golden_tokens(parsed, 18, seed)
        logits = tiny.forward(scratch, tokens)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    tiny.write_json(folder / "config.json", {**config, "quantization_config": variant["config"]})
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    tiny.write_golden(name, folder, tokens, logits)


# ---------------------------------------------------------------------------- cross-check


def module_of(package: str, file: str):
    """One module of an installed package, without the rest of it."""
    origin = Path(importlib.util.find_spec(package).origin).parent / file
    spec = importlib.util.spec_from_file_location(origin.stem, origin)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dequantized(parts: dict, shape: tuple, config: dict) -> np.ndarray | None:
    """What the method's own library makes of a linear (out, in); None where there is nothing to compare with."""
    if config["quant_method"] == "bitsandbytes":
        if shape[1] % 64:
            return None  # its code for CPUs takes blocks to start with rows, which its own quantizer does not
        from bitsandbytes.functional import QuantState, dequantize_4bit

        state = QuantState.from_dict({k: v for k, v in parts.items() if k != "weight"}, device=torch.device("cpu"))
        return dequantize_4bit(parts["weight"], state).float().numpy()
    if config["quant_method"] == "awq":
        codes = (parts["qweight"], parts["qzeros"], parts["scales"])
        packing = module_of("awq", "utils/packing_utils.py")
        return packing.dequantize_gemm(*codes, 4, config["group_size"]).T.float().numpy()
    if config["quant_method"] != "gptq" or config.get("checkpoint_format") == "gptq_v2":
        return None
    layers = module_of("auto_gptq", "nn_modules/qlinear/qlinear_cuda.py")
    outputs, inputs = shape
    linear = layers.QuantLinear(config["bits"], config["group_size"], inputs, outputs, False, weight_dtype=torch.float32)
    linear.qweight, linear.qzeros, linear.g_idx = parts["qweight"], parts["qzeros"], parts["g_idx"]
    linear.scales, linear.autogptq_cuda_available = parts["scales"].float(), False
    return linear(torch.eye(inputs)).T.detach().numpy()


def cross_check(name: str, variant: dict) -> None:
    """The libraries' own dequantization of the file, against the formulas above."""
    config, seed = variant["config"], zlib.crc32(name.encode())
    tensors = load_file(tiny.CHECKPOINTS / f"tiny-{name}" / "model.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        tiny.write_json(scratch / "config.json", llama(torch_dtype="float16", **variant["sizes"]))
        tiny.write_weights(scratch, variant, seed)
        originals = load_file(scratch / "model.safetensors")
    rng, worst = np.random.default_rng([seed, 11]), None
    for tensor, value in originals.items():
        if ".layers." not in tensor or value.dim() == 1:
            continue
        linear = tensor.removesuffix("weight")
        expected = METHODS[config["quant_method"]](value.float().numpy(), config, rng)[1]
        parts = {key.removeprefix(linear): part for key, part in tensors.items() if key.startswith(linear)}
        found = dequantized(parts, expected.shape, config)
        if found is not None:
            if config["quant_method"] == "gptq" and not config["sym"]:
                # AutoGPTQ adds ones to codes, not to words: outputs that share one with a zero point of 0 differ.
                found, expected = found[32 // config["bits"] :], expected[32 // config["bits"] :]
            worst = max(worst or 0.0, np.abs(found - expected).max() / np.abs(expected).max())
    if worst is not None:
        print(f"tiny-{name:22} at most {worst:.1e} of the largest weight from the library's values")
        assert worst < 1e-3, name  # some round to float16


if __name__ == "__main__":
    tiny.run("Write quantized checkpoints with golden logits.", VARIANTS, make, cross_check)
