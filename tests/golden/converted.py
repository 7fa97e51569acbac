#!/usr/bin/env python3
"""Writes every tiny Hugging Face folder as GGUF with `wgpt quantize` and compares llama.cpp's logits with the golden ones.

Prints the NMSE of each, or why wgpt or llama.cpp refuses it. What llama.cpp can't load at these sizes says so too.

Run: python3 tests/golden/converted.py target/debug/wgpt [NAME ...]
Used with: Python 3.11, numpy 2.4.6, safetensors 0.8.0, xllamacpp 2026.10.11549.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama_cpp import Model
from safetensors.numpy import load_file

CHECKPOINTS = Path(__file__).resolve().parent.parent.parent / "checkpoints"


def judged(wgpt: str, folder: Path, output: Path) -> str:
    # The name in the file is the folder's, and of one that says phi3 llama.cpp expects tokens the tiny ones lack.
    renamed = output.with_name(folder.name.replace("phi3", "phi 3"))
    renamed.symlink_to(folder)
    command = [wgpt, "quantize", "--checkpoint", str(renamed), "--quantize", "f32", "--output", str(output)]
    written = subprocess.run(command, capture_output=True, text=True, check=False)
    if written.returncode:
        return "wgpt: " + written.stderr.strip().splitlines()[-1].split(": ", 2)[-1]
    golden = load_file(folder / "golden.safetensors")
    try:
        model = Model(output)
    except AssertionError:
        return "llama.cpp cannot load it"
    expected = golden["logits"].astype(np.float64)
    found = model.logits(golden["tokens"].tolist())[:, : expected.shape[1]].astype(np.float64)
    model.close()
    return f"nmse {((expected - found) ** 2).sum() / (expected ** 2).sum():.1e}"


def main() -> None:
    names = sys.argv[2:] or sorted(path.parent.name for path in CHECKPOINTS.glob("tiny-*/model*.safetensors"))
    with tempfile.TemporaryDirectory() as scratch:
        for name in dict.fromkeys(names):
            print(f"{name:32} {judged(sys.argv[1], CHECKPOINTS / name, Path(scratch) / f'{name}.gguf')}", flush=True)


if __name__ == "__main__":
    main()
