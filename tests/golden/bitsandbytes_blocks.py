#!/usr/bin/env python3
"""Writes `bitsandbytes_blocks.safetensors`: bytes and values of bitsandbytes' 4-bit formats.

For nf4 and fp4:

    NAME.table   float32 (16)           what each code is worth
    NAME.input   float32 (rows, cols)   what was quantized, in blocks of 64
    NAME.bytes   uint8   (rows, bytes)  the rows as wgpt stores them: per block its absmax (f32), then the 32 bytes
                                        that bitsandbytes packs the codes into
    NAME.values  float32 (rows, cols)   those bytes dequantized by bitsandbytes

Rows of `input` (cols = 512): zeros; normal; normal with one outlier per block; a ramp that visits every code; very
small; very large; one sign only; one nonzero value per block. Weights within 1e-5 of a border between two codes
are moved away: bitsandbytes' own kernels disagree there.

Rerun: python3 tests/golden/bitsandbytes_blocks.py
Made with: Python 3.11, bitsandbytes 0.50.2 (CPU), torch 2.15, numpy 2.4.6, safetensors 0.8.0.
"""

from pathlib import Path

import bitsandbytes.functional as bnb
import numpy as np
import torch
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent / "bitsandbytes_blocks.safetensors"
COLS, BLOCK = 512, 64


def rows() -> np.ndarray:
    rng = np.random.default_rng(20)
    normal = rng.normal(size=COLS)
    outliers = rng.normal(size=COLS)
    outliers[5::BLOCK] = 40.0
    single = np.zeros(COLS)
    single[9::BLOCK] = -0.37
    ramp = np.concatenate([np.linspace(-1, 1, BLOCK) * (block + 1) for block in range(COLS // BLOCK)])
    kinds = [np.zeros(COLS), normal, outliers, ramp, normal * 1e-30, normal * 1e30, np.abs(normal) * 0.02, single]
    return np.stack(kinds).astype(np.float32)


def off_borders(weights: np.ndarray, table: np.ndarray) -> np.ndarray:
    values = np.unique(table.astype(np.float64))
    borders = (values[1:] + values[:-1]) / 2
    blocks = weights.reshape(-1, BLOCK).astype(np.float64)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    scaled = blocks / np.where(largest == 0, 1, largest)
    near = np.abs(scaled[..., None] - borders).min(axis=-1) < 1e-5
    return np.where(near, scaled * (1 - 1e-3) * largest, blocks).reshape(weights.shape).astype(np.float32)


def main() -> None:
    tensors = {}
    for name in ["nf4", "fp4"]:
        table = bnb.get_4bit_type(name, device="cpu").numpy().astype(np.float32)
        weights = off_borders(rows(), table)
        codes, state = bnb.quantize_4bit(torch.from_numpy(weights), blocksize=BLOCK, quant_type=name)
        values = bnb.dequantize_4bit(codes, state).numpy()
        absmax = state.absmax.numpy().astype("<f4").view(np.uint8).reshape(-1, 4)
        blocks = np.concatenate([absmax, codes.numpy().reshape(-1, BLOCK // 2)], axis=1)
        tensors |= {
            f"{name}.table": table,
            f"{name}.input": weights,
            f"{name}.bytes": np.ascontiguousarray(blocks.reshape(len(weights), -1)),
            f"{name}.values": values.reshape(weights.shape),
        }
    save_file(tensors, OUT)


if __name__ == "__main__":
    main()
