#!/usr/bin/env python3
"""Writes `torch/*.bin`, small files by `torch.save`, and `checkpoints/tiny-gpt-neox-torch`.

Beside each `torch/NAME.bin` that is to be read lies `torch/NAME.safetensors` with the same tensors:
what a reader must find, those of element types that are no weights too (safetensors holds them all).

    dtypes       a module's state dict: every element type, a counter, `None`, text, nested values
    views        tensors that share storages, start inside one, or have strides that mean nothing
    wrapped      the state dict under "model", beside an epoch, a learning rate and a list
    protocol_4   pickle protocol 4 (and protocol_5): other instructions for the same values
    unaligned    repacked by Python's zipfile: data at odd places, no zip64 records

and without one what is to be refused: `transposed`, `negated`, `training` (an optimizer and a
namespace beside the model), `sparse`, `legacy` (the format of before PyTorch 1.6).

`tiny-gpt-neox-torch` is `tiny-gpt-neox-f16` in two shards with an index, as older models are
published; its golden logits are what transformers computes from these files.

Rerun: python3 tests/golden/torch_files.py
       python3 tests/golden/torch_files.py --check      (the files as committed, through torch.load)
Made with: Python 3.11, torch 2.15.0, transformers 5.24.0, safetensors 0.8.0.
"""

import argparse
import collections
import json
import shutil
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)

OUT = Path(__file__).resolve().parent / "torch"
CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"


def ramp(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values that differ, some of them negative."""
    count = torch.Size(shape).numel()
    return (torch.arange(count) * 3 % 61 - 20).reshape(shape).to(dtype)


class EveryDtype(torch.nn.Module):
    """Its state dict is an OrderedDict with `_metadata`, as published models have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(5, 3)
        self.f16 = torch.nn.Parameter(ramp(3, 7, dtype=torch.float16) / 8)
        self.bf16 = torch.nn.Parameter(ramp(2, 2, 3, dtype=torch.bfloat16) / 4)
        for name in ("float64", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16", "float8_e4m3fn"):
            self.register_buffer(f"buffer_{name}", ramp(2, 3).abs().to(getattr(torch, name)))
        with torch.no_grad():
            self.linear.weight.copy_(ramp(3, 5) / 16)
            self.linear.bias.copy_(ramp(3))


def dtypes() -> dict:
    state = EveryDtype().state_dict()
    state["steps"] = 12
    state["scheduler"] = None
    state["about"] = {"text": "é", "big": 10**15, "negative": -1, "ratio": 0.5, "list": [1, [2]], "flag": True,
                      "size": torch.Size([2, 3]), "dtype": torch.float16}
    return state


def views() -> dict:
    shared = ramp(4, 6)
    return {
        "embedding": shared,
        "head": shared,
        "rows": shared[1:3],
        "row": shared[3],
        "part_of_a_row": shared[0, 2:5],
        "one_column_of_one_row": shared[2:3, 4:5],
        "strides_of_ones": torch.as_strided(ramp(6), (1, 3, 1, 2), (77, 2, 5, 1)),
        "unsqueezed": ramp(3).unsqueeze(0).unsqueeze(2),
        "scalar": ramp(1)[0],
        "empty": torch.empty(0, 3),
        "empty_view": shared[:, 6:],
        "parameter": torch.nn.Parameter(ramp(2, 2)),
        "frozen": torch.nn.Parameter(ramp(2), requires_grad=False),
        "twice_transposed": ramp(2, 3).t().t(),
        "half": ramp(9, dtype=torch.float16)[1:],
    }


def good() -> dict[str, tuple[object, dict]]:
    """By file name: what is saved, and how."""
    wrapped = {"epoch": 3, "learning_rate": 0.1, "model": collections.OrderedDict(views()), "history": [1.5, None]}
    return {
        "dtypes": (dtypes(), {}),
        "views": (views(), {}),
        "wrapped": (wrapped, {}),
        "protocol_4": (dtypes(), {"pickle_protocol": 4}),
        "protocol_5": (views(), {"pickle_protocol": 5}),
    }


def refused() -> dict[str, tuple[object, dict]]:
    plain = {"weight": ramp(2, 3)}
    return {
        "transposed": ({"fine": ramp(2), "weight": ramp(2, 3).t()}, {}),
        "negated": ({"weight": torch._neg_view(ramp(2, 3))}, {}),
        "training": ({"model": plain, "args": argparse.Namespace(lr=0.1)}, {}),
        "sparse": ({"weight": ramp(2, 3).to_sparse()}, {}),
        "legacy": (plain, {"_use_new_zipfile_serialization": False}),
    }


def tensors(saved: dict) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, copied, as safetensors wants them."""
    state = saved.get("model", saved)
    return {name: value.detach().clone().contiguous() for name, value in state.items() if torch.is_tensor(value)}


def repack(source: Path, target: Path) -> None:
    """As a tool would that knows nothing of PyTorch: other order, no padding, no zip64 records."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for entry in sorted(old.infolist(), key=lambda entry: entry.filename, reverse=True):
            new.writestr(zipfile.ZipInfo(entry.filename), old.read(entry))


def write_files() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    for name, (saved, options) in good().items():
        torch.save(saved, OUT / f"{name}.bin", **options)
        save_file(tensors(saved), OUT / f"{name}.safetensors")
    repack(OUT / "dtypes.bin", OUT / "unaligned.bin")
    shutil.copyfile(OUT / "dtypes.safetensors", OUT / "unaligned.safetensors")
    for name, (saved, options) in refused().items():
        torch.save(saved, OUT / f"{name}.bin", **options)


def write_checkpoint() -> None:
    from safetensors.numpy import load_file as load_numpy
    from safetensors.numpy import save_file as save_numpy
    from tiny_checkpoints import forward

    source, folder = CHECKPOINTS / "tiny-gpt-neox-f16", CHECKPOINTS / "tiny-gpt-neox-torch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)
    state = load_file(source / "model.safetensors")
    first = {name: value for name, value in state.items() if "layers.1" not in name and "embed_out" not in name}
    shards = [first, {name: value for name, value in state.items() if name not in first}]
    weight_map, total = {}, 0
    for number, shard in enumerate(shards, 1):
        file = f"pytorch_model-{number:05}-of-{len(shards):05}.bin"
        torch.save(shard, folder / file)
        weight_map.update({name: file for name in shard})
        total += sum(value.nbytes for value in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")

    golden = load_numpy(source / "golden.safetensors")
    logits = forward(folder, torch.from_numpy(golden["tokens"]))
    assert torch.equal(logits, torch.from_numpy(golden["logits"])), "the same weights in other files"
    save_numpy({"tokens": golden["tokens"], "logits": logits.numpy()}, folder / "golden.safetensors")


def check() -> None:
    for file in sorted(OUT.glob("*.safetensors")):
        saved = torch.load(file.with_suffix(".bin"), weights_only=False)  # our own files, in protocols it would refuse
        found, expected = tensors(saved), load_file(file)
        assert found.keys() == expected.keys(), file
        for name, value in expected.items():
            assert found[name].dtype == value.dtype and found[name].shape == value.shape, (file, name)
            assert found[name].view(torch.uint8).equal(value.view(torch.uint8)) if value.dim() else found[name] == value
        print(f"{file.stem:12} {len(expected)} tensors as expected")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write tests/golden/torch and checkpoints/tiny-gpt-neox-torch.")
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        check()
        return
    write_files()
    check()
    write_checkpoint()


if __name__ == "__main__":
    main()
