//! Rotary position embedding: inverse frequencies with every scaling a config may name, and the table made of them.
//!
//! Su et al. 2021 (RoPE); Peng et al. 2023 (YaRN); the Llama 3 rule as its published configs define it. The table
//! is computed on the host in the precision Hugging Face uses (f32 angles), since adapters' sine and cosine are
//! only good to 2⁻¹¹ and only near zero.

use super::{ModelError, Source, VectorSpec};
use crate::checkpoint::Config;
use crate::ops::RopeStyle;

/// Rotary position embedding of one attention.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Values of each head that are rotated; the rest pass through.
    pub rotary_dim: u32,
    /// Which values make a pair.
    pub style: RopeStyle,
    /// Radians a position, `(rotary_dim / 2)`.
    pub inverse_frequencies: Vec<f32>,
    /// Multiplies cosine and sine (YaRN's attention factor).
    pub magnitude: f32,
    /// A tensor that divides the inverse frequencies, where a GGUF file carries one.
    pub divisors: Option<VectorSpec>,
}

/// What a config says of RoPE, in the older or the newer form.
pub(super) struct RopeConfig<'a> {
    pub(super) family: &'static str,
    pub(super) head_dim: u32,
    pub(super) rotary_dim: u32,
    pub(super) theta: f32,
    pub(super) max_position_embeddings: u32,
    pub(super) scaling: Option<Config>,
    pub(super) source: &'a Source<'a>,
}

impl RopeConfig<'_> {
    /// The spec, with the scaling applied.
    pub(super) fn spec(&self) -> Result<RopeSpec, ModelError> {
        let half = self.rotary_dim / 2;
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            let reason = format!("rotary_dim {} of head_dim {} is not an even part", self.rotary_dim, self.head_dim);
            return Err(ModelError::Inconsistent { family: self.family, reason });
        }
        let base: Vec<f32> = (0..half).map(|i| inverse_frequency(self.theta, i, self.rotary_dim)).collect();
        let (inverse_frequencies, magnitude) = match &self.scaling {
            None => (base, 1.0),
            Some(scaling) => self.scaled(scaling, base)?,
        };
        let divisors = "rope_freqs.weight";
        let divisors = (self.source.has_tensor)(divisors).then(|| VectorSpec::whole(divisors, half as usize));
        let style = match self.source.config.rows.rope {
            crate::checkpoint::RopeRows::HalfSplit => RopeStyle::HalfSplit,
            crate::checkpoint::RopeRows::Interleaved => RopeStyle::Interleaved,
        };
        Ok(RopeSpec { rotary_dim: self.rotary_dim, style, inverse_frequencies, magnitude, divisors })
    }

    fn scaled(&self, scaling: &Config, base: Vec<f32>) -> Result<(Vec<f32>, f32), ModelError> {
        let kind = match scaling.opt_str("rope_type")? {
            Some(kind) => kind,
            None => scaling.opt_str("type")?.unwrap_or("default"),
        };
        match kind {
            "default" => Ok((base, 1.0)),
            "linear" => {
                let factor = scaling.f32("factor")?;
                Ok((base.iter().map(|f| f / factor).collect(), 1.0))
            }
            // Hugging Face rescales only past max_position_embeddings, which no context here exceeds.
            "dynamic" => Ok((base, 1.0)),
            "llama3" => Ok((llama3(&base, scaling)?, 1.0)),
            "yarn" => self.yarn(&base, scaling),
            other => Err(ModelError::Unsupported {
                family: self.family,
                key: "rope_scaling.rope_type".into(),
                value: format!("\"{other}\""),
                hint: "; supported: default, linear, dynamic, llama3, yarn".into(),
            }),
        }
    }

    /// YaRN: low frequencies are interpolated, high ones kept, with a linear ramp between.
    fn yarn(&self, base: &[f32], scaling: &Config) -> Result<(Vec<f32>, f32), ModelError> {
        let factor = scaling.f32("factor")?;
        let original = scaling.opt_u32("original_max_position_embeddings")?.unwrap_or(self.max_position_embeddings);
        let beta_fast = scaling.opt_f32("beta_fast")?.unwrap_or(32.0);
        let beta_slow = scaling.opt_f32("beta_slow")?.unwrap_or(1.0);
        for key in ["mscale", "mscale_all_dim"] {
            if let Some(value) = scaling.opt_f32(key)? {
                let key = format!("rope_scaling.{key}");
                let value = value.to_string();
                return Err(ModelError::Unsupported { family: self.family, key, value, hint: String::new() });
            }
        }
        let dim = f64::from(self.rotary_dim);
        let correction = |rotations: f32| {
            let turns = f64::from(original) / (f64::from(rotations) * 2.0 * std::f64::consts::PI);
            dim * turns.ln() / (2.0 * f64::from(self.theta).ln())
        };
        let truncate = scaling.opt_bool("truncate")?.unwrap_or(true);
        let (mut low, mut high) = (correction(beta_fast), correction(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let frequencies = base.iter().enumerate().map(|(i, frequency)| {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
            frequency / factor * ramp + frequency * (1.0 - ramp)
        });
        let attention_factor = scaling.opt_f32("attention_factor")?;
        let magnitude = attention_factor.unwrap_or_else(|| if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 });
        Ok((frequencies.collect(), magnitude))
    }
}

/// Llama 3: wavelengths beyond the original context are slowed, short ones kept, with a smooth step between.
fn llama3(base: &[f32], scaling: &Config) -> Result<Vec<f32>, ModelError> {
    let factor = scaling.f32("factor")?;
    let low = scaling.f32("low_freq_factor")?;
    let high = scaling.f32("high_freq_factor")?;
    let original = scaling.f32("original_max_position_embeddings")?;
    let scale = |frequency: &f32| {
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        if wavelength < original / high {
            *frequency
        } else if wavelength > original / low {
            frequency / factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    };
    Ok(base.iter().map(scale).collect())
}

fn inverse_frequency(theta: f32, pair: u32, rotary_dim: u32) -> f32 {
    // Rounded to f32 at each step, as the reference implementations round.
    let exponent = (2 * pair) as f32 / rotary_dim as f32;
    1.0 / (f64::from(theta).powf(f64::from(exponent)) as f32)
}

/// The cosines and sines of every position, `(positions, rotary_dim / 2, 2)`.
pub fn rope_table(inverse_frequencies: &[f32], magnitude: f32, positions: u32) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions as usize * inverse_frequencies.len() * 2);
    for position in 0..positions {
        for frequency in inverse_frequencies {
            // f32 on purpose: the reference implementations round the angle here.
            let angle = f64::from(position as f32 * frequency);
            table.push((angle.cos() * f64::from(magnitude)) as f32);
            table.push((angle.sin() * f64::from(magnitude)) as f32);
        }
    }
    table
}
