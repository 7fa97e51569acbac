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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Node, Tensor};
    use crate::ops::Softcap;
    use crate::tensor::{Dim, TensorType};

    /// A graph of nodes with these inputs and outputs, and a kernel for each that reads all its inputs.
    fn line(nodes: &[(&[usize], usize)], tensors: usize) -> (Graph, Vec<Vec<Kernel>>) {
        let ty = TensorType::f32([Dim::Tokens, Dim::Fixed(4)]);
        let tensor = |index: usize| Tensor { name: index.to_string(), kind: TensorKind::Activation(ty.clone()) };
        let node = |(inputs, output): &(&[usize], usize)| Node {
            op: Box::new(Softcap { cap: 1.0 }),
            inputs: inputs.iter().map(|id| TensorId(*id)).collect(),
            outputs: vec![TensorId(*output)],
        };
        let kernel = |(inputs, _): &(&[usize], usize)| Kernel {
            source: "softcap",
            slots: vec![],
            overrides: vec![],
            bindings: (0..inputs.len()).map(|input| ("x", Bind::Input(input))).collect(),
            workgroups: [crate::ops::Extent::Fixed(1); 3],
            scratch: vec![],
        };
        let graph = Graph {
            tensors: (0..tensors).map(tensor).collect(),
            weights: vec![],
            vectors: vec![],
            nodes: nodes.iter().map(node).collect(),
            units: vec![],
            tokens: TensorId(0),
            logits: TensorId(tensors - 1),
            vocab_size: 1,
            context_length: 1,
        };
        (graph, nodes.iter().map(|node| vec![kernel(node)]).collect())
    }

    /// By node: the tensors that it binds besides its own.
    fn early(nodes: &[(&[usize], usize)], tensors: usize) -> Vec<Vec<usize>> {
        let (graph, mut kernels) = line(nodes, tensors);
        bind_early(&graph, 0..nodes.len(), &mut kernels.iter_mut().collect::<Vec<_>>());
        let of_node = |kernels: Vec<Kernel>| {
            let bindings = kernels.into_iter().flat_map(|kernel| kernel.bindings);
            let early = bindings.filter(|(name, _)| *name == Kernel::EARLY).map(|(_, bind)| bind);
            early.map(|bind| if let Bind::Tensor(id) = bind { id } else { panic!("{bind:?}") }).collect()
        };
        kernels.into_iter().map(of_node).collect()
    }

    #[test]
    fn who_waits_makes_readable_what_later_ones_read() {
        // Two norms, qkv, attention, up, and both joined.
        let parallel: [(&[usize], usize); 6] = [(&[0], 1), (&[0], 2), (&[1], 3), (&[3], 4), (&[2], 5), (&[4, 5, 0], 6)];
        assert_eq!(early(&parallel, 7), [vec![], vec![], vec![2], vec![], vec![], vec![]], "up waits for no attention");
        let chain: [(&[usize], usize); 3] = [(&[0], 1), (&[1], 2), (&[2], 3)];
        assert_eq!(early(&chain, 4), vec![Vec::<usize>::new(); 3], "each reads it anyway");
    }

    #[test]
    fn what_is_not_finished_is_not_readable() {
        // Tensor 2 is written twice, in columns, the second time by who waits for tensor 1.
        let columns: [(&[usize], usize); 4] = [(&[0], 1), (&[0], 2), (&[1], 2), (&[2], 3)];
        assert_eq!(early(&columns, 4), vec![Vec::<usize>::new(); 4], "its second writer would wait for itself");
    }
}
