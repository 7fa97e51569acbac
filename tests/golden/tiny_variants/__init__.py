"""What the tiny checkpoints are: one entry of `VARIANTS` is one folder, and one module a kin of families.

An entry holds the `config` as a published checkpoint of that family writes it, keys without bearing on the
maths included, and what is to be done with it:

    store         dtype of the safetensors, float32 unless given
    shards        number of safetensors files
    tokens        length of the golden forward
    gguf          block format of a `model.gguf` beside; `gguf_only`: and nothing else
    chat_template the tokenizer has one
    leftovers     the file also holds tables of old exports, which a reader skips
    golden_config keys to change before transformers reads the config, for those it does not know
    prefix        what the file's tensor names lack of, or have before, those transformers saves
"""

from . import falcon_mpt, gemma, gpt, llama, olmo, phi, qwen, stablelm

VARIANTS = {
    name: variant
    for module in (llama, falcon_mpt, qwen, phi, gemma, stablelm, olmo, gpt)
    for name, variant in module.VARIANTS.items()
}
