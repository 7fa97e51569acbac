//! The weight matrices of a model, one after the other, with what they are for.
//!
//! A walk over [`ModelSpec`] for those who treat weights by their part in the model and not by their name: which may
//! be quantized, and how far. Invariant: in the order of the forward; a head tied to the embedding is the head.

use super::{LayerSpec, LinearSpec, MlpSpec, ModelSpec, WeightSpec};

/// What a weight is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightRole {
    /// A row a token.
    Embedding,
    /// A row a position, added to the embedding.
    Positions,
    /// The logits; the embedding as well, where they are tied.
    Head,
    /// Scores that a choice or a gate depends on: small, and every error in them counts.
    Router,
    /// Any other linear layer.
    Linear,
}

impl ModelSpec {
    /// Every weight matrix; a tied head appears once.
    pub fn weights(&self) -> Vec<(WeightRole, &WeightSpec)> {
        let mut weights = Vec::new();
        if !self.is_tied() {
            weights.push((WeightRole::Embedding, &self.embedding));
        }
        weights.extend(self.position_embedding.iter().map(|positions| (WeightRole::Positions, positions)));
        weights.extend(self.layers.iter().flat_map(layer_weights));
        weights.push((WeightRole::Head, &self.lm_head.weight));
        weights
    }
}

fn layer_weights(layer: &LayerSpec) -> Vec<(WeightRole, &WeightSpec)> {
    let attention = &layer.attention;
    let mut linears: Vec<&LinearSpec> = vec![&attention.q, &attention.k, &attention.v, &attention.o];
    let mut others = Vec::new();
    match &layer.mlp {
        MlpSpec::Plain { up, down, .. } => linears.extend([up, down]),
        MlpSpec::Gated { gate, up, down, .. } => linears.extend([gate, up, down]),
        MlpSpec::Experts(experts) => {
            others.push((WeightRole::Router, &experts.router.weight));
            others.extend([(WeightRole::Linear, &experts.gate_up), (WeightRole::Linear, &experts.down)]);
            if let Some(shared) = &experts.shared {
                linears.extend([&shared.gate, &shared.up, &shared.down]);
                others.extend(shared.scale.iter().map(|scale| (WeightRole::Router, &scale.weight)));
            }
        }
    }
    linears.into_iter().map(|linear| (WeightRole::Linear, &linear.weight)).chain(others).collect()
}
