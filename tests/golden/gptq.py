#!/usr/bin/env python3
"""Writes `gptq.safetensors`: small linears rounded by GPTQ, in numpy from the paper.

Frantar et al. 2022, arXiv:2210.17323, algorithm 1 with the Cholesky factor of the inverse Hessian, step by step in
float64: no blocks, no lazy updates, one column after the other. Inputs are correlated, one of them never occurs ("dead");
the damping is 1 % of the diagonal's mean. Scales are those of 16 codes over a group's weights and zero, found when the
sweep reaches the group, and rounded to float16, in which layouts store them. A zero point of 0 becomes 1, with a scale
that still reaches the largest weight: layouts store zero points less one.

Weights (rows, cols) and hessian (cols, cols) are named by their sizes, as `24x160.weights`; each case has the codes
(rows, cols), scales and zeros (rows, groups) and g_idx (cols) that come out of them.

Rerun: python3 tests/golden/gptq.py
       python3 tests/golden/gptq.py --check    (recompute, compare, write nothing)
Made with numpy 2 and safetensors 0.6 or later.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

OUT = Path(__file__).with_suffix(".safetensors")

# Rows, columns, group size (-1: all), act-order. 160 and 192 columns are more than one block of 128.
CASES = {
    "groups": (24, 160, 32, False),
    "rows": (16, 96, -1, False),
    "act_order": (24, 160, 32, True),
    "wide": (8, 192, 96, False),
}
DEAD = 5


def grid(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of each row."""
    low, high = np.minimum(weights.min(1), 0), np.maximum(weights.max(1), 0)
    scale = ((high - low) / 15).astype(np.float16).astype(np.float64)
    zero = np.minimum(np.rint(-low / scale), 15)
    lifted = zero < 1
    scale = np.where(lifted, np.maximum(high / 14, -low).astype(np.float16).astype(np.float64), scale)
    return scale, np.where(lifted, 1, zero)


def gptq(weights: np.ndarray, hessian: np.ndarray, size: int, act_order: bool) -> dict[str, np.ndarray]:
    weights, hessian = weights.astype(np.float64).copy(), hessian.astype(np.float64).copy()
    rows, cols = weights.shape
    dead = np.diag(hessian) == 0
    hessian[dead, dead] = 1
    weights[:, dead] = 0
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(cols)
    weights, hessian = weights[:, order], hessian[np.ix_(order, order)]
    hessian[np.diag_indices(cols)] += 0.01 * np.mean(np.diag(hessian))
    # Upper triangular U with UᵀU = H⁻¹.
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    size = cols if size == -1 else size
    codes, scales, zeros = np.zeros((rows, cols)), [], []
    for column in range(cols):
        if column % size == 0:
            scale, zero = grid(weights[:, column : column + size])
            scales.append(scale)
            zeros.append(zero)
        codes[:, column] = np.clip(np.rint(weights[:, column] / scale) + zero, 0, 15)
        error = (weights[:, column] - (codes[:, column] - zero) * scale) / upper[column, column]
        weights[:, column:] -= np.outer(error, upper[column, column:])
    in_place = np.empty_like(codes)
    in_place[:, order] = codes
    groups = np.empty(cols, np.int32)
    groups[order] = np.arange(cols) // size
    return {
        "codes": in_place.astype(np.uint8),
        "scales": np.stack(scales, 1).astype(np.float16),
        "zeros": np.stack(zeros, 1).astype(np.uint8),
        "g_idx": groups,
    }


def problem(rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the Hessian of their inputs."""
    rng = np.random.default_rng([rows, cols])
    weights = rng.standard_normal((rows, cols)).astype(np.float32) * np.float32(0.05)
    weights[0] = np.abs(weights[0])  # a row whose zero points would be 0
    mix = rng.standard_normal((cols, cols)) / np.sqrt(cols)
    inputs = rng.standard_normal((3 * cols, cols)) @ mix * rng.lognormal(0, 1, cols)
    inputs[:, DEAD] = 0
    return weights, (2 / len(inputs) * inputs.T @ inputs).astype(np.float32)


def make() -> dict[str, np.ndarray]:
    tensors = {}
    for name, (rows, cols, size, act_order) in CASES.items():
        weights, hessian = problem(rows, cols)
        tensors |= {f"{rows}x{cols}.weights": weights, f"{rows}x{cols}.hessian": hessian}
        made = gptq(weights, hessian, size, act_order)
        nearest = gptq(weights, np.diag(np.diag(hessian)), size, False)
        tensors |= {f"{name}.{part}": value for part, value in made.items()}
        shown = loss(made, weights, hessian), loss(nearest, weights, hessian)
        print(f"{name:10} error of the outputs {shown[0]:.4f}, rounded to nearest {shown[1]:.4f}")
    return tensors


def loss(made: dict[str, np.ndarray], weights: np.ndarray, hessian: np.ndarray) -> float:
    """Squared error of the outputs, as a share of their square."""
    groups = made["g_idx"]
    values = (made["codes"].astype(float) - made["zeros"][:, groups]) * made["scales"][:, groups].astype(float)
    of = weights.astype(float)
    off = values - of
    return float(np.einsum("ij,jk,ik", off, hessian, off) / np.einsum("ij,jk,ik", of, hessian, of))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    made = make()
    if parser.parse_args().check:
        known = load_file(OUT)
        assert known.keys() == made.keys()
        for name, value in made.items():
            assert np.allclose(value.astype(float), known[name].astype(float), atol=1, rtol=1e-3), name
    else:
        save_file(made, OUT)


if __name__ == "__main__":
    main()
