//! Which tensors the GGUF file has, by name, and where their rows come from.
//!
//! GGUF's row order is not always Hugging Face's: q, k and v of all heads one after the other where they share a
//! tensor, pairs that RoPE rotates next to each other, no transposed weights, norm weights with the one included. A
//! model's spec knows the rows by their meaning, so each tensor here is simply a list of rows.

use std::collections::HashSet;

use super::{ConvertError, FAMILIES};
use crate::checkpoint::{Checkpoint, GgufTensor, RopeRows};
use crate::graph::{QuantizedFormats, Vector, Weight};
use crate::model::{AttentionSpec, LayerSpec, LinearSpec, MlpSpec, ModelSpec, NormSpec, Part, VectorSpec, WeightSpec};
use crate::ops::RopeStyle;
use crate::quant::F32;

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
        Ok(Planned { tensor, rows: Rows::Weight(Weight { spec, format }) })
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
    let (_, rows) = checkpoint.gguf_architecture().filter(|_| FAMILIES.contains(&model_type)).ok_or_else(|| {
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
        plan.weight(std::slice::from_ref(positions))?;
    }
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
            for vector in [Some(&norm.weight), norm.bias.as_ref()].into_iter().flatten() {
                self.vectors(vector, norm.one_plus)?;
            }
        }
        match &layer.mlp {
            MlpSpec::Plain { up, down, .. } => self.linears(&[up]).and_then(|()| self.linears(&[down])),
            MlpSpec::Gated { gate, up, down, .. } => self.linears(&[gate, up]).and_then(|()| self.linears(&[down])),
            MlpSpec::Experts(_) => Err(self.refused("a mixture of experts")),
        }
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
        let format = self.formats.format_of(from).unwrap_or(self.checkpoint.tensor(from)?.format);
        let tensor = GgufTensor { name, shape: vec![spec.rows(), spec.cols], format };
        self.add(Planned { tensor, rows: Rows::Weight(Weight { spec, format }) });
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

    fn name(&self, tensor: &str) -> Result<String, ConvertError> {
        self.checkpoint.gguf_name(tensor).ok_or_else(|| self.refused(&format!("tensor \"{tensor}\"")))
    }

    fn refused(&self, what: &str) -> ConvertError {
        ConvertError::NotTranslated { path: self.checkpoint.path().into(), what: what.into(), hint: String::new() }
    }
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
    fn halves_become_pairs_head_by_head() {
        let rows = paired(&[Part::whole("q", 8)], 4);
        let order: Vec<usize> = rows.iter().map(|part| part.rows.start).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7], "two heads of four rows");
    }
}
