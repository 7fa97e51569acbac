//! Models as data: a family's file turns a config into a [`ModelSpec`], which lowering turns into ops.
//!
//! Nothing here computes or reads weights; a spec says which rows of which tensors make up each weight. Invariant:
//! a config key that changes the maths is either honoured or refused by name, never ignored.

mod decoder;
mod error;
mod experts;
mod falcon;
mod gemma;
mod gpt2;
mod gpt_neox;
mod keys;
mod llama;
mod mpt;
mod olmo;
mod phi;
mod qwen;
mod registry;
mod rope;
mod spec;
mod stablelm;
mod weights;

pub use error::ModelError;
pub use registry::{FAMILIES, Family, describe};
pub use rope::{RopeScaling, RopeSpec, rope_table};
pub use spec::{
    AttentionSpec, ExpertsSpec, LayerSpec, LinearSpec, MlpSpec, ModelSpec, NormSpan, NormSpec, Part, QkNormSpec,
    Residual, SharedExpertSpec, Source, VectorSpec, WeightSpec,
};
pub use weights::WeightRole;
