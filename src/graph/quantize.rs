//! Which format each weight gets when a model is quantized.
//!
//! Decided by the weight's part in the model, its shape and the format it is stored in, as other engines do:
//! - routers, gates of one row, learned positions, norms and biases keep their own numbers;
//! - the head, and the embedding tied to it, get q6_k where the others get fewer bits: errors there go straight into
//!   the logits;
//! - rows that are no whole blocks get the nearest format of shorter ones, and their own numbers where there is none;
//! - what is quantized already stays as it is: rounding twice is worse than either alone.
//!
//! Nothing is converted here. Invariant: the rows of every weight are whole blocks of its format.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::model::{ModelSpec, WeightRole};
use crate::quant::{self, BlockFormat};

/// What a user wants of it.
#[derive(Debug, Clone, Copy)]
pub struct Quantize {
    /// The format of most weights.
    pub format: &'static dyn BlockFormat,
    /// The head's; by default q6_k or, where it has more bits, `format`.
    pub head: Option<&'static dyn BlockFormat>,
    /// Quantize anew what is quantized already.
    pub requantize: bool,
}

/// What becomes of each weight.
#[derive(Debug, Clone)]
pub struct QuantizedFormats {
    wanted: &'static dyn BlockFormat,
    by_tensor: HashMap<String, &'static dyn BlockFormat>,
    /// Weights by the format they get.
    weights: BTreeMap<&'static str, usize>,
    /// Weights whose rows are no whole blocks, by row length and both formats.
    odd_rows: BTreeMap<(usize, &'static str, &'static str), usize>,
    /// Weights that were quantized before.
    kept: usize,
}

impl Quantize {
    /// Chooses the format of every weight; `stored` knows what a tensor has now.
    pub fn choose(
        &self,
        spec: &ModelSpec,
        stored: &dyn Fn(&str) -> Option<&'static dyn BlockFormat>,
    ) -> QuantizedFormats {
        let mut chosen = QuantizedFormats {
            wanted: self.format,
            by_tensor: HashMap::new(),
            weights: BTreeMap::new(),
            odd_rows: BTreeMap::new(),
            kept: 0,
        };
        for (role, weight) in spec.weights() {
            let formats: Option<Vec<_>> = weight.parts.iter().map(|part| stored(&part.tensor)).collect();
            // A missing tensor is reported where weights are looked up.
            let Some(formats) = formats else { continue };
            let wanted = match role {
                WeightRole::Router | WeightRole::Positions => continue,
                WeightRole::Head => self.head.unwrap_or_else(|| self.finer()),
                WeightRole::Embedding | WeightRole::Linear if weight.rows() > 1 => self.format,
                WeightRole::Embedding | WeightRole::Linear => continue,
            };
            if !self.requantize && formats.iter().any(|format| format.block_len() > 1) {
                chosen.kept += 1;
                continue;
            }
            let target = whole_blocks(wanted, weight.cols);
            if target.map(BlockFormat::name) != Some(wanted.name()) {
                let instead = target.unwrap_or(formats[0]).name();
                *chosen.odd_rows.entry((weight.cols, wanted.name(), instead)).or_default() += 1;
            }
            let Some(target) = target else { continue };
            *chosen.weights.entry(target.name()).or_default() += 1;
            chosen.by_tensor.extend(weight.parts.iter().map(|part| (part.tensor.clone(), target)));
        }
        chosen
    }

    /// The head's format where nobody says.
    fn finer(&self) -> &'static dyn BlockFormat {
        if self.format.bits_per_weight() > quant::Q6K.bits_per_weight() { self.format } else { &quant::Q6K }
    }
}

impl QuantizedFormats {
    /// The format that a tensor gets; none where it keeps its own.
    pub fn format_of(&self, tensor: &str) -> Option<&'static dyn BlockFormat> {
        self.by_tensor.get(tensor).copied()
    }
}

/// A format for rows of `cols` weights: this one, or the nearest of shorter blocks, as llama.cpp chooses them.
fn whole_blocks(format: &'static dyn BlockFormat, cols: usize) -> Option<&'static dyn BlockFormat> {
    if cols.is_multiple_of(format.block_len()) {
        return Some(format);
    }
    let shorter: &'static dyn BlockFormat = match format.name() {
        "q4_k" => &quant::Q5_0,
        "q5_k" => &quant::Q5_1,
        "q6_k" => &quant::Q8_0,
        "q2_k" | "q3_k" | "iq4_xs" | "nf4" | "nf4_dq" | "fp4" | "fp4_dq" => &quant::Iq4Nl,
        _ => return None,
    };
    whole_blocks(shorter, cols)
}

impl fmt::Display for QuantizedFormats {
    /// `quantized to q4_k: 84 weights q4_k, 1 weight q6_k; …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = |count: usize| if count == 1 { "1 weight".to_owned() } else { format!("{count} weights") };
        write!(f, "quantized to {}: ", self.wanted.name())?;
        let list: Vec<_> = self.weights.iter().map(|(format, count)| format!("{} {format}", weights(*count))).collect();
        f.write_str(if list.is_empty() { "nothing" } else { "" })?;
        f.write_str(&list.join(", "))?;
        for ((cols, wanted, instead), count) in &self.odd_rows {
            let block = quant::format(wanted).map_or(1, BlockFormat::block_len);
            let count = weights(*count);
            write!(f, "; {count} with rows of {cols}, no multiple of {block}: {instead} in place of {wanted}")?;
        }
        if self.kept > 0 {
            let count = weights(self.kept);
            write!(f, "; {count} quantized already and kept (--requantize converts them too, with a second loss)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_no_whole_blocks_get_shorter_ones() {
        let chosen = |name: &str, cols| whole_blocks(quant::format(name).expect("a format"), cols).map(|f| f.name());
        for (name, at_512, at_576, at_96, at_48) in [
            ("q4_k", "q4_k", "q5_0", "q5_0", None),
            ("q5_k", "q5_k", "q5_1", "q5_1", None),
            ("q6_k", "q6_k", "q8_0", "q8_0", None),
            ("q2_k", "q2_k", "iq4_nl", "iq4_nl", None),
            ("nf4", "nf4", "nf4", "iq4_nl", None),
            ("q4_0", "q4_0", "q4_0", "q4_0", None),
            ("f16", "f16", "f16", "f16", Some("f16")),
        ] {
            let found = [chosen(name, 512), chosen(name, 576), chosen(name, 96), chosen(name, 48)];
            assert_eq!(found, [Some(at_512), Some(at_576), Some(at_96), at_48], "{name}");
        }
    }
}
