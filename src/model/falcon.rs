//! Falcon 7B, 11B, 40B, 180B and Falcon-RW (Almazrouei et al. 2023, arXiv:2311.16867). Falcon 3 is a Llama.

use super::decoder::{Decoder, Defaults, FusedRows, RopeKeys};
use super::{Family, LinearSpec, ModelError, ModelSpec, NormSpec, Residual, Source, keys};
use crate::ops::Alibi;

pub(super) const FAMILY: Family = Family { model_type: "falcon", describe };
/// What the 7B's config said before transformers knew Falcon, and the 40B's.
pub(super) const REFINED_WEB_MODEL: Family = Family { model_type: "RefinedWebModel", describe };
pub(super) const REFINED_WEB: Family = Family { model_type: "RefinedWeb", describe };

fn describe(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    // The first configs say nothing of the positions.
    let defaults = Defaults { positions: Some(2048), ..Defaults::default() };
    let mut decoder = Decoder::read_section(source, FAMILY.model_type, source.config.clone(), &defaults)?;
    let config = decoder.config.clone();
    // Two norms in the older form of the 40B's config, which has no word for its architecture.
    let two_norms = (source.has_tensor)("transformer.h.0.ln_attn.weight");
    let new_architecture = config.bool_or("new_decoder_architecture", two_norms)?;
    let multi_query = config.bool_or("multi_query", true)?;
    if !new_architecture {
        decoder.kv_heads = if multi_query { 1 } else { decoder.heads };
    }
    let parallel = config.bool_or("parallel_attn", true)? || new_architecture;
    let norms: &[&str] = match (parallel, config.opt_u32("num_ln_in_parallel_attn")?) {
        (false, _) => &["input_layernorm", "post_attention_layernorm"],
        (true, Some(1)) => &["input_layernorm"],
        (true, Some(2)) => &["ln_attn", "ln_mlp"],
        (true, None) if new_architecture => &["ln_attn", "ln_mlp"],
        (true, None) => &["input_layernorm"],
        (true, Some(other)) => {
            return Err(decoder.unsupported("num_ln_in_parallel_attn", other, "; expected 1 or 2"));
        }
    };
    let residual = if parallel { Residual::Parallel } else { Residual::Sequential };
    let bias = config.bool_or("bias", false)?;
    let eps = config.f32_or("layer_norm_epsilon", 1e-5)?;
    let activation = keys::activation(&config, FAMILY.model_type, "activation", "gelu")?;
    let intermediate = config.opt_any_u32(&["ffn_hidden_size", "intermediate_size"])?;
    let factor = config.u32_or("ff_factor", 4)? as usize;
    let intermediate = intermediate.map_or(factor * decoder.hidden, |width| width as usize);
    let with_alibi = config.bool_or("alibi", false)?;
    let rope = if with_alibi { None } else { Some(decoder.rope(&RopeKeys::default())?) };
    let alibi = with_alibi.then(|| {
        let rounded = |slope| half::bf16::from_f32(slope).to_f32();
        let slopes = keys::alibi_slopes(decoder.heads).into_iter().map(rounded).collect();
        (Alibi::Rounded { scale: 1.0 / (decoder.head_dim as f32).sqrt() }, slopes)
    });

    let norm = |name: String| NormSpec::layer(&name, decoder.hidden, eps);
    let layer = |i: u32| {
        let at = format!("transformer.h.{i}");
        let rows = FusedRows::of_checkpoint(&config);
        let qkv = decoder.fused_qkv(&format!("{at}.self_attention.query_key_value"), bias, rows);
        let o = LinearSpec::named(format!("{at}.self_attention.dense"), decoder.hidden, decoder.q_rows(), bias);
        let mut attention = decoder.attention_of(qkv, o);
        attention.rope.clone_from(&rope);
        attention.alibi.clone_from(&alibi);
        let names = ["dense_h_to_4h", "dense_4h_to_h"].map(|name| format!("{at}.mlp.{name}"));
        let mlp = decoder.plain_mlp(names, intermediate, bias, activation);
        let norms = [norms.first(), norms.get(1)].map(|name| name.map(|name| norm(format!("{at}.{name}"))));
        decoder.pre_norm_layer(residual, norms, attention, mlp)
    };
    let layers = (0..decoder.layers).map(layer).collect();
    decoder.model(
        layers,
        norm("transformer.ln_f".into()),
        ["transformer.word_embeddings.weight", "lm_head.weight"],
        true,
    )
}
