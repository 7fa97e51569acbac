//! Which activations share a buffer: pure bookkeeping over the straight line of nodes.

use super::{Graph, TensorId, TensorKind};
use crate::tensor::TensorType;

/// A buffer that several activations of one type live in, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct BufferSlot {
    /// The type of all of them.
    pub ty: TensorType,
}

/// The buffers and who lives where.
#[derive(Debug, Clone, PartialEq)]
pub struct Buffers {
    /// All buffers.
    pub slots: Vec<BufferSlot>,
    /// By tensor: its buffer, where it is an activation.
    pub slot_of: Vec<Option<usize>>,
}

/// Gives every activation a buffer: one whose last reader came strictly before the writer, else a new one. A node's
/// inputs and outputs are thus never the same buffer, which wgpu would refuse.
pub fn assign_buffers(graph: &Graph) -> Buffers {
    let last_use = last_uses(graph);
    let mut buffers = Buffers { slots: Vec::new(), slot_of: vec![None; graph.tensors.len()] };
    // By slot: the node after which it is free.
    let mut free_after: Vec<usize> = Vec::new();
    let mut place = |buffers: &mut Buffers, id: TensorId, node: usize| {
        let TensorKind::Activation(ty) = &graph.tensors[id.0].kind else { return };
        if buffers.slot_of[id.0].is_some() {
            return;
        }
        let free = (0..buffers.slots.len()).find(|slot| buffers.slots[*slot].ty == *ty && free_after[*slot] < node);
        let slot = free.unwrap_or_else(|| {
            buffers.slots.push(BufferSlot { ty: ty.clone() });
            free_after.push(0);
            buffers.slots.len() - 1
        });
        free_after[slot] = last_use[id.0];
        buffers.slot_of[id.0] = Some(slot);
    };
    place(&mut buffers, graph.tokens, 0);
    for (index, node) in graph.nodes.iter().enumerate() {
        for output in &node.outputs {
            place(&mut buffers, *output, index);
        }
    }
    buffers
}

/// By tensor: the last node that reads it; the logits are read after all of them.
fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last = vec![0; graph.tensors.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        for id in node.inputs.iter().chain(&node.outputs) {
            last[id.0] = index;
        }
    }
    last[graph.logits.0] = usize::MAX;
    last
}
