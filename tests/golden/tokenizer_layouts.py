#!/usr/bin/env python3
"""Writes `tokenizer/layouts.json`: tokenizer files as each family lays them out, small, and what their library makes of texts.

    layouts[]   name
                files       the files of the folder: text, or JSON
                cases[]     text; ids (nothing added); with_special; decoded (of ids), decoded_without_special, where those
                            are not `text`

Layouts with a tokenizer.json are answered by `tokenizers`; those with vocab.json and merges.txt by the class of
transformers that their tokenizer_config.json names.

Rerun: python3 tests/golden/tokenizer_layouts.py
Made with: Python 3.11, tokenizers 0.23.3, transformers 5.24.0.
"""

import json
import tempfile
from pathlib import Path

import transformers
from pre_tokenizer_references import L3, Q2
from tokenizer_references import CASES, HERE
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BODY = [line for line in (HERE / "perplexity.txt").read_text().splitlines() if line][:400]
TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t", " \n ", "a", " a", "  a", "a ", "a\nb", "a\n\n\nb", "the river", " the river", "The  river  ran.", "the\u2581river", "\u2581", "don't I'LL we've",
    "1234567", "12 345 6", "x=1;y=22", "!!!", "a.b,c", "def f(x):\n    return x\n", "é e\u0301 ü", "ﬁ ½", "日本語", "你好，世界", "😀 👨‍👩‍👧", "a😀b", "नमस्ते", "안녕", "\u00a0a", "a\u3000b", "\x00",
    "<0x41>", "river\r\nriver", "ÀÉÎ", "the the the", "thethethe",
]


def byte_tokens() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece_bpe(head: list[str], size: int = 620) -> tuple[dict, list]:
    """Vocabulary and merges over text with spaces as `▁`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\u2581?[^\u2581]+"), "isolated")
    tokenizer.train_from_iterator(BODY + ["\n\n \n\t"], trainers.BpeTrainer(vocab_size=size - 256 - len(head), special_tokens=head, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    learned = sorted((token for token in model["vocab"] if token not in head), key=model["vocab"].get)
    tokens = head + byte_tokens() + learned
    return {token: i for i, token in enumerate(tokens)}, [tuple(merge) for merge in model["merges"]]


def byte_level_bpe(size: int = 520) -> tuple[dict, list]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(BODY + ["1234567 22 333"] * 9, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def bos_first(tokenizer: Tokenizer, bos: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))])


def special(*texts: str, **flags) -> list[AddedToken]:
    return [AddedToken(text, special=True, normalized=False, **flags) for text in texts]


FALLBACK = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]


def llama(legacy: bool = True) -> Tokenizer:
    head = ["<unk>", "<s>", "</s>"]
    vocab, merges = sentencepiece_bpe(head)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([*FALLBACK, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(special(*head))
    tokenizer.post_processor = bos_first(tokenizer, "<s>")
    return tokenizer


def phi3() -> Tokenizer:
    tokenizer = llama()
    tokenizer.add_tokens(special("<|user|>", "<|end|>", "<|assistant|>", rstrip=True))
    return tokenizer


def gemma() -> Tokenizer:
    head = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocab, merges = sentencepiece_bpe(head)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(FALLBACK)
    tokenizer.add_special_tokens(special(*head, "<start_of_turn>", "<end_of_turn>"))
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("\n\n", "\n\n\n", "\u2581\u2581", "<h1>")])
    tokenizer.post_processor = bos_first(tokenizer, "<bos>")
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.train_from_iterator(BODY, trainers.UnigramTrainer(vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def byte_level(steps: list, **model) -> Tokenizer:
    vocab, merges = byte_level_bpe()
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, **model))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def regex_then_bytes(*patterns: str) -> list:
    return [*(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def falcon() -> Tokenizer:
    tokenizer = byte_level([pre_tokenizers.Punctuation("contiguous"), GPT2, pre_tokenizers.Digits(individual_digits=False),
                            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])
    tokenizer.add_special_tokens(special(">>TITLE<<", "<|endoftext|>"))
    return tokenizer


def llama3() -> Tokenizer:
    tokenizer = byte_level(regex_then_bytes(L3), ignore_merges=True)
    tokenizer.add_special_tokens(special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos_first(tokenizer, "<|begin_of_text|>")])
    return tokenizer


def qwen2() -> Tokenizer:
    tokenizer = byte_level(regex_then_bytes(Q2))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return tokenizer


def deepseek() -> Tokenizer:
    tokenizer = byte_level([*(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")),
                            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokens = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|EOT|>")
    tokenizer.add_tokens([AddedToken(text, special=i < 2, normalized=True) for i, text in enumerate(tokens)])
    return tokenizer


def neox() -> Tokenizer:
    tokenizer = byte_level([GPT2])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(special("<|endoftext|>", "<|padding|>"))
    tokenizer.add_tokens([AddedToken(" " * n, special=False, normalized=True) for n in (2, 3, 4)])
    return tokenizer


def edges() -> Tokenizer:
    tokenizer = byte_level([GPT2])
    for text, flags in (("<left>", {"lstrip": True}), ("<right>", {"rstrip": True}), ("<both>", {"lstrip": True, "rstrip": True}), ("word", {"single_word": True})):
        tokenizer.add_tokens([AddedToken(text, normalized=False, special=text != "word", **flags)])
    return tokenizer


def with_prefix_space() -> Tokenizer:
    return byte_level([pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)])


CHAT = {
    "llama": ["<s>a", "<s> a</s>", "a<s>b c", " <s> ", "<unk>a", "[INST] x [/INST]"],
    "phi3": ["<|user|>\nthe river<|end|>\n<|assistant|>\n", "<|end|>   a", "a <|end|>"],
    "gemma": ["<bos><start_of_turn>user\nthe river<end_of_turn>\n", "a\n\n\n\n\nb", "<h1>the</h1>", "a  b   c", "<start_of_turn> a"],
    "unigram": ["the</s>", "</s> a"],
    "falcon": [">>TITLE<<the", "a<|endoftext|> b"],
    "llama3": ["<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nthe river<|eot_id|>", "<|eot_id|> a"],
    "qwen2": ["<|im_start|>user\nthe<|im_end|>\n", "<tool_call>\n{}", "e\u0301<|im_end|>u\u0308"],
    "deepseek": ["<｜begin▁of▁sentence｜>User: the river\n\nAssistant: a<｜end▁of▁sentence｜>", "a<|EOT|>b"],
    "neox": ["    a\n        b", "a<|endoftext|>b", "  <|padding|>  "],
    "edges": ["a <left> b", "a <right>  b", "a <both> b", "a word b", "swordfish word_ word", "<left><right> \n<both>"],
}
CONFIG = {
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": False, "legacy": True},
    "metaspace": {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "legacy": False},
    "phi3": {"bos_token": "<s>", "eos_token": "<|endoftext|>", "add_bos_token": False},
    "gemma": {"bos_token": {"__type": "AddedToken", "content": "<bos>"}, "eos_token": "<eos>", "add_bos_token": True},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen2": {"bos_token": None, "eos_token": "<|im_end|>", "add_bos_token": False},
    "deepseek": {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "add_bos_token": True},
}


def case(text: str, ids: list[int], with_special: list[int], decode) -> dict:
    case = {"text": text, "ids": ids, "with_special": with_special}
    for key, skip in (("decoded", False), ("decoded_without_special", True)):
        decoded = decode(ids, skip)
        if decoded != text:
            case[key] = decoded
    return case


def of_json(name: str, tokenizer: Tokenizer, chat: list[str]) -> dict:
    config = CONFIG.get(name, {})
    cases = []
    for text in TEXTS + chat:
        ids, with_special = tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.encode(text).ids
        if "add_bos_token" in config and config["bos_token"]:  # the flag wins, and BOS comes once
            bos = config["bos_token"]
            bos = [tokenizer.token_to_id(bos if isinstance(bos, str) else bos["content"])]
            with_special = bos + ids if config["add_bos_token"] else ids
        if with_special[1:] and with_special[0] == with_special[1] == ids[0] and with_special == ids[:1] + ids:
            with_special = ids
        if text.endswith("</s>") and name == "unigram":
            with_special = ids
        cases.append(case(text, ids, with_special, lambda ids, skip: tokenizer.decode(ids, skip_special_tokens=skip)))
    return {"name": name, "files": {"tokenizer.json": json.loads(tokenizer.to_str()), "tokenizer_config.json": config}, "cases": cases}


def of_vocab_files(name: str, config: dict, extra: dict, chat: list[str]) -> dict:
    vocab, merges = byte_level_bpe()
    for token in config.pop("in_vocab", []):
        vocab[token] = len(vocab)
    files = {"vocab.json": vocab, "merges.txt": "#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n", "tokenizer_config.json": config, **extra}
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_text(content if isinstance(content, str) else json.dumps(content))
        tokenizer = getattr(transformers, config["tokenizer_class"]).from_pretrained(folder)
    decode = lambda ids, skip: tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
    cases = [case(text, tokenizer.encode(text, add_special_tokens=False), tokenizer.encode(text), decode) for text in TEXTS + chat]
    return {"name": name, "files": files, "cases": cases}


def main() -> None:
    layouts = [of_json(name, build(), CHAT.get("llama" if name == "metaspace" else name, [])) for name, build in {
        "llama": llama, "metaspace": lambda: llama(legacy=False), "phi3": phi3, "gemma": gemma, "unigram": unigram, "falcon": falcon, "llama3": llama3,
        "qwen2": qwen2, "deepseek": deepseek, "neox": neox, "edges": edges, "prefix space": with_prefix_space}.items()]
    end = ["<|endoftext|>"]
    added = {"521": {"content": "<|im_start|>", "special": True}, "522": {"content": "<|im_end|>", "special": True}, "523": {"content": "  ", "special": False, "normalized": False}}
    layouts += [
        of_vocab_files("gpt2 files", {"tokenizer_class": "GPT2Tokenizer", "in_vocab": end}, {}, ["a<|endoftext|>b", "<|endoftext|>"]),
        of_vocab_files("gpt2 files, prefix", {"tokenizer_class": "GPT2Tokenizer", "in_vocab": end, "add_prefix_space": True}, {}, ["a<|endoftext|>b"]),
        of_vocab_files("qwen2 files", {"tokenizer_class": "Qwen2Tokenizer", "in_vocab": end, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "added_tokens_decoder": added},
                       {}, ["<|im_start|>user\nthe<|im_end|>\n", "a  b", "e\u0301<|im_end|>"]),
        of_vocab_files("neox files", {"tokenizer_class": "GPTNeoXTokenizer", "in_vocab": ["<|endoftext|>", "<|padding|>"]}, {}, ["a<|endoftext|>b"]),
    ]
    body = ",\n  ".join(json.dumps(layout, separators=(",", ":")) for layout in layouts)
    path = HERE / "tokenizer" / "layouts.json"
    path.write_text(f'{{"reference": "tokenizers 0.23.3, transformers 5.24.0", "layouts": [\n  {body}\n]}}\n')
    print(len(layouts), "layouts,", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
