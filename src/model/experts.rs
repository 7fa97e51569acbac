//! Mixtures of experts: Mixtral (Jiang et al. 2024, arXiv:2401.04088), Qwen 2 MoE and Qwen 3 MoE (Yang et al. 2024,
//! arXiv:2407.10671; 2025, arXiv:2505.09388). Attention and all else are Llama's or Qwen's.

use super::decoder::{AttentionBias, Decoder};
use super::llama::{self, Biases};
use super::{
    ExpertsSpec, Family, LinearSpec, MlpSpec, ModelError, ModelSpec, Part, SharedExpertSpec, Source, WeightSpec, qwen,
};
use crate::ops::Route;

pub(super) const MIXTRAL: Family = Family { model_type: "mixtral", describe: describe_mixtral };
pub(super) const QWEN2_MOE: Family = Family { model_type: "qwen2_moe", describe: describe_qwen2 };
pub(super) const QWEN3_MOE: Family = Family { model_type: "qwen3_moe", describe: describe_qwen3 };

/// What a family calls the parts of its experts, under a layer's name.
struct Names {
    router: &'static str,
    /// Experts lie at `<experts>.<number>.<part>`, or all of them stacked at `<experts>.<part>`.
    experts: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
}

const MIXTRAL_NAMES: Names =
    Names { router: "block_sparse_moe.gate", experts: "block_sparse_moe.experts", gate: "w1", up: "w3", down: "w2" };

const QWEN_NAMES: Names =
    Names { router: "mlp.gate", experts: "mlp.experts", gate: "gate_proj", up: "up_proj", down: "down_proj" };

fn describe_mixtral(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, MIXTRAL.model_type)?;
    let windows = decoder.windows(|_| true)?;
    let mut spec = llama::model(&decoder, &Biases { attention: AttentionBias::None, mlp: false }, false)?;
    let width = decoder.intermediate()?;
    let experts = decoder.config.u32("num_local_experts")?;
    for (i, (layer, window)) in spec.layers.iter_mut().zip(windows).enumerate() {
        layer.attention.window = window;
        layer.mlp = MlpSpec::Experts(Box::new(mixture(&decoder, i, &MIXTRAL_NAMES, experts, width, true)?));
    }
    Ok(spec)
}

fn describe_qwen2(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, QWEN2_MOE.model_type)?;
    decoder.refuse_flags(&["use_sliding_window"])?;
    decoder.config.ignore(&["sliding_window", "max_window_layers", "layer_types"]);
    let bias = AttentionBias::qkv(decoder.config.bool_or("qkv_bias", true)?);
    let mut spec = llama::model(&decoder, &Biases { attention: bias, mlp: false }, false)?;
    let shared_width = decoder.config.u32("shared_expert_intermediate_size")? as usize;
    sparse_layers(&decoder, &mut spec, |i, experts| {
        let at = format!("model.layers.{i}.mlp.shared_expert");
        let [gate, up, down] = decoder.gated_linears(&at, shared_width, false);
        let scale = Some(LinearSpec::named(at + "_gate", 1, decoder.hidden, false));
        experts.shared = Some(SharedExpertSpec { gate, up, down, scale });
    })?;
    Ok(spec)
}

fn describe_qwen3(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let decoder = Decoder::read(source, QWEN3_MOE.model_type)?;
    let mut spec = qwen::qwen3(&decoder, 0)?;
    sparse_layers(&decoder, &mut spec, |_, _| ())?;
    Ok(spec)
}

/// Gives the layers that Qwen's config calls sparse their experts; `adapt` changes each.
fn sparse_layers(
    decoder: &Decoder<'_>,
    spec: &mut ModelSpec,
    adapt: impl Fn(usize, &mut ExpertsSpec),
) -> Result<(), ModelError> {
    let config = &decoder.config;
    let experts = config.any_u32(&["num_experts", "num_local_experts"])?;
    let width = config.u32("moe_intermediate_size")? as usize;
    let normalize = config.bool_or("norm_topk_prob", false)?;
    let step = config.u32_or("decoder_sparse_step", 1)?.max(1) as usize;
    let dense = config.u32s("mlp_only_layers")?.unwrap_or_default();
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if experts > 0 && !dense.contains(&(i as u32)) && (i + 1).is_multiple_of(step) {
            let mut mixture = mixture(decoder, i, &QWEN_NAMES, experts, width, normalize)?;
            adapt(i, &mut mixture);
            layer.mlp = MlpSpec::Experts(Box::new(mixture));
        }
    }
    Ok(())
}

fn mixture(
    decoder: &Decoder<'_>,
    layer: usize,
    names: &Names,
    experts: u32,
    width: usize,
    normalize: bool,
) -> Result<ExpertsSpec, ModelError> {
    let top_k = decoder.config.u32("num_experts_per_tok")?;
    if !(1..=experts.min(Route::MAX_TOP_K)).contains(&top_k) {
        let most = experts.min(Route::MAX_TOP_K);
        return Err(decoder.unsupported("num_experts_per_tok", top_k, &format!("; expected 1 to {most}")));
    }
    let at = format!("model.layers.{layer}");
    let count = experts as usize;
    let stacked = |part: &str| format!("{at}.{}.{part}.weight", names.experts);
    let is_stacked = (decoder.source.has_tensor)(&stacked(names.gate));
    let part = |expert: usize, part: &str, rows: usize| match is_stacked {
        true => Part::some(stacked(part), count * rows, expert * rows..(expert + 1) * rows),
        false => Part::whole(format!("{at}.{}.{expert}.{part}.weight", names.experts), rows),
    };
    let gate_up = (0..count).flat_map(|expert| [part(expert, names.gate, width), part(expert, names.up, width)]);
    let down = (0..count).map(|expert| part(expert, names.down, decoder.hidden));
    Ok(ExpertsSpec {
        experts,
        top_k,
        normalize,
        router: LinearSpec::named(format!("{at}.{}", names.router), count, decoder.hidden, false),
        gate_up: WeightSpec { parts: gate_up.collect(), cols: decoder.hidden },
        down: WeightSpec { parts: down.collect(), cols: width },
        activation: decoder.activation("silu")?,
        shared: None,
    })
}
