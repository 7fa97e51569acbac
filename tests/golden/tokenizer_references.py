#!/usr/bin/env python3
"""Writes `tokenizer/*.json`: texts and the ids that other implementations give them.

    vocabulary        where the vocabulary is (relative to the repository), or its file's name
    pre_tokenizer     the name it goes by in GGUF (`tokenizer.ggml.pre`)
    reference         who made the ids
    cases[]           text, ids (nothing added; special tokens written in the text are parsed),
                      ids_with_special (with what the vocabulary adds around a text by itself),
                      decoded, only where the ids do not decode to `text` (special tokens written
                      out): falcon's vocabulary has no token for some bytes, which vanish in both
                      implementations. By `tokenizers`; llama.cpp would also drop the space in " ?"
                      ids_published, only where the published tokenizer (Hugging Face) and llama.cpp
                      differ: the ids of the former, and why

The three GGUF vocabularies are answered by llama.cpp and, independently, by a `tokenizers` pipeline
built as the published tokenizer.json files are:

    gpt-neox   NFC; the added tokens for 2..24 spaces are cut out first; then GPT-2's regex. The
               vocabulary file names no pre-tokenizer, and llama.cpp's default is wrong for it, so
               llama.cpp is given a copy that says `gpt-2`. llama.cpp never normalizes.
    falcon     runs of punctuation, then GPT-2's regex, then runs of digits, then groups of three digits
    smollm     every digit by itself, then GPT-2's regex
    tiny       the tokenizer.json of checkpoints/tiny-*: GPT-2's regex, answered by `tokenizers`

Rerun: python3 tests/golden/tokenizer_references.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf
Made with: Python 3.11, tokenizers 0.23.3, gguf 0.19.0, xllamacpp 2026.10.11549.
"""

import json
import sys
import tempfile
from pathlib import Path

import gguf
from llama_cpp import Model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

WORDS = "the quick brown fox, jumped; over (the) lazy dog! isn't it? they'll, we've, I'm, you're, he'd 'tis DON'T I'LL"
CASES = [
    "",
    *[" " * n for n in (1, 2, 3, 4, 5, 7, 8, 16, 23, 24, 25, 31, 48, 50, 100)],
    "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\r", "\t\n", "\n\t", " \n", "\n ", " \n \n ", "\n\n \t\t \t\n", "\v\f",
    "a", " a", "  a", "   a", "    a", "a ", "a  ", "a   ", " a ", "  a  ", "a\n", "\na", "a\n\n", "a \n b", "a  \n  b", "a\tb", "a \t b",
    "Hello world", " Hello world", "Hello  world", "Hello   world", "Hello World!", "Hello, world!", "HELLO WORLD", "hElLo WoRlD", "helloworld",
    WORDS, WORDS.upper(), WORDS.replace(" ", "  "), WORDS.replace(" ", ""),
    *["1234567890"[:n] for n in range(1, 11)], *["7" * n for n in (11, 12, 13, 20, 21, 100)],
    "0", "00", "007", "3.14159", "-1", "+49 (0)30 1234-567", "1,000,000.00", "2023-07-14T09:41:00Z", "0x1F 0b1010 1e-10", "a1b22c333d4444", "1 22 333 4444 55555",
    "v1.2.3-rc4", "½ ²³ ① Ⅷ ٣٤٥ १२३ ๔๕๖", "１２３４", "10% of $5.00 is €0.50 or £0.45",
    "你好，世界！", "我想在apple工作1314151天～", "東京タワーに行きました。", "ｶﾀｶﾅ ひらがな 漢字", "안녕하세요 세계", "　全角　空白　",
    "😀", " 😀", "😀😀😀", "👨‍👩‍👧‍👦 family", "🏳️‍🌈🇩🇪🇯🇵", "👍🏽 ok", "🦙.cpp 🚀 (normal) 😶‍🌫️ ✅", "❤️ vs ❤", "a😀b",
    "é è ü ñ", "e\u0301 u\u0308 n\u0303", "Å Å Å", "Cửa Việt", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙a̗̤l͖͚g͝o͜", "ﬁ ﬂ ﬃ", "İstanbul ıI", "ß ẞ SS", "Ǆ ǅ ǆ",
    "مرحبا بالعالم", "السَّلامُ عَلَيْكُمْ", "שלום עולם", "नमस्ते दुनिया", "क्षत्रिय ज़्यादा", "สวัสดีชาวโลก", "កាន់តែពិសេសអាចខលចេញ", "нещо на Български", "Ελληνικά κείμενα", "ქართული", "հայերեն", "தமிழ்", "ይህ ነው",
    "'s 't 're 've 'm 'll 'd", "'S 'T 'RE 'VE 'M 'LL 'D", "it's It'S IT'S", "’s ‘quoted’ “double” — dash – en … dots", "rock'n'roll o'clock", "''''''", "don''t", "'", " '", "' ", "' era", "'tis the season's",
    "!!!!!!", "...", "....", "-----", "=====", "------=======", "a.b,c;d:e", "(a)[b]{c}<d>", "?!?!", "@#$%^&*", "#hashtag @user", "`code` ```block```", "~/path/to/file.txt", "C:\\Users\\x", "https://example.org/a?b=c&d=%20#e", "user@example.org", "a_b_c snake_case camelCase PascalCase kebab-case",
    "\x00", "\x01\x02\x03", "a\x00b", "\x7f", "\x1b[31mred\x1b[0m", "\u200b", "a\u200bb", "\ufeffBOM", "\u00a0", "a\u00a0b", "\u2028\u2029", "a\u2003b", "\u3000", "\u00ad", "\u202eRTL\u202c", "\ufffd", "\U0010fffd", "\ue000",
    "a" * 50, "a" * 257, "ab" * 200, "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft", "pneumonoultramicroscopicsilicovolcanoconiosis", "x" * 33 + " " + "y" * 33, "ÀÉÎÕÜ" * 20, "\u0e01" * 40,
    "def f(x):\n    if x > 0:\n        return x ** 2\n    else:\n        return -x\n", "for (int i = 0; i < n; ++i) {\n\ta[i] += b[i];\n}", "fn main() -> Result<(), Box<dyn Error>> {\n    println!(\"{}\", 1_000);\n}", "SELECT * FROM t WHERE a='b' AND c>=10;", "<div class=\"a\">\n  <p>text</p>\n</div>", "{\"a\": [1, 2.5, null, true]}", "\\begin{equation} \\alpha^2 \\end{equation}",
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 3 33 333 3333 3.3 3..3 3...3 ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL",
    "ied 4 ½ months", "Führer", "w048 7tuijk dsdfhu", "this is 🦙.cpp", "Hello, y'all! How are you 😁 ?我想在apple工作1314151天～", " discards", "\n =", " (",
    "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|endoftext|><|endoftext|>", "\n<|endoftext|>\n", "<|endoftext|", "|endoftext|>", "<|ENDOFTEXT|>", "  <|endoftext|>  x",
]
EXTRA = {
    "gpt-neox": ["<|padding|>", "a <|padding|> b"],
    "falcon": [">>TITLE<<", "a>>QUESTION<<b>>ANSWER<<", ">>INTRODUCTION<< text", ">>title<<", "a>>b<<c"],
    "smollm": ["<|im_start|>user\nHi<|im_end|>\n", "<|im_start|>system\n\n<|im_end|>", "<repo_name>a<file_sep>b<filename>c", "<gh_stars>100", "<|im_start|>", "a<|im_end|>", "<|im_start|> <|im_end|>"],
    "tiny": ["<|im_start|>user\nHi<|im_end|>\n", "<|pad|>", "the weight of the grain", "def weight_of(sacks):"],
}


def fields_of(path: Path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def pipeline(path: Path, kind: str) -> Tokenizer:
    """The published tokenizer of this kind, over the vocabulary of a GGUF file."""
    fields = fields_of(path)
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocab = {t: i for i, t in enumerate(tokens) if types[i] == gguf.TokenType.NORMAL}
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]
    special = [(i, t) for i, t in enumerate(tokens) if types[i] == gguf.TokenType.CONTROL]
    vocab |= {t: i for i, t in special}
    spaces = [t for i, t in enumerate(tokens) if types[i] == gguf.TokenType.USER_DEFINED and not t.strip()]
    if spaces:  # added tokens must continue the ids of the model's vocabulary
        assert len(vocab) == tokens.index(spaces[0])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits
    tokenizer.pre_tokenizer = {
        "gpt-neox": byte_level,
        "falcon": pre_tokenizers.Sequence([
            pre_tokenizers.Punctuation("contiguous"),
            byte_level,
            digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]),
        "smollm": pre_tokenizers.Sequence([digits(individual_digits=True), byte_level]),
    }[kind]
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "gpt-neox":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for _, t in special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=True) for t in spaces])
    assert all(tokenizer.token_to_id(t) == tokens.index(t) for t in spaces)
    return tokenizer


def with_pre(path: Path, name: str, out: Path) -> Path:
    """A copy of a vocabulary-only GGUF that names its pre-tokenizer."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=sub)
    writer.add_tokenizer_pre(name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return out


def save(name: str, head: dict, cases: list[dict]) -> None:
    folder = HERE / "tokenizer"
    folder.mkdir(exist_ok=True)
    lines = ",\n  ".join(json.dumps(case, ensure_ascii=True) for case in cases)
    top = json.dumps(head, indent=1)[1:-2].rstrip()
    (folder / f"{name}.json").write_text(f"{{{top},\n \"cases\": [\n  {lines}\n ]\n}}\n")
    json.loads((folder / f"{name}.json").read_text())


def gguf_vocabulary(name: str, path: Path, shown: str, pre: str) -> None:
    published = pipeline(path, name)
    with tempfile.TemporaryDirectory() as scratch:
        named = "tokenizer.ggml.pre" in fields_of(path)
        model = Model(path if named else with_pre(path, pre, Path(scratch) / "vocab.gguf"), vocab_only=True)
    cases, differ = [], 0
    for text in CASES + EXTRA[name]:
        case = {"text": text, "ids": model.encode(text), "ids_with_special": model.encode(text, add_special=True)}
        decoded = published.decode(case["ids"], skip_special_tokens=False)
        if decoded != text:
            print(name, "decodes to", repr(decoded), "not", repr(text))
            case["decoded"] = decoded
        ids = published.encode(text, add_special_tokens=False).ids
        if ids != case["ids"]:
            case["ids_published"], differ = ids, differ + 1
            print(name, "differs:", repr(text), case["ids"], ids, repr(published.decode(ids, skip_special_tokens=False)))
        cases.append(case)
    save(name, {
        "vocabulary": shown,
        "pre_tokenizer": pre,
        "reference": "llama.cpp (the build in xllamacpp 2026.10.11549), special tokens parsed"
        + ("" if named else f", tokenizer.ggml.pre set to {pre}"),
        "checked_against": "tokenizers 0.23.3, the published pipeline",
    }, cases)
    print(name, len(cases), "cases,", differ, "differ")
    model.close()


def tiny() -> None:
    folder = sorted((ROOT / "checkpoints").glob("tiny-*/tokenizer.json"))[0]
    tokenizer = Tokenizer.from_file(str(folder))
    cases = []
    for text in CASES + EXTRA["tiny"]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        cases.append({"text": text, "ids": ids, "ids_with_special": tokenizer.encode(text).ids})
    save("tiny", {
        "vocabulary": "checkpoints/tiny-*/tokenizer.json",
        "pre_tokenizer": "gpt-2",
        "reference": "tokenizers 0.23.3",
    }, cases)
    print("tiny", len(cases), "cases")


def main() -> None:
    for name, pre in (("gpt-neox", "gpt-2"), ("falcon", "falcon")):
        shown = f"checkpoints/vocab/ggml-vocab-{name}.gguf"
        gguf_vocabulary(name, ROOT / shown, shown, pre)
    path = Path(sys.argv[1])
    gguf_vocabulary("smollm", path, path.name, "smollm")
    tiny()


if __name__ == "__main__":
    main()
