#!/usr/bin/env python3
"""Writes `tales_calibration.txt` and `tales_held_out.txt`: stories of the grammar that wgpt-stories-4m was taught by,
for quantization to be calibrated on and measured with. The two share no story.

Rerun: python3 tests/golden/tales.py
"""

import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "checkpoints" / "wgpt-stories-4m"))

import tales

TEXTS = {"tales_calibration.txt": (17, 44_000), "tales_held_out.txt": (323, 15_000)}


def main() -> None:
    known = set()
    for name, (seed, characters) in TEXTS.items():
        rng, stories = random.Random(seed), []
        while sum(map(len, stories)) < characters:
            story = "\n\n".join(tales.tale(rng))
            if story not in known:
                known.add(story)
                stories.append(story)
        (HERE / name).write_text("\n\n".join(stories) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
