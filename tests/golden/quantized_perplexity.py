#!/usr/bin/env python3
"""Prints llama.cpp's perplexity of GGUF files on `perplexity.txt`, for the table in docs/quantization.md.

Windows of 512 tokens without overlap, the second half of each scored, as `wgpt perplexity` and llama.cpp's own tool
do. Files come from `wgpt quantize`.

Run: python3 tests/golden/quantized_perplexity.py WINDOWS FILE.gguf[:CACHE] ...   (CACHE: f32, f16, q8_0 or q4_0)
Used with: Python 3.11, numpy 2.4.6, xllamacpp 2026.10.11549 (llama.cpp on the CPU; KV cache in float32 if not said).
"""

import sys
from pathlib import Path

import numpy as np
from llama_cpp import Model

WINDOW = 512


def perplexity(model: Model, text: str, windows: int, cache: str) -> float:
    tokens = model.encode(text)
    total, scored = 0.0, 0
    for start in range(0, len(tokens) - WINDOW + 1, WINDOW)[:windows]:
        window = tokens[start : start + WINDOW]
        logits = model.logits(window, threads=2, cache=cache).astype(np.float64)[WINDOW // 2 : WINDOW - 1]
        highest = logits.max(axis=1)
        log_sums = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
        following = np.array(window[WINDOW // 2 + 1 :])
        total += float((log_sums - logits[np.arange(len(following)), following]).sum())
        scored += len(following)
    return float(np.exp(total / scored))


def main() -> None:
    text = (Path(__file__).resolve().parent / "perplexity.txt").read_text().removesuffix("\n")
    for argument in sys.argv[2:]:
        path, _, cache = argument.partition(":")
        model = Model(path)
        assert not model.add_bos, "windows would start with BOS"
        print(f"{argument} {perplexity(model, text, int(sys.argv[1]), cache or 'f32'):.4f}", flush=True)
        model.close()


if __name__ == "__main__":
    main()
