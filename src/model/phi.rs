//! Phi 1, 1.5 and 2 (Li et al. 2023, arXiv:2309.05463), Phi 3 and 4 (Abdin et al. 2024, arXiv:2404.14219,
//! arXiv:2412.08905).

use super::decoder::{AttentionBias, Decoder, FusedRows, RopeKeys};
use super::{
    AttentionSpec, Family, LinearSpec, MlpSpec, ModelError, ModelSpec, NormSpan, NormSpec, Part, QkNormSpec, Residual,
    Source, VectorSpec, WeightSpec,
};
use crate::ops::{Activation, NormKind};

pub(super) const PHI: Family = Family { model_type: "phi", describe: describe_phi };
/// Phi 1.5 and 2 as they were first published, under other names.
pub(super) const PHI_MSFT: Family = Family { model_type: "phi-msft", describe: describe_phi_msft };
pub(super) const PHI3: Family = Family { model_type: "phi3", describe: describe_phi3 };

const IGNORED: &[&str] = &["model.layers.*.self_attn.rotary_emb.inv_freq"];
const IGNORED_MSFT: &[&str] = &["transformer.h.*.mixer.rotary_emb.inv_freq"];

fn describe_phi(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, PHI.model_type)?;
    let eps = decoder.config.f32_or("layer_norm_eps", 1e-5)?;
    let activation = decoder.activation("gelu_new")?;
    let intermediate = decoder.config.opt_u32("intermediate_size")?.map_or(4 * decoder.hidden, |width| width as usize);
    let rope = decoder.rope(&RopeKeys { default_part: 0.5, ..RopeKeys::default() })?;
    let qk_norm = decoder.config.bool_or("qk_layernorm", false)?;
    let norm = |name: String| NormSpec::layer(&name, decoder.hidden, eps);
    let layer = |i: u32| {
        let at = format!("model.layers.{i}");
        let mut attention = decoder.attention(&format!("{at}.self_attn"), AttentionBias::All, "dense");
        attention.rope = Some(rope.clone());
        attention.qk_norm = qk_norm.then(|| head_norms(&decoder, &format!("{at}.self_attn"), eps));
        let mlp =
            decoder.plain_mlp(["fc1", "fc2"].map(|name| format!("{at}.mlp.{name}")), intermediate, true, activation);
        let norms = [Some(norm(format!("{at}.input_layernorm"))), None];
        decoder.pre_norm_layer(Residual::Parallel, norms, attention, mlp)
    };
    let layers = (0..decoder.layers).map(layer).collect();
    let tensors = ["model.embed_tokens.weight", "lm_head.weight"];
    let spec = decoder.model(layers, norm("model.final_layernorm".into()), tensors, false)?;
    Ok(with_head_bias(ModelSpec { ignored: IGNORED, ..spec }, "lm_head.bias"))
}

/// LayerNorms of each head, one for all heads of q and one for all of k.
fn head_norms(decoder: &Decoder<'_>, at: &str, eps: f32) -> QkNormSpec {
    let vector = |suffix| decoder.per_head(at, ["q_layernorm", "k_layernorm"], suffix);
    let (weight, bias) = (vector("weight"), Some(vector("bias")));
    QkNormSpec { kind: NormKind::Layer, eps, span: NormSpan::Head, one_plus: false, weight, bias }
}

fn with_head_bias(mut spec: ModelSpec, name: &str) -> ModelSpec {
    spec.lm_head.bias = Some(VectorSpec::whole(name, spec.lm_head.weight.rows()));
    spec
}

fn describe_phi_msft(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, PHI_MSFT.model_type)?;
    let config = &decoder.config;
    let eps = config.f32_or("layer_norm_epsilon", 1e-5)?;
    let activation = super::keys::activation(config, PHI_MSFT.model_type, "activation_function", "gelu_new")?;
    let intermediate = config.opt_u32("n_inner")?.map_or(4 * decoder.hidden, |width| width as usize);
    let part = config.u32("rotary_dim")? as f32 / decoder.head_dim as f32;
    let rope = decoder.rope_of(10_000.0, part, None)?;
    // How it was run, not what it computes.
    config.ignore(&["flash_attn", "flash_rotary", "fused_dense"]);
    let norm = |name: String| NormSpec::layer(&name, decoder.hidden, eps);
    let layer = |i: u32| {
        let at = format!("transformer.h.{i}");
        let qkv = decoder.fused_qkv(&format!("{at}.mixer.Wqkv"), true, FusedRows::Blocked);
        let o = LinearSpec::named(format!("{at}.mixer.out_proj"), decoder.hidden, decoder.q_rows(), true);
        let attention = AttentionSpec { rope: Some(rope.clone()), ..decoder.attention_of(qkv, o) };
        let mlp =
            decoder.plain_mlp(["fc1", "fc2"].map(|name| format!("{at}.mlp.{name}")), intermediate, true, activation);
        decoder.pre_norm_layer(Residual::Parallel, [Some(norm(format!("{at}.ln"))), None], attention, mlp)
    };
    let layers = (0..decoder.layers).map(layer).collect();
    let tensors = ["transformer.embd.wte.weight", "lm_head.linear.weight"];
    let spec = decoder.model(layers, norm("lm_head.ln".into()), tensors, false)?;
    Ok(with_head_bias(ModelSpec { ignored: IGNORED_MSFT, ..spec }, "lm_head.linear.bias"))
}

fn describe_phi3(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, PHI3.model_type)?;
    let config = &decoder.config;
    decoder.refuse_flags(&["attention_bias", "mlp_bias"])?;
    for key in ["full_attn_mod", "interpolate_factor"] {
        if let Some(other) = config.opt_u32(key)?.filter(|value| *value != 1) {
            return Err(decoder.unsupported(key, other, "; expected 1"));
        }
    }
    let eps = config.f32_or("rms_norm_eps", 1e-5)?;
    let activation = decoder.activation("silu")?;
    let intermediate = decoder.intermediate()?;
    let rope = decoder.rope(&RopeKeys::default())?;
    let windows = decoder.windows(|_| true)?;
    let norm = |name: String| NormSpec::rms(&name, decoder.hidden, eps);
    let layer = |i: u32| {
        let at = format!("model.layers.{i}");
        let qkv = decoder.fused_qkv(&format!("{at}.self_attn.qkv_proj"), false, FusedRows::Blocked);
        let o = LinearSpec::named(format!("{at}.self_attn.o_proj"), decoder.hidden, decoder.q_rows(), false);
        let mut attention = decoder.attention_of(qkv, o);
        attention.rope = Some(rope.clone());
        attention.window = windows[i as usize];
        let mlp = fused_gated_mlp(&decoder, &format!("{at}.mlp"), intermediate, activation);
        let norms = ["input_layernorm", "post_attention_layernorm"].map(|name| Some(norm(format!("{at}.{name}"))));
        decoder.pre_norm_layer(Residual::Sequential, norms, attention, mlp)
    };
    let layers = (0..decoder.layers).map(layer).collect();
    let tensors = ["model.embed_tokens.weight", "lm_head.weight"];
    let spec = decoder.model(layers, norm("model.norm".into()), tensors, false)?;
    Ok(ModelSpec { ignored: IGNORED, ..spec })
}

/// Gate and up as the two halves of one tensor.
fn fused_gated_mlp(decoder: &Decoder<'_>, at: &str, intermediate: usize, activation: Activation) -> MlpSpec {
    let half = |first: usize| LinearSpec {
        weight: WeightSpec {
            parts: vec![Part::some(format!("{at}.gate_up_proj.weight"), 2 * intermediate, first..first + intermediate)],
            cols: decoder.hidden,
        },
        bias: None,
    };
    let down = LinearSpec::named(format!("{at}.down_proj"), decoder.hidden, intermediate, false);
    MlpSpec::Gated { gate: half(0), up: half(intermediate), down, activation }
}
