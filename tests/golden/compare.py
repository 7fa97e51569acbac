#!/usr/bin/env python3
"""Writes `compare.json`: how far predictions of one model are from another's, by transformers and torch in float64.

    cases[]        a, b: checkpoints; quantized: whether b is a with every matrix in q8_0 and back, by gguf-py;
                   context, chunks: windows of so many tokens of `perplexity.txt`, so many of them
                   perplexity (of a and b), kl_divergence (mean, median, p99, max; a's from b's point of view is not
                   it: the sum is over a's probabilities), same_top_token (share), mean_absolute and rms of the change
                   of the following token's probability

Windows as llama.cpp's perplexity tool cuts them; the first token is the one that the tokenizer puts in front of a text.

Run: python3 tests/golden/compare.py
Made with: Python 3.11, torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, gguf 0.19.0, numpy 2.4.6, on a CPU.
"""

import json
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE.parent.parent / "checkpoints"
CASES = [
    ("tiny-llama-gqa", "tiny-llama-mha", False, 48, 5),
    ("wgpt-stories-4m", "wgpt-stories-4m", True, 128, 3),
]


def model(name: str, quantized: bool) -> torch.nn.Module:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        CHECKPOINTS / name, dtype=torch.float32, attn_implementation="eager")
    kind = gguf.GGMLQuantizationType.Q8_0
    for parameter in model.parameters():
        if quantized and parameter.dim() == 2:
            stored = gguf.quants.quantize(parameter.detach().numpy(), kind)
            parameter.data = torch.from_numpy(gguf.quants.dequantize(stored, kind))
    return model.double().eval()


def windows(name: str, length: int, count: int) -> list[list[int]]:
    tokenizer = tokenizers.Tokenizer.from_file(str(CHECKPOINTS / name / "tokenizer.json"))
    ids = tokenizer.encode((HERE / "perplexity.txt").read_text().removesuffix("\n")).ids
    front = tokenizer.encode("").ids
    cut = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)][:count]
    return [front[:1] + window[len(front[:1]):] for window in cut]


def main() -> None:
    cases = []
    for a, b, quantized, length, count in CASES:
        models = model(a, False), model(b, quantized)
        nll, divergences, same, changes = [[], []], [], [], []
        for window in windows(a, length, count):
            with torch.no_grad():
                scored = slice(length // 2, length - 1)
                logs = [m(torch.tensor([window])).logits[0, scored].double().log_softmax(-1).numpy() for m in models]
            following = np.array(window[length // 2 + 1 :])
            rows = np.arange(len(following))
            divergences.append((np.exp(logs[0]) * (logs[0] - logs[1])).sum(1))
            same.append(logs[0].argmax(1) == logs[1].argmax(1))
            of = [log[rows, following] for log in logs]
            changes.append(np.exp(of[1]) - np.exp(of[0]))
            for sums, log in zip(nll, of):
                sums.append(-log)
        divergences, same, changes = map(np.concatenate, (divergences, same, changes))
        cases.append({
            "a": a, "b": b, "quantized": quantized, "context": length, "chunks": count,
            "scored": len(same),
            "perplexity": [float(np.exp(np.concatenate(sums).mean())) for sums in nll],
            "kl_divergence": {
                "mean": float(divergences.mean()), "median": float(np.median(divergences)),
                "p99": float(np.quantile(divergences, 0.99)), "max": float(divergences.max()),
            },
            "same_top_token": float(same.mean()),
            "mean_absolute": float(np.abs(changes).mean()),
            "rms": float(np.sqrt((changes**2).mean())),
        })
    (HERE / "compare.json").write_text(json.dumps({"cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
