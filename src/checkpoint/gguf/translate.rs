//! GGUF's names in Hugging Face's words, by the tables in `architectures/`.
//!
//! Families read one kind of config and one kind of tensor name; this file makes a GGUF file look like that. It
//! changes no bytes: where GGUF orders rows differently, [`RowConventions`](crate::checkpoint::RowConventions) says
//! so. Invariant: nothing is dropped that means something. A tensor or an architecture key without translation keeps
//! its GGUF name, and whoever refuses what a family did not ask for refuses it too.

use serde_json::{Map, Value, json};

use super::architectures::{ARCHITECTURES, Architecture, COMMON_KEYS, HANDLED, MOOT, TOKEN_KEYS};
use super::metadata::{GgufMetadata, MetadataValue};
use crate::checkpoint::view::TensorEntry;
use crate::checkpoint::{CheckpointError, Config};

impl Architecture {
    /// The table for the architecture the metadata names, if there is one; `tensors` by their GGUF names.
    pub(in crate::checkpoint) fn of(
        metadata: &GgufMetadata,
        tensors: &[TensorEntry],
    ) -> Result<Option<&'static Self>, CheckpointError> {
        let name = metadata.architecture()?;
        let marked = |table: &&Self| table.mark.is_none_or(|mark| tensors.iter().any(|tensor| tensor.name == mark));
        Ok(ARCHITECTURES.iter().filter(|table| Some(table.name) == name).find(marked))
    }

    /// The names of all architectures, for a message.
    pub(in crate::checkpoint) fn names() -> String {
        let mut names: Vec<_> = ARCHITECTURES.iter().map(|table| table.name).collect();
        names.dedup();
        names.join(", ")
    }

    /// A tensor's Hugging Face name; its own where the table has none.
    pub(in crate::checkpoint) fn tensor_name(&self, gguf: &str) -> String {
        self.translated(gguf).unwrap_or_else(|| gguf.to_owned())
    }

    /// The table for a model that has this type in its config; `has_tensor` by Hugging Face names.
    pub(in crate::checkpoint) fn of_model(
        model_type: &str,
        has_tensor: impl Fn(&str) -> bool,
    ) -> Option<&'static Self> {
        // Mistral's files are Llama's under another name.
        let model_type = if model_type == "mistral" { "llama" } else { model_type };
        let marked = |table: &&Self| table.mark.is_none_or(|mark| has_tensor(&table.tensor_name(mark)));
        ARCHITECTURES.iter().filter(|table| table.model_type == model_type).find(marked)
    }

    /// A tensor's GGUF name, where the table has one.
    pub(in crate::checkpoint) fn gguf_name(&self, tensor: &str) -> Option<String> {
        let (stem, suffix) = tensor.rsplit_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))?;
        let named = |table: &[(&'static str, &'static str)], stem: &str| {
            table.iter().find_map(|(gguf, translated)| {
                if *translated == stem {
                    return Some((*gguf).to_owned());
                }
                let (before, after) = translated.split_once('*')?;
                let expert = stem.strip_prefix(before)?.strip_suffix(after)?;
                expert.bytes().all(|byte| byte.is_ascii_digit()).then(|| gguf.replace('*', expert))
            })
        };
        let layer = stem.strip_prefix(self.layers).and_then(|rest| rest.strip_prefix('.')?.split_once('.'));
        match layer {
            Some((layer, stem)) => Some(format!("blk.{layer}.{}.{suffix}", named(self.layer_tensors, stem)?)),
            None => Some(format!("{}.{suffix}", named(self.tensors, stem)?)),
        }
    }

    fn translated(&self, gguf: &str) -> Option<String> {
        let (stem, suffix) = gguf.rsplit_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))?;
        let Some((layer, stem)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return Some(format!("{}.{suffix}", look_up(self.tensors, stem)?));
        };
        let stem = self.layer_stem(stem)?;
        layer.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{}.{layer}.{stem}.{suffix}", self.layers))
    }

    fn layer_stem(&self, stem: &str) -> Option<String> {
        if let Some(translated) = look_up(self.layer_tensors, stem) {
            return (!stem.contains('*')).then(|| translated.to_owned());
        }
        let (stem, expert) = stem.rsplit_once('.')?;
        let translated = look_up(self.layer_tensors, &format!("{stem}.*"))?;
        expert.bytes().all(|byte| byte.is_ascii_digit()).then(|| translated.replace('*', expert))
    }

    /// The config that Hugging Face's `config.json` would be; `tensors` by their GGUF names.
    pub(in crate::checkpoint) fn config(
        &self,
        metadata: &GgufMetadata,
        tensors: &[TensorEntry],
    ) -> Result<Config, CheckpointError> {
        let file = Translation { architecture: self, metadata, tensors };
        let mut root = Map::new();
        root.insert("model_type".into(), self.model_type.into());
        root.extend(self.activation.map(|(key, name)| (key.to_owned(), name.into())));
        root.extend(self.fixed.iter().map(|(flag, value)| ((*flag).to_owned(), (*value).into())));
        file.plain_keys(&mut root);
        file.vocabulary(&mut root);
        file.rotary_part(&mut root)?;
        file.rope_scaling(&mut root)?;
        if !tensors.is_empty() {
            root.insert("tie_word_embeddings".into(), (!file.has("output.weight")).into());
        }
        for (flag, _) in self.flags.iter().filter(|(_, tensor)| file.has(tensor)) {
            root.insert((*flag).into(), true.into());
        }
        (self.derive)(&file, &mut root)?;
        Ok(Config::new(metadata.file().display().to_string(), root, self.rows))
    }
}

fn look_up(table: &[(&str, &'static str)], gguf: &str) -> Option<&'static str> {
    table.iter().find(|(name, _)| *name == gguf).map(|(_, translated)| *translated)
}

/// Entries of an array that a config may have at most: one a layer.
const MAX_ARRAY: usize = 1 << 10;

/// One file under one table.
pub(super) struct Translation<'a> {
    architecture: &'a Architecture,
    metadata: &'a GgufMetadata,
    /// By their GGUF names.
    tensors: &'a [TensorEntry],
}

impl Translation<'_> {
    /// A key with the architecture's prefix.
    pub(super) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture.name)
    }

    pub(super) fn u32(&self, suffix: &str) -> Result<Option<u32>, CheckpointError> {
        self.metadata.u32(&self.key(suffix))
    }

    pub(super) fn f32(&self, suffix: &str) -> Result<Option<f32>, CheckpointError> {
        self.metadata.f32(&self.key(suffix))
    }

    pub(super) fn has(&self, tensor: &str) -> bool {
        self.shape(tensor).is_some()
    }

    pub(super) fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensors.iter().find(|entry| entry.name == tensor).map(|entry| entry.shape.as_slice())
    }

    /// Values of a head, where the metadata decides it.
    pub(super) fn head_dim(&self) -> Result<Option<u32>, CheckpointError> {
        match self.u32("attention.key_length")? {
            Some(dim) => Ok(Some(dim)),
            None => self.hidden_per_head(),
        }
    }

    /// The hidden size divided by the heads; none where layers differ in them.
    pub(super) fn hidden_per_head(&self) -> Result<Option<u32>, CheckpointError> {
        let hidden = self.u32("embedding_length")?;
        let heads = self.u32("attention.head_count").ok().flatten();
        Ok(hidden.zip(heads).and_then(|(hidden, heads)| hidden.checked_div(heads)))
    }

    fn plain_keys(&self, root: &mut Map<String, Value>) {
        let prefix = self.key("");
        for key in self.metadata.keys() {
            let name = match key.strip_prefix(&prefix) {
                None => look_up(TOKEN_KEYS, key),
                Some(suffix) if self.is_moot(key, suffix) => None,
                Some(suffix) => match look_up(self.architecture.keys, suffix) {
                    None if HANDLED.contains(&suffix) => None,
                    own => own.or_else(|| look_up(COMMON_KEYS, suffix)).or(Some(key)),
                },
            };
            // What no one has a word for is refused by its name, whatever is in it.
            let most = if name == Some(key) { 0 } else { MAX_ARRAY };
            let value = self.metadata.value(key).map(|value| self.json(value, most));
            if let (Some(name), Some(value)) = (name, value) {
                root.insert(name.into(), value);
            }
        }
    }

    fn is_moot(&self, key: &str, suffix: &str) -> bool {
        let value = match self.metadata.value(key) {
            Some(MetadataValue::Integer(value)) => *value as f64,
            Some(MetadataValue::Float(value)) => *value,
            Some(MetadataValue::Bool(value)) => f64::from(*value),
            _ => return false,
        };
        MOOT.contains(&(suffix, value))
    }

    /// An array of more entries than `most` becomes a text that no one takes for it.
    fn json(&self, value: &MetadataValue, most: usize) -> Value {
        match value {
            MetadataValue::Integer(value) => i64::try_from(*value).map_or_else(|_| json!(*value as f64), Value::from),
            // JSON would make them null, which reads as absent.
            MetadataValue::Float(value) if !value.is_finite() => json!(value.to_string()),
            MetadataValue::Float(value) => json!(value),
            MetadataValue::Bool(value) => json!(value),
            MetadataValue::String(value) => json!(value),
            MetadataValue::Array { count, .. } if *count > most => json!(format!("an array of {count}")),
            // One number a layer, say; nested arrays and lists of strings are no architecture key.
            array => match self.metadata.numbers(array) {
                Some(values) => values.map(|value| self.json(&value, 0)).collect(),
                None => json!("an array that is not of numbers"),
            },
        }
    }

    /// Models pad their embedding: its rows count, not the tokenizer's entries.
    fn vocabulary(&self, root: &mut Map<String, Value>) {
        let rows = self.shape("token_embd.weight").and_then(|shape| shape.first());
        let tokens = || match self.metadata.value("tokenizer.ggml.tokens") {
            Some(MetadataValue::Array { count, .. }) => Some(*count),
            _ => None,
        };
        if let Some(rows) = rows {
            root.insert("vocab_size".into(), json!(rows));
        } else if let (false, Some(tokens)) = (root.contains_key("vocab_size"), tokens()) {
            root.insert("vocab_size".into(), tokens.into());
        }
    }

    /// GGUF counts rotated values of a head, Hugging Face says which part of the head they are.
    fn rotary_part(&self, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
        let Some(head_dim @ 1..) = self.head_dim()? else { return Ok(()) };
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
    fn names_translate() {
        let table = |model_type| ARCHITECTURES.iter().find(|table| table.model_type == model_type).expect("a table");
        let llama = table("llama");
        let translated = llama.tensor_name("blk.12.attn_q.weight");
        assert_eq!(translated, "model.layers.12.self_attn.q_proj.weight", "a layer's tensor");
        assert_eq!(llama.tensor_name("output.weight"), "lm_head.weight", "a tensor outside layers");
        for kept in ["rope_freqs.weight", "blk.x.attn_q.weight", "blk.0.attn_q.scale", "blk.0.weight", "output"] {
            assert_eq!(llama.tensor_name(kept), kept, "not in the table");
        }
        for gguf in ["blk.12.attn_q.weight", "output_norm.weight", "blk.0.ffn_gate.bias"] {
            assert_eq!(llama.gguf_name(&llama.tensor_name(gguf)).as_deref(), Some(gguf), "there and back");
        }
        assert_eq!(llama.gguf_name("model.layers.0.self_attn.rotary_emb.inv_freq"), None, "not in the table");
        let mixtral = table("mixtral");
        let translated = mixtral.tensor_name("blk.3.ffn_up_exps.weight");
        assert_eq!(translated, "model.layers.3.block_sparse_moe.experts.w3.weight", "all experts in one tensor");
        let translated = mixtral.tensor_name("blk.3.ffn_down.17.weight");
        assert_eq!(translated, "model.layers.3.block_sparse_moe.experts.17.w2.weight", "one tensor an expert");
        assert_eq!(mixtral.gguf_name(&translated).as_deref(), Some("blk.3.ffn_down.17.weight"), "and back");
        for kept in ["blk.3.ffn_down.weight", "blk.3.ffn_down.*.weight", "blk.3.ffn_down.x.weight"] {
            assert_eq!(mixtral.tensor_name(kept), kept, "not in the table");
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
