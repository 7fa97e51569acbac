#!/usr/bin/env python3
"""Writes `tokenizer/gguf-*.gguf`, vocabularies as converters write them for a few families, and beside each a `.json` of ids.

    gemma     `llama` without a space in front; user-defined runs of newlines and (as converters write them) real spaces
    phi3      `llama` whose special tokens take the spaces behind them: llama.cpp knows it by general.name
    gemma4    `gemma4`: BPE over text with `\u2581` for spaces and tokens for bytes
    eos       `llama` with add_bos_token off and add_eos_token on

    cases[]   text, ids (special tokens parsed, nothing added), ids_with_special; by llama.cpp

Rerun: python3 tests/golden/gguf_vocabularies.py (after sentencepiece_models.py)
Made with: Python 3.11, gguf 0.19.0, sentencepiece 0.2.3, tokenizers 0.23.3, xllamacpp 2026.10.11549.
"""

import json

import gguf
import sentencepiece
from llama_cpp import Model
from tokenizer_layouts import TEXTS, byte_tokens, sentencepiece_bpe
from tokenizer_references import CASES, HERE

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
EXTRA = {
    "gemma": ["<s>a", "<|user|>Hi", "a  b   c    d", "a\n\n\n\nb", "<h1>the</h1>", "<s> the river</s>\n"],
    "phi3": ["<|user|>\nthe river<|end|>\n<|assistant|>\n", "<|end|>   a", "a <|end|>", "<s> a", "<|endoftext|> \n a", "</s>  a", "<unk> a"],
    "gemma4": ["<bos>a", "<|turn>user\nthe river<turn|>\n", "a  b   c", "a\n\n\n\nb\n\n", "\n\n\n the"],
    "eos": ["a</s>", "<s>a"],
}


def of_sentencepiece(name: str) -> tuple[list[str], list[int], list[float]]:
    sp = sentencepiece.SentencePieceProcessor(model_file=str(HERE / "tokenizer" / f"sentencepiece-{name}.model"))
    tokens, types, scores = [], [], []
    for i in range(sp.get_piece_size()):
        text = sp.id_to_piece(i)
        kind = UNKNOWN if sp.is_unknown(i) else CONTROL if sp.is_control(i) else BYTE if sp.is_byte(i) else NORMAL
        if text in ("<|user|>", "<h1>") or not text.strip("\n") or (name == "gemma" and text in ("\u2581\u2581", "\u2581\u2581\u2581")):
            kind, text = USER_DEFINED, text.replace("\u2581", " ")
        tokens.append(text)
        types.append(kind)
        scores.append(sp.get_score(i))
    return tokens, types, scores


def vocabularies() -> dict[str, dict]:
    ids = lambda **keys: {f"tokenizer.ggml.{key}_token_id": value for key, value in keys.items()}
    gemma, bpe = of_sentencepiece("gemma"), of_sentencepiece("bpe")
    added = ["<|end|>", "<|assistant|>", "<|endoftext|>", "<|tool|>"]
    phi3 = (bpe[0] + added, bpe[1] + [CONTROL] * 4, bpe[2] + [-1000.0] * 4)
    end = len(bpe[0])
    head = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>"]
    vocab, merges = sentencepiece_bpe(head + ["\n\n", "\n\n\n"])
    merges = [("\n", "\n"), ("\n\n", "\n"), ("\n", "\n\n"), *merges]
    tokens = sorted(vocab, key=vocab.get)
    types = [CONTROL if token in head else BYTE if token in byte_tokens() else NORMAL for token in tokens]
    types[3] = UNKNOWN
    return {
        "gemma": {"model": "llama", "vocabulary": gemma, "add_space_prefix": False, "ids": ids(bos=2, eos=1, unknown=3, padding=0)},
        "phi3": {"model": "llama", "vocabulary": phi3, "name": "Phi-3-mini", "add_bos_token": False,
                 "ids": ids(bos=1, eos=end + 2, eot=end, eom=end + 3, unknown=0)},
        "gemma4": {"model": "gemma4", "vocabulary": (tokens, types, [-1000.0] * len(tokens)), "merges": [" ".join(merge) for merge in merges],
                   "ids": ids(bos=2, eos=1, unknown=3, padding=0)},
        "eos": {"model": "llama", "vocabulary": bpe, "add_bos_token": False, "add_eos_token": True, "ids": ids(bos=1, eos=2)},
    }


def main() -> None:
    for name, v in vocabularies().items():
        path = HERE / "tokenizer" / f"gguf-{name}.gguf"
        tokens, types, scores = v["vocabulary"]
        writer = gguf.GGUFWriter(path, "llama")
        if "name" in v:
            writer.add_name(v["name"])
        for add, value in [(writer.add_context_length, 64), (writer.add_embedding_length, 64), (writer.add_block_count, 1),
                           (writer.add_feed_forward_length, 64), (writer.add_head_count, 1), (writer.add_head_count_kv, 1),
                           (writer.add_rope_dimension_count, 64), (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_tokenizer_model, v["model"]),
                           (writer.add_token_list, tokens), (writer.add_token_types, types), (writer.add_token_scores, scores)]:
            add(value)
        if "merges" in v:
            writer.add_token_merges(v["merges"])
        for key, value in v["ids"].items():
            writer.add_uint32(key, value)
        for key in ("add_space_prefix", "add_bos_token", "add_eos_token"):
            if key in v:
                writer.add_bool(f"tokenizer.ggml.{key}", v[key])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        model = Model(path, vocab_only=True)
        cases = [{"text": text, "ids": model.encode(text), "ids_with_special": model.encode(text, add_special=True)}
                 for text in dict.fromkeys(TEXTS + [case for case in CASES if len(case) < 120] + EXTRA[name])]
        model.close()
        lines = ",\n  ".join(json.dumps(case) for case in cases)
        path.with_suffix(".json").write_text(f'{{"reference": "llama.cpp (the build in xllamacpp 2026.10.11549)",\n "cases": [\n  {lines}\n ]\n}}\n')
        print(name, path.stat().st_size, "bytes,", len(cases), "cases")


if __name__ == "__main__":
    main()
