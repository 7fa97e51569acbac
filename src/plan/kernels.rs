//! The kernels of a unit, as the planner counts them and the executor runs them.
//!
//! An op chooses its own by what its operands are; here is what depends on its neighbours: which activations are f16, and
//! which matmuls share a dispatch. Knows no device. Invariant: the planner and the executor get the same kernels.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, Node, TensorId, TensorKind, Unit, WeightId};
use crate::ops::{Bind, Call, Kernel, Operand, Pair, Phase, Traits, WeightType};
use crate::tensor::{DType, Extents};

/// The kernels of a node in a phase.
#[derive(Debug, Clone)]
pub struct NodeKernels {
    /// Its number in the graph.
    pub node: usize,
    /// One row, a few or many.
    pub phase: Phase,
    /// In their order.
    pub kernels: Vec<Kernel>,
}

/// The kernels of a unit's nodes on an adapter, in the order of nodes and phases, where this is the largest forward;
/// `weight` gives the types of weights.
pub fn unit_kernels<'w>(
    graph: &Graph,
    unit: &Unit,
    adapter: (&Traits, Extents),
    weight: impl Fn(WeightId) -> &'w WeightType,
) -> Vec<NodeKernels> {
    let choice = Choice { graph, adapter, halved: halved(graph, unit, adapter, &weight), weight };
    let mut kernels = choice.apart(unit);
    choice.pair(&mut kernels);
    kernels
}

/// As [`unit_kernels`], where nodes are run one by one and their activations read as f32.
pub fn unit_kernels_apart<'w>(
    graph: &Graph,
    unit: &Unit,
    adapter: (&Traits, Extents),
    weight: impl Fn(WeightId) -> &'w WeightType,
) -> Vec<NodeKernels> {
    Choice { graph, adapter, halved: BTreeMap::new(), weight }.apart(unit)
}

/// What kernels are chosen by.
struct Choice<'c, W> {
    graph: &'c Graph,
    adapter: (&'c Traits, Extents),
    /// Activations that are f16 where there are many rows, and which.
    halved: BTreeMap<TensorId, DType>,
    weight: W,
}

impl<'w, W: Fn(WeightId) -> &'w WeightType> Choice<'_, W> {
    /// What every node runs by itself.
    fn apart(&self, unit: &Unit) -> Vec<NodeKernels> {
        let phases = unit.nodes.clone().flat_map(|node| Phase::ALL.map(|phase| (node, phase)));
        let chosen = phases.map(|(node, phase)| {
            let kernels = self.called(node, phase, |call| self.graph.nodes[node].op.kernels(call));
            NodeKernels { node, phase, kernels }
        });
        chosen.collect()
    }

    /// Gives matmuls of many rows that don't wait for one another one dispatch, where that is faster.
    fn pair(&self, kernels: &mut [NodeKernels]) {
        let mut many: Vec<_> = kernels.iter_mut().filter(|own| own.phase == Phase::Prefill).collect();
        let mut paired = BTreeSet::new();
        for second in 0..many.len() {
            let Some((first, mut pair)) = self.partner(&many, second, &paired) else { continue };
            let of_second = pair.of_second.into_iter();
            let of_second = of_second.map(|(name, bind)| (name, self.elsewhere(many[second].node, bind)));
            pair.products.bindings.extend(of_second);
            many[first].kernels = vec![pair.products];
            many[second].kernels = vec![pair.sum];
            paired.extend([first, second]);
        }
    }

    /// What can share a dispatch with this one, none of `paired`.
    fn partner(&self, many: &[&mut NodeKernels], second: usize, paired: &BTreeSet<usize>) -> Option<(usize, Pair)> {
        let inputs = &self.graph.nodes[many[second].node].inputs;
        for first in (0..second).rev() {
            if self.graph.nodes[many[first].node].outputs.iter().any(|output| inputs.contains(output)) {
                return None;
            }
            let free = !paired.contains(&first);
            let pair = free.then(|| self.pair_of(many[first].node, many[second].node)).flatten();
            // The second one's sums are in scratch until its turn.
            if pair.is_some() || many[first].kernels.iter().any(|kernel| !kernel.scratch.is_empty()) {
                return pair.map(|pair| (first, pair));
            }
        }
        None
    }

    fn pair_of(&self, first: usize, second: usize) -> Option<Pair> {
        let [op, other] = [first, second].map(|node| self.graph.nodes[node].op.as_matmul());
        let (op, other) = (op?, other?);
        self.called(first, Phase::Prefill, |call| {
            self.called(second, Phase::Prefill, |second_call| op.pair(call, other, second_call))
        })
    }

    /// What a node's kernel binds, for the kernel of another.
    fn elsewhere(&self, node: usize, bind: Bind) -> Bind {
        let node = &self.graph.nodes[node];
        match bind {
            Bind::Input(n) => Bind::Tensor(node.inputs[n].0),
            Bind::Output(n) => Bind::Tensor(node.outputs[n].0),
            Bind::Weight { input, slice, region } => Bind::TensorWeight { tensor: node.inputs[input].0, slice, region },
            Bind::Scratch(_) | Bind::Tensor(_) | Bind::TensorWeight { .. } => bind,
        }
    }

    fn called<R>(&self, node: usize, phase: Phase, with: impl FnOnce(&Call<'_>) -> R) -> R {
        let (node, (traits, largest)) = (&self.graph.nodes[node], self.adapter);
        let halved = |id| self.halved.get(&id).copied().filter(|_| phase == Phase::Prefill);
        let (inputs, outputs) = operands(self.graph, node, halved, &self.weight);
        with(&Call { phase, inputs: &inputs, outputs: &outputs, traits, largest })
    }
}

/// Types of a node's inputs and outputs.
fn operands<'w>(
    graph: &Graph,
    node: &Node,
    halved: impl Fn(TensorId) -> Option<DType>,
    weight: impl Fn(WeightId) -> &'w WeightType,
) -> (Vec<Operand>, Vec<Operand>) {
    let operand = |id: &TensorId| match &graph.tensors[id.0].kind {
        TensorKind::Activation(ty) => Operand::Activation(ty.stored_as(halved(*id).unwrap_or(ty.dtype))),
        TensorKind::Weight(id) => Operand::Weight(weight(*id).clone()),
        TensorKind::Vector(id) => Operand::Vector(graph.vectors[id.0].len()),
        TensorKind::State(state) => Operand::State(*state),
    };
    (node.inputs.iter().map(operand).collect(), node.outputs.iter().map(operand).collect())
}

/// Activations of a unit that are f16 where there are many rows: those that only matmuls on cooperative matrices read, which
/// would make them f16 in a pass of its own, and that their writer can make so.
pub fn halved<'w>(
    graph: &Graph,
    unit: &Unit,
    (traits, largest): (&Traits, Extents),
    weight: impl Fn(WeightId) -> &'w WeightType,
) -> BTreeMap<TensorId, DType> {
    let (mut written, mut kept) = (BTreeSet::new(), BTreeSet::from([unit.output]));
    let mut together: Vec<Vec<(TensorId, DType)>> = Vec::new();
    for node in &graph.nodes[unit.nodes.clone()] {
        let (inputs, outputs) = operands(graph, node, |_| None, &weight);
        let call = Call { phase: Phase::Prefill, inputs: &inputs, outputs: &outputs, traits, largest };
        let reads = node.inputs.iter().enumerate();
        kept.extend(reads.filter(|(input, _)| !node.op.reads_f16(*input, &call)).map(|(_, id)| *id));
        let writes = node.outputs.iter().copied().enumerate();
        let (halves, others): (Vec<_>, Vec<_>) = writes.partition(|(output, _)| node.op.writes_f16(*output, &call));
        let halves: Vec<TensorId> = halves.into_iter().map(|(_, id)| id).collect();
        // Several nodes write one tensor where each has columns of it.
        let again = halves.iter().copied().filter(|id| !written.insert(*id));
        kept.extend(others.into_iter().map(|(_, id)| id).chain(again));
        together.push(halves.into_iter().map(|id| (id, node.op.f16())).collect());
    }
    together.retain(|ids| ids.iter().all(|(id, _)| !kept.contains(id)));
    together.into_iter().flatten().collect()
}
