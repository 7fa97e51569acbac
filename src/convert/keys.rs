//! What the GGUF file's metadata says of the model, in the keys that llama.cpp reads.

use super::ConvertError;
use crate::checkpoint::{Checkpoint, GgufValue};
use crate::model::{AttentionSpec, MlpSpec, ModelSpec, Residual, RopeScaling, RopeSpec};
use crate::ops::NormKind;
use crate::quant::BlockFormat;

/// ggml's number for "mostly of this format" (`general.file_type`); of the k-quants its purest mixture.
const FILE_TYPES: &[(&str, u32)] = &[
    ("f32", 0),
    ("f16", 1),
    ("q4_0", 2),
    ("q4_1", 3),
    ("q8_0", 7),
    ("q5_0", 8),
    ("q5_1", 9),
    ("q2_k", 10),
    ("q3_k", 11),
    ("q4_k", 14),
    ("q5_k", 16),
    ("q6_k", 18),
    ("iq4_nl", 25),
    ("iq4_xs", 30),
    ("bf16", 32),
    ("mxfp4", 38),
];

/// Replaces what the pairs say of how the file was made.
pub(super) fn say_how_it_was_made(pairs: &mut Vec<(String, GgufValue)>, format: &dyn BlockFormat) {
    // The writer's alignment is the default one.
    let replaced = ["general.alignment", "general.file_type", "general.quantization_version"];
    pairs.retain(|(key, _)| !replaced.contains(&key.as_str()));
    let file_type = FILE_TYPES.iter().find(|(name, _)| *name == format.name());
    pairs.extend(file_type.map(|(_, number)| ("general.file_type".to_owned(), GgufValue::U32(*number))));
    pairs.push(("general.quantization_version".into(), GgufValue::U32(2)));
}

/// The architecture's own keys.
pub(super) fn of_model(checkpoint: &Checkpoint, spec: &ModelSpec) -> Result<Vec<(String, GgufValue)>, ConvertError> {
    let (architecture, _) = checkpoint.gguf_architecture().expect("tensors were translated by its table");
    let name = checkpoint.path().file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    let mut pairs = vec![
        ("general.architecture".to_owned(), GgufValue::String(architecture.into())),
        ("general.type".to_owned(), GgufValue::String("model".into())),
        ("general.name".to_owned(), GgufValue::String(name)),
    ];
    let mut keys = Keys { architecture, pairs: Vec::new() };
    keys.sizes(spec);
    keys.attention(&spec.layers[0].attention, spec);
    keys.positions(spec);
    keys.experts(checkpoint, spec)?;
    keys.peculiar(checkpoint, spec)?;
    pairs.append(&mut keys.pairs);
    Ok(pairs)
}

/// Keys under the architecture's name.
struct Keys {
    architecture: &'static str,
    pairs: Vec<(String, GgufValue)>,
}

impl Keys {
    fn put(&mut self, key: &str, value: GgufValue) {
        self.pairs.push((format!("{}.{key}", self.architecture), value));
    }

    fn number(&mut self, key: &str, value: u32) {
        self.put(key, GgufValue::U32(value));
    }

    fn float(&mut self, key: &str, value: f32) {
        self.put(key, GgufValue::F32(value));
    }

    fn sizes(&mut self, spec: &ModelSpec) {
        self.number("context_length", spec.max_position_embeddings);
        self.number("embedding_length", spec.hidden_size as u32);
        self.number("block_count", spec.layers.len() as u32);
        self.number("vocab_size", spec.vocab_size() as u32);
        match spec.norm.kind {
            NormKind::Rms => self.float("attention.layer_norm_rms_epsilon", spec.norm.eps),
            NormKind::Layer => self.float("attention.layer_norm_epsilon", spec.norm.eps),
        }
    }

    fn attention(&mut self, attention: &AttentionSpec, spec: &ModelSpec) {
        self.number("attention.head_count", attention.heads);
        self.number("attention.head_count_kv", attention.kv_heads);
        // Files of these say it even where it follows.
        let says_so = ["qwen3", "qwen3moe", "gemma", "gemma2", "gemma3"].contains(&self.architecture);
        if says_so || (attention.heads * attention.head_dim) as usize != spec.hidden_size {
            self.number("attention.key_length", attention.head_dim);
            self.number("attention.value_length", attention.head_dim);
        }
        if let Some(clip) = attention.clip_qkv {
            self.float("attention.clamp_kqv", clip);
        }
        if let Some(cap) = attention.softcap {
            self.float("attn_logit_softcapping", cap);
        }
        if let Some(cap) = spec.logit_softcap {
            self.float("final_logit_softcapping", cap);
        }
    }

    /// Windows and rotations.
    fn positions(&mut self, spec: &ModelSpec) {
        let windows: Vec<Option<u32>> = spec.layers.iter().map(|layer| layer.attention.window).collect();
        if let Some(window) = windows.iter().flatten().next() {
            self.number("attention.sliding_window", *window);
        }
        let ropes = |slides: bool| {
            let of_kind = spec.layers.iter().filter(move |layer| layer.attention.window.is_some() == slides);
            of_kind.filter_map(|layer| layer.attention.rope.as_ref()).next()
        };
        let Some(rope) = ropes(false).or(ropes(true)) else { return };
        self.number("rope.dimension_count", rope.rotary_dim);
        self.float("rope.freq_base", rope.theta);
        if self.architecture == "gemma3" {
            // Known without a key: every sixth layer sees all, the others rotate by 10000.
            if let Some(local) = ropes(true).filter(|local| local.theta != 10_000.0) {
                self.float("rope.freq_base_swa", local.theta);
            }
            let every = windows.iter().position(Option::is_none).map_or(windows.len() + 1, |first| first + 1);
            if every != 6 && windows.iter().any(Option::is_some) {
                self.number("attention.sliding_window_pattern", every as u32);
            }
        }
        self.scaling(rope);
    }

    fn scaling(&mut self, rope: &RopeSpec) {
        let named = |name: &str| GgufValue::String(name.into());
        match rope.scaling {
            RopeScaling::Linear { factor } => {
                self.put("rope.scaling.type", named("linear"));
                self.float("rope.scaling.factor", factor);
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow } => {
                self.put("rope.scaling.type", named("yarn"));
                self.float("rope.scaling.factor", factor);
                self.number("rope.scaling.original_context_length", original);
                for (key, beta, usual) in [("fast", beta_fast, 32.0), ("slow", beta_slow, 1.0)] {
                    if beta != usual {
                        self.float(&format!("rope.scaling.yarn_beta_{key}"), beta);
                    }
                }
            }
            RopeScaling::Long { original } => {
                self.number("rope.scaling.original_context_length", original);
                self.float("rope.scaling.attn_factor", rope.magnitude);
            }
            // A tensor says it, or nothing does, which is found when the file is read back.
            RopeScaling::None | RopeScaling::Llama3 | RopeScaling::Dynamic => {}
        }
    }

    /// Inner widths, of experts where there are any.
    fn experts(&mut self, checkpoint: &Checkpoint, spec: &ModelSpec) -> Result<(), ConvertError> {
        let width = spec.layers[0].mlp.intermediate_size() as u32;
        let MlpSpec::Experts(experts) = &spec.layers[0].mlp else {
            self.number("feed_forward_length", width);
            return Ok(());
        };
        self.number("feed_forward_length", checkpoint.config()?.opt_u32("intermediate_size")?.unwrap_or(width));
        self.number("expert_count", experts.experts);
        self.number("expert_used_count", experts.top_k);
        if self.architecture != "llama" {
            self.number("expert_feed_forward_length", width);
        }
        if let Some(shared) = &experts.shared {
            self.number("expert_shared_feed_forward_length", shared.up.weight.rows() as u32);
        }
        Ok(())
    }

    /// What one architecture has and no other.
    fn peculiar(&mut self, checkpoint: &Checkpoint, spec: &ModelSpec) -> Result<(), ConvertError> {
        match self.architecture {
            "gptneox" | "stablelm" => {
                let parallel = spec.layers[0].residual == Residual::Parallel;
                self.put("use_parallel_residual", GgufValue::Bool(parallel));
            }
            "falcon" => self.put("tensor_data_layout", GgufValue::String("jploski".into())),
            "mpt" => {
                let attention = checkpoint.config()?.section("attn_config")?;
                let bias = attention.map(|attention| attention.opt_f32("alibi_bias_max")).transpose()?.flatten();
                self.float("attention.max_alibi_bias", bias.unwrap_or(8.0));
            }
            // Where the key is missing, llama.cpp once guessed a window.
            "phi3" if spec.layers[0].attention.window.is_none() => self.number("attention.sliding_window", 0),
            _ => {}
        }
        Ok(())
    }
}
