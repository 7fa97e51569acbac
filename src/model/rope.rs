//! Rotary position embedding: inverse frequencies with every scaling a config may name, and the table made of them.
//!
//! Su et al. 2021 (RoPE); Peng et al. 2023 (YaRN); the Llama 3 rule as its published configs define it. The table
//! is computed on the host in the precision Hugging Face uses (f32 angles), since adapters' sine and cosine are
//! only good to 2⁻¹¹ and only near zero.

use super::{ModelError, Source, VectorSpec};
use crate::checkpoint::{Config, RopeRows};
use crate::ops::RopeStyle;

/// Rotary position embedding of one attention.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Values of each head that are rotated; the rest pass through.
    pub rotary_dim: u32,
    /// Which values make a pair.
    pub style: RopeStyle,
    /// Multiplies cosine and sine (YaRN's and LongRoPE's attention factor).
    pub magnitude: f32,
    /// How far beyond `max_position_embeddings` the scaling reaches, as a factor of it.
    pub stretch: f32,
    /// Base of the unscaled frequencies.
    pub theta: f32,
    /// The rule by which they were changed.
    pub scaling: RopeScaling,
    /// Radians a position, `(rotary_dim / 2)`, as far as they don't depend on the context.
    frequencies: Vec<f32>,
    by_context: ByContext,
}

/// How a config says that frequencies are scaled; what comes of it is in [`RopeSpec`] already.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not, or by tensors of the checkpoint.
    None,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// By what a context takes; not before it is longer than the model's own.
    Dynamic,
    /// Llama 3's steps.
    Llama3,
    /// YaRN.
    Yarn {
        /// Divides low frequencies.
        factor: f32,
        /// Positions the model was trained on.
        original: u32,
        /// Rotations over those positions above which nothing changes.
        beta_fast: f32,
        /// And below which frequencies are divided by the whole factor.
        beta_slow: f32,
    },
    /// LongRoPE's two lists.
    Long {
        /// Contexts up to so many positions take the short one.
        original: u32,
    },
}

/// What the frequencies take from the checkpoint's tensors or from the length of the context.
#[derive(Debug, Clone, PartialEq)]
enum ByContext {
    /// Nothing.
    Fixed,
    /// They are divided by a tensor (Llama 3 in GGUF).
    Divided(VectorSpec),
    /// Dynamic NTK: a context longer than the model's raises theta.
    Dynamic { theta: f32, factor: f32, original: u32 },
    /// LongRoPE (Ding et al. 2024): contexts up to `original` positions are divided by one list, longer ones by another.
    Long { original: u32, short: Divisors, long: Divisors },
}

/// What frequencies are divided by.
#[derive(Debug, Clone, PartialEq)]
enum Divisors {
    Values(Vec<f32>),
    Tensor(VectorSpec),
}

impl RopeSpec {
    /// The same without its frequencies: what two specs must have in common that compute them in different ways.
    pub fn outline(&self) -> Self {
        Self { scaling: RopeScaling::None, frequencies: Vec::new(), by_context: ByContext::Fixed, ..self.clone() }
    }

    /// What unscaled frequencies are divided by, `(rotary_dim / 2)`, where a context has no say in it.
    pub fn divisors(&self) -> Vec<f32> {
        let base = frequencies(self.theta.into(), self.rotary_dim);
        base.iter().zip(&self.frequencies).map(|(base, scaled)| base / scaled).collect()
    }

    /// LongRoPE's lists as a config has them, for short contexts and for long ones.
    pub fn long_divisors(&self) -> Option<[&[f32]; 2]> {
        match &self.by_context {
            ByContext::Long { short: Divisors::Values(short), long: Divisors::Values(long), .. } => Some([short, long]),
            _ => None,
        }
    }

    /// Radians a position, `(rotary_dim / 2)`, where the KV cache has room for `context_length` positions. Scalings
    /// that look at the sequence's length look at the room instead: keys that are already rotated stay right.
    ///
    /// # Errors
    /// What `tensor`, which reads a vector of the checkpoint, fails with.
    pub fn inverse_frequencies<E>(
        &self,
        context_length: u32,
        tensor: impl Fn(&VectorSpec) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<f32>, E> {
        let divisors = match &self.by_context {
            ByContext::Fixed => return Ok(self.frequencies.clone()),
            ByContext::Dynamic { original, .. } if context_length <= *original => return Ok(self.frequencies.clone()),
            ByContext::Dynamic { theta, factor, original } => {
                let (room, original, dim) =
                    (f64::from(context_length), f64::from(*original), f64::from(self.rotary_dim));
                let growth = f64::from(*factor) * room / original - (f64::from(*factor) - 1.0);
                return Ok(frequencies(f64::from(*theta) * growth.powf(dim / (dim - 2.0)), self.rotary_dim));
            }
            ByContext::Divided(divisors) => tensor(divisors)?,
            ByContext::Long { original, short, long } => match if context_length > *original { long } else { short } {
                Divisors::Values(values) => values.clone(),
                Divisors::Tensor(divisors) => tensor(divisors)?,
            },
        };
        Ok(self.frequencies.iter().zip(divisors).map(|(frequency, divisor)| frequency / divisor).collect())
    }

    /// The tensors that it may read.
    pub fn tensors(&self) -> impl Iterator<Item = &VectorSpec> {
        let (one, two) = match &self.by_context {
            ByContext::Divided(divisors) => (Some(divisors), None),
            ByContext::Long { short: Divisors::Tensor(short), long: Divisors::Tensor(long), .. } => {
                (Some(short), Some(long))
            }
            _ => (None, None),
        };
        one.into_iter().chain(two)
    }
}

/// What a config says of RoPE, in the older or the newer form.
pub(super) struct RopeConfig<'a> {
    pub(super) family: &'static str,
    pub(super) head_dim: u32,
    pub(super) rotary_dim: u32,
    pub(super) theta: f32,
    pub(super) max_position_embeddings: u32,
    /// Positions are divided by it before anything else.
    pub(super) condense: f32,
    /// `original_max_position_embeddings` where it stands outside the scaling section.
    pub(super) original_positions: Option<u32>,
    pub(super) scaling: Option<Config>,
    pub(super) source: &'a Source<'a>,
}

/// A scaling's result: frequencies, magnitude, stretch.
type Scaled = (Vec<f32>, f32, f32);

impl RopeConfig<'_> {
    /// The spec, with the scaling applied.
    pub(super) fn spec(&self) -> Result<RopeSpec, ModelError> {
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            let reason = format!("rotary_dim {} of head_dim {} is not an even part", self.rotary_dim, self.head_dim);
            return Err(ModelError::Inconsistent { family: self.family, reason });
        }
        if self.condense <= 0.0 {
            let reason = format!("\"rope_condense_ratio\" is {}, expected a number above 0", self.condense);
            return Err(ModelError::Inconsistent { family: self.family, reason });
        }
        let mut base = frequencies(self.theta.into(), self.rotary_dim);
        base.iter_mut().for_each(|frequency| *frequency /= self.condense);
        let kind = match &self.scaling {
            None => "default",
            Some(scaling) => scaling.opt_any_str(&["rope_type", "type"])?.unwrap_or("default"),
        };
        let mut by_context = ByContext::Fixed;
        let mut rule = RopeScaling::None;
        let (frequencies, magnitude, stretch) = match (&self.scaling, kind) {
            (None, _) | (_, "default") => (base, 1.0, 1.0),
            (Some(scaling), "linear") => {
                let factor = self.factor(scaling)?;
                rule = RopeScaling::Linear { factor };
                (base.iter().map(|f| f / factor).collect(), 1.0, factor)
            }
            (Some(scaling), "dynamic") => {
                let factor = self.factor(scaling)?;
                let original = self.max_position_embeddings;
                by_context = ByContext::Dynamic { theta: self.theta, factor, original };
                rule = RopeScaling::Dynamic;
                (base, 1.0, factor)
            }
            (Some(scaling), "llama3") => {
                rule = RopeScaling::Llama3;
                (llama3(&base, scaling)?, 1.0, 1.0)
            }
            (Some(scaling), "yarn") => {
                let (scaled, said) = self.yarn(&base, scaling)?;
                rule = said;
                scaled
            }
            (Some(scaling), "longrope" | "su") => {
                let (long, original, magnitude) = self.longrope(scaling)?;
                (by_context, rule) = (long, RopeScaling::Long { original });
                (base, magnitude, 1.0)
            }
            (_, other) => {
                return Err(ModelError::Unsupported {
                    family: self.family,
                    key: "rope_scaling.rope_type".into(),
                    value: format!("\"{other}\""),
                    hint: "; supported: default, linear, dynamic, llama3, yarn, longrope".into(),
                });
            }
        };
        let divisors = "rope_freqs.weight";
        if (self.source.has_tensor)(divisors) {
            by_context = ByContext::Divided(VectorSpec::whole(divisors, self.rotary_dim as usize / 2));
        }
        let style = match self.source.config.rows.rope {
            RopeRows::HalfSplit => RopeStyle::HalfSplit,
            RopeRows::Interleaved => RopeStyle::Interleaved,
        };
        Ok(RopeSpec {
            rotary_dim: self.rotary_dim,
            style,
            magnitude,
            stretch,
            theta: self.theta,
            scaling: rule,
            frequencies,
            by_context,
        })
    }

    /// A scaling's factor.
    fn factor(&self, scaling: &Config) -> Result<f32, ModelError> {
        let factor = scaling.f32("factor")?;
        if factor > 0.0 {
            return Ok(factor);
        }
        let reason = format!("\"rope_scaling.factor\" is {factor}, expected a number above 0");
        Err(ModelError::Inconsistent { family: self.family, reason })
    }

    /// LongRoPE: lists of the config, or tensors of a GGUF file.
    fn longrope(&self, scaling: &Config) -> Result<(ByContext, u32, f32), ModelError> {
        let original = match (self.original_positions, scaling.opt_u32("original_max_position_embeddings")?) {
            (Some(outside), _) => outside,
            (None, Some(inside)) => inside,
            (None, None) => self.max_position_embeddings,
        };
        let half = self.rotary_dim as usize / 2;
        let divisors = |key: &str, tensor: &str| -> Result<Divisors, ModelError> {
            if (self.source.has_tensor)(tensor) {
                return Ok(Divisors::Tensor(VectorSpec::whole(tensor, half)));
            }
            let values = scaling.f32s(key)?.unwrap_or_default();
            if values.len() != half || values.iter().any(|value| *value <= 0.0) {
                let found = values.len();
                let reason = format!("\"rope_scaling.{key}\" must hold {half} numbers above 0, it holds {found}");
                return Err(ModelError::Inconsistent { family: self.family, reason });
            }
            Ok(Divisors::Values(values))
        };
        let short = divisors("short_factor", "rope_factors_short.weight")?;
        let long = divisors("long_factor", "rope_factors_long.weight")?;
        let ratio = self.max_position_embeddings as f32 / original.max(1) as f32;
        let factor = scaling.opt_f32("factor")?.unwrap_or(ratio);
        let default = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f32).ln()).sqrt() };
        let magnitude = scaling.opt_f32("attention_factor")?.unwrap_or(default);
        Ok((ByContext::Long { original, short, long }, original, magnitude))
    }

    /// YaRN: low frequencies are interpolated, high ones kept, with a linear ramp between.
    fn yarn(&self, base: &[f32], scaling: &Config) -> Result<(Scaled, RopeScaling), ModelError> {
        let factor = self.factor(scaling)?;
        let inside = scaling.opt_u32("original_max_position_embeddings")?;
        let original = self.original_positions.or(inside).unwrap_or(self.max_position_embeddings);
        let beta_fast = scaling.opt_f32("beta_fast")?.unwrap_or(32.0);
        let beta_slow = scaling.opt_f32("beta_slow")?.unwrap_or(1.0);
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
        let scale = |weight: f32| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        let mscale = [scaling.opt_f32("mscale")?, scaling.opt_f32("mscale_all_dim")?];
        let inferred = match mscale {
            [Some(numerator), Some(denominator)] if numerator != 0.0 && denominator != 0.0 => {
                scale(numerator) / scale(denominator)
            }
            _ => scale(1.0),
        };
        let magnitude = scaling.opt_f32("attention_factor")?.unwrap_or(inferred);
        // Some configs count the stretched positions already.
        let stretch = (original as f32 * factor / self.max_position_embeddings as f32).max(1.0);
        let rule = RopeScaling::Yarn { factor, original, beta_fast, beta_slow };
        Ok(((frequencies.collect(), magnitude, stretch), rule))
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

/// Unscaled radians a position of every pair.
fn frequencies(theta: f64, rotary_dim: u32) -> Vec<f32> {
    let frequency = |pair: u32| {
        // Rounded to f32 at each step, as the reference implementations round.
        let exponent = (2 * pair) as f32 / rotary_dim as f32;
        1.0 / (theta.powf(f64::from(exponent)) as f32)
    };
    (0..rotary_dim / 2).map(frequency).collect()
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
