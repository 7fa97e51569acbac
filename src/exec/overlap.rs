//! What keeps independent dispatches of a row from waiting for one another.
//!
//! wgpu puts a barrier in front of a dispatch that reads what an earlier one wrote, buffer by buffer, and a barrier holds
//! up all that comes behind it. Two dispatches that read different results of one stage would so run one after the other.
//! A dispatch that has to wait anyway therefore also binds the other results that are there by then and that later ones
//! read: these find them readable. (No dispatch waits to write: rows have buffers of their own, see
//! [`crate::graph::Buffers`].) Invariant: what is bound more is never touched by the kernel, so no bit depends on it.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::graph::{Graph, TensorId, TensorKind};
use crate::ops::{Bind, Kernel};

/// Adds to the kernels of a unit's nodes at decode, in order, what each should make readable for later ones.
pub(super) fn bind_early(graph: &Graph, nodes: Range<usize>, kernels: &mut [&mut Vec<Kernel>]) {
    let reads: Vec<BTreeSet<TensorId>> =
        nodes.clone().zip(&*kernels).map(|(node, of)| reads(graph, node, of)).collect();
    let of_unit = &graph.nodes[nodes];
    // Written, and not bound to be read since.
    let mut written: BTreeSet<TensorId> = BTreeSet::new();
    for index in 0..of_unit.len() {
        if !written.is_disjoint(&reads[index]) {
            // Several nodes write one tensor where each has columns of it: it is there behind the last one.
            let unfinished = |id: &TensorId| of_unit[index..].iter().any(|node| node.outputs.contains(id));
            let later = |id: &TensorId| reads[index + 1..].iter().any(|reads| reads.contains(id));
            let early = written.difference(&reads[index]).filter(|id| later(id) && !unfinished(id));
            let early: Vec<_> = early.map(|id| (Kernel::EARLY, Bind::Tensor(id.0))).collect();
            kernels[index].iter_mut().for_each(|kernel| kernel.bindings.extend(&early));
            written.retain(unfinished);
        }
        let outputs = of_unit[index].outputs.iter().copied();
        written.extend(outputs.filter(|id| matches!(graph.tensors[id.0].kind, TensorKind::Activation(_))));
    }
}

/// The tensors that a node's kernels bind to read.
fn reads(graph: &Graph, node: usize, kernels: &[Kernel]) -> BTreeSet<TensorId> {
    let bindings = kernels.iter().flat_map(|kernel| &kernel.bindings);
    let inputs = bindings.filter_map(|(_, bind)| match bind {
        Bind::Input(input) => Some(graph.nodes[node].inputs[*input]),
        _ => None,
    });
    inputs.collect()
}
