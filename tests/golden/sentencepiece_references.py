#!/usr/bin/env python3
"""Writes `tokenizer/sentencepiece.json`: a small SentencePiece BPE vocabulary, and texts with their ids.

The vocabulary is trained here, as Llama 2's was: BPE with byte fallback, no normalization, a space put
in front. Fields:

    vocabulary        what GGUF metadata would hold: tokens, token_types, scores
    cases[]           text, ids (special tokens written in the text are parsed, nothing else added),
                      ids_with_special; by llama.cpp. For texts without special tokens,
                      `sentencepiece` itself gives the same ids, which this script checks.

Rerun: python3 tests/golden/sentencepiece_references.py
Made with: Python 3.11, sentencepiece 0.2.3, gguf 0.19.0, xllamacpp 2026.10.11549.
"""

import io
import json
import tempfile
from pathlib import Path

import gguf
import sentencepiece
from llama_cpp import Model
from tokenizer_references import CASES, HERE

SPECIAL = ["<s>", "</s>", "<unk>", "<|user|>"]
EXTRA = [
    "<s>a", "a</s>b", "<s> a", " <s>a <s>", "<s><s>", "<unk>", "<|user|>Hi", "a <|user|> b", "<|user|><s> x", "<|user",
    "\u2581", "a\u2581b", "\u2581 \u2581", "<0x0A>", "a<0x41>b", "river river", "the the the", "thethethethe", "rrrrrrrrr",
]


def train() -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    text = (HERE / "perplexity.txt").read_text().splitlines() + [case for case in CASES if case.isprintable() and case]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, model_type="bpe", vocab_size=900, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        allow_whitespace_only_pieces=True, split_digits=True, character_coverage=0.985, num_threads=1,
        user_defined_symbols=["<|user|>"], minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def vocabulary(sp: sentencepiece.SentencePieceProcessor) -> dict:
    def kind(i: int) -> int:
        if sp.is_unknown(i):
            return gguf.TokenType.UNKNOWN
        if sp.is_control(i):
            return gguf.TokenType.CONTROL
        if sp.is_byte(i):
            return gguf.TokenType.BYTE
        return gguf.TokenType.USER_DEFINED if sp.id_to_piece(i) in SPECIAL else gguf.TokenType.NORMAL

    count = range(sp.get_piece_size())
    return {
        "tokens": [sp.id_to_piece(i) for i in count],
        "token_types": [int(kind(i)) for i in count],
        "scores": [sp.get_score(i) for i in count],
    }


def write_gguf(path: Path, words: dict) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in [(writer.add_context_length, 64), (writer.add_embedding_length, 64), (writer.add_block_count, 1),
                       (writer.add_feed_forward_length, 64), (writer.add_head_count, 1), (writer.add_head_count_kv, 1),
                       (writer.add_rope_dimension_count, 64), (writer.add_layer_norm_rms_eps, 1e-5),
                       (writer.add_tokenizer_model, "llama"), (writer.add_token_list, words["tokens"]),
                       (writer.add_token_types, words["token_types"]), (writer.add_token_scores, words["scores"])]:
        add(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def main() -> None:
    sp = train()
    words = vocabulary(sp)
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "vocab.gguf"
        write_gguf(path, words)
        model = Model(path, vocab_only=True)
        for text in CASES + EXTRA:
            case = {"text": text, "ids": model.encode(text), "ids_with_special": model.encode(text, add_special=True)}
            if not any(special in text for special in SPECIAL):
                assert sp.encode(text) == case["ids"], (text, sp.encode(text), case["ids"])
            cases.append(case)
        model.close()
    head = json.dumps({"vocabulary": words, "reference": "llama.cpp (the build in xllamacpp 2026.10.11549)",
                       "checked_against": "sentencepiece 0.2.3"})[:-1]
    lines = ",\n  ".join(json.dumps(case) for case in cases)
    (HERE / "tokenizer" / "sentencepiece.json").write_text(f"{head},\n \"cases\": [\n  {lines}\n ]\n}}\n")
    print(len(cases), "cases,", len(words["tokens"]), "tokens")


if __name__ == "__main__":
    main()
