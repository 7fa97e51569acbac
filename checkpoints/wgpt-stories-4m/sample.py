#!/usr/bin/env python3
"""Sample short children's stories from SmolLM2-135M-Instruct (a GGUF file).

The teacher runs as a plain Llama decoder with a static key/value cache.  All
prompts of one batch have the same length in tokens, so no padding and no mask
is needed anywhere.  Most batches ask plainly; the others show the
teacher one tale of the story grammar (tales.py) as an example.  On a GPU one decode step is a CUDA graph built from four
small Triton kernels and cuBLAS products; on a CPU the same arithmetic runs in
plain torch (`--check` compares the two paths).

    python3 sample.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --out stories.jsonl \
        --batch 4096 --seconds 240
"""

import argparse
import collections
import json
import multiprocessing
import random
import re
import time

import numpy as np
import torch
import torch.nn.functional as F

import tales

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU only
    triton = None


# ---------------------------------------------------------------- prompts

ADJ = tales.ADJ + "lazy proud gentle grumpy lonely silly busy tiny sleepy hungry careful clumsy".split()
ANIMALS = tales.ANIMALS + "bee butterfly crow snail ant ladybug whale dolphin crab dragon giraffe zebra parrot swan bat spider tiger donkey".split()
PLACES = """a forest|a farm|a small village|a garden|a park|a big city|the beach|a cave|a school|a kitchen|a library|a castle
a meadow|a pond|a mountain|a river|an island|a barn|a bakery|a toy shop|a zoo|a playground|an old house|a treehouse
a snowy hill|a busy market|a train|a boat|a field of flowers|a quiet street|the woods|a lake|a circus|a museum|the moon
the bottom of the sea|a grandmother's house|an attic|a windy hill|a desert""".replace("\n", "|").split("|")
OBJECTS = """a red ball|a kite|a key|a blue hat|a drum|a book|a lamp|a box|a boat|a bell|a cake|an apple|a map|a star|a shiny stone|a teddy bear
a basket|a balloon|a mirror|a coin|a flower|a seed|a ladder|an umbrella|a blanket|a scarf|a toy train|a bicycle|a swing|a pot of soup
a feather|a shell|a broom|a clock|a pumpkin|a jar of honey|a crayon|a button|a pair of boots|a letter|a whistle|a sled|a carrot|a pie
a bucket|a puzzle|a paper plane|a spoon|a nest|an egg""".replace("\n", "|").split("|")
FEELINGS = """sad|happy|scared|angry|proud|lonely|excited|sorry|surprised|tired|jealous|worried|thankful|curious|bored|brave""".split("|")
TWISTS = """something gets lost|it starts to rain|a friend needs help|there is a strange noise at night|someone tells a lie|they find a secret door
two friends have a fight|something breaks|they meet a new friend|a big storm comes|someone is lost|there is a surprise at the end
someone learns to share|a wish comes true|someone makes a mistake and says sorry|they build something together|someone is afraid of the dark
they plan a birthday party|a baby bird falls from its nest|the sun will not come out|someone is too small to help, but helps anyway
a race takes place|someone has to wait|there is not enough food|someone new moves in next door|they play hide and seek
something magical happens|somebody gets sick and gets better|they plant something and it grows|a trick goes wrong""".replace("\n", "|").split("|")
MORALS = """be kind|share with others|tell the truth|never give up|listen to your mother|help your friends|be patient|try new things
do not be afraid to ask for help|be careful|small ones can do big things|say sorry|work together|be thankful|do not be greedy
everyone is different""".replace("\n", "|").split("|")
ASKS = [
    "Write a short story for a small child about {hero}. {extra} Use simple words.",
    "Tell a bedtime story about {hero}. {extra} Use easy words and short sentences.",
    "Please write a very simple children's story about {hero}. {extra}",
]
EXTRAS = [
    "The story takes place in {place}, and {twist}.",
    "The story has {object} in it, and {twist}.",
    "The hero feels {feeling} at first. The story takes place in {place}.",
    "In the story, {twist}. The lesson is: {moral}.",
    "In the story there is {object}, and it happens in {place}.",
    "The story has {object} and {animal_a} in it. Somebody feels {feeling}.",
    "In the story, {twist}, and somebody feels {feeling}.",
    "It happens in {place}. The lesson is: {moral}.",
]
OPEN_KID = [
    "Once upon a time, there was a {adj} {kid} named {name}.",
    "Once upon a time, there was a {adj} {kid} called {name}.",
    "Once upon a time, in {place}, there lived a {adj} {kid} named {name}.",
    "Once upon a time, {name}",
    "Once upon a time",
    "One day, {name}",
    "One day, a {kid} named {name}",
    "{name} was a {adj} {kid}.",
    "{name} had {object}.",
    "{name} was very {feeling}.",
    "It was a {weather} day. {name}",
    "There once was a {kid} named {name}",
    "{name} and {name2} were",
    "Every {when}, {name}",
    "\"{shout}\" said {name}.",
]
OPEN_PET = [
    "Once upon a time, there was a {adj} {animal} named {name}.",
    "Once upon a time, there was a {adj} {animal} who",
    "Once upon a time, in {place}, there lived a {adj} {animal} named {name}.",
    "Once upon a time, a {adj} {animal}",
    "Once upon a time",
    "One day, {name} the {animal}",
    "One day, a {adj} {animal}",
    "{name} was a {adj} {animal}.",
    "{name} the {animal} had {object}.",
    "{name} the {animal} was {feeling}.",
    "It was a {weather} day. {name} the {animal}",
    "There once was a {adj} {animal}",
    "Long ago, in {place}, a {adj} {animal}",
    "Every {when}, {name} the {animal}",
]
WEATHER = "sunny cold rainy windy warm snowy cloudy hot".split()
WHEN = "morning|night|day|Sunday|summer|evening|afternoon|winter".split("|")
SHOUTS = ["Look at that!", "Where are you?", "I am so happy!", "Help me, please!", "What is this?", "Let us play!",
          "I am hungry,", "I can do it!", "Oh no!", "Wake up!", "It is snowing!", "I want to go outside,"]
PLAIN_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SYSTEM = "You write short, simple and happy stories for small children."


def article(phrase):
    """Turn 'a owl' into 'an owl'."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", phrase)


def make_shot(rng):
    """One example exchange; the example is a tale of the story grammar."""
    story = tales.tale(rng)
    return ("<|im_start|>user\nWrite a short story for a small child. Use simple words.<|im_end|>\n<|im_start|>assistant\n"
            + "\n\n".join(story) + "<|im_end|>\n")


def make_prompt(rng, shot):
    """One chat prompt: (prompt text, the opening words that the teacher continues).  `shot` may be empty."""
    pet = rng.random() < 0.45
    girl = rng.random() < 0.5
    kids = tales.GIRLS if girl else tales.BOYS
    name = rng.choice(tales.PETS if pet and rng.random() < 0.7 else kids)
    slot = dict(
        name=name, name2=rng.choice([n for n in tales.GIRLS + tales.BOYS if n != name]), kid=rng.choice(["girl", "girl", "child"] if girl else ["boy", "boy", "child"]),
        adj=rng.choice(ADJ), animal=rng.choice(ANIMALS), place=rng.choice(PLACES), object=rng.choice(OBJECTS),
        feeling=rng.choice(FEELINGS), twist=rng.choice(TWISTS), moral=rng.choice(MORALS),
        weather=rng.choice(WEATHER), when=rng.choice(WHEN), shout=rng.choice(SHOUTS), animal_a="a " + rng.choice(ANIMALS))
    slot["hero"] = "a {adj} {animal} named {name}".format(**slot) if pet else "a {adj} {kid} named {name}".format(**slot)
    extra = rng.choice(EXTRAS).format(**slot)
    if rng.random() < 0.4:  # the first paragraph of a tale: a clear start for the teacher to go on from
        start = tales.tale(rng)
        opening = "\n\n".join(start[:rng.choice([1, 1, 2])])
        slot["hero"], extra = "a %s" % rng.choice(["child", "friend", "good day", "small hero"]), ""
    else:
        opening = article(rng.choice(OPEN_PET if pet else OPEN_KID).format(**slot))
    ask = re.sub(" +", " ", article(rng.choice(ASKS).format(extra=extra, **slot))).strip()
    text = ("<|im_start|>system\n%s<|im_end|>\n%s<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n%s"
            % (SYSTEM if shot else PLAIN_SYSTEM, shot, ask, opening))
    return text, opening


CLOSERS = ["In the end,", "From that day on,", "And so,", "At the end of the day,", "After that day,", "From then on,",
           "At last,", "Since that day,"]
ENDINGS = ["And they all lived happily ever after.", "It was a very good day.", "The end.", "It was the best day ever."]
FUNCTION_WORDS = set("""about after again also always another around away back been before being came come could down each even ever every
everyone from gave going have here home into just knew know like little looked made make more most much must named never next once
only other over said saw some that their them then there they thing things this time told took under until upon very want
wanted well went were what when where which while will with would your asked""".split())


# ---------------------------------------------------------------- clean-up

META = re.compile(
    r"\b(sure|certainly|here is|here's a|as an ai|language model|title|chapter|paragraphs?|sentences?|author|reader|this story|the story|"
    r"write|rewrite|instruction|prompt|user|assistant|smollm|word count|example|http|www|email|online|internet|computer|moral of|"
    r"kill\w*|murder\w*|blood\w*|gun|guns|sex\w*|naked|drugs?|alcohol\w*|wine|beer|drunk|suicide|hell|damn|dead|dying|die[sd]?|"
    r"ass|corpse\w*|knife|weapons?|sexy|wedding|married|husband|wife)\b", re.I)
STUTTER = re.compile(r"\b(?!very\b|so\b|no\b|had\b|peep\b|tap\b|ha\b|up\b|bye\b)(\w+),? \1\b", re.I)
ALLOWED = re.compile(r"[A-Za-z ,.!?'\"\n;:-]+\Z")


def clean(text):
    """Normalise one story; return None when it must not be used."""
    text = text.replace("\r", "").strip()
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    text = re.sub(r"\n+", "\n\n", text)
    text = text.replace("--", ", ").replace(" ,", ",")
    if not 200 <= len(text) <= 1900 or not ALLOWED.match(text) or META.search(text):
        return None
    if STUTTER.search(text) or re.search(r"[,;:-]\n|[,:]\"\n|\bsaid\.", text):
        return None
    if text[-1] not in ".!?\"" or not (text[0].isupper() or text[0] == '"'):
        return None
    if text.count('"') % 2 or ":" in text and re.search(r":\n|^[A-Z]\w+:", text, re.M):
        return None
    if any(len(w) > 14 for w in re.findall(r"[A-Za-z]+", text)):
        return None
    paragraphs = text.split("\n\n")
    if len(paragraphs) > 12 or any(p.lstrip()[:1] in "-;,." or p[0].islower() for p in paragraphs):
        return None
    sentences = [s.strip().lower() for s in re.split(r"(?<=[.!?])[\"']?\s+", text)]
    if len(sentences) < 5 or max(map(len, sentences)) > 320:
        return None
    if len(set(sentences)) < len(sentences) - len(sentences) // 8 :
        return None
    words = re.findall(r"[a-z']+", text.lower())
    if len(set(words)) < 0.33 * len(words):
        return None
    grams = collections.Counter(zip(words, words[1:], words[2:], words[3:]))
    if max(grams.values()) > 4 or sum(c for c in grams.values() if c > 1) > 0.2 * len(words):
        return None
    return text


# ---------------------------------------------------------------- teacher

def load_tokenizer(reader):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([t for t, k in zip(tokens, kinds) if k == 3])
    return tok


def prompt_worker(job):
    """Make prompts in a forked process; TOK and SHOTS are globals of the parent."""
    seed, count = job
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        text, opening = make_prompt(rng, rng.choice(SHOTS) if rng.random() < 0.4 else "")
        made.append((np.array(TOK.encode(text).ids, dtype=np.uint16), opening))
    return made


class Teacher:
    """SmolLM2-135M: 30 Llama layers, 9 query heads over 3 key/value heads of 64."""

    layers, dim, heads, kv_heads, hd, ffn, theta, eps = 30, 576, 9, 3, 64, 1536, 100000.0, 1e-5

    def __init__(self, reader, tok, common, device, dtype):
        import gguf
        self.tok = tok
        self.eos = tok.token_to_id("<|im_end|>")
        raw = {}
        for t in reader.tensors:
            w = gguf.quants.dequantize(t.data, t.tensor_type)
            raw[t.name] = torch.from_numpy(np.ascontiguousarray(w, dtype=np.float32)).to(device, dtype)
        # The output is limited to plain story tokens: letters and light punctuation, and no rare tokens.
        plain = re.compile(r"(\u0120?[A-Za-z]+|\u0120?'[a-z]*|\u0120?[,.!?\";:-]+|\u010a+|[.!?,]\"|\u0120?\"|\u0120)\Z")
        self.keep = torch.tensor([i for i in range(tok.get_vocab_size()) if plain.match(tok.id_to_token(i))
                                  and (i < 16000 or i in common)] + [self.eos], device=device)
        self.embed = raw["token_embd.weight"]
        self.head = self.embed[self.keep].contiguous()
        kept = [self.tok.decode([i]) for i in self.keep.tolist()[:-1]] + [""]
        flag = lambda f: torch.tensor([bool(f(x)) for x in kept], device=device)
        self.ends_sentence = flag(lambda x: re.search(r"[.!?]\"?\Z", x))
        self.newline = flag(lambda x: "\n" in x)
        self.quotes = torch.tensor([x.count('"') for x in kept], device=device)
        self.content = flag(lambda x: len(x.strip()) > 3 and x.strip().lower() not in FUNCTION_WORDS).to(dtype)
        index = {int(i): n for n, i in enumerate(self.keep.tolist())}
        rows = [[index[i] for i in self.tok.encode("\n\n" + c).ids] for c in CLOSERS]
        self.close_len = torch.tensor([len(r) for r in rows], device=device)
        self.close = torch.tensor([r + [0] * (max(map(len, rows)) - len(r)) for r in rows], device=device)
        self.norm_f = raw["output_norm.weight"]
        self.w = []
        for i in range(self.layers):
            g = lambda n: raw["blk.%d.%s.weight" % (i, n)]
            self.w.append(dict(
                n1=g("attn_norm"), n2=g("ffn_norm"), o=g("attn_output"), down=g("ffn_down"),
                qkv=torch.cat([g("attn_q"), g("attn_k"), g("attn_v")]), gu=torch.cat([g("ffn_gate"), g("ffn_up")])))
        self.device, self.dtype = device, dtype

    def tables(self, length):
        inv = self.theta ** (-torch.arange(0, self.hd, 2, dtype=torch.float64) / self.hd)
        ang = torch.outer(torch.arange(length, dtype=torch.float64), inv)
        return ang.cos().float().to(self.device), ang.sin().float().to(self.device)

    def norm(self, x, w):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * w

    def rope(self, x, cos, sin):
        """Rotate adjacent pairs, as the GGUF weight order asks; x is (..., positions, heads, hd)."""
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        c, s = cos[:, None], sin[:, None]
        return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2).to(x.dtype)

    def forward(self, ids, k_cache, v_cache, start, cos, sin):
        """Plain torch pass over ids (batch, n); fills the caches; returns the last hidden state."""
        b, n = ids.shape
        x = self.embed[ids]
        cos, sin = cos[start:start + n], sin[start:start + n]
        nq, nk = self.heads * self.hd, self.kv_heads * self.hd
        for i, w in enumerate(self.w):
            q, k, v = (self.norm(x, w["n1"]) @ w["qkv"].t()).split([nq, nk, nk], -1)
            q = self.rope(q.view(b, n, self.heads, self.hd), cos, sin).transpose(1, 2)
            k_cache[i][:, :, start:start + n] = self.rope(k.view(b, n, self.kv_heads, self.hd), cos, sin).transpose(1, 2)
            v_cache[i][:, :, start:start + n] = v.view(b, n, self.kv_heads, self.hd).transpose(1, 2)
            kk, vv = k_cache[i][:, :, :start + n], v_cache[i][:, :, :start + n]
            if n == 1:  # fold the query heads of one group into query positions
                q = q.reshape(b, self.kv_heads, self.heads // self.kv_heads, self.hd)
                a = F.scaled_dot_product_attention(q, kk, vv).reshape(b, 1, nq)
            else:
                assert start == 0
                a = F.scaled_dot_product_attention(q, kk, vv, is_causal=True, enable_gqa=True).transpose(1, 2).reshape(b, n, nq)
            x = x + a @ w["o"].t()
            g, u = (self.norm(x, w["n2"]) @ w["gu"].t()).chunk(2, -1)
            x = x + (F.silu(g) * u) @ w["down"].t()
        return self.norm(x[:, -1], self.norm_f)


if triton is not None:
    @triton.jit
    def add_norm_kernel(x_ptr, d_ptr, w_ptr, y_ptr, eps, ADD: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0)
        o = tl.arange(0, BLOCK)
        m = o < N
        x = tl.load(x_ptr + row * N + o, mask=m, other=0.0).to(tl.float32)
        if ADD:
            x += tl.load(d_ptr + row * N + o, mask=m, other=0.0).to(tl.float32)
            tl.store(x_ptr + row * N + o, x.to(x_ptr.dtype.element_ty), mask=m)
        r = tl.rsqrt(tl.sum(x * x, 0) / N + eps)
        w = tl.load(w_ptr + o, mask=m, other=0.0).to(tl.float32)
        tl.store(y_ptr + row * N + o, (x * r * w).to(y_ptr.dtype.element_ty), mask=m)

    @triton.jit
    def swiglu_kernel(gu_ptr, y_ptr, N: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0)
        o = tl.arange(0, BLOCK)
        m = o < N
        g = tl.load(gu_ptr + row * 2 * N + o, mask=m, other=0.0).to(tl.float32)
        u = tl.load(gu_ptr + row * 2 * N + N + o, mask=m, other=0.0).to(tl.float32)
        tl.store(y_ptr + row * N + o, (g / (1.0 + tl.exp(-g)) * u).to(y_ptr.dtype.element_ty), mask=m)

    @triton.jit
    def rope_store_kernel(qkv_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, pos_ptr, T,
                          HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr):
        """Rotate q in place, rotate k into the cache, copy v into the cache; one program per (row, head)."""
        row = tl.program_id(0).to(tl.int64)
        h = tl.program_id(1)
        pos = tl.load(pos_ptr)
        o = tl.arange(0, D // 2)
        src = qkv_ptr + row * (HQ + 2 * HK) * D + h * D
        a = tl.load(src + 2 * o).to(tl.float32)
        b = tl.load(src + 2 * o + 1).to(tl.float32)
        if h < HQ + HK:
            c = tl.load(cos_ptr + pos * (D // 2) + o)
            s = tl.load(sin_ptr + pos * (D // 2) + o)
            ra = a * c - b * s
            rb = a * s + b * c
            if h < HQ:
                dst = src
            else:
                dst = k_ptr + ((row * HK + h - HQ) * T + pos) * D
        else:
            ra = a
            rb = b
            dst = v_ptr + ((row * HK + h - HQ - HK) * T + pos) * D
        tl.store(dst + 2 * o, ra.to(qkv_ptr.dtype.element_ty))
        tl.store(dst + 2 * o + 1, rb.to(qkv_ptr.dtype.element_ty))

    @triton.jit
    def decode_attention_kernel(qkv_ptr, k_ptr, v_ptr, out_ptr, pos_ptr, T, scale,
                                HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr):
        """One program per (row, key/value head): its G query heads over positions 0..=pos."""
        row = tl.program_id(0).to(tl.int64)
        h = tl.program_id(1)
        length = tl.load(pos_ptr) + 1
        qi = tl.arange(0, 16)
        d = tl.arange(0, D)
        n = tl.arange(0, BLOCK)
        q = tl.load(qkv_ptr + row * (HQ + 2 * HK) * D + (h * G + qi[:, None]) * D + d[None, :],
                    mask=qi[:, None] < G, other=0.0)
        base = (row * HK + h) * T * D
        best = tl.full([16], -1e30, tl.float32)
        total = tl.zeros([16], tl.float32)
        acc = tl.zeros([16, D], tl.float32)
        for at in range(0, length, BLOCK):
            m = (at + n) < length
            k = tl.load(k_ptr + base + (at + n[:, None]) * D + d[None, :], mask=m[:, None], other=0.0)
            s = tl.dot(q, tl.trans(k)) * scale
            s = tl.where(m[None, :], s, -1e30)
            new = tl.maximum(best, tl.max(s, 1))
            p = tl.exp(s - new[:, None])
            fix = tl.exp(best - new)
            v = tl.load(v_ptr + base + (at + n[:, None]) * D + d[None, :], mask=m[:, None], other=0.0)
            acc = acc * fix[:, None] + tl.dot(p.to(v.dtype), v)
            total = total * fix + tl.sum(p, 1)
            best = new
        out = out_ptr + row * HQ * D + (h * G + qi[:, None]) * D + d[None, :]
        tl.store(out, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=qi[:, None] < G)


def fused_step(t, ids, pos, k_cache, v_cache, cos, sin):
    """The Triton decode step; pos is a one-element int32 tensor on the device."""
    b, length = ids.shape[0], k_cache.shape[3]
    x = t.embed[ids]
    y = torch.empty_like(x)
    attn = torch.empty_like(x)
    act = torch.empty(b, t.ffn, dtype=x.dtype, device=x.device)
    delta = x
    for i, w in enumerate(t.w):
        add_norm_kernel[(b,)](x, delta, w["n1"], y, t.eps, i > 0, t.dim, 1024, num_warps=4)
        qkv = y @ w["qkv"].t()
        rope_store_kernel[(b, t.heads + 2 * t.kv_heads)](
            qkv, k_cache[i], v_cache[i], cos, sin, pos, length, t.heads, t.kv_heads, t.hd, num_warps=1)
        decode_attention_kernel[(b, t.kv_heads)](
            qkv, k_cache[i], v_cache[i], attn, pos, length, t.hd ** -0.5,
            t.heads, t.kv_heads, t.hd, t.heads // t.kv_heads, 64, num_warps=4, num_stages=3)
        delta = attn @ w["o"].t()
        add_norm_kernel[(b,)](x, delta, w["n2"], y, t.eps, True, t.dim, 1024, num_warps=4)
        swiglu_kernel[(b,)](y @ w["gu"].t(), act, t.ffn, 2048, num_warps=4)
        delta = act @ w["down"].t()
    add_norm_kernel[(b,)](x, delta, t.norm_f, y, t.eps, True, t.dim, 1024, num_warps=4)
    return y


class Sampler:
    """Batched sampling: temperature, min-p, penalties on repeats, and a steered ending.

    A teacher this small falls into loops and seldom stops by itself.  So a token that would complete a three-token
    sequence already used is made less likely, one that would complete a four-token sequence is ruled out, and content
    words get a small penalty for each use.  After a random length, at a sentence end, a closing phrase ("In the end,")
    is put in and from there on the end-of-text token is favoured at sentence ends.
    """

    def __init__(self, teacher, batch, max_prompt, max_new, temp, min_p, fused):
        t = self.t = teacher
        self.batch, self.max_new, self.temp, self.min_p, self.fused = batch, max_new, temp, min_p, fused
        length = max_prompt + max_new
        shape = (t.layers, batch, t.kv_heads, length, t.hd)
        self.k = torch.zeros(shape, dtype=t.dtype, device=t.device)
        self.v = torch.zeros(shape, dtype=t.dtype, device=t.device)
        self.cos, self.sin = t.tables(length)
        long = lambda *n: torch.zeros(*n, dtype=torch.long, device=t.device)
        self.last = long(batch)              # index among the kept tokens
        self.pos = torch.zeros(1, dtype=torch.int32, device=t.device)
        self.slot = long(1)
        self.out = long(batch, max_new)
        self.used = torch.zeros(batch, len(t.keep), dtype=t.dtype, device=t.device)
        self.parity, self.closer, self.close_at = long(batch), long(batch), long(batch)
        self.progress = long(batch)          # -1 before the closing phrase, then how many of its tokens are out
        self.graph = None

    def reset(self, n):
        self.pos.fill_(n)
        self.slot.zero_()
        self.out.fill_(-1)
        self.used.zero_()
        self.parity.zero_()
        self.progress.fill_(-1)
        self.closer.random_(0, len(self.t.close))
        self.close_at.random_(70, max(71, self.max_new - 90))

    def choose(self, hidden):
        """Pick the next token of every row and update the state."""
        t, neg = self.t, -1e4
        logits = (hidden @ t.head.t() - 0.25 * self.used * t.content).float() / self.temp
        # Repeats: compare the last two (three) tokens with every earlier place.
        o = self.out
        at = self.slot.clamp(min=3)
        l1, l2, l3 = (o.index_select(1, at - i) for i in (1, 2, 3))
        two = (o[:, 1:-2] == l2) & (o[:, 2:-1] == l1)
        three = two & (o[:, :-3] == l3)
        nxt = o[:, 3:]
        valid = nxt >= 0
        bias = -1.5 * (two & valid).float() + neg * (three & valid).float()
        logits.scatter_add_(1, nxt.clamp(min=0), bias)
        # The ending.
        ended = t.ends_sentence[self.last] & (self.parity % 2 == 0) & (self.slot > 0)
        flag = self.progress.clamp(min=0) >= t.close_len[self.closer]
        lift = torch.where(flag, torch.where(ended, 4.0 + 0.08 * (self.slot - self.close_at), 0.0), 0.0)
        lift = lift + neg * ((self.slot < 60) | ~ended).float()
        logits[:, -1] += lift
        top = logits.amax(-1, keepdim=True)
        p = torch.where(logits < top + float(np.log(self.min_p)), 0.0, (logits - top).exp())
        pick = (p / torch.empty_like(p).exponential_()).argmax(-1)
        self.progress += ((self.progress < 0) & ended & (self.slot >= self.close_at)).long()
        forced = (self.progress >= 0) & ~flag
        phrase = t.close[self.closer, self.progress.clamp(0, t.close.shape[1] - 1)]
        pick = torch.where(forced, phrase, pick)
        self.progress += forced.long()
        self.parity += t.quotes[pick]
        self.used.scatter_add_(1, pick[:, None], torch.ones_like(pick[:, None], dtype=self.used.dtype))
        self.out.scatter_(1, self.slot.expand(self.batch)[:, None], pick[:, None])
        self.last.copy_(pick)
        self.slot += 1

    def step(self):
        ids = self.t.keep[self.last]
        if self.fused:
            hidden = fused_step(self.t, ids, self.pos, self.k, self.v, self.cos, self.sin)
        else:
            hidden = self.t.forward(ids[:, None], self.k, self.v, int(self.pos), self.cos, self.sin)
        self.choose(hidden)
        self.pos += 1

    def capture(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def run(self, ids, chunk=256):
        """ids: (batch, n) prompts.  Queues the work; returns the (batch, max_new) buffer of kept-token indices."""
        self.reset(ids.shape[1])
        self.choose(torch.cat([
            self.t.forward(ids[i:i + chunk], self.k[:, i:i + chunk], self.v[:, i:i + chunk], 0, self.cos, self.sin)
            for i in range(0, len(ids), chunk)]))
        for _ in range(1, self.max_new):
            self.graph.replay() if self.graph else self.step()
        return self.out


def check(teacher):
    """Compare the fused step with the plain one on real prompts."""
    rng = random.Random(7)
    rows = [teacher.tok.encode(make_prompt(rng, "")[0]).ids[:60] for _ in range(8)]
    ids = torch.tensor(rows, device=teacher.device)
    s = Sampler(teacher, 8, 70, 10, 1.0, 0.05, False)
    teacher.forward(ids, s.k, s.v, 0, s.cos, s.sin)
    nxt = ids[:, 5].contiguous()
    k2, v2 = s.k.clone(), s.v.clone()
    a = teacher.forward(nxt[:, None], s.k, s.v, 60, s.cos, s.sin).float()
    b = fused_step(teacher, nxt, torch.tensor([60], dtype=torch.int32, device=teacher.device), k2, v2, s.cos, s.sin).float()
    return ((a - b).norm() / a.norm()).item(), ((s.k - k2).float().norm() / s.k.float().norm()).item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--gguf", required=True)
    ap.add_argument("--out", default="stories.jsonl")
    ap.add_argument("--batch", type=int, default=4096)
    ap.add_argument("--max-new", type=int, default=240)
    ap.add_argument("--seconds", type=float, default=240)
    ap.add_argument("--temp", type=float, default=0.9)
    ap.add_argument("--min-p", type=float, default=0.1)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--prompts", type=int, default=400000)
    ap.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    ap.add_argument("--check", action="store_true", help="only compare the two paths")
    args = ap.parse_args()
    began = time.time()
    torch.set_grad_enabled(False)
    torch.manual_seed(args.seed)

    # Prompts, made in forked processes before the device is touched.  All example tales have one length in tokens.
    global TOK, SHOTS
    import gguf
    reader = gguf.GGUFReader(args.gguf)
    TOK = load_tokenizer(reader)
    rng = random.Random(args.seed)
    by_length = collections.defaultdict(list)
    common = set()
    for _ in range(1500):
        shot = make_shot(rng)
        ids = TOK.encode(shot).ids
        by_length[len(ids)].append(shot)
        common.update(ids)
        common.update(TOK.encode(make_prompt(rng, "")[0]).ids)
    SHOTS = max((v for n, v in by_length.items() if n <= 190), key=len)
    size = max(1, min(5000, args.prompts // args.workers))
    jobs = [(args.seed * 100000 + i, size) for i in range(max(1, args.prompts // size))]
    pool = multiprocessing.get_context("fork").Pool(args.workers)
    prompts = pool.imap_unordered(prompt_worker, jobs)
    pool.close()

    cuda = torch.cuda.is_available()
    teacher = Teacher(reader, TOK, common, "cuda" if cuda else "cpu", torch.bfloat16 if cuda else torch.float32)
    print("teacher loaded %.1f s, %d output tokens kept, %d example tales" % (time.time() - began, len(teacher.keep), len(SHOTS)),
          flush=True)
    if cuda or args.check:
        err = check(teacher)
        print("fused against plain: hidden %.2e, keys %.2e" % err, flush=True)
        assert err[0] < 0.1 and err[1] < 0.05
        if args.check:
            return
    groups = collections.defaultdict(list)
    longest = 320

    def next_group():
        while True:
            full = [n for n, g in groups.items() if len(g) >= args.batch]
            if full:
                n = rng.choice(full)
                g, groups[n] = groups[n][:args.batch], groups[n][args.batch:]
                return g
            for made in prompts:
                for ids, opening in made:
                    if len(ids) <= longest:
                        groups[len(ids)].append((ids, opening))
                if any(len(g) >= args.batch for g in groups.values()):
                    break
            else:
                return None

    sampler = Sampler(teacher, args.batch, longest, args.max_new, args.temp, args.min_p, cuda)
    if cuda:
        sampler.capture()
    print("ready %.1f s" % (time.time() - began), flush=True)
    names = teacher.keep.cpu().numpy()
    sink = open(args.out, "w")
    seen, kept, chars, raw_tokens, unfinished = 0, 0, 0, 0, 0

    def harvest(tokens, openings):
        nonlocal seen, kept, chars, raw_tokens, unfinished
        rows = names[tokens.numpy()].tolist()
        ends = [r.index(teacher.eos) if teacher.eos in r else -1 for r in rows]
        texts = teacher.tok.decode_batch([r[:e] for r, e in zip(rows, ends) if e >= 0])
        whole = [o for o, e in zip(openings, ends) if e >= 0]
        for opening, text in zip(whole, texts):
            story = clean(opening + text)
            if story:
                if rng.random() < 0.3:
                    story += "\n\n" + rng.choice(ENDINGS)
                kept += 1
                chars += len(story)
                sink.write(json.dumps(story) + "\n")
        seen += len(rows)
        unfinished += sum(e < 0 for e in ends)
        raw_tokens += sum(e if e >= 0 else len(r) for r, e in zip(rows, ends))
        sink.flush()

    pending, first = None, time.time()
    group = next_group()
    while group and time.time() - began < args.seconds:
        out = sampler.run(torch.from_numpy(np.stack([g[0] for g in group]).astype(np.int64)).to(teacher.device))
        copy = torch.empty(out.shape, dtype=out.dtype, pin_memory=cuda)
        copy.copy_(out, non_blocking=True)
        if cuda:
            done = torch.cuda.Event()
            done.record()
        length, openings = len(group[0][0]), [g[1] for g in group]
        if pending:  # filter the previous batch while the device works on this one
            harvest(*pending)
        pending, group = (copy, openings), next_group()
        if cuda:
            done.synchronize()
        took = time.time() - first
        print("%.0f s: prompts of %d, %d sampled, %d kept, %d unfinished, %.2f M chars kept, %.0f raw tokens/s"
              % (took, length, seen, kept, unfinished, chars / 1e6, raw_tokens / took), flush=True)
    if pending:
        harvest(*pending)
    print("total %.0f s: %d sampled, %d kept, %d unfinished, %.2f M chars"
          % (time.time() - began, seen, kept, unfinished, chars / 1e6), flush=True)


if __name__ == "__main__":
    main()
