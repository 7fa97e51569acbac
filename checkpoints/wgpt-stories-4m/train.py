#!/usr/bin/env python3
"""Train the small GPT-NeoX story model and write it in Hugging Face layout.

Text: the teacher's stories (sample.py) and tales of the story grammar (tales.py), mixed.
Steps: choose the stories with common words only, train a byte-level BPE, train the model
for a fixed time, save float16 weights, then load the saved folder with transformers and
write sample outputs.

    python3 train.py --stories stories.jsonl --out wgpt-stories-4m --seconds 75
"""

import argparse
import collections
import json
import math
import multiprocessing
import os
import random
import re
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import tales

END = "<|endoftext|>"
CONFIG = dict(
    architectures=["GPTNeoXForCausalLM"], model_type="gpt_neox", vocab_size=2048, hidden_size=192, num_hidden_layers=8,
    num_attention_heads=6, intermediate_size=768, hidden_act="gelu", rotary_pct=0.25, rotary_emb_base=10000,
    max_position_embeddings=512, layer_norm_eps=1e-5, use_parallel_residual=True, tie_word_embeddings=False,
    attention_bias=True, attention_dropout=0.0, hidden_dropout=0.0, classifier_dropout=0.0, initializer_range=0.02,
    bos_token_id=0, eos_token_id=0, use_cache=True, torch_dtype="float16")
PROMPTS = ["Once upon a time", "Once upon a time, there was a little girl named Lily.", "One day, a brave mouse",
           "Tom had a red ball.", "It was a rainy day."]


# ---------------------------------------------------------------- model

class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c["num_attention_heads"]
        self.query_key_value = nn.Linear(c["hidden_size"], 3 * c["hidden_size"])
        self.dense = nn.Linear(c["hidden_size"], c["hidden_size"])

    def forward(self, x, cos, sin):
        b, n, d = x.shape
        qkv = self.query_key_value(x).view(b, n, self.heads, 3 * d // self.heads).transpose(1, 2)
        q, k, v = qkv.chunk(3, -1)
        r = cos.shape[-1]

        def rotate(t):
            head, rest = t[..., :r], t[..., r:]
            a, z = head.chunk(2, -1)
            return torch.cat([(head * cos + torch.cat([-z, a], -1) * sin).to(t.dtype), rest], -1)

        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        return self.dense(y.transpose(1, 2).reshape(b, n, d))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(c["hidden_size"], c["intermediate_size"])
        self.dense_4h_to_h = nn.Linear(c["intermediate_size"], c["hidden_size"])

    def forward(self, x):
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x)))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(c["hidden_size"], c["layer_norm_eps"])
        self.post_attention_layernorm = nn.LayerNorm(c["hidden_size"], c["layer_norm_eps"])
        self.attention = Attention(c)
        self.mlp = MLP(c)

    def forward(self, x, cos, sin):
        return x + self.attention(self.input_layernorm(x), cos, sin) + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_in = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList([Layer(c) for _ in range(c["num_hidden_layers"])])
        self.final_layer_norm = nn.LayerNorm(c["hidden_size"], c["layer_norm_eps"])


class Model(nn.Module):
    """Parameter names and layout are those of GPTNeoXForCausalLM."""

    def __init__(self, c):
        super().__init__()
        self.gpt_neox = Body(c)
        self.embed_out = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        r = int(c["hidden_size"] // c["num_attention_heads"] * c["rotary_pct"])
        inv = c["rotary_emb_base"] ** (-torch.arange(0, r, 2).float() / r)
        ang = torch.outer(torch.arange(c["max_position_embeddings"]).float(), inv).repeat(1, 2)
        self.register_buffer("cos", ang.cos(), persistent=False)
        self.register_buffer("sin", ang.sin(), persistent=False)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.dim() == 2:
                scale = 0.02 / math.sqrt(2 * c["num_hidden_layers"]) if name.endswith(("attention.dense.weight", "4h_to_h.weight")) \
                    else c["hidden_size"] ** -0.5 * (1.0 if "embed_out" not in name else 0.5)
                nn.init.normal_(p, std=scale)

    def forward(self, ids, targets):
        x = self.gpt_neox.embed_in(ids)
        n = ids.shape[1]
        for layer in self.gpt_neox.layers:
            x = layer(x, self.cos[:n], self.sin[:n])
        logits = self.embed_out(self.gpt_neox.final_layer_norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


# ---------------------------------------------------------------- text

def make_tales(job):
    seed, count = job
    rng = random.Random(seed)
    return ["\n\n".join(tales.tale(rng)) for _ in range(count)]


def load_text(args, pool):
    """Returns the teacher's stories (common words only) and the tales, each without repeats."""
    stories = []
    if args.stories:
        for line in open(args.stories):
            stories.append(json.loads(line))
    stories = list(dict.fromkeys(stories))
    words = [set(re.findall(r"[A-Za-z]+(?:'[a-z]+)?", s)) for s in stories]
    seen = collections.Counter(w.lower() for ws in words for w in ws)
    lower = collections.Counter(w for ws in words for w in ws if w[0].islower())
    ranked = {w for w, _ in seen.most_common(args.lexicon)}
    # A word that is nearly always capitalised is a name; unusual names go, too.
    ranked -= {w for w in ranked if lower[w] < 0.05 * seen[w] and seen[w] < len(stories) * 0.0015}
    names = {n.lower() for n in tales.GIRLS + tales.BOYS + tales.PETS}
    kept = [s for s, ws in zip(stories, words) if all(w.lower() in ranked or w.lower() in names for w in ws)]
    chars = sum(map(len, kept))
    count = max(args.min_tales, int(args.tale_share * chars / 620))
    per = max(1, count // 64)
    made = [t for part in pool.imap_unordered(make_tales, [(7000 + i, per) for i in range(64)]) for t in part]
    made = list(dict.fromkeys(made))
    print("stories: %d of %d kept by the word list, %.1f M chars; tales: %d, %.1f M chars" % (
        len(kept), len(stories), chars / 1e6, len(made), sum(map(len, made)) / 1e6), flush=True)
    return kept, made


def train_tokenizer(texts, path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=[END], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    assert tok.get_vocab_size() == CONFIG["vocab_size"] and tok.token_to_id(END) == 0
    tok.save(path)
    return tok


def encode(tok, texts):
    """Flat uint16 ids with an end token after every text, and the start of each text."""
    parts, starts, at = [], [], 0
    for i in range(0, len(texts), 20000):
        for e in tok.encode_batch(texts[i:i + 20000]):
            starts.append(at)
            at += len(e.ids) + 1
            parts.append(np.array(e.ids + [0], dtype=np.uint16))
    return np.concatenate(parts), np.array(starts)


# ---------------------------------------------------------------- training

class Data:
    """Rows of 513 tokens that begin at the start of a text; the texts follow one another in a shuffled order."""

    def __init__(self, flat, starts, device, span):
        self.flat = torch.from_numpy(flat.astype(np.int64)).to(device)
        starts = starts[starts + span + 1 <= len(flat)]
        self.starts = torch.from_numpy(starts).to(device)
        self.arange = torch.arange(span + 1, device=device)
        self.order, self.at = None, 0

    def batch(self, n):
        if self.order is None or self.at + n > len(self.order):
            self.order, self.at = torch.randperm(len(self.starts), device=self.starts.device), 0
        rows = self.starts[self.order[self.at:self.at + n]]
        self.at += n
        return self.flat[rows[:, None] + self.arange]


def evaluate(model, data, rows, device):
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
        x = data.flat[data.starts[torch.linspace(0, len(data.starts) - 1, rows, device=data.starts.device).long()][:, None] + data.arange]
        return sum(model(x[i:i + 64, :-1], x[i:i + 64, 1:]).item() for i in range(0, rows, 64)) / (rows // 64)


def train(model, data, held, args, device):
    decay = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    cuda = device == "cuda"
    opt = torch.optim.AdamW([dict(params=decay, weight_decay=0.1), dict(params=rest, weight_decay=0.0)], lr=torch.tensor(1e-5, device=device),
                            betas=(0.9, 0.98), eps=1e-9, fused=cuda, capturable=cuda)
    fast = torch.compile(model) if cuda else model
    static = data.batch(args.batch).clone()

    def work():
        with torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False):
            loss = fast(static[:, :-1], static[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=not cuda)
        return loss.detach()

    t = time.time()
    graph = None
    if cuda:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(4):
                work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        print("compiled %.1f s" % (time.time() - t), flush=True)
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                loss = work()
        except Exception as e:  # slower, but the same work
            print("no graph:", repr(e)[:300], flush=True)
            graph = None
            torch.cuda.synchronize()
    began = now = time.time()
    seconds = args.deadline - began if args.deadline else args.seconds
    step, log_at, total = 0, 0, torch.zeros((), device=device)
    while True:
        if step % 10 == 0:
            if cuda:
                torch.cuda.synchronize()
            now = time.time()
            part = min(1.0, (now - began) / seconds)
            if part >= 1.0:
                break
        warm = min(1.0, (step + 1) / args.warmup)
        for group in opt.param_groups:
            group["lr"].fill_(args.lr * warm * (0.5 + 0.5 * math.cos(math.pi * part)))
        static.copy_(data.batch(args.batch))
        if graph:
            graph.replay()
        else:
            loss = work()
        total += loss
        step += 1
        if step - log_at == args.log:
            losses = " ".join("%s %.4f" % (k, evaluate(model, h, 256, device)) for k, h in held.items())
            print("step %d, %.0f s, %.1f M tokens, %.2f M tokens/s, lr %.5f, train %.4f, held out: %s" % (
                step, now - began, step * args.batch * 512 / 1e6, step * args.batch * 512 / 1e6 / max(1e-9, time.time() - began),
                opt.param_groups[0]["lr"].item(), total.item() / args.log, losses), flush=True)
            log_at = step
            total.zero_()
            if step % (args.log * 10) == 0:
                save(model, args.out)
    return step * args.batch * 512


# ---------------------------------------------------------------- files

def save(model, out):
    from safetensors.torch import save_file
    save_file({k: v.detach().to("cpu", torch.float16).contiguous() for k, v in model.state_dict().items()},
              os.path.join(out, "model.safetensors"), metadata={"format": "pt"})


def write_json(out, name, value):
    with open(os.path.join(out, name), "w") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def write_configs(out):
    write_json(out, "config.json", CONFIG)
    write_json(out, "generation_config.json", dict(bos_token_id=0, eos_token_id=0, do_sample=True, temperature=0.8, top_k=40, top_p=0.95,
                                                   max_new_tokens=240))
    write_json(out, "tokenizer_config.json", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token=END, eos_token=END, unk_token=END, add_prefix_space=False,
        clean_up_tokenization_spaces=False, model_max_length=512))


def show(out, path):
    """Load the saved folder with transformers and write samples."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tok = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    torch.manual_seed(0)
    with open(path, "w") as f, torch.no_grad():
        for prompt in PROMPTS:
            ids = tok(prompt, return_tensors="pt").input_ids
            greedy = model.generate(ids, max_new_tokens=220, do_sample=False, temperature=None, top_k=None, top_p=None, pad_token_id=0)
            f.write("### %s | greedy\n%s\n\n" % (prompt, tok.decode(greedy[0])))
            for _ in range(2):
                warm = model.generate(ids, max_new_tokens=220, do_sample=True, temperature=0.8, top_k=40, top_p=0.95, pad_token_id=0)
                f.write("### %s | temperature 0.8\n%s\n\n" % (prompt, tok.decode(warm[0])))
        ids = tok(PROMPTS[0], return_tensors="pt").input_ids
        golden = model.generate(ids, max_new_tokens=48, min_new_tokens=48, do_sample=False, temperature=None, top_k=None, top_p=None,
                                pad_token_id=0)
        f.write("### greedy ids, 48 new tokens\n%s\n" % golden[0].tolist())


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--stories", default="")
    ap.add_argument("--out", required=True)
    ap.add_argument("--seconds", type=float, default=75)
    ap.add_argument("--deadline", type=float, default=0, help="end the training at this time (seconds since 1970) instead")
    ap.add_argument("--batch", type=int, default=128)
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--warmup", type=int, default=200)
    ap.add_argument("--log", type=int, default=500)
    ap.add_argument("--lexicon", type=int, default=3500)
    ap.add_argument("--tale-share", type=float, default=1.0, help="characters of tales for one character of the teacher's stories")
    ap.add_argument("--min-tales", type=int, default=0)
    ap.add_argument("--text-out", default="")
    ap.add_argument("--samples-out", default="")
    ap.add_argument("--seed", type=int, default=3)
    args = ap.parse_args()
    began = time.time()
    pool = multiprocessing.get_context("fork").Pool(multiprocessing.cpu_count())  # before the device is touched
    os.makedirs(args.out, exist_ok=True)
    rng = random.Random(args.seed)
    stories, made = load_text(args, pool)
    pool.close()
    rng.shuffle(stories)
    rng.shuffle(made)
    held_s, stories = stories[:max(64, len(stories) // 100)], stories[max(64, len(stories) // 100):]
    held_t, made = made[:max(1000, len(made) // 100)], made[max(1000, len(made) // 100):]
    texts = stories + made
    rng.shuffle(texts)
    if args.text_out:
        mixed = [t for pair in zip(held_s, held_t) for t in pair]
        size, use = 0, []
        for t in mixed:
            if size + len(t) > 200000:
                break
            use.append(t)
            size += len(t) + len(END) + 2
        with open(args.text_out, "w") as f:
            f.write(("\n" + END + "\n").join(use) + "\n")
    tok = train_tokenizer(texts[:60000], os.path.join(args.out, "tokenizer.json"))
    write_configs(args.out)
    print("tokenizer %.1f s" % (time.time() - began), flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    flat, starts = encode(tok, texts)
    data = Data(flat, starts, device, 512)
    held = {k: Data(*encode(tok, v), device, 512) for k, v in (("stories", held_s), ("tales", held_t)) if len(v) > 300}
    print("encoded %.1f s: %d texts, %.2f M tokens, %.2f chars per token" % (
        time.time() - began, len(texts), len(flat) / 1e6, sum(map(len, texts)) / len(flat)), flush=True)
    model = Model(CONFIG).to(device)
    print("%d parameters" % sum(p.numel() for p in model.parameters()), flush=True)
    tokens = train(model, data, held, args, device)
    save(model, args.out)
    print("final: %.1f M tokens seen, held out: %s, %.0f s" % (
        tokens / 1e6, " ".join("%s %.4f" % (k, evaluate(model, h, 512, device)) for k, h in held.items()), time.time() - began), flush=True)
    if args.samples_out:
        show(args.out, args.samples_out)
    print("done %.0f s" % (time.time() - began), flush=True)


if __name__ == "__main__":
    main()
