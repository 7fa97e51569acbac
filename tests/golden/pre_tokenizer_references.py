#!/usr/bin/env python3
"""Writes `tokenizer/pre_tokenizers.json`: the ids of one vocabulary under every name of `tokenizer.ggml.pre`.

The vocabulary is a byte-level BPE trained here over the texts themselves, without cutting them into words first: its
tokens reach across spaces, digits and punctuation, so that wherever a pre-tokenizer cuts, the ids differ. Fields:

    tokens, merges    the vocabulary, as GGUF metadata would hold it
    texts[]           what is encoded
    splits[]          names     values of tokenizer.ggml.pre that give these ids
                      ids[]     one list a text, by llama.cpp
                      published {index of a text: ids}, only where the original tokenizer differs: llama.cpp writes
                                some expressions without what its engine lacks ([^a-z] for "no small letter"),
                                and some by hand. By `tokenizers`, from the expressions of the published
                                tokenizer.json files

Where the two differ, the published tokenizer is what the model was trained with.

Rerun: python3 tests/golden/pre_tokenizer_references.py
Made with: Python 3.11, tokenizers 0.23.3, gguf 0.19.0, xllamacpp 2026.10.11549.
"""

import json
import tempfile
from pathlib import Path

import gguf
from llama_cpp import Model
from tokenizer_references import CASES, HERE
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = [text for text in CASES if 0 < len(text) <= 420 and "<|endoftext|>" not in text] + [
    "12", "123", "1234", "12345", "123456", "1234567", "1234567a", "a1234567", "1,234,567.89", "1234567\n89", " 1234567", "٠١٢٣٤٥٦٧٨٩", "12٣4५6",
    "a 1b 22c 333d", "x=1;y=22;z=333", "!a", "!abc def", "#include <stdio.h>", "(hello)", "'hello'", "\"quoted\" text", ".NET and C++", "a/b/c\n", "path//\n\n", "end.\n\n\n", "?!\n\r\n",
    "CamelCaseWord HTTPServer iPhone McDonald", "ÉCOLE École école", "ΑΒΓ αβγ Αβγ", "ПРИВЕТ Привет привет", "don't DON'T Don'T can'tstop we'llgo ’twas it’s", "I'M HE'S they'RE", "a'b'c d'e", "'ll'll", "l'amour d'été",
    "न\u093fम\u094dन नि", "ก็ได้ ที่", "e\u0301e\u0301", "\u0301a", " \u0301", "a\u0301\u0302b", "\u200c\u200d", "क\u094d\u200dष", "한국어 test 한글", "ㄱㄴㄷ ㄅㄆㄇ", "日本語テキスト、テスト。", "漢字かなカナ混じり文", "中文，英文mixed和123数字", "！？…—“”‘’：；，", "〈〉《》「」『』", "｟｠～￥", "ຂອບໃຈ မြန်မာ", "𐐀𐐨 𝒜𝒷 𠀀𠀁", "㐀㐁 豈更",
    "a  b", "a   b", "a    b", "\ta", "\t\ta", "a\t\tb", "  \n", "\n  ", "  \n  a", "a \n", "a\r\nb", "a\r\r\n\nb", "\n\n\na", " \t\n a", "\u00a0a", "a\u00a0\u00a0b", "\u3000中", "\x85a", "\u2028x",
    "$100 +5 <=> ^~|`", "a+b=c", "$$x$$", "|a|b|", "`x`", "©®™ §¶", "°C ±5 ×2 ÷3", "←→↑↓", "∑∫√∞", "₿€£¥",
]
L3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
Q2 = L3.replace("{1,3}", "")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"


def words(contraction: str, digits: str, punctuation: str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*") -> str:
    head = r"[^\r\n\p{L}\p{N}]?"
    return (rf"{head}{UPPER}*{LOWER}+{contraction}|{head}{UPPER}+{LOWER}*{contraction}|{digits}|{punctuation}"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+")


DEEPSEEK3 = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
             r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
# letters with case, but for Georgian ones and others from after 2017
LATIN = (
    r"A-Za-z\x{00B5}\x{00C0}-\x{00D6}\x{00D8}-\x{00F6}\x{00F8}-\x{01BA}\x{01BC}-\x{01BF}\x{01C4}-\x{0293}\x{0295}-\x{02AF}"
    r"\x{0370}-\x{0373}\x{0376}\x{0377}\x{037B}-\x{037D}\x{037F}\x{0386}\x{0388}-\x{038A}\x{038C}\x{038E}-\x{03A1}"
    r"\x{03A3}-\x{03F5}\x{03F7}-\x{0481}\x{048A}-\x{052F}\x{0531}-\x{0556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}"
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}"
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}"
    r"\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}"
    r"\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}"
    r"\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}"
    r"\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}"
    r"\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}"
    r"\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}"
    r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
)
# name: the expressions of the published tokenizer, one after the other ("isolated"), or None where llama.cpp's table is
# the only source
PUBLISHED = {
    "default": None,
    "gpt-2": [GPT2], "olmo": [GPT2], "mpt": [GPT2], "phi-2": [GPT2], "gigachat": [GPT2], "a.x-4.0": [GPT2], "mellum": [GPT2],
    "jais": [GPT2], "trillion": [GPT2], "exaone4": [GPT2], "granite-docling": [GPT2], "jina-es": [GPT2], "jina-de": [GPT2],
    "jina-v2-es": [GPT2], "jina-v2-de": [GPT2], "modern-bert": [GPT2],
    "smollm": [r"\p{N}", GPT2], "starcoder": [r"\p{N}", GPT2], "refact": [r"\p{N}", GPT2], "command-r": [r"\p{N}", GPT2],
    "codeshell": [r"\p{N}", GPT2], "exaone": [r"\p{N}", GPT2], "minerva-7b": [r"\p{N}", GPT2], "mellum2": [r"\p{N}", GPT2],
    "falcon": None,
    "llama-bpe": [L3], "llama3": [L3], "llama-v3": [L3], "falcon3": [L3], "falcon-h1": [L3], "pixtral": [L3], "midm-2.0": [L3],
    "lfm2": [L3], "jina-v5-nano": [L3], "dbrx": [L3], "smaug-bpe": [L3], "glm4": [L3], "chatglm-bpe": [L3],
    "qwen2": [Q2], "deepseek-r1-qwen": [Q2], "stablelm2": [Q2], "megrez": [Q2], "kormo": [Q2], "f2llmv2": [Q2],
    "hunyuan": [Q2], "solar-open": [Q2], "grok-2": [Q2],
    "qwen35": [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "ufakzeka": [Q2.split("|", 7)[-1]],
    "tekken": [words("", r"\p{N}")],
    "gpt-4o": [words(CONTRACTION, r"\p{N}{1,3}")], "llama4": [words(CONTRACTION, r"\p{N}{1,3}")],
    "kanana2": [words(CONTRACTION, r"\p{N}{1,3}")], "minimax-m2": [words(CONTRACTION, r"\p{N}{1,3}")], "talkie": [words(CONTRACTION, r"\p{N}{1,3}")],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", words(CONTRACTION, r"\p{N}{1,3}")],
    "cohere2moe": [r"\d{1,3}(?=(?:\d{3})*\b)", words(CONTRACTION, r"\p{N}{1,3}")],
    "youtu": [r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", words(CONTRACTION, r"\p{N}")],
    "kimi-k2": [r"[\p{Han}]+|" + words(CONTRACTION, r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*")
                .replace(UPPER, UPPER[:-1] + r"&&[^\p{Han}]]").replace(LOWER, LOWER[:-1] + r"&&[^\p{Han}]]")],
    "deepseek-llm": [r"[\r\n]", rf"\s?[{LATIN}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}+"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "deepseek-v3": DEEPSEEK3, "hunyuan-dense": DEEPSEEK3, "joyai-llm": DEEPSEEK3, "hy_v4": DEEPSEEK3,
    "spark2_5": None, "jais-2": None, "chameleon": None, "exaone-moe": None, "laguna": None,
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "afmoe": None,
    "k2-horizon": [L3.replace(r"?\p{L}+", r"?(?:\p{L}|\p{M}|\x{200C}|\x{200D})+")],
    "minicpm5": [r"\p{N}{1,3}", L3.replace(r"\p{N}{1,3}", r"\p{N}+")],
    "bailingmoe": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    "seed-coder": [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "bloom": None, "poro-chat": None, "gpt3-finnish": None, "viking": None,
}
PUBLISHED["bailingmoe2"] = PUBLISHED["llada-moe"] = PUBLISHED["bailingmoe"]
IGNORE_MERGES = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken", "minicpm5", "youtu"}


def train() -> tuple[list[str], list[str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=1800, min_frequency=2, max_token_length=12, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(TEXTS * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [" ".join(merge) for merge in model["merges"]]


def llama_cpp(path: Path, name: str, tokens: list[str], merges: list[str]) -> list[list[int]]:
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in [(writer.add_context_length, 64), (writer.add_embedding_length, 64), (writer.add_block_count, 1),
                       (writer.add_feed_forward_length, 64), (writer.add_head_count, 1), (writer.add_head_count_kv, 1),
                       (writer.add_rope_dimension_count, 64), (writer.add_layer_norm_rms_eps, 1e-5),
                       (writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, name), (writer.add_token_list, tokens),
                       (writer.add_token_merges, merges), (writer.add_token_types, [1] * len(tokens)), (writer.add_bos_token_id, 0)]:
        add(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    model = Model(path, vocab_only=True)
    ids = [model.encode(text) for text in TEXTS]
    model.close()
    return ids


def published(name: str, tokens: list[str], merges: list[str]) -> list[list[int]]:
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(merge.split(" ")) for merge in merges], ignore_merges=name in IGNORE_MERGES))
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PUBLISHED[name]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return [tokenizer.encode(text).ids for text in TEXTS]


def main() -> None:
    tokens, merges = train()
    splits: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, patterns in PUBLISHED.items():
            try:
                ids = llama_cpp(Path(scratch) / f"{name}.gguf", name, tokens, merges)
            except AssertionError as error:
                print(name, "is not known to this llama.cpp:", error)
                continue
            split = {"ids": ids}
            if patterns:
                other = published(name, tokens, merges)
                differ = {i: b for i, (a, b) in enumerate(zip(ids, other)) if a != b}
                if differ:
                    split["published"] = differ
                    print(name, len(differ), "texts differ:", [TEXTS[i] for i in differ][:12])
            same = splits.setdefault(json.dumps(split), {"names": [], **split})
            same["names"].append(name)
    lines = ",\n  ".join(json.dumps(split, separators=(",", ":")) for split in splits.values())
    head = json.dumps({"reference": "llama.cpp (the build in xllamacpp 2026.10.11549)", "checked_against": "tokenizers 0.23.3",
                       "tokens": tokens, "merges": merges, "texts": TEXTS}, separators=(",", ":"))[:-1]
    path = HERE / "tokenizer" / "pre_tokenizers.json"
    path.write_text(f"{head},\n \"splits\": [\n  {lines}\n ]\n}}\n")
    print(len(TEXTS), "texts,", len(splits), "ways to cut,", path.stat().st_size, "bytes")
    for split in splits.values():
        print("  ", split["names"])


if __name__ == "__main__":
    main()
