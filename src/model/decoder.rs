//! What decoders have in common: their sizes, in all the names that configs give them, and the parts that most
//! families build alike.
//!
//! A family reads a [`Decoder`], builds its layers of these parts and changes what is different about it. Nothing here
//! knows a family.

use super::rope::RopeConfig;
use super::{
    AttentionSpec, LayerSpec, LinearSpec, MlpSpec, ModelError, ModelSpec, NormSpec, Part, Residual, RopeSpec, Source,
    VectorSpec, WeightSpec, keys,
};
use crate::checkpoint::{Config, QkvRows};
use crate::ops::Activation;

/// The sizes of a decoder and where they were read.
pub(super) struct Decoder<'a> {
    pub(super) family: &'static str,
    pub(super) source: &'a Source<'a>,
    /// The config, or the section of it that describes the decoder.
    pub(super) config: Config,
    pub(super) hidden: usize,
    pub(super) layers: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) vocab: usize,
    pub(super) positions: u32,
}

/// Sizes that a family's published configs leave out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Defaults {
    pub(super) heads: Option<u32>,
    pub(super) kv_heads: Option<u32>,
    pub(super) head_dim: Option<u32>,
    pub(super) vocab: Option<u32>,
    pub(super) positions: Option<u32>,
}

/// Which of an attention's projections have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttentionBias {
    None,
    Qkv,
    All,
}

impl AttentionBias {
    /// All of them or none, as one flag says.
    pub(super) const fn all(flag: bool) -> Self {
        if flag { Self::All } else { Self::None }
    }

    /// Those of q, k and v, or none.
    pub(super) const fn qkv(flag: bool) -> Self {
        if flag { Self::Qkv } else { Self::None }
    }
}

/// How a family's config writes RoPE.
pub(super) struct RopeKeys<'k> {
    /// Theta in configs that have no section for it.
    pub(super) theta: &'k str,
    /// The part of a head that is rotated, likewise.
    pub(super) part: &'k [&'k str],
    /// That part where nothing is said.
    pub(super) default_part: f32,
}

impl Default for RopeKeys<'_> {
    fn default() -> Self {
        Self { theta: "rope_theta", part: &["partial_rotary_factor"], default_part: 1.0 }
    }
}

impl<'a> Decoder<'a> {
    /// Reads the sizes of a whole config.
    pub(super) fn read(source: &'a Source<'a>, family: &'static str) -> Result<Self, ModelError> {
        Self::read_section(source, family, source.config.clone(), &Defaults::default())
    }

    /// Reads the sizes of a section of the config, which may leave some of them out.
    pub(super) fn read_section(
        source: &'a Source<'a>,
        family: &'static str,
        config: Config,
        defaults: &Defaults,
    ) -> Result<Self, ModelError> {
        let hidden = config.any_u32(&["hidden_size", "n_embd", "d_model"])?;
        let or = |keys: &[&str], default: Option<u32>| -> Result<u32, ModelError> {
            Ok(match (config.opt_any_u32(keys)?, default) {
                (Some(said), _) => said,
                (None, Some(default)) => default,
                (None, None) => config.any_u32(keys)?,
            })
        };
        let heads = or(&["num_attention_heads", "n_head", "n_heads"], defaults.heads)?;
        let kv_names = ["num_key_value_heads", "n_head_kv", "num_kv_heads"];
        let kv_heads = or(&kv_names, defaults.kv_heads.or(Some(heads)))?;
        let inconsistent = |reason| Err(ModelError::Inconsistent { family, reason });
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let reason = format!("num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}");
            return inconsistent(reason);
        }
        let head_dim = match config.opt_u32("head_dim")?.or(defaults.head_dim) {
            Some(dim) => dim,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => return inconsistent(format!("hidden_size {hidden} is not a multiple of {heads} heads")),
        };
        Ok(Self {
            hidden: hidden as usize,
            layers: config.any_u32(&["num_hidden_layers", "n_layer", "n_layers"])?,
            heads,
            kv_heads,
            head_dim,
            vocab: or(&["vocab_size"], defaults.vocab)? as usize,
            positions: or(&["max_position_embeddings", "n_positions", "max_seq_len"], defaults.positions)?,
            family,
            source,
            config,
        })
    }

    /// Refuses a config for what it says of `key`.
    pub(super) fn unsupported(&self, key: &str, value: impl ToString, hint: &str) -> ModelError {
        ModelError::Unsupported { family: self.family, key: key.into(), value: value.to_string(), hint: hint.into() }
    }

    /// Refuses a config in which `key` is true.
    pub(super) fn refuse_flags(&self, keys: &[&str]) -> Result<(), ModelError> {
        for key in keys {
            if self.config.bool_or(key, false)? {
                return Err(self.unsupported(key, true, "; expected false"));
            }
        }
        Ok(())
    }

    /// The feed-forward part's inner width.
    pub(super) fn intermediate(&self) -> Result<usize, ModelError> {
        Ok(self.config.u32("intermediate_size")? as usize)
    }

    /// `hidden_act`.
    pub(super) fn activation(&self, default: &str) -> Result<Activation, ModelError> {
        keys::activation(&self.config, self.family, "hidden_act", default)
    }

    /// RoPE as the config has it, one for all layers.
    pub(super) fn rope(&self, names: &RopeKeys<'_>) -> Result<RopeSpec, ModelError> {
        let parameters = self.config.section("rope_parameters")?;
        let scaling = match &parameters {
            Some(parameters) => Some(parameters.clone()),
            None => self.config.section("rope_scaling")?,
        };
        let theta = keys::theta(&self.config, parameters.as_ref(), names.theta)?;
        let inside = parameters.as_ref().map(|section| section.opt_f32("partial_rotary_factor")).transpose()?.flatten();
        // Asked for even where the section decides: configs may write both.
        let outside = self.config.opt_any_f32(names.part)?;
        let part = inside.or(outside).unwrap_or(names.default_part);
        self.rope_of(theta, part, scaling)
    }

    /// RoPE of this theta, part of a head and scaling.
    pub(super) fn rope_of(&self, theta: f32, part: f32, scaling: Option<Config>) -> Result<RopeSpec, ModelError> {
        let rotary_dim = (f64::from(self.head_dim) * f64::from(part)) as u32;
        RopeConfig {
            family: self.family,
            head_dim: self.head_dim,
            rotary_dim,
            theta,
            max_position_embeddings: self.positions,
            // LongChat's word for a linear scaling.
            condense: self.config.opt_f32("rope_condense_ratio")?.unwrap_or(1.0),
            original_positions: self.config.opt_u32("original_max_position_embeddings")?,
            scaling,
            source: self.source,
        }
        .spec()
    }

    /// The last `window` positions a layer sees: all, unless `layer_types` or the older keys say otherwise.
    /// `slides` tells for configs without `layer_types`.
    pub(super) fn windows(&self, slides: impl Fn(u32) -> bool) -> Result<Vec<Option<u32>>, ModelError> {
        let window = self.config.opt_u32("sliding_window")?;
        let types = self.config.strs("layer_types")?;
        let mut windows = Vec::with_capacity(self.layers as usize);
        for layer in 0..self.layers {
            let sliding = match &types {
                None => slides(layer),
                Some(types) => match types.get(layer as usize).copied() {
                    Some("sliding_attention") => true,
                    Some("full_attention") => false,
                    other => {
                        let value = other.map_or("too short".to_owned(), |kind| format!("\"{kind}\""));
                        let key = format!("layer_types[{layer}]");
                        return Err(self.unsupported(&key, value, "; expected full_attention or sliding_attention"));
                    }
                },
            };
            windows.push(window.filter(|_| sliding));
        }
        Ok(windows)
    }

    /// Rows of q.
    pub(super) const fn q_rows(&self) -> usize {
        (self.heads * self.head_dim) as usize
    }

    /// Rows of k, and of v.
    pub(super) const fn kv_rows(&self) -> usize {
        (self.kv_heads * self.head_dim) as usize
    }

    /// Attention over these projections: causal, unrotated, scaled as Vaswani et al. have it.
    pub(super) fn attention_of(&self, [q, k, v]: [LinearSpec; 3], o: LinearSpec) -> AttentionSpec {
        AttentionSpec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            q,
            k,
            v,
            o,
            rope: None,
            alibi: None,
            qk_norm: None,
            clip_qkv: None,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            window: None,
            softcap: None,
        }
    }

    /// Attention with the tensors `q_proj`, `k_proj`, `v_proj` and this output projection under `at`.
    pub(super) fn attention(&self, at: &str, bias: AttentionBias, o: &str) -> AttentionSpec {
        let qkv = bias != AttentionBias::None;
        let (q_rows, kv_rows) = (self.q_rows(), self.kv_rows());
        let projections = [("q_proj", q_rows), ("k_proj", kv_rows), ("v_proj", kv_rows)]
            .map(|(name, rows)| LinearSpec::named(format!("{at}.{name}"), rows, self.hidden, qkv));
        let o = LinearSpec::named(format!("{at}.{o}"), self.hidden, q_rows, bias == AttentionBias::All);
        self.attention_of(projections, o)
    }

    /// q, k and v as the rows of one tensor `name`, ordered as `rows` says.
    pub(super) fn fused_qkv(&self, name: &str, bias: bool, rows: FusedRows) -> [LinearSpec; 3] {
        let tensor_rows = self.q_rows() + 2 * self.kv_rows();
        rows.of(self).map(|rows| {
            let parts = |suffix: &str| -> Vec<Part> {
                rows.iter().map(|rows| Part::some(format!("{name}.{suffix}"), tensor_rows, rows.clone())).collect()
            };
            LinearSpec {
                weight: WeightSpec { parts: parts("weight"), cols: self.hidden },
                bias: bias.then(|| VectorSpec { parts: parts("bias") }),
            }
        })
    }

    /// One vector for all heads of q and one for all of k, as the columns of both take them: `<at>.<name>.<suffix>`.
    pub(super) fn per_head(&self, at: &str, [q, k]: [&str; 2], suffix: &str) -> VectorSpec {
        let repeated = |name: &str, heads: u32| {
            let part = Part::whole(format!("{at}.{name}.{suffix}"), self.head_dim as usize);
            std::iter::repeat_n(part, heads as usize)
        };
        VectorSpec { parts: repeated(q, self.heads).chain(repeated(k, self.kv_heads)).collect() }
    }

    /// The tensors `gate_proj`, `up_proj` and `down_proj` under `at`.
    pub(super) fn gated_linears(&self, at: &str, intermediate: usize, bias: bool) -> [LinearSpec; 3] {
        [
            LinearSpec::named(format!("{at}.gate_proj"), intermediate, self.hidden, bias),
            LinearSpec::named(format!("{at}.up_proj"), intermediate, self.hidden, bias),
            LinearSpec::named(format!("{at}.down_proj"), self.hidden, intermediate, bias),
        ]
    }

    /// A gated MLP of those.
    pub(super) fn gated_mlp(&self, at: &str, intermediate: usize, bias: bool, activation: Activation) -> MlpSpec {
        let [gate, up, down] = self.gated_linears(at, intermediate, bias);
        MlpSpec::Gated { gate, up, down, activation }
    }

    /// Two linears under these names.
    pub(super) fn plain_mlp(
        &self,
        [up, down]: [String; 2],
        intermediate: usize,
        bias: bool,
        activation: Activation,
    ) -> MlpSpec {
        MlpSpec::Plain {
            up: LinearSpec::named(up, intermediate, self.hidden, bias),
            down: LinearSpec::named(down, self.hidden, intermediate, bias),
            activation,
        }
    }

    /// A layer with a norm before each part.
    pub(super) fn pre_norm_layer(
        &self,
        residual: Residual,
        [attention_norm, mlp_norm]: [Option<NormSpec>; 2],
        attention: AttentionSpec,
        mlp: MlpSpec,
    ) -> LayerSpec {
        LayerSpec { residual, attention_norm, attention, attention_post_norm: None, mlp_norm, mlp, mlp_post_norm: None }
    }

    /// The model around these layers; `tied` is what a config means that does not say.
    pub(super) fn model(
        &self,
        layers: Vec<LayerSpec>,
        norm: NormSpec,
        [embedding, head]: [&str; 2],
        tied: bool,
    ) -> Result<ModelSpec, ModelError> {
        let stretch = layers.iter().filter_map(|layer| layer.attention.rope.as_ref()).map(|rope| rope.stretch);
        let stretch = f64::from(stretch.fold(1.0, f32::max));
        let embedding = WeightSpec::whole(embedding, self.vocab, self.hidden);
        let said = self.config.bool_or("tie_word_embeddings", tied)?;
        let tied = said || !(self.source.has_tensor)(head);
        let weight = if tied { embedding.clone() } else { WeightSpec::whole(head, self.vocab, self.hidden) };
        Ok(ModelSpec {
            family: self.family,
            hidden_size: self.hidden,
            max_position_embeddings: self.positions,
            max_context_length: (f64::from(self.positions) * stretch) as u32,
            embedding,
            embedding_scale: 1.0,
            position_embedding: None,
            layers,
            norm,
            lm_head: LinearSpec { weight, bias: None },
            logit_softcap: None,
            ignored: &[],
        })
    }
}

/// In which order a fused tensor has the rows of q, k and v.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FusedRows {
    /// All of q, all of k, all of v.
    Blocked,
    /// For each key/value head its query heads, then its k, then its v.
    PerGroup,
}

impl FusedRows {
    /// `PerGroup` as Hugging Face has it, `Blocked` as GGUF does.
    pub(super) fn of_checkpoint(config: &Config) -> Self {
        match config.rows.qkv {
            QkvRows::Blocked => Self::Blocked,
            QkvRows::PerHead => Self::PerGroup,
        }
    }

    /// The rows of q, of k and of v.
    fn of(self, decoder: &Decoder<'_>) -> [Vec<std::ops::Range<usize>>; 3] {
        let (q, kv, dim) = (decoder.q_rows(), decoder.kv_rows(), decoder.head_dim as usize);
        if self == Self::Blocked {
            return [0..q, q..q + kv, q + kv..q + 2 * kv].map(|rows| std::iter::once(rows).collect());
        }
        let groups = decoder.kv_heads as usize;
        let queries = q / groups;
        let starts = || (0..groups).map(|group| group * (queries + 2 * dim));
        [
            starts().map(|start| start..start + queries).collect(),
            starts().map(|start| start + queries..start + queries + dim).collect(),
            starts().map(|start| start + queries + dim..start + queries + 2 * dim).collect(),
        ]
    }
}
