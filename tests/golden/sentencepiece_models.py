#!/usr/bin/env python3
"""Writes `tokenizer/sentencepiece-*.model`, small SentencePiece models, and beside each a `.json` of texts and ids.

    bpe           as Llama's: BPE with byte fallback, every space kept, one put in front
    gemma         as Gemma's: the same without the space in front, user-defined runs of spaces and newlines, other ids
    unigram       as T5's or Open LLaMA's: a character map, extra spaces removed, no byte fallback
    unigram-bytes unigram with byte fallback, every space kept

Fields of the .json:

    cases[]     text, ids (nothing added), decoded where the ids do not decode to `text`; by `sentencepiece`
    decoded[]   ids at random and what they decode to; by `sentencepiece`
    special[]   text with control tokens, legacy: ids as transformers' Python tokenizers (up to version 4) have them, which
                cut control tokens out and give `sentencepiece` the texts between, with a space in front of each;
                first: the same with `legacy: false`, a space in front only at the start. Checked against the
                tokenizer of transformers 5 where that keeps spaces behind control tokens

Rerun: python3 tests/golden/sentencepiece_models.py
Made with: Python 3.11, sentencepiece 0.2.3, transformers 5.24.0.
"""

import io
import json
import random
import re
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizer_references import CASES, HERE
from transformers import LlamaTokenizer

EXTRA = [
    "<|user|>Hi", "a <|user|> b", "<|user|><|user|>", "<|user", "\u2581", "a\u2581b", "\u2581 \u2581", "<0x0A>", "a<0x41>b", "river river", "thethethethe",
    "ﬁne ﬂow", "Ａ Ｂ１", "a\u00a0b\u00a0\u00a0c", "\u3000a\u3000", "e\u0301e\u0301", "½ cup", "…", "  two  spaces  ", "\t\ttabs\t", "a\n\n\nb", "   ", " <|user|> ",
    "日日日本日日", "日a日", "gggggg", "ggg ggg", "12 345",
]
SPECIAL = ["<s>a", "a</s>b", "<s> a", " <s>a <s>", "<s><s>", "<s>", "a <ctl> b", "<ctl>the river<ctl>the river", "<s>\n</s>", "<|user|><s>x", "<s><|user|>x", "a<unk>b"]
RULES = ["FB01\t66 69", "FB02\t66 6C", "A0\t20", "3000\t20", "9\t20", "65 301\tE9", "BD\t31 2044 32", "2026\t2E 2E 2E", "AD\t",
         *[f"{0xFF21 + i:X}\t{0x41 + i:X}" for i in range(26)], *[f"{0xFF10 + i:X}\t{0x30 + i:X}" for i in range(10)]]
MODELS = {
    "bpe": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True, split_digits=True, user_defined_symbols=["<|user|>"]),
    "gemma": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                  add_dummy_prefix=False, allow_whitespace_only_pieces=True, split_digits=True, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
                  user_defined_symbols=["<|user|>", "\n", "\n\n", "\n\n\n", "\u2581\u2581", "\u2581\u2581\u2581", "<h1>"]),
    "unigram": dict(model_type="unigram", normalization_rule_tsv="rules", user_defined_symbols=["<|user|>"]),
    "unigram-bytes": dict(model_type="unigram", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                          user_defined_symbols=["<|user|>", "  "]),
}


def train(options: dict) -> bytes:
    model = io.BytesIO()
    text = (HERE / "perplexity.txt").read_text().splitlines() + [case for case in CASES if case.isprintable() and case]
    with tempfile.TemporaryDirectory() as scratch:
        if "normalization_rule_tsv" in options:
            path = Path(scratch) / "rules.tsv"
            path.write_text("\n".join(RULES) + "\n")
            options = options | {"normalization_rule_tsv": str(path)}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(text), model_writer=model, vocab_size=700, character_coverage=0.985,
                                                 control_symbols=["<ctl>"], num_threads=1, minloglevel=2, **options)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    proto.trainer_spec.ClearField("input")
    return proto.SerializeToString()


def processor(model: bytes, prefix: bool = True) -> sentencepiece.SentencePieceProcessor:
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    if not prefix:
        proto.normalizer_spec.add_dummy_prefix = False
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def cut_out(text: str, sp, later) -> list[int]:
    """Control tokens out, `sp` for a text at the start, `later` for those behind."""
    ids = []
    for i, part in enumerate(part for part in re.split("(<s>|</s>|<ctl>|<unk>)", text) if part):
        if part in ("<s>", "</s>", "<ctl>", "<unk>"):
            ids.append(sp.piece_to_id(part))
        else:
            ids += (sp if i == 0 else later).encode(part)
    return ids


def transformers_agree(model: bytes, special: list[dict]) -> None:
    for legacy, key in ((True, "legacy"), (False, "first")):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "tokenizer.model").write_bytes(model)
            tokenizer = LlamaTokenizer.from_pretrained(folder, legacy=legacy)
            for case in special:
                ids = tokenizer.encode(case["text"], add_special_tokens=False)
                if ids != case[key]:
                    print("  transformers 5,", key, repr(case["text"]), ids, case[key])


def main() -> None:
    for name, options in MODELS.items():
        model = train(options)
        sp, later = processor(model), processor(model, prefix=False)
        cases = []
        for text in CASES + EXTRA:
            case = {"text": text, "ids": sp.encode(text)}
            if sp.decode(case["ids"]) != text:
                case["decoded"] = sp.decode(case["ids"])
            cases.append(case)
        chance = random.Random(1)
        plain = [i for i in range(sp.get_piece_size()) if not sp.is_byte(i) and not sp.is_unknown(i)]
        lists = [[chance.choice(plain) for _ in range(chance.randrange(1, 9))] for _ in range(100)]
        special = [{"text": text, "legacy": cut_out(text, sp, sp), "first": cut_out(text, sp, later)} for text in SPECIAL]
        path = HERE / "tokenizer" / f"sentencepiece-{name}.model"
        path.write_bytes(model)
        groups = {"cases": cases, "decoded": [{"ids": ids, "text": sp.decode(ids)} for ids in lists], "special": special}
        body = ",\n ".join(f'"{key}": [\n  ' + ",\n  ".join(json.dumps(case) for case in group) + "\n ]" for key, group in groups.items())
        head = json.dumps({"reference": "sentencepiece 0.2.3", "checked_against": "transformers 5.24.0"})[:-1]
        path.with_suffix(".json").write_text(f"{head},\n {body}\n}}\n")
        print(name, len(model), "bytes,", len(cases), "cases")
        if name == "bpe":
            transformers_agree(model, special)


if __name__ == "__main__":
    main()
