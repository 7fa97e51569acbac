//! Config keys that several families share, in all the forms that configs write them.

use super::ModelError;
use crate::checkpoint::Config;
use crate::ops::Activation;

/// RoPE's base: in the newer section, else under `key` or the common name, else 10 000.
pub(super) fn theta(config: &Config, parameters: Option<&Config>, key: &str) -> Result<f32, ModelError> {
    let inside = parameters.map(|section| section.opt_f32("rope_theta")).transpose()?.flatten();
    // Asked for even where the section decides: configs may write both.
    let outside = config.opt_any_f32(&[key, "rope_theta"])?;
    Ok(inside.or(outside).unwrap_or(10_000.0))
}

/// An activation function by any of the names configs use.
pub(super) fn activation(
    config: &Config,
    family: &'static str,
    key: &str,
    default: &str,
) -> Result<Activation, ModelError> {
    match config.str_or(key, default)? {
        "gelu" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "silu" | "swish" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        other => Err(ModelError::Unsupported {
            family,
            key: key.into(),
            value: format!("\"{other}\""),
            hint: "; supported: gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, silu, swish, relu".into(),
        }),
    }
}

/// The slopes of ALiBi's heads (Press et al. 2022): powers of 2^(-8/n); heads beyond a power of two take every second
/// slope of the next.
pub(super) fn alibi_slopes(heads: u32) -> Vec<f32> {
    let whole = 1 << heads.ilog2();
    let slope = |of: u32, power: u32| 2f64.powf(-8.0 / f64::from(of) * f64::from(power)) as f32;
    let first = (1..=whole).map(|power| slope(whole, power));
    let others = (0..heads - whole).map(|at| slope(2 * whole, 2 * at + 1));
    first.chain(others).collect()
}
