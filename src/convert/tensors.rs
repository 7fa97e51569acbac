//! Which tensors the GGUF file has, by name, and where their rows come from.
//!
//! GGUF's row order is not always Hugging Face's: q, k and v of all heads one after the other where they share a
//! tensor, pairs that RoPE rotates next to each other, no transposed weights, norm weights with the one included. A
//! model's spec knows the rows by their meaning, so each tensor here is simply a list of rows.

use std::collections::HashSet;

use super::{ConvertError, FAMILIES};
use crate::checkpoint::{Checkpoint, GgufTensor, RopeRows};
use crate::graph::{QuantizedFormats, Vector, Weight};
use crate::model::{
    AttentionSpec, ExpertsSpec, LayerSpec, LinearSpec, MlpSpec, ModelSpec, NormSpec, Part, QkNormSpec, RopeScaling,
    VectorSpec, WeightSpec,
};
use crate::ops::RopeStyle;
use crate::quant::{BlockFormat, F32};

/// A tensor and where its values come from.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) tensor: GgufTensor,
    pub(super) rows: Rows,
}

/// Where values come from.
#[derive(Debug)]
pub(super) enum Rows {
    /// Rows of a matrix, or of several stacked.
    Weight(Weight),
    /// Values by themselves.
    Vector(Vector),
}

/// Every tensor of a GGUF file, with the formats chosen.
pub(super) fn copied(checkpoint: &Checkpoint, formats: &QuantizedFormats) -> Result<Vec<Planned>, ConvertError> {
    let names: Vec<&str> = checkpoint.names().collect();
    let plan = |name: &&str| {
        let view = checkpoint.tensor(name)?;
        let format = formats.format_of(name).unwrap_or(view.format);
        let tensor = checkpoint.gguf_name(name).unwrap_or_else(|| (*name).to_owned());
        let spec = WeightSpec::whole(*name, view.rows(), view.cols());
        let tensor = GgufTensor { name: tensor, shape: view.shape.to_vec(), format };
        Ok(Planned { tensor, rows: Rows::Weight(Weight { specs: vec![spec], format, ordered: false }) })
    };
    names.iter().map(plan).collect()
}

/// Every tensor that a Hugging Face folder's model has in GGUF.
pub(super) fn translated(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    formats: &QuantizedFormats,
) -> Result<Vec<Planned>, ConvertError> {
    let model_type = checkpoint.config()?.architecture()?;
    let (architecture, rows) =
        checkpoint.gguf_architecture().filter(|_| FAMILIES.contains(&model_type)).ok_or_else(|| {
            ConvertError::NotTranslated {
                path: checkpoint.path().into(),
                what: format!("a Hugging Face folder of a {model_type} model"),
                hint: format!("; of these it can: {}. A GGUF file of any family can be quantized", FAMILIES.join(", ")),
            }
        })?;
    let interleaved = rows.rope == RopeRows::Interleaved;
    let mut plan = Plan { checkpoint, formats, names: HashSet::new(), planned: Vec::new() };
    plan.weight(std::slice::from_ref(&spec.embedding))?;
    if let Some(positions) = &spec.position_embedding {
        plan.numbers(positions, false)?;
    }
    plan.rope_divisors(spec, architecture)?;
    for layer in &spec.layers {
        plan.layer(layer, interleaved)?;
    }
    plan.norm(&spec.norm)?;
    if !spec.is_tied() {
        plan.linears(&[&spec.lm_head])?;
    }
    Ok(plan.planned)
}

struct Plan<'a> {
    checkpoint: &'a Checkpoint,
    formats: &'a QuantizedFormats,
    names: HashSet<String>,
    planned: Vec<Planned>,
}

impl Plan<'_> {
    fn layer(&mut self, layer: &LayerSpec, interleaved: bool) -> Result<(), ConvertError> {
        let norms = [&layer.attention_norm, &layer.attention_post_norm, &layer.mlp_norm, &layer.mlp_post_norm];
        for norm in norms.into_iter().flatten() {
            self.norm(norm)?;
        }
        let attention = &layer.attention;
        let (q, k) =
            if interleaved { self.interleaved(attention)? } else { (attention.q.clone(), attention.k.clone()) };
        self.linears(&[&q, &k, &attention.v])?;
        self.linears(&[&attention.o])?;
        if let Some(norm) = &attention.qk_norm {
            self.qk_norm(norm)?;
        }
        match &layer.mlp {
            MlpSpec::Plain { up, down, .. } => self.linears(&[up]).and_then(|()| self.linears(&[down])),
            MlpSpec::Gated { gate, up, down, .. } => self.linears(&[gate, up]).and_then(|()| self.linears(&[down])),
            MlpSpec::Experts(experts) => self.experts(experts),
        }
    }

    /// All experts' gates in one tensor, all ups and all downs in others.
    fn experts(&mut self, experts: &ExpertsSpec) -> Result<(), ConvertError> {
        self.numbers(&experts.router.weight, false)?;
        let (gate_up, count) = (&experts.gate_up, experts.experts as usize);
        let every_other = |first: usize| gate_up.parts.iter().skip(first).step_by(2).cloned().collect();
        self.stack(WeightSpec { parts: every_other(0), cols: gate_up.cols }, count)?;
        self.stack(WeightSpec { parts: every_other(1), cols: gate_up.cols }, count)?;
        self.stack(experts.down.clone(), count)?;
        if let Some(shared) = &experts.shared {
            self.linears(&[&shared.gate, &shared.up])?;
            self.linears(&[&shared.down])?;
            shared.scale.iter().try_for_each(|scale| self.numbers(&scale.weight, true))?;
        }
        Ok(())
    }

    /// A tensor `(count, rows, cols)` of as many weights, one below the other.
    fn stack(&mut self, spec: WeightSpec, count: usize) -> Result<(), ConvertError> {
        let from = &spec.parts[0].tensor;
        let name = self.name(&unnumbered(from))?;
        let format = self.format(from)?;
        let tensor = GgufTensor { name, shape: vec![count, spec.rows() / count, spec.cols], format };
        self.add(Planned { tensor, rows: Rows::Weight(Weight { specs: vec![spec], format, ordered: false }) });
        Ok(())
    }

    /// A weight that other engines expect in f32; `flat` where one of a single row is to be a vector.
    fn numbers(&mut self, spec: &WeightSpec, flat: bool) -> Result<(), ConvertError> {
        let name = self.name(&spec.parts[0].tensor)?;
        let shape = if flat { vec![spec.cols] } else { vec![spec.rows(), spec.cols] };
        let tensor = GgufTensor { name, shape, format: &F32 };
        self.add(Planned {
            tensor,
            rows: Rows::Weight(Weight { specs: vec![spec.clone()], format: &F32, ordered: false }),
        });
        Ok(())
    }

    /// Norms of q and k: one vector each, or a row a head where heads have their own.
    fn qk_norm(&mut self, norm: &QkNormSpec) -> Result<(), ConvertError> {
        for spec in [Some(&norm.weight), norm.bias.as_ref()].into_iter().flatten() {
            for parts in spec.parts.chunk_by(|a, b| unnumbered(&a.tensor) == unnumbered(&b.tensor)) {
                let mut parts = parts.to_vec();
                // all heads may share one
                parts.dedup();
                let name = self.name(&unnumbered(&parts[0].tensor))?;
                let shape = if parts.len() == 1 { vec![] } else { vec![parts.len()] };
                let shape = [shape, vec![parts[0].rows.len()]].concat();
                let spec = VectorSpec { parts };
                let vector = if norm.one_plus { Vector::OnePlus(spec) } else { Vector::Spec(spec) };
                let tensor = GgufTensor { name, shape, format: &F32 };
                self.add(Planned { tensor, rows: Rows::Vector(vector) });
            }
        }
        Ok(())
    }

    /// What RoPE's frequencies are divided by, where no key says it.
    fn rope_divisors(&mut self, spec: &ModelSpec, architecture: &str) -> Result<(), ConvertError> {
        let Some(rope) = spec.layers.iter().find_map(|layer| layer.attention.rope.as_ref()) else { return Ok(()) };
        match rope.scaling {
            RopeScaling::Llama3 if architecture == "llama" => {
                self.vector("rope_freqs.weight".into(), Vector::Values(rope.divisors()));
            }
            RopeScaling::Long { .. } if architecture == "phi3" => {
                let lists = rope.long_divisors().into_iter().flatten();
                for (length, divisors) in ["short", "long"].iter().zip(lists) {
                    self.vector(format!("rope_factors_{length}.weight"), Vector::Values(divisors.to_vec()));
                }
            }
            RopeScaling::Llama3 | RopeScaling::Long { .. } => {
                return Err(self.refused(&format!("this RoPE scaling in a model that GGUF calls {architecture}")));
            }
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Dynamic | RopeScaling::Yarn { .. } => {}
        }
        Ok(())
    }

    /// q and k with the two values that RoPE rotates together next to each other.
    fn interleaved(&self, attention: &AttentionSpec) -> Result<(LinearSpec, LinearSpec), ConvertError> {
        let rotated = attention.rope.as_ref().map(|rope| (rope.rotary_dim, rope.style));
        if rotated != Some((attention.head_dim, RopeStyle::HalfSplit)) {
            return Err(self.refused("RoPE over a part of each head"));
        }
        let of = |linear: &LinearSpec| LinearSpec {
            weight: WeightSpec { parts: paired(&linear.weight.parts, attention.head_dim), cols: linear.weight.cols },
            bias: linear.bias.as_ref().map(|bias| VectorSpec { parts: paired(&bias.parts, attention.head_dim) }),
        };
        Ok((of(&attention.q), of(&attention.k)))
    }

    /// Linears of one input: one tensor where they share one, else one each.
    fn linears(&mut self, linears: &[&LinearSpec]) -> Result<(), ConvertError> {
        let tensor = |linear: &LinearSpec| linear.weight.parts[0].tensor.clone();
        for fused in linears.chunk_by(|a, b| tensor(a) == tensor(b)) {
            let weights: Vec<_> = fused.iter().map(|linear| linear.weight.clone()).collect();
            self.weight(&weights)?;
            let parts: Vec<Part> = fused.iter().filter_map(|l| l.bias.as_ref()).flat_map(|b| b.parts.clone()).collect();
            if let Some(first) = parts.first() {
                let name = self.name(&first.tensor)?;
                self.vector(name, Vector::Spec(VectorSpec { parts }));
            }
        }
        Ok(())
    }

    fn weight(&mut self, specs: &[WeightSpec]) -> Result<(), ConvertError> {
        let parts: Vec<Part> = specs.iter().flat_map(|spec| spec.parts.clone()).collect();
        let spec = WeightSpec { parts, cols: specs[0].cols };
        let from = &spec.parts[0].tensor;
        let name = self.name(from)?;
        let format = self.format(from)?;
        let tensor = GgufTensor { name, shape: vec![spec.rows(), spec.cols], format };
        self.add(Planned { tensor, rows: Rows::Weight(Weight { specs: vec![spec], format, ordered: false }) });
        Ok(())
    }

    fn norm(&mut self, norm: &NormSpec) -> Result<(), ConvertError> {
        for vector in [norm.weight.as_ref(), norm.bias.as_ref()].into_iter().flatten() {
            self.vectors(vector, norm.one_plus)?;
        }
        Ok(())
    }

    /// The tensors that a norm's vector is made of, whole.
    fn vectors(&mut self, spec: &VectorSpec, one_plus: bool) -> Result<(), ConvertError> {
        for part in &spec.parts {
            let name = self.name(&part.tensor)?;
            let whole = VectorSpec::whole(&part.tensor, part.tensor_rows);
            self.vector(name, if one_plus { Vector::OnePlus(whole) } else { Vector::Spec(whole) });
        }
        Ok(())
    }

    fn vector(&mut self, name: String, vector: Vector) {
        let tensor = GgufTensor { name, shape: vec![vector.len()], format: &F32 };
        self.add(Planned { tensor, rows: Rows::Vector(vector) });
    }

    /// Layers may share what they read, heads the norm of each.
    fn add(&mut self, planned: Planned) {
        if self.names.insert(planned.tensor.name.clone()) {
            self.planned.push(planned);
        }
    }

    /// The format it was given, else its own.
    fn format(&self, tensor: &str) -> Result<&'static dyn BlockFormat, ConvertError> {
        match self.formats.format_of(tensor) {
            Some(format) => Ok(format),
            None => Ok(self.checkpoint.tensor(tensor)?.format),
        }
    }

    fn name(&self, tensor: &str) -> Result<String, ConvertError> {
        // The first GPT-2 checkpoints have no prefix.
        let name = self.checkpoint.gguf_name(tensor);
        let name = name.or_else(|| self.checkpoint.gguf_name(&format!("transformer.{tensor}")));
        name.ok_or_else(|| self.refused(&format!("tensor \"{tensor}\"")))
    }

    fn refused(&self, what: &str) -> ConvertError {
        ConvertError::NotTranslated { path: self.checkpoint.path().into(), what: what.into(), hint: String::new() }
    }
}

/// The name of what is stacked of tensors that have a number behind the layer's.
fn unnumbered(tensor: &str) -> String {
    let mut layer = true;
    let is_number = |segment: &str| segment.bytes().all(|byte| byte.is_ascii_digit());
    let kept = tensor.split('.').filter(|segment| !is_number(segment) || std::mem::take(&mut layer));
    kept.collect::<Vec<_>>().join(".")
}

/// Rows with each head's halves a, b as a0 b0 a1 b1 …
fn paired(parts: &[Part], head_dim: u32) -> Vec<Part> {
    let rows: Vec<Part> = parts
        .iter()
        .flat_map(|part| part.rows.clone().map(|row| Part { rows: row..row + 1, ..part.clone() }))
        .collect();
    let half = head_dim as usize / 2;
    let heads = rows.chunks(2 * half);
    heads.flat_map(|head| (0..2 * half).map(|i| head[i % 2 * half + i / 2].clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacked_tensors_lose_the_number_behind_the_layer_s() {
        assert_eq!(
            unnumbered("model.layers.12.mlp.experts.7.up_proj.weight"),
            "model.layers.12.mlp.experts.up_proj.weight"
        );
        assert_eq!(unnumbered("model.layers.3.self_attn.q_norm.weight"), "model.layers.3.self_attn.q_norm.weight");
    }

    #[test]
    fn halves_become_pairs_head_by_head() {
        let rows = paired(&[Part::whole("q", 8)], 4);
        let order: Vec<usize> = rows.iter().map(|part| part.rows.start).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7], "two heads of four rows");
    }
}
