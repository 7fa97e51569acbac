#!/usr/bin/env python3
"""Writes `ggml_blocks.safetensors`: bytes and values of ggml's block formats.

For every format NAME (ggml's name, lower case):

    NAME.input           float32 (rows, cols)    what was quantized (only where listed below)
    NAME.bytes           uint8   (rows, bytes)   the stored rows, `bytes` = cols / block_len * block_bytes
    NAME.values          float32 (rows, cols)    those bytes dequantized
    NAME.crafted_bytes   uint8   (rows, bytes)   blocks no quantizer would write: seeded random codes (so
                                                 every code occurs), with zero, negative, subnormal and
                                                 largest scales
    NAME.crafted_values  float32 (rows, cols)    those dequantized

Values come from gguf-py and are checked, bit for bit, against the C code of ggml (`to_float`).
Bytes come from gguf-py where it can quantize and are checked against `ggml_quantize_chunk`; for the
k-quants and iq4 they come from `ggml_quantize_chunk` alone (those quantizers search: the bytes are met
by the same sums in the same order, without fused multiply-adds). `f16` and `bf16` are "blocks" of one value.

Rows of `input` (cols = 512): zeros; normal; normal with one outlier per block; a ramp that visits
every code; very small (scales subnormal in f16, or rounded to zero); very large (scales near the
largest f16); one sign only; constant blocks; one nonzero value per block; ties at .5 of a step.

Rerun: python3 tests/golden/ggml_blocks.py
Made with: Python 3.11, gguf 0.19.0, numpy 2.4.6, safetensors 0.8.0, xllamacpp 2026.10.11549 (for
ggml's C code).
"""

import ctypes
from pathlib import Path

import gguf
import numpy as np
import xllamacpp
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent / "ggml_blocks.safetensors"
COLS = 512
BOTH = ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "mxfp4"]  # gguf-py quantizes these
SEARCHED = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]
# Byte offsets of the f16 numbers in a block.
F16_FIELDS = {
    "q8_0": [0], "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q2_k": [80, 82], "q3_k": [108],
    "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208], "iq4_nl": [0], "iq4_xs": [0],
}


class Traits(ctypes.Structure):
    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]


lib = ctypes.CDLL(str(next(Path(xllamacpp.__path__[0]).glob("xllamacpp*.so"))))
lib.ggml_cpu_init()
lib.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
lib.ggml_quantize_chunk.restype = ctypes.c_size_t
lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [
    ctypes.c_void_p]


def qtype(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name.upper()]


def traits(name: str) -> Traits:
    found = lib.ggml_get_type_traits(int(qtype(name))).contents
    block, size = gguf.GGML_QUANT_SIZES[qtype(name)]
    assert found.type_name.decode().lower() == name and (found.blck_size, found.type_size) == (block, size), name
    return found


def c_quantize(name: str, rows: np.ndarray) -> np.ndarray:
    found = traits(name)
    out = np.zeros((rows.shape[0], rows.shape[1] // found.blck_size * found.type_size), np.uint8)
    rows = np.ascontiguousarray(rows, np.float32)
    lib.ggml_quantize_chunk(int(qtype(name)), rows.ctypes.data, out.ctypes.data, 0, *rows.shape, None)
    return out


def c_dequantize(name: str, stored: np.ndarray) -> np.ndarray:
    found = traits(name)
    stored = np.ascontiguousarray(stored)
    out = np.zeros((stored.shape[0], stored.shape[1] // found.type_size * found.blck_size), np.float32)
    found.to_float(stored.ctypes.data, out.ctypes.data, out.size)
    return out


def py_dequantize(name: str, stored: np.ndarray) -> np.ndarray:
    if name == "f16":
        return stored.view(np.float16).astype(np.float32)
    return dequantize(stored, qtype(name)).astype(np.float32)


def py_quantize(name: str, rows: np.ndarray) -> np.ndarray:
    if name == "f16":
        return rows.astype(np.float16).view(np.uint8)
    return quantize(rows, qtype(name)).view(np.uint8).reshape(rows.shape[0], -1)


def input_rows(name: str) -> np.ndarray:
    rng = np.random.default_rng(20231)
    normal = rng.standard_normal((6, COLS))
    outlier = normal[1].copy()
    outlier[rng.integers(0, 32, COLS // 32) + np.arange(0, COLS, 32)] *= 25.0
    steps = 127 if name == "q8_0" else 8
    tie = (rng.integers(-steps + 1, steps - 1, COLS) + 0.5) / 64.0
    tie[::32] = -steps / 64.0  # makes the scale a power of two or nearly
    single = np.zeros(COLS)
    single[np.arange(0, COLS, 32) + rng.integers(0, 32, COLS // 32)] = normal[2][: COLS // 32]
    rows = [
        np.zeros(COLS),
        normal[0],
        outlier,
        np.linspace(-1.0, 1.0, COLS) * 0.75,
        np.tile(np.linspace(-1.0, 1.0, 32), COLS // 32) * np.repeat(2.0 ** np.arange(COLS // 32), 32) / 256.0,
        normal[3] * np.repeat(np.array([1e-4, 1e-5, 1e-6, 1e-7] * 4), 32),
        np.clip(normal[4], -3, 3) * (1.0e5 if name in ("bf16", "q8_0", "q4_0", "q5_0", "mxfp4") else 2.0e4),
        np.abs(normal[5]) + 0.5,
        -np.abs(normal[5]) - 0.5,
        np.repeat(normal[0][:16], 32),
        single,
        tie,
    ]
    return np.stack(rows).astype(np.float32)


def crafted(name: str) -> np.ndarray:
    rng = np.random.default_rng(77)
    if name in ("f16", "bf16"):
        bits = np.arange(0, 65536, 13, dtype=np.uint32).astype(np.uint16)
        exponent, largest = (0x7C00, 0x7BFF) if name == "f16" else (0x7F80, 0x7F7F)
        bits = bits[(bits & exponent) != exponent]  # no infinity, no NaN
        bits = bits[: bits.size // COLS * COLS].reshape(-1, COLS).copy()
        bits[0, :6] = [0, 0x8000, 1, 0x8001, largest, largest | 0x8000]
        return bits.view(np.uint8)
    block, size = gguf.GGML_QUANT_SIZES[qtype(name)]
    rows, per_row = 6, COLS // block
    blocks = rng.integers(0, 256, (rows, per_row, size), dtype=np.uint8)
    if name == "mxfp4":
        blocks[:, :, 0] = rng.integers(90, 160, (rows, per_row))
        blocks[0, :4, 0] = [0, 1, 2, 252]  # e8m0: the smallest, and near the largest that stays finite
    for at in F16_FIELDS.get(name, []):
        scale = (rng.standard_normal((rows, per_row)) * 0.02).astype(np.float16)
        scale[0] = 0.0
        scale[1] = np.float16(6.0e-8)  # smallest subnormal
        scale[2] = np.float16(65504.0)
        scale[3] = np.float16(-3.0e-5)  # subnormal, negative
        blocks[:, :, at : at + 2] = np.ascontiguousarray(scale)[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


def main() -> None:
    tensors = {}
    for name in BOTH + SEARCHED:
        rows = input_rows(name)
        from_c = c_quantize(name, rows)
        stored = py_quantize(name, rows) if name in BOTH else from_c
        bytes_differ = int((stored != from_c).sum())
        made = {"input": rows, "bytes": stored, "values": py_dequantize(name, stored)}
        made |= {"crafted_bytes": crafted(name), "crafted_values": py_dequantize(name, crafted(name))}
        for kind in ("", "crafted_"):
            values, c_values = made[kind + "values"], c_dequantize(name, made[kind + "bytes"])
            assert np.isfinite(values).all(), (name, kind)
            if not same_bits(values, c_values):
                worst = np.abs(values - c_values).max() / np.abs(values).max()
                zeros = np.array_equal(values, c_values)
                print(f"{name} {kind}values: gguf-py and C differ, {worst:.1e} of the largest"
                      + (" (only in the sign of zero)" if zeros else ""))
        used = len(np.unique(made["crafted_bytes"]))
        print(f"{name:7} bytes {stored.shape}  differing from C's quantizer: {bytes_differ}; byte values crafted {used}")
        tensors |= {f"{name}.{key}": np.ascontiguousarray(value) for key, value in made.items()}
    save_file(tensors, OUT)
    OUT.chmod(0o644)
    print(f"{OUT.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
