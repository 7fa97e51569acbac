"""The few calls of llama.cpp that the reference scripts need, through ctypes.

The library is the one inside the PyPI wheel `xllamacpp` (2026.10.11549 was used): it exports the
C API. The two parameter structs are opaque bytes here; the offsets below belong to that build and
are checked against the known defaults, so a build with another layout stops with an error.
Adapters are not used: everything runs on the CPU.

LLAMA_CPP_LIBRARY names the libllama.so of another build instead: one with OpenBLAS multiplies prompts in f32. Weights
are not repacked then, which would keep them from BLAS.
"""

import ctypes
import os
from pathlib import Path

import numpy as np

_VOCAB_ONLY, _EXTRA_BUFFERS, _GPU_LAYERS = 72, 74, 16
_N_CTX, _N_BATCH, _N_UBATCH, _THREADS, _THREADS_BATCH, _FLASH, _TYPE_K, _TYPE_V = 0, 4, 8, 28, 32, 52, 104, 108

_CACHE = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}  # ggml's type numbers


class _Params(ctypes.Structure):
    # Larger than either struct: passed and returned in memory, so the excess is never read.
    _fields_ = [("bytes", ctypes.c_ubyte * 512)]

    def get(self, at: int) -> int:
        return int.from_bytes(bytes(self.bytes[at : at + 4]), "little", signed=True)

    def put(self, at: int, value: int, size: int = 4) -> None:
        self.bytes[at : at + size] = list(value.to_bytes(size, "little", signed=True))


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


_OTHER = os.environ.get("LLAMA_CPP_LIBRARY")
if _OTHER:
    _lib = ctypes.CDLL(_OTHER)
else:
    import xllamacpp

    _lib = ctypes.CDLL(str(next(Path(xllamacpp.__path__[0]).glob("xllamacpp*.so"))))
_P, _I, _B = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
for _name, _result, _arguments in [
    ("llama_model_default_params", _Params, []),
    ("llama_context_default_params", _Params, []),
    ("llama_model_load_from_file", _P, [ctypes.c_char_p, _Params]),
    ("llama_init_from_model", _P, [_P, _Params]),
    ("llama_model_get_vocab", _P, [_P]),
    ("llama_vocab_n_tokens", _I, [_P]),
    ("llama_vocab_get_add_bos", _B, [_P]),
    ("llama_tokenize", _I, [_P, ctypes.c_char_p, _I, ctypes.POINTER(_I), _I, _B, _B]),
    ("llama_detokenize", _I, [_P, ctypes.POINTER(_I), _I, ctypes.c_char_p, _I, _B, _B]),
    ("llama_batch_init", _Batch, [_I, _I, _I]),
    ("llama_batch_free", None, [_Batch]),
    ("llama_decode", _I, [_P, _Batch]),
    ("llama_get_logits", ctypes.POINTER(ctypes.c_float), [_P]),
    ("llama_free", None, [_P]),
    ("llama_model_free", None, [_P]),
    ("llama_log_set", None, [_P, _P]),
]:
    getattr(_lib, _name).restype = _result
    getattr(_lib, _name).argtypes = _arguments
_quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _P)(lambda level, text, data: None)
_lib.llama_log_set(ctypes.cast(_quiet, _P), None)


class Model:
    def __init__(self, path, vocab_only: bool = False):
        params = _lib.llama_model_default_params()
        assert params.get(_GPU_LAYERS) == -1 and bytes(params.bytes[_VOCAB_ONLY : _VOCAB_ONLY + 3]) == b"\0\0\1"
        params.put(_GPU_LAYERS, 0)
        params.put(_VOCAB_ONLY, int(vocab_only), 1)
        params.put(_EXTRA_BUFFERS, int(not _OTHER), 1)
        self.model = _lib.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, f"llama.cpp cannot load {path}"
        self.vocab = _lib.llama_model_get_vocab(self.model)
        self.vocab_size = _lib.llama_vocab_n_tokens(self.vocab)
        self.add_bos = _lib.llama_vocab_get_add_bos(self.vocab)

    def encode(self, text: str, add_special: bool = False) -> list[int]:
        data = text.encode()
        buffer = (_I * (len(data) + 8))()
        count = _lib.llama_tokenize(self.vocab, data, len(data), buffer, len(buffer), add_special, True)
        assert count >= 0
        return list(buffer[:count])

    def decode(self, ids: list[int]) -> bytes:
        out = ctypes.create_string_buffer(64 * len(ids) + 64)
        count = _lib.llama_detokenize(self.vocab, (_I * len(ids))(*ids), len(ids), out, len(out), False, True)
        assert count >= 0
        return out.raw[:count]

    def logits(self, ids, threads: int = 1, cache: str = "f32") -> np.ndarray:
        """One forward over all ids: (tokens, vocab). Flash attention where the KV cache is quantized, which needs it."""
        kind, flash = _CACHE[cache], int(cache.startswith("q"))
        params = _lib.llama_context_default_params()
        assert [params.get(at) for at in (_N_CTX, _N_BATCH, _N_UBATCH, _THREADS, _FLASH, _TYPE_K, _TYPE_V)] == [
            512, 2048, 512, 4, -1, 1, 1]
        for at, value in [(_N_CTX, max(512, len(ids))), (_N_BATCH, len(ids)), (_N_UBATCH, len(ids)),
                          (_THREADS, threads), (_THREADS_BATCH, threads), (_FLASH, flash), (_TYPE_K, kind), (_TYPE_V, kind)]:
            params.put(at, value)
        context = _lib.llama_init_from_model(self.model, params)
        assert context
        batch = _lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
            batch.seq_id[i][0] = 0
        assert _lib.llama_decode(context, batch) == 0
        out = np.ctypeslib.as_array(_lib.llama_get_logits(context), (len(ids), self.vocab_size)).copy()
        _lib.llama_batch_free(batch)
        _lib.llama_free(context)
        return out

    def close(self) -> None:
        _lib.llama_model_free(self.model)
