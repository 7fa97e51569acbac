//! MPT (MosaicML 2023): ALiBi, no biases, fused projections.

use super::decoder::{Decoder, FusedRows};
use super::{Family, LinearSpec, ModelError, ModelSpec, NormSpec, Residual, Source};
use crate::checkpoint::Config;
use crate::ops::{Activation, Alibi};

pub(super) const FAMILY: Family = Family { model_type: "mpt", describe };

fn describe(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, FAMILY.model_type)?;
    let config = &decoder.config;
    let eps = config.f32_or("layer_norm_epsilon", 1e-5)?;
    let intermediate = config.u32_or("expansion_ratio", 4)? as usize * decoder.hidden;
    if !config.bool_or("no_bias", true)? {
        return Err(decoder.unsupported("no_bias", false, "; expected true"));
    }
    if config.has("logit_scale") {
        return Err(decoder.unsupported("logit_scale", "set", "; expected null"));
    }
    // How it was trained and run.
    config.ignore(&["norm_type", "init_config", "init_device", "embedding_fraction", "verbose", "learned_pos_emb"]);
    let attention_config = config.section("attn_config")?;
    let (bias_max, clip_qkv, scale) = attention_keys(&decoder, attention_config.as_ref())?;
    let slopes = slopes(decoder.heads, bias_max);
    let norm = |name: String| NormSpec::layer_without_bias(&name, decoder.hidden, eps);
    let layer = |i: u32| {
        let at = format!("transformer.blocks.{i}");
        let qkv = decoder.fused_qkv(&format!("{at}.attn.Wqkv"), false, FusedRows::Blocked);
        let o = LinearSpec::named(format!("{at}.attn.out_proj"), decoder.hidden, decoder.q_rows(), false);
        let mut attention = decoder.attention_of(qkv, o);
        attention.alibi = Some((Alibi::Exact, slopes.clone()));
        attention.clip_qkv = clip_qkv;
        attention.scale = scale.unwrap_or(attention.scale);
        let names = ["up_proj", "down_proj"].map(|name| format!("{at}.ffn.{name}"));
        let mlp = decoder.plain_mlp(names, intermediate, false, Activation::GeluErf);
        let norms = ["norm_1", "norm_2"].map(|name| Some(norm(format!("{at}.{name}"))));
        decoder.pre_norm_layer(Residual::Sequential, norms, attention, mlp)
    };
    let layers = (0..decoder.layers).map(layer).collect();
    decoder.model(layers, norm("transformer.norm_f".into()), ["transformer.wte.weight", "lm_head.weight"], true)
}

/// The largest bias of ALiBi, `clip_qkv` and `softmax_scale`.
fn attention_keys(
    decoder: &Decoder<'_>,
    config: Option<&Config>,
) -> Result<(f32, Option<f32>, Option<f32>), ModelError> {
    let Some(config) = config else { return Ok((8.0, None, None)) };
    for (key, expected) in [("alibi", true), ("qk_ln", false), ("prefix_lm", false), ("attn_uses_sequence_id", false)] {
        if config.bool_or(key, expected)? != expected {
            return Err(decoder.unsupported(
                &format!("attn_config.{key}"),
                !expected,
                &format!("; expected {expected}"),
            ));
        }
    }
    let kind = config.str_or("attn_type", "multihead_attention")?;
    if kind != "multihead_attention" {
        return Err(decoder.unsupported("attn_config.attn_type", kind, "; expected multihead_attention"));
    }
    config.ignore(&["attn_impl", "attn_pdrop", "model_type"]);
    Ok((config.f32_or("alibi_bias_max", 8.0)?, config.opt_f32("clip_qkv")?, config.opt_f32("softmax_scale")?))
}

/// MPT's slopes: those of the next power of two of heads, its second, fourth … first where there are fewer.
fn slopes(heads: u32, bias_max: f32) -> Vec<f32> {
    let whole = heads.next_power_of_two();
    let slope = |power: u32| 2f64.powf(-f64::from(bias_max) / f64::from(whole) * f64::from(power)) as f32;
    let all = (1..=whole).map(slope);
    if whole == heads {
        return all.collect();
    }
    let all: Vec<f32> = all.collect();
    let odd_first = all.iter().skip(1).step_by(2).chain(all.iter().step_by(2));
    odd_first.take(heads as usize).copied().collect()
}
