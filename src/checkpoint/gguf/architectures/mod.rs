//! What GGUF calls the parts of every architecture, and what Hugging Face does: the tables, one an architecture.
//!
//! Facts only, as llama.cpp's converter writes them and llama.cpp reads them; `translate.rs` applies them. Where
//! llama.cpp knows something by the architecture alone, `fixed` or `derive` says it. Invariant: of several tables of
//! one name, those with a mark come first, and the last one has none.

mod gemma;
mod gpt;
mod llama;
mod parallel;

use serde_json::{Map, Value};

use super::translate::Translation;
use crate::checkpoint::{CheckpointError, Conv1dAxes, NormOffset, QkvRows, RopeRows, RowConventions};

/// GGUF's name and Hugging Face's.
pub(super) type Names = &'static [(&'static str, &'static str)];

/// Adds to the config what takes more than a renamed key.
pub(super) type Derive = fn(&Translation<'_>, &mut Map<String, Value>) -> Result<(), CheckpointError>;

/// How one architecture's names translate. Tensor names are without their `.weight` or `.bias`.
#[derive(Debug)]
pub(in crate::checkpoint) struct Architecture {
    /// `general.architecture`.
    pub(in crate::checkpoint) name: &'static str,
    /// A tensor that tells models of this table from others of the same name.
    pub(super) mark: Option<&'static str>,
    pub(super) model_type: &'static str,
    pub(in crate::checkpoint) rows: RowConventions,
    /// The activation's key and its name, which GGUF leaves to the architecture.
    pub(super) activation: Option<(&'static str, &'static str)>,
    /// Tensors outside layers.
    pub(super) tensors: Names,
    /// What `blk.` is called.
    pub(super) layers: &'static str,
    /// Tensors of a layer. A `*` stands for the number of an expert, in files that do not stack them.
    pub(super) layer_tensors: Names,
    /// Keys, without the architecture's prefix; they go before [`COMMON_KEYS`].
    pub(super) keys: Names,
    /// What a partly rotated head is called in the config, and whether it is said even of whole heads.
    pub(super) rotary_part: (&'static str, bool),
    /// Flags that are true when a tensor is there.
    pub(super) flags: Names,
    /// Flags that the architecture alone decides.
    pub(super) fixed: &'static [(&'static str, bool)],
    pub(super) derive: Derive,
}

/// Every table.
pub(in crate::checkpoint) static ARCHITECTURES: &[Architecture] = &[
    llama::MIXTRAL,
    llama::LLAMA,
    gpt::GPT_NEOX,
    parallel::FALCON_TWO_NORMS,
    parallel::FALCON,
    llama::QWEN2,
    llama::QWEN2_MOE,
    llama::QWEN3,
    llama::QWEN3_MOE,
    parallel::PHI2,
    llama::PHI3,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3,
    parallel::STABLELM,
    llama::OLMO,
    llama::OLMO2,
    gpt::GPT2,
    gpt::STARCODER,
    gpt::MPT,
];

/// Keys of every architecture.
pub(super) const COMMON_KEYS: Names = &[
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("attention.layer_norm_epsilon", "layer_norm_eps"),
    ("context_length", "max_position_embeddings"),
    ("attention.sliding_window", "sliding_window"),
    ("rope.freq_base", "rope_theta"),
    ("vocab_size", "vocab_size"),
];

/// Keys outside the architecture's prefix.
pub(super) const TOKEN_KEYS: Names = &[
    ("tokenizer.ggml.bos_token_id", "bos_token_id"),
    ("tokenizer.ggml.eos_token_id", "eos_token_id"),
    ("tokenizer.ggml.padding_token_id", "pad_token_id"),
];

/// Keys that say how the file was made, or that are translated by hand.
pub(super) const HANDLED: &[&str] = &[
    "tensor_data_layout",
    "rope.dimension_count",
    "attention.value_length",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

/// Keys that with this value, a flag counted as 0 or 1, say nothing.
pub(super) const MOOT: &[(&str, f64)] = &[
    ("attention.causal", 1.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.sliding_window", 0.0),
    ("expert_count", 0.0),
    ("expert_used_count", 0.0),
    ("rope.scaling.attn_factor", 1.0),
];

const PLAIN: RowConventions = RowConventions {
    qkv: QkvRows::Blocked,
    rope: RopeRows::HalfSplit,
    norms: NormOffset::Included,
    conv1d: Conv1dAxes::OutIn,
};

/// Rows of q and k heads permuted by the converter.
const PERMUTED: RowConventions = RowConventions { rope: RopeRows::Interleaved, ..PLAIN };

const PARTIAL_ROTARY_FACTOR: (&str, bool) = ("partial_rotary_factor", false);

fn nothing(_: &Translation<'_>, _: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    Ok(())
}

/// Families with as many key-value heads as heads have no key for them.
fn all_heads_alike(file: &Translation<'_>, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    if file.u32("attention.head_count_kv")? == file.u32("attention.head_count")? {
        root.remove("num_key_value_heads");
    }
    Ok(())
}

/// Says it where the file did not.
fn default(root: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    root.entry(key).or_insert_with(|| value.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_translate_one_to_one() {
        for table in ARCHITECTURES {
            let mut names: Vec<_> = table.tensors.iter().chain(table.layer_tensors).collect();
            let all = names.len();
            names.sort_by_key(|(_, translated)| *translated);
            names.dedup_by_key(|(_, translated)| *translated);
            assert_eq!(names.len(), all, "{}: no two tensors share a name", table.model_type);
            names.sort_by_key(|(gguf, _)| *gguf);
            names.dedup_by_key(|(gguf, _)| *gguf);
            assert_eq!(names.len(), all, "{}: no tensor has two names", table.model_type);
        }
    }

    #[test]
    fn a_marked_table_goes_before_the_unmarked_one_of_its_name() {
        for (at, table) in ARCHITECTURES.iter().enumerate() {
            let later = ARCHITECTURES[at + 1..].iter().filter(|later| later.name == table.name).count();
            assert_eq!(table.mark.is_some(), later > 0, "{}", table.model_type);
        }
    }
}
