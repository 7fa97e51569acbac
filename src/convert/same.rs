//! Whether a written file is the model it was written from.
//!
//! Compares what both say of themselves, not their weights. Names of tensors, the order of rows that comes with GGUF's
//! RoPE, and whether RoPE's frequencies are scaled by a rule or by a tensor are the only things that may differ; the
//! frequencies themselves must be equal to the rounding of one division.

use std::path::Path;

use super::ConvertError;
use super::vocabulary::ends_within;
use crate::checkpoint::Checkpoint;
use crate::exec::{WeightSource, describe_checkpoint};
use crate::graph::Vector;
use crate::model::{
    LayerSpec, LinearSpec, MlpSpec, ModelSpec, NormSpec, Part, RopeScaling, RopeSpec, VectorSpec, WeightSpec,
};
use crate::ops::RopeStyle;
use crate::session::Language;
use crate::tokenizer::Special;

/// Letters, digits, punctuation, spaces, other scripts: what pre-tokenizers disagree about.
const PROBE: &str = "Hello, world! It's 12345 o'clock;  don't WE'LL  go?\n\n\tdef f(x1): return x**2 # α β\r\n naïve \
     日本語 🙂 3.14159 e-mail@x.org ~~ <tag/> __init__   ";

/// Fails where the file at `written` says something else than the checkpoint.
pub(super) fn check(checkpoint: &Checkpoint, spec: &ModelSpec, written: &Path) -> Result<(), ConvertError> {
    let differs = |difference: String| ConvertError::Differs { path: checkpoint.path().into(), difference };
    let copy = Checkpoint::open(written)?;
    let described = describe_checkpoint(&copy).map_err(|error| differs(format!("read back, {error}")))?;
    let (expected, found) = (bare(spec), bare(&described));
    if expected != found {
        return Err(differs(first_difference(&format!("{expected:#?}"), &format!("{found:#?}"))));
    }
    if let Some((layer, context)) = other_frequencies((checkpoint, spec), (&copy, &described))? {
        return Err(differs(format!("layer {layer} would rotate otherwise in a context of {context} tokens")));
    }
    let (expected, found) = (Language::of(checkpoint)?, Language::of(&copy)?);
    let ends = (ends_within(&expected, spec.vocab_size()), ends_within(&found, spec.vocab_size()));
    if ends.0 != ends.1 {
        return Err(differs(format!("its texts end with {:?} and not {:?}", ends.1, ends.0)));
    }
    let probe = probe(&expected);
    let (ids, found_ids) = (ids_of(&expected, &probe)?, ids_of(&found, &probe)?);
    if ids != found_ids {
        let at = ids.iter().zip(&found_ids).take_while(|(a, b)| a == b).count();
        let hint = if probe == PROBE {
            ""
        } else {
            ". Plain words end its texts, which it may be by: leave them out of eos_token_id of generation_config.json, or \
             of config.json where that says nothing"
        };
        return Err(differs(format!("its tokenizer gives other ids from token {at} of a test text on{hint}")));
    }
    let eos = (expected.tokenizer.eos(), found.tokenizer.eos());
    if eos.0 != eos.1 {
        return Err(differs(format!("its end of text is {:?} and not {:?}", eos.1, eos.0)));
    }
    Ok(())
}

fn ids_of(language: &Language, text: &str) -> Result<Vec<u32>, ConvertError> {
    Ok(language.tokenizer.encode(text, Special::Add)?)
}

/// A test text. What GGUF calls an end is found in text before it is split, and a plain word that ends texts would be
/// found inside others.
fn probe(language: &Language) -> String {
    let plain = language.end_ids.iter().filter(|id| !language.tokenizer.is_special(**id));
    let ends = plain.map(|id| language.tokenizer.decode(&[*id], false));
    ends.fold(PROBE.to_owned(), |probe, end| format!("{probe} {end}{end}{end} a{end}b"))
}

/// The first layer that RoPE treats otherwise, and the length of a context where it does: lengths about those at which
/// scalings that depend on it change.
fn other_frequencies(
    (a, spec_a): (&Checkpoint, &ModelSpec),
    (b, spec_b): (&Checkpoint, &ModelSpec),
) -> Result<Option<(usize, u32)>, ConvertError> {
    let of = |checkpoint: &Checkpoint, rope: &RopeSpec, context: u32| -> Result<Vec<f32>, ConvertError> {
        let source = WeightSource::new(checkpoint);
        Ok(rope.inverse_frequencies(context, |spec| source.vector(&Vector::Spec(spec.clone())))?)
    };
    for (layer, pair) in spec_a.layers.iter().zip(&spec_b.layers).enumerate() {
        let (Some(rope_a), Some(rope_b)) = (&pair.0.attention.rope, &pair.1.attention.rope) else { continue };
        let original = match rope_a.scaling {
            RopeScaling::Long { original } => original,
            _ => spec_a.max_position_embeddings,
        };
        for context in [1, original, original.saturating_add(1), spec_a.max_context_length.saturating_mul(2)] {
            let frequencies = (of(a, rope_a, context)?, of(b, rope_b, context)?);
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 2.0 * f32::EPSILON * a.abs();
            if !frequencies.0.iter().zip(&frequencies.1).all(near) {
                return Ok(Some((layer, context)));
            }
        }
    }
    Ok(None)
}

/// The spec without names.
fn bare(spec: &ModelSpec) -> ModelSpec {
    let mut bare = spec.clone();
    bare.family = "";
    bare.ignored = &[];
    let tied = spec.is_tied();
    bare.embedding = bare_weight(&spec.embedding, "embedding");
    bare.position_embedding = spec.position_embedding.as_ref().map(|positions| bare_weight(positions, ""));
    bare.lm_head = bare_linear(&spec.lm_head, if tied { "embedding" } else { "head" });
    bare.norm = bare_norm(&spec.norm);
    bare.layers.iter_mut().for_each(bare_layer);
    bare
}

fn bare_layer(layer: &mut LayerSpec) {
    let norms =
        [&mut layer.attention_norm, &mut layer.attention_post_norm, &mut layer.mlp_norm, &mut layer.mlp_post_norm];
    norms.into_iter().flatten().for_each(|norm| *norm = bare_norm(norm));
    let attention = &mut layer.attention;
    for linear in [&mut attention.q, &mut attention.k, &mut attention.v, &mut attention.o] {
        *linear = bare_linear(linear, "");
    }
    if let Some(norm) = &mut attention.qk_norm {
        norm.weight = bare_vector(&norm.weight);
        norm.bias = norm.bias.as_ref().map(bare_vector);
        norm.one_plus = false;
    }
    if let Some(rope) = &mut attention.rope {
        *rope = rope.outline();
        rope.style = RopeStyle::HalfSplit;
    }
    match &mut layer.mlp {
        MlpSpec::Plain { up, down, .. } => [up, down].into_iter().for_each(|linear| *linear = bare_linear(linear, "")),
        MlpSpec::Gated { gate, up, down, .. } => {
            [gate, up, down].into_iter().for_each(|linear| *linear = bare_linear(linear, ""));
        }
        MlpSpec::Experts(experts) => {
            experts.router = bare_linear(&experts.router, "");
            experts.gate_up = bare_weight(&experts.gate_up, "");
            experts.down = bare_weight(&experts.down, "");
            if let Some(shared) = &mut experts.shared {
                let linears = [&mut shared.gate, &mut shared.up, &mut shared.down];
                linears.into_iter().chain(&mut shared.scale).for_each(|linear| *linear = bare_linear(linear, ""));
            }
        }
    }
}

fn bare_weight(spec: &WeightSpec, name: &str) -> WeightSpec {
    WeightSpec { parts: vec![Part::whole(name, spec.rows())], cols: spec.cols }
}

fn bare_vector(spec: &VectorSpec) -> VectorSpec {
    VectorSpec::whole("", spec.len())
}

fn bare_linear(linear: &LinearSpec, name: &str) -> LinearSpec {
    LinearSpec { weight: bare_weight(&linear.weight, name), bias: linear.bias.as_ref().map(bare_vector) }
}

fn bare_norm(norm: &NormSpec) -> NormSpec {
    let vector = |spec: &Option<VectorSpec>| spec.as_ref().map(bare_vector);
    // The one is in the values of GGUF's weights.
    NormSpec { weight: vector(&norm.weight), bias: vector(&norm.bias), one_plus: false, ..norm.clone() }
}

/// The first line in which two descriptions differ.
fn first_difference(expected: &str, found: &str) -> String {
    let pairs = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    let (expected, found) = pairs.unwrap_or(("", "its length"));
    format!("expected \"{}\", found \"{}\"", expected.trim(), found.trim())
}
