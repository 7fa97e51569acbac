#!/usr/bin/env python3
"""Writes `checkpoints/tiny-*/`: seeded little models and their golden logits.

Every folder is a complete checkpoint as found in the wild (config, tokenizer, weights; most
also as GGUF) plus `golden.safetensors` with

    tokens  int32    (tokens)          ids fed in one forward, positions 0..tokens
    logits  float32  (tokens, vocab)   what transformers answers, float32, eager attention (ALiBi: sdpa)

The golden logits are computed from the files as written (`from_pretrained` on the folder, or the
dequantized tensors of the GGUF), never from the arrays they were written from. This script does
not test wgpt and contains nothing of it; a disagreement is settled by the files here.

One entry of `tiny_variants.VARIANTS` is one folder. Another family needs one entry, if its parameter
names fit `initial_value`, and one entry of `tiny_gguf.GGUF_ARCH` if it is to be written as GGUF too.

Rerun: python3 tests/golden/tiny_checkpoints.py [name ...]       (all variants without a name)
       python3 tests/golden/tiny_checkpoints.py --check          (recompute, compare, write nothing)
       python3 tests/golden/tiny_checkpoints.py --cross-check    (golden against llama.cpp on the GGUFs)
Made with: Python 3.11, torch 2.15.0, transformers 5.24.0, tokenizers 0.23.3, safetensors 0.8.0,
gguf 0.19.0, numpy 2.4.6, on a CPU. Other versions may change the last bits of the logits.

What transformers does, as far as a reader of these files must know:
  * `rope_scaling` of type `linear` divides the inverse frequencies by `factor`.
  * type `dynamic` (NTK): the base stays as it is while a forward covers at most
    `max_position_embeddings` positions, so `llama-rope-dynamic` equals plain RoPE; beyond that, with n
    the positions of the whole forward, as in `llama-rope-dynamic-beyond`,
    base' = base * (factor * n / max_position_embeddings - (factor - 1)) ^ (d / (d - 2)).
    A GGUF has no word for it: the converter of llama.cpp writes plain RoPE.
  * type `yarn`: interpolation from `original_max_position_embeddings`, `beta_fast` 32 and
    `beta_slow` 1 unless given, ramp bounds floored and ceiled, and cos and sin both multiplied
    by `attention_factor`, which is 0.1 ln(factor) + 1 unless given: scores grow by its square.
    `mscale` and `mscale_all_dim`, if both are there, make it
    (0.1 mscale ln(factor) + 1) / (0.1 mscale_all_dim ln(factor) + 1).
  * type `llama3`: piecewise by wavelength; in GGUF it becomes the tensor `rope_freqs.weight`
    (divisors of the frequencies) and no key at all.
  * `type` and `rope_type` are the older and the newer spelling of the same key. Version 5 writes
    `rope_parameters` (with `rope_theta`, `rope_type` and `partial_rotary_factor` inside) instead
    of `rope_theta`, `rope_scaling`, `rotary_pct`, `rotary_emb_base`, and `dtype` instead of
    `torch_dtype`. It reads both.
  * type `longrope`: the inverse frequencies are divided by `short_factor`, or by `long_factor` if the
    forward covers more than `original_max_position_embeddings` positions; cos and sin are multiplied by
    sqrt(1 + ln f / ln original), f being `max_position_embeddings` over the original, whichever it is.
  * A sliding window of w lets a token see itself and the w - 1 before it.
  * Falcon adds ALiBi before it scales the scores, MPT after. Falcon's slopes, positions and their
    products are rounded to bfloat16. MPT's `alibi_bias_max` is read and ignored.
  * Gemma's `hidden_act` "gelu" means the tanh form.
"""

import argparse
import json
import math
import os
import shutil
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file
from tiny_gguf import gguf_to_hf, write_gguf
from tiny_variants import VARIANTS
from tiny_variants.form import MAX_POSITIONS, VOCAB_SIZE
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
GOLDEN_TOKENS = 65
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# ---------------------------------------------------------------------------- tokenizer

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]

# The subset of the ChatML layout that many published checkpoints carry.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TRAINING_TEXT = """
The miller kept a ledger of every sack that crossed the bridge. He wrote the weight, the name of
the farmer and the state of the road, and when the winter came he read the pages aloud, as if the
year were a story that somebody else had told him. There was nothing strange in the ledger, only
the same names and the same numbers, and still the children listened until the fire went out.

In the spring the river rose. The water took the lower fields, then the garden, then the stones of
the old wall, and the people of the village carried their things to the hill. "How long will it
stay?" they asked. "Until it leaves," said the miller, and he wrote down the height of the water:
12 feet in the morning, 14 at noon, 13 and a half before the night.

def weight_of(sacks, per_sack = 50):
    total = 0
    for sack in sacks:
        total += per_sack * sack.count
    return total

The answer to the question is that the measure of a thing and the thing itself are different, and
that both of them are worth keeping. One hundred and twenty three, 456, 7890; one thousand, 2048.
It is not that they don't know, it's that they can't say. We've seen it, you'll see it, I'm sure.
The light that came through the window was the light of another day, and she thought of the road
that went over the hill and into the other country, where nobody would ask for the weight of the
grain or the name of the farmer, and where the rivers stayed in their beds.
"""


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE like GPT-2's: 4 special tokens, 256 bytes, 252 merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(t, special=True) for t in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT.strip().split("\n\n"), trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return tokenizer


def write_tokenizer(folder: Path, chat_template: bool) -> None:
    train_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "add_bos_token": False,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
    }
    if chat_template:
        config["eos_token"] = "<|im_end|>"
        config["chat_template"] = CHAT_TEMPLATE
    write_json(folder / "tokenizer_config.json", config)


# ---------------------------------------------------------------------------- weights


EMBEDDINGS = ("embed_tokens", "embed_in", "word_embeddings", "wte", "wpe")
HEADS = ("lm_head", "embed_out")
ROUTERS = ("mlp.gate.", "block_sparse_moe.gate.")
SHARP = ("q_proj", "k_proj", "query_key_value", "qkv_proj", "Wqkv", "c_attn")
CONV1D = ("c_attn", "c_proj", "c_fc")  # of GPT-2: (in, out)


def initial_value(name: str, shape: tuple[int, ...], seed: int, model_type: str) -> torch.Tensor:
    """Seeded by name, so that a further tensor does not change the others."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    normal = rng.standard_normal(shape)
    if name.endswith("bias"):
        value = 0.2 * normal
    elif len(shape) == 1:  # a norm: around one, some channels much larger, as trained models have
        value = 1.0 + 0.25 * normal
        value[rng.integers(0, shape[0], max(1, shape[0] // 24))] *= 4.0
        if model_type.startswith("gemma"):
            value -= 1.0
    else:
        head = any(part in name for part in HEADS + ROUTERS)
        embedding = any(part in name for part in EMBEDDINGS)
        sharp = any(part in name for part in SHARP)
        inputs = shape[0] if model_type == "gpt2" and any(part in name for part in CONV1D) else shape[-1]
        fan_in = 4.0 if embedding else float(inputs)
        value = normal * (2.0 if head else 1.3 if sharp else 1.0) / math.sqrt(fan_in)
        outlier = rng.random(shape) < 0.003
        value = np.where(outlier, 6.0 * value, value)
        if embedding:
            value[::16] *= 0.01  # small enough that the epsilon of the first norm counts
    return torch.from_numpy(value.astype(np.float32))


def text_config(folder: Path):
    """What transformers makes of the folder's config.json, or of its text half."""
    config = transformers.AutoConfig.from_pretrained(folder)
    return config.get_text_config()


def write_weights(folder: Path, variant: dict, seed: int) -> None:
    """config.json must be in the folder. Tensor names are those transformers saves, but for the prefix."""
    config = text_config(folder)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_value(name, tuple(parameter.shape), seed, config.model_type))
    model = model.to(DTYPES[variant.get("store", "float32")])
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    shards = variant.get("shards", 1)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch, max_shard_size=int(total / shards * 1.1) if shards > 1 else "1GB")
        files = sorted(Path(scratch).glob("model*"))
        for file in files:
            shutil.copyfile(file, folder / file.name)
    assert len(files) == (shards + 1 if shards > 1 else 1), files

    if "prefix" in variant or "leftovers" in variant:
        file = folder / "model.safetensors"
        tensors = renamed(load_file(file), variant.get("prefix", ""))
        if "leftovers" in variant:
            tensors |= leftovers(config)
        save_file(tensors, file, metadata={"format": "pt"})


def renamed(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """`prefix` goes before every name; with a minus it is taken away from those that have it."""
    if prefix.startswith("-"):
        return {name.removeprefix(prefix[1:]): tensor for name, tensor in tensors.items()}
    return {prefix + name: tensor for name, tensor in tensors.items()}


def leftovers(config) -> dict[str, torch.Tensor]:
    """What published files of the family hold that no reader of text needs."""
    if config.model_type == "gemma3_text":
        vision = {
            "multi_modal_projector.mm_input_projection_weight": (8, config.hidden_size),
            "multi_modal_projector.mm_soft_emb_norm.weight": (8,),
            "vision_tower.vision_model.embeddings.patch_embedding.bias": (8,),
            "vision_tower.vision_model.embeddings.patch_embedding.weight": (8, 3, 4, 4),
            "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": (8, 8),
        }
        return {name: torch.full(shape, 0.5) for name, shape in vision.items()}
    # The causal mask, what masked scores became, and the rotary table.
    n = config.max_position_embeddings
    at, dtype = {
        "gpt2": ("h.{}.attn.", torch.float32),
        "gptj": ("transformer.h.{}.attn.", torch.bool),
        "gpt_neox": ("gpt_neox.layers.{}.attention.", torch.bool),
    }[config.model_type]
    tables = {"bias": torch.tril(torch.ones(n, n, dtype=dtype)).reshape(1, 1, n, n)}
    if config.model_type != "gpt2":
        tables["masked_bias"] = torch.tensor(-1e9)
    if config.model_type == "gpt_neox":
        rotary = int(config.hidden_size // config.num_attention_heads * config.rope_parameters["partial_rotary_factor"])
        tables["rotary_emb.inv_freq"] = 10000.0 ** (-torch.arange(0, rotary, 2) / rotary)
    return {
        at.format(layer) + name: table.clone()
        for layer in range(config.num_hidden_layers)
        for name, table in tables.items()
    }


def golden_tokens(config, count: int, seed: int) -> torch.Tensor:
    """Any id of the model, its padding rows too; starts with ids 0 and the last one."""
    rng = np.random.default_rng([seed, 7])
    tokens = rng.integers(0, config.vocab_size, count)
    tokens[0], tokens[1] = 0, config.vocab_size - 1
    tokens[count // 2] = tokens[count // 2 - 1]
    return torch.from_numpy(tokens.astype(np.int32))


@torch.no_grad()
def forward(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    # This version's eager Falcon adds ALiBi twice: to its mask and to the scores.
    alibi = getattr(transformers.AutoConfig.from_pretrained(folder), "alibi", False)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa" if alibi else "eager", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    model.eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    return model(tokens.long()[None], use_cache=False).logits[0].float().contiguous()


# ---------------------------------------------------------------------------- one folder


def as_transformers_wants(folder: Path, scratch: Path, variant: dict) -> Path:
    """The folder itself, or one with the language model alone or the config in words transformers knows."""
    raw = json.loads((folder / "config.json").read_text())
    if "text_config" not in raw and "golden_config" not in variant:
        return folder
    write_json(scratch / "config.json", raw.get("text_config", raw) | variant.get("golden_config", {}))
    tensors = load_file(folder / "model.safetensors")
    prefix = variant.get("prefix", "")
    text = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    save_file(text, scratch / "model.safetensors", metadata={"format": "pt"})
    return scratch


def write_json(file: Path, value) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def make(name: str, variant: dict, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    seed = zlib.crc32(name.encode())
    config = variant["config"]
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {
        "_from_model_config": True,
        "bos_token_id": config.get("bos_token_id", 0),
        "eos_token_id": [0, 2] if variant.get("chat_template") else config.get("eos_token_id", 0),
        "transformers_version": config["transformers_version"],
    })
    write_tokenizer(folder, variant.get("chat_template", False))
    write_weights(folder, variant, seed)
    if kind := variant.get("gguf"):
        write_gguf(folder, folder / "model.gguf", name, kind)
    parsed = text_config(folder)
    tokens = golden_tokens(parsed, variant.get("tokens", GOLDEN_TOKENS), seed)

    if variant.get("gguf_only"):
        save_file(gguf_to_hf(folder / "model.gguf", parsed), folder / "model.safetensors", metadata={"format": "pt"})
    with tempfile.TemporaryDirectory() as scratch:
        logits = forward(as_transformers_wants(folder, Path(scratch), variant), tokens)
    if kind in ("F32", "BF16") and config["model_type"] == "llama":
        # The GGUF says the same as the other files.
        with tempfile.TemporaryDirectory() as scratch:
            scratch = Path(scratch)
            shutil.copyfile(folder / "config.json", scratch / "config.json")
            save_file(gguf_to_hf(folder / "model.gguf", parsed), scratch / "model.safetensors", metadata={"format": "pt"})
            assert torch.equal(forward(scratch, tokens), logits)
    if variant.get("gguf_only"):
        for file in folder.iterdir():
            if file.name != "model.gguf":
                file.unlink()

    write_golden(name, folder, tokens, logits)


def write_golden(name: str, folder: Path, tokens: torch.Tensor, logits: torch.Tensor) -> None:
    assert torch.isfinite(logits).all()
    save_numpy({"tokens": tokens.numpy(), "logits": logits.numpy()}, folder / "golden.safetensors")
    size = sum(f.stat().st_size for f in folder.iterdir()) // 1000
    print(f"tiny-{name:22} {size:5} kB  logits rms {logits.square().mean().sqrt():6.2f}  max {logits.abs().max():6.2f}")


# NMSE between the golden logits and llama.cpp's own, as measured, times ten. llama.cpp rounds the
# activations: to 8 bits per block before a quantized matrix, to bfloat16 before a bfloat16 one, and
# its GELU is the tanh form from a float16 table, which counts in every family that has a GELU.
CROSS_CHECK = {"F32": 1e-10, "BF16": 6e-4, "Q8_0": 2e-2, "Q4_0": 2e-2, "Q4_1": 2e-2}
CROSS_CHECK_GELU = 2e-6
GELU = {"gpt_neox", "falcon", "mpt", "phi", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode"}


def cross_check(name: str, variant: dict) -> None:
    if "gguf" not in variant:
        return
    from llama_cpp import Model

    folder = CHECKPOINTS / f"tiny-{name}"
    golden = load_numpy(folder / "golden.safetensors")
    model = Model(folder / "model.gguf")
    got = model.logits(golden["tokens"].tolist())
    nmse = float(((got - golden["logits"]) ** 2).sum() / (golden["logits"] ** 2).sum())
    limit = CROSS_CHECK_GELU if variant["config"]["model_type"] in GELU else CROSS_CHECK[variant["gguf"]]
    print(f"tiny-{name:22} NMSE against llama.cpp {nmse:.1e}")
    assert nmse < limit, (name, nmse)
    text = "It's 1234 sacks,\n\n  of the <|im_start|>grain <|im_end|> \té日本"
    tokenizer = train_tokenizer()
    assert model.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids
    model.close()


def run(description: str, variants: dict, make, cross_check) -> None:
    """The command line of this script and its like: `make(name, variant, folder)` writes a checkpoint."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--cross-check", action="store_true")
    args = parser.parse_args()
    for name in args.names or variants:
        name = name.removeprefix("tiny-")
        if args.cross_check:
            cross_check(name, variants[name])
            continue
        if not args.check:
            make(name, variants[name], CHECKPOINTS / f"tiny-{name}")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            again = Path(scratch) / name
            make(name, variants[name], again)
            old, new = (load_numpy(f / "golden.safetensors") for f in (CHECKPOINTS / f"tiny-{name}", again))
            assert np.array_equal(old["tokens"], new["tokens"]), name
            assert np.allclose(old["logits"], new["logits"], rtol=1e-4, atol=1e-4), name


if __name__ == "__main__":
    run("Write checkpoints/tiny-*/ with golden logits.", VARIANTS, make, cross_check)
