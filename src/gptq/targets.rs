//! Which linears are rounded, in which order, and in groups of what size.
//!
//! Linears that read the same activation share a Hessian and make up a [`Stage`]. Rounded are a model's plain linears
//! whose sizes GPTQ's layout packs; a tensor is rounded whole, whatever parts of it the model uses. Invariant: one group
//! size for all, as the layout's config has but one.

use std::collections::{BTreeMap, BTreeSet};

use super::{GptqError, GptqOptions, GptqReport};
use crate::checkpoint::Checkpoint;
use crate::exec::describe_checkpoint;
use crate::graph::{Graph, Node, TensorId, TensorKind, Weight};
use crate::model::{Part, WeightRole, WeightSpec};

/// A tensor to round.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) tensor: String,
    /// Outputs.
    pub(super) rows: usize,
    /// Inputs.
    pub(super) cols: usize,
    /// All its rows.
    pub(super) spec: WeightSpec,
}

/// Linears that read one activation.
#[derive(Debug)]
pub(super) struct Stage {
    /// What they read.
    pub(super) x: TensorId,
    /// The first node that reads it.
    pub(super) node: usize,
    pub(super) targets: Vec<Target>,
}

/// All of a model.
#[derive(Debug)]
pub(super) struct Targets {
    pub(super) group_size: Option<usize>,
    /// Every unit between embedding and head, with its stages in the order of the forward.
    pub(super) layers: Vec<(usize, Vec<Stage>)>,
    kept: BTreeMap<String, usize>,
}

/// Group sizes that other engines read, largest first.
const GROUP_SIZES: [usize; 3] = [128, 64, 32];

/// What inputs must be a multiple of, for wgpt's formats; outputs are packed by eights.
const INPUTS: usize = 32;
const OUTPUTS: usize = 8;

impl Targets {
    pub(super) fn of(checkpoint: &Checkpoint, graph: &Graph, options: &GptqOptions) -> Result<Self, GptqError> {
        let spec = describe_checkpoint(checkpoint)?;
        // Experts see only the tokens that chose them: their nodes are no plain matmuls. Gates of one row are tiny.
        let plain =
            spec.weights().into_iter().filter(|(role, weight)| *role == WeightRole::Linear && weight.rows() > 1);
        let linears: BTreeSet<&str> =
            plain.flat_map(|(_, weight)| &weight.parts).map(|part| part.tensor.as_str()).collect();
        let mut found = Self { group_size: None, layers: Vec::new(), kept: BTreeMap::new() };
        for unit in 1..graph.units.len() - 1 {
            let stages = found.stages(graph, unit, &linears);
            found.layers.push((unit, stages));
        }
        let cols: BTreeSet<usize> = found.all().map(|target| target.cols).collect();
        found.group_size = group_size(options.group_size, &cols, &linears_cols(graph, &linears))?;
        Ok(found)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Target> {
        self.layers.iter().flat_map(|(_, stages)| stages).flat_map(|stage| &stage.targets)
    }

    /// Weights of all targets.
    pub(super) fn weights(&self) -> u64 {
        self.all().map(|target| (target.rows * target.cols) as u64).sum()
    }

    pub(super) fn report(&self, options: &GptqOptions, rounded: usize, tokens: usize, place: String) -> GptqReport {
        let wanted = options.group_size;
        let mut notices = Vec::new();
        if let (Some(wanted), Some(used)) = (wanted, self.group_size)
            && wanted != used
        {
            notices.push(format!(
                "groups of {wanted} divide not all rows, and GPTQ's layout has one size for all: groups of {used}"
            ));
        }
        let longest = self.all().map(|target| target.cols).max().unwrap_or(0);
        if tokens < longest {
            notices.push(format!(
                "the calibration text has {tokens} tokens, fewer than the {longest} inputs of the widest linear: more \
                 text makes better weights"
            ));
        }
        let kept = self.kept.iter().map(|(reason, count)| (reason.clone(), *count)).collect();
        GptqReport { group_size: self.group_size, wanted, rounded, kept, notices, tokens, place }
    }

    fn stages(&mut self, graph: &Graph, unit: usize, linears: &BTreeSet<&str>) -> Vec<Stage> {
        let mut stages: Vec<Stage> = Vec::new();
        let mut seen = BTreeSet::new();
        for index in graph.units[unit].nodes.clone() {
            let node = &graph.nodes[index];
            let Some(weight) = weight(graph, node) else { continue };
            // Matrices of different inputs are kept apart for calibration: there is one.
            for part in &weight.specs[0].parts {
                if !linears.contains(&*part.tensor) || !seen.insert(part.tensor.clone()) {
                    continue;
                }
                match target(node, weight, part) {
                    Ok(target) => match stages.iter_mut().find(|stage| stage.x == node.inputs[0]) {
                        Some(stage) => stage.targets.push(target),
                        None => stages.push(Stage { x: node.inputs[0], node: index, targets: vec![target] }),
                    },
                    Err(reason) => *self.kept.entry(reason).or_default() += 1,
                }
            }
        }
        stages
    }
}

fn weight<'g>(graph: &'g Graph, node: &Node) -> Option<&'g Weight> {
    node.inputs.iter().find_map(|id| match graph.tensors[id.0].kind {
        TensorKind::Weight(id) => Some(&graph.weights[id.0]),
        _ => None,
    })
}

/// A tensor as a target, or why it is none.
fn target(node: &Node, weight: &Weight, part: &Part) -> Result<Target, String> {
    let (rows, cols) = (part.tensor_rows, weight.cols());
    if node.op.name() != "matmul" {
        return Err("experts".into());
    }
    if !cols.is_multiple_of(INPUTS) || !rows.is_multiple_of(OUTPUTS) {
        return Err(format!("{rows} rows of {cols}, no multiples of {OUTPUTS} and {INPUTS}"));
    }
    let whole = Part { rows: 0..rows, ..part.clone() };
    Ok(Target { tensor: part.tensor.clone(), rows, cols, spec: WeightSpec { parts: vec![whole], cols } })
}

/// Row lengths of all linears, for an error.
fn linears_cols(graph: &Graph, linears: &BTreeSet<&str>) -> Vec<String> {
    let specs = graph.weights.iter().flat_map(|weight| &weight.specs);
    let linear = specs.filter(|spec| spec.parts.iter().any(|part| linears.contains(&*part.tensor)));
    let cols: BTreeSet<usize> = linear.map(|spec| spec.cols).collect();
    cols.into_iter().map(|cols| cols.to_string()).collect()
}

/// The largest group size up to the one wanted that divides the rows of all targets.
fn group_size(wanted: Option<usize>, cols: &BTreeSet<usize>, all: &[String]) -> Result<Option<usize>, GptqError> {
    let refused = || GptqError::GroupSize {
        wanted: wanted.map_or("-1".to_owned(), |size| size.to_string()),
        rows: all.join(", "),
    };
    if cols.is_empty() {
        return Err(refused());
    }
    let Some(most) = wanted else { return Ok(None) };
    let divides = |size: &usize| cols.iter().all(|cols| cols.is_multiple_of(*size));
    let size = GROUP_SIZES.into_iter().filter(|size| *size <= most).find(divides);
    size.map(Some).ok_or_else(refused)
}

/// The group of each input, where groups are filled in this order.
pub(super) fn groups_of(order: Option<&[u32]>, cols: usize, group_size: usize) -> Vec<u32> {
    let mut groups = vec![0; cols];
    for place in 0..cols {
        let input = order.map_or(place, |order| order[place] as usize);
        groups[input] = (place / group_size) as u32;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_group_size_divides_all_rows() {
        let size = |wanted, cols: &[usize]| group_size(wanted, &cols.iter().copied().collect(), &["7".into()]);
        assert_eq!(size(Some(128), &[512, 1408]).expect("divides"), Some(128), "as asked for");
        assert_eq!(size(Some(128), &[576, 1536]).expect("divides"), Some(64), "576 is 9 · 64");
        assert_eq!(size(Some(64), &[96]).expect("divides"), Some(32), "96 is 3 · 32");
        assert_eq!(size(None, &[96]).expect("one group a row"), None, "-1 divides all");
        let error = size(Some(32), &[]).expect_err("nothing to round").to_string();
        assert!(error.contains("--group-size 32") && error.contains("rows of 7"), "{error}");
    }
}
