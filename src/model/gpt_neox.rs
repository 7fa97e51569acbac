//! GPT-NeoX: StableLM-alpha, Pythia, RedPajama-INCITE, Dolly v2 (Black et al. 2022, arXiv:2204.06745).

use super::decoder::{Decoder, FusedRows, RopeKeys};
use super::{Family, LinearSpec, ModelError, ModelSpec, NormSpec, Residual, Source};

pub(super) const FAMILY: Family = Family { model_type: "gpt_neox", describe };

/// Masks and tables that older exports wrote out.
const IGNORED: &[&str] = &[
    "gpt_neox.layers.*.attention.bias",
    "gpt_neox.layers.*.attention.masked_bias",
    "gpt_neox.layers.*.attention.rotary_emb.inv_freq",
];

fn describe(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, FAMILY.model_type)?;
    let config = &decoder.config;
    let eps = config.f32_or("layer_norm_eps", 1e-5)?;
    let residual = match config.bool_or("use_parallel_residual", true)? {
        true => Residual::Parallel,
        false => Residual::Sequential,
    };
    let attention_bias = config.bool_or("attention_bias", true)?;
    let activation = decoder.activation("gelu")?;
    let intermediate = decoder.intermediate()?;
    let rope = decoder.rope(&RopeKeys { theta: "rotary_emb_base", part: &["rotary_pct"], default_part: 0.25 })?;
    let rows = FusedRows::of_checkpoint(config);

    let norm = |name: String| NormSpec::layer(&name, decoder.hidden, eps);
    let layer = |i: u32| {
        let at = format!("gpt_neox.layers.{i}");
        let qkv = decoder.fused_qkv(&format!("{at}.attention.query_key_value"), attention_bias, rows);
        let o = LinearSpec::named(format!("{at}.attention.dense"), decoder.hidden, decoder.hidden, attention_bias);
        let mut attention = decoder.attention_of(qkv, o);
        attention.rope = Some(rope.clone());
        let names = ["dense_h_to_4h", "dense_4h_to_h"].map(|name| format!("{at}.mlp.{name}"));
        let mlp = decoder.plain_mlp(names, intermediate, true, activation);
        let norms = ["input_layernorm", "post_attention_layernorm"].map(|name| Some(norm(format!("{at}.{name}"))));
        decoder.pre_norm_layer(residual, norms, attention, mlp)
    };
    let layers = (0..decoder.layers).map(layer).collect();
    let tensors = ["gpt_neox.embed_in.weight", "embed_out.weight"];
    let spec = decoder.model(layers, norm("gpt_neox.final_layer_norm".into()), tensors, false)?;
    Ok(ModelSpec { ignored: IGNORED, ..spec })
}
