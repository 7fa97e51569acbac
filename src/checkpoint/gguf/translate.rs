//! GGUF's names in Hugging Face's words: one table an architecture.
//!
//! Families read one kind of config and one kind of tensor name; this file makes a GGUF file look like that. It
//! changes no bytes: where GGUF orders rows differently, [`RowConventions`] says so. Invariant: nothing is dropped.
//! A tensor or an architecture key without translation keeps its GGUF name, and whoever refuses what a family did
//! not ask for refuses it too.

use serde_json::{Map, Value, json};

use super::metadata::{GgufMetadata, MetadataValue};
use crate::checkpoint::view::TensorEntry;
use crate::checkpoint::{CheckpointError, Config, Conv1dOrder, NormOffset, QkvRows, RopeRows, RowConventions};

/// How one architecture's names translate. Tensor names are without their `.weight` or `.bias`.
#[derive(Debug)]
pub(in crate::checkpoint) struct Architecture {
    /// `general.architecture`.
    pub(in crate::checkpoint) name: &'static str,
    model_type: &'static str,
    rows: RowConventions,
    hidden_act: &'static str,
    /// Tensors outside layers.
    tensors: &'static [(&'static str, &'static str)],
    /// What `blk.` is called.
    layers: &'static str,
    /// Tensors of a layer.
    layer_tensors: &'static [(&'static str, &'static str)],
    /// Keys, without the architecture's prefix, beyond [`COMMON_KEYS`].
    keys: &'static [(&'static str, &'static str)],
    /// What a partly rotated head is called in the config, and whether it is said even of whole heads.
    rotary_part: (&'static str, bool),
    /// Flags that are true when a tensor is there.
    flags: &'static [(&'static str, &'static str)],
}

/// Every architecture with a table.
pub(in crate::checkpoint) static ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        model_type: "llama",
        rows: RowConventions {
            qkv: QkvRows::PerHead,
            rope: RopeRows::Interleaved,
            norms: NormOffset::Included,
            conv1d: Conv1dOrder::OutputFirst,
        },
        hidden_act: "silu",
        tensors: &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")],
        layers: "model.layers",
        layer_tensors: &[
            ("attn_norm", "input_layernorm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
        ],
        keys: &[("rope.freq_base", "rope_theta")],
        rotary_part: ("partial_rotary_factor", false),
        flags: &[("attention_bias", "blk.0.attn_q.bias"), ("mlp_bias", "blk.0.ffn_gate.bias")],
    },
    Architecture {
        name: "gptneox",
        model_type: "gpt_neox",
        rows: RowConventions {
            qkv: QkvRows::Blocked,
            rope: RopeRows::HalfSplit,
            norms: NormOffset::Included,
            conv1d: Conv1dOrder::OutputFirst,
        },
        hidden_act: "gelu",
        tensors: &[
            ("token_embd", "gpt_neox.embed_in"),
            ("output_norm", "gpt_neox.final_layer_norm"),
            ("output", "embed_out"),
        ],
        layers: "gpt_neox.layers",
        layer_tensors: &[
            ("attn_norm", "input_layernorm"),
            ("attn_qkv", "attention.query_key_value"),
            ("attn_output", "attention.dense"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_up", "mlp.dense_h_to_4h"),
            ("ffn_down", "mlp.dense_4h_to_h"),
        ],
        keys: &[("rope.freq_base", "rotary_emb_base"), ("use_parallel_residual", "use_parallel_residual")],
        rotary_part: ("rotary_pct", true),
        flags: &[],
    },
];

/// Keys of every architecture.
const COMMON_KEYS: &[(&str, &str)] = &[
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
    ("vocab_size", "vocab_size"),
];

/// Keys outside the architecture's prefix.
const TOKEN_KEYS: &[(&str, &str)] = &[
    ("tokenizer.ggml.bos_token_id", "bos_token_id"),
    ("tokenizer.ggml.eos_token_id", "eos_token_id"),
    ("tokenizer.ggml.padding_token_id", "pad_token_id"),
];

/// Keys that say how the file was made, or that are translated by hand below.
const HANDLED: &[&str] = &[
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

impl Architecture {
    /// The architecture the metadata names, if there is a table for it.
    pub(in crate::checkpoint) fn of(metadata: &GgufMetadata) -> Result<Option<&'static Self>, CheckpointError> {
        let name = metadata.architecture()?;
        Ok(ARCHITECTURES.iter().find(|architecture| Some(architecture.name) == name))
    }

    /// A tensor's Hugging Face name; its own where the table has none.
    pub(in crate::checkpoint) fn tensor_name(&self, gguf: &str) -> String {
        self.translated(gguf).unwrap_or_else(|| gguf.to_owned())
    }

    fn translated(&self, gguf: &str) -> Option<String> {
        let (stem, suffix) = gguf.rsplit_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))?;
        let Some((layer, stem)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return Some(format!("{}.{suffix}", look_up(self.tensors, stem)?));
        };
        let stem = look_up(self.layer_tensors, stem)?;
        layer.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{}.{layer}.{stem}.{suffix}", self.layers))
    }

    /// The config that Hugging Face's `config.json` would be; `tensors` by their GGUF names.
    pub(in crate::checkpoint) fn config(
        &self,
        metadata: &GgufMetadata,
        tensors: &[TensorEntry],
    ) -> Result<Config, CheckpointError> {
        let translation = Translation { architecture: self, metadata };
        let mut root = Map::new();
        root.insert("model_type".into(), self.model_type.into());
        root.insert("hidden_act".into(), self.hidden_act.into());
        translation.plain_keys(&mut root);
        translation.vocabulary(&mut root, tensors);
        translation.rotary_part(&mut root)?;
        translation.rope_scaling(&mut root)?;
        let has = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
        if !tensors.is_empty() {
            root.insert("tie_word_embeddings".into(), (!has("output.weight")).into());
        }
        for (flag, _) in self.flags.iter().filter(|(_, tensor)| has(tensor)) {
            root.insert((*flag).into(), true.into());
        }
        Ok(Config::new(metadata.file().display().to_string(), root, self.rows))
    }
}

fn look_up(table: &[(&str, &'static str)], gguf: &str) -> Option<&'static str> {
    table.iter().find(|(name, _)| *name == gguf).map(|(_, translated)| *translated)
}

struct Translation<'a> {
    architecture: &'a Architecture,
    metadata: &'a GgufMetadata,
}

impl Translation<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture.name)
    }

    fn u32(&self, suffix: &str) -> Result<Option<u32>, CheckpointError> {
        self.metadata.u32(&self.key(suffix))
    }

    fn f32(&self, suffix: &str) -> Result<Option<f32>, CheckpointError> {
        self.metadata.f32(&self.key(suffix))
    }

    fn plain_keys(&self, root: &mut Map<String, Value>) {
        let prefix = self.key("");
        for key in self.metadata.keys() {
            let name = match key.strip_prefix(&prefix) {
                None => look_up(TOKEN_KEYS, key),
                Some(suffix) if HANDLED.contains(&suffix) => None,
                Some(suffix) => {
                    look_up(COMMON_KEYS, suffix).or_else(|| look_up(self.architecture.keys, suffix)).or(Some(key))
                }
            };
            let value = self.metadata.value(key).map(|value| self.json(value));
            if let (Some(name), Some(value)) = (name, value) {
                root.insert(name.into(), value);
            }
        }
    }

    fn json(&self, value: &MetadataValue) -> Value {
        match value {
            MetadataValue::Integer(value) => i64::try_from(*value).map_or_else(|_| json!(*value as f64), Value::from),
            // JSON would make them null, which reads as absent.
            MetadataValue::Float(value) if !value.is_finite() => json!(value.to_string()),
            MetadataValue::Float(value) => json!(value),
            MetadataValue::Bool(value) => json!(value),
            MetadataValue::String(value) => json!(value),
            // One number a layer, say; nested arrays and lists of strings are no architecture key.
            array => match self.metadata.numbers(array) {
                Some(values) => values.map(|value| self.json(&value)).collect(),
                None => json!("an array that is not of numbers"),
            },
        }
    }

    /// Models pad their embedding: its rows count, not the tokenizer's entries.
    fn vocabulary(&self, root: &mut Map<String, Value>, tensors: &[TensorEntry]) {
        let rows = tensors.iter().find(|tensor| tensor.name == "token_embd.weight").map(|tensor| tensor.shape[0]);
        let tokens = || match self.metadata.value("tokenizer.ggml.tokens") {
            Some(MetadataValue::Array { count, .. }) => Some(*count),
            _ => None,
        };
        if let Some(rows) = rows {
            root.insert("vocab_size".into(), rows.into());
        } else if let (false, Some(tokens)) = (root.contains_key("vocab_size"), tokens()) {
            root.insert("vocab_size".into(), tokens.into());
        }
    }

    /// GGUF counts rotated values of a head, Hugging Face says which part of the head they are.
    fn rotary_part(&self, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
        let key_length = self.u32("attention.key_length")?;
        let head_dim = match (key_length, self.u32("embedding_length")?, self.u32("attention.head_count")) {
            (Some(dim), ..) => Some(dim),
            (None, Some(hidden), Ok(Some(heads @ 1..))) => Some(hidden / heads),
            _ => None,
        };
        let Some(head_dim @ 1..) = head_dim else { return Ok(()) };
        match self.u32("attention.value_length")? {
            Some(value_dim) if value_dim != head_dim => root.insert("v_head_dim".into(), value_dim.into()),
            _ => None,
        };
        let (key, always) = self.architecture.rotary_part;
        match self.u32("rope.dimension_count")? {
            Some(rotated) if always || rotated != head_dim => root.insert(key.into(), part(rotated, head_dim).into()),
            _ => None,
        };
        Ok(())
    }

    fn rope_scaling(&self, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
        let kind = self.metadata.str(&self.key("rope.scaling.type"))?;
        let factor = match self.f32("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.f32("rope.scale_linear")?,
        };
        // ggml writes 0 for "no factor" and takes a factor without a type for a linear one.
        let factor = factor.filter(|factor| *factor != 0.0);
        let kind = kind.or(factor.filter(|factor| *factor != 1.0).map(|_| "linear"));
        let Some(kind) = kind.filter(|kind| *kind != "none") else { return Ok(()) };
        let mut scaling = Map::new();
        scaling.insert("rope_type".into(), kind.into());
        let original = self.u32("rope.scaling.original_context_length")?.map(Value::from);
        let numbers = [
            ("factor", factor.map(Value::from)),
            ("original_max_position_embeddings", original),
            ("beta_fast", self.f32("rope.scaling.yarn_beta_fast")?.map(Value::from)),
            ("beta_slow", self.f32("rope.scaling.yarn_beta_slow")?.map(Value::from)),
        ];
        for (key, value) in numbers {
            scaling.extend(value.map(|value| (key.to_owned(), value)));
        }
        root.insert("rope_scaling".into(), scaling.into());
        Ok(())
    }
}

/// The smallest f32 that, multiplied by `head_dim` and truncated as Hugging Face does, gives `rotated` again.
fn part(rotated: u32, head_dim: u32) -> f32 {
    let mut part = rotated as f32 / head_dim as f32;
    while ((f64::from(part) * f64::from(head_dim)) as u32) < rotated {
        part = part.next_up();
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate_one_to_one() {
        let llama = &ARCHITECTURES[0];
        let translated = llama.tensor_name("blk.12.attn_q.weight");
        assert_eq!(translated, "model.layers.12.self_attn.q_proj.weight", "a layer's tensor");
        assert_eq!(llama.tensor_name("output.weight"), "lm_head.weight", "a tensor outside layers");
        for kept in ["rope_freqs.weight", "blk.x.attn_q.weight", "blk.0.attn_q.scale", "blk.0.weight", "output"] {
            assert_eq!(llama.tensor_name(kept), kept, "not in the table");
        }
        for architecture in ARCHITECTURES {
            let mut names: Vec<_> = architecture.tensors.iter().chain(architecture.layer_tensors).collect();
            let all = names.len();
            names.sort_by_key(|(_, translated)| *translated);
            names.dedup_by_key(|(_, translated)| *translated);
            assert_eq!(names.len(), all, "{}: no two tensors share a name", architecture.name);
        }
    }

    #[test]
    fn rotated_parts_survive_the_round_trip() {
        for head_dim in 1..=320 {
            for rotated in 0..=head_dim {
                let back = (f64::from(part(rotated, head_dim)) * f64::from(head_dim)) as u32;
                assert_eq!(back, rotated, "{rotated} of {head_dim}");
            }
        }
        assert_eq!(part(20, 80), 0.25, "exact where it can be");
    }
}
