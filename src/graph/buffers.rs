//! Which activations share a buffer: pure bookkeeping over the straight line of nodes.
//!
//! Two ways. Of many rows, an activation's buffer is the next one's as soon as nobody reads it any more. One row has a
//! buffer of its own for each activation within a unit: wgpu has every dispatch that writes a buffer wait for all that
//! went before it in the command buffer and used that buffer, if only to write another layer's row there, and at decode
//! that wait costs more than the memory.

use super::{Graph, TensorId, TensorKind};
use crate::ops::Phase;
use crate::tensor::{Extents, TensorType};

/// A buffer that several activations of one type live in, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct BufferSlot {
    /// The type of all of them.
    pub ty: TensorType,
    /// It holds one row, not those of the largest forward.
    pub one_row: bool,
}

impl BufferSlot {
    /// Its size where this is the largest forward.
    pub fn bytes(&self, largest: Extents) -> u64 {
        self.ty.bytes(if self.one_row { Extents { tokens: 1, logit_rows: 1 } } else { largest })
    }
}

/// The buffers and who lives where.
#[derive(Debug, Clone, PartialEq)]
pub struct Buffers {
    /// All buffers.
    pub slots: Vec<BufferSlot>,
    /// By tensor: its buffer, where it is an activation.
    slot_of: Vec<Option<usize>>,
    /// By tensor: its buffer in [`Phase::Decode`], where that is its own.
    row_of: Vec<Option<usize>>,
}

impl Buffers {
    /// The slot of an activation in a phase.
    ///
    /// # Panics
    /// If the tensor is no activation: the caller's mistake.
    pub fn slot(&self, id: TensorId, phase: Phase) -> usize {
        let own = self.row_of[id.0].filter(|_| phase == Phase::Decode);
        own.or(self.slot_of[id.0]).expect("every activation has a slot")
    }

    /// Every slot of an activation.
    pub fn slots_of(&self, id: TensorId) -> impl Iterator<Item = usize> + use<> {
        [self.slot_of[id.0], self.row_of[id.0]].into_iter().flatten()
    }
}

/// Gives every activation a buffer: one whose last reader came strictly before the writer, else a new one. A node's
/// inputs and outputs are thus never the same buffer, which wgpu would refuse.
pub fn assign_buffers(graph: &Graph) -> Buffers {
    let last_use = last_uses(graph);
    let none = vec![None; graph.tensors.len()];
    let mut buffers = Buffers { slots: Vec::new(), slot_of: none.clone(), row_of: none };
    // By slot: the node after which it is free.
    let mut free_after: Vec<usize> = Vec::new();
    let mut place = |buffers: &mut Buffers, id: TensorId, node: usize| {
        let TensorKind::Activation(ty) = &graph.tensors[id.0].kind else { return };
        if buffers.slot_of[id.0].is_some() {
            return;
        }
        let free = (0..buffers.slots.len()).find(|slot| buffers.slots[*slot].ty == *ty && free_after[*slot] < node);
        let slot = free.unwrap_or_else(|| {
            buffers.slots.push(BufferSlot { ty: ty.clone(), one_row: false });
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
    own_rows(graph, &mut buffers);
    buffers
}

/// Gives every activation that stays within a unit a row of its own.
fn own_rows(graph: &Graph, buffers: &mut Buffers) {
    for unit in &graph.units {
        for id in graph.nodes[unit.nodes.clone()].iter().flat_map(|node| &node.outputs) {
            let TensorKind::Activation(ty) = &graph.tensors[id.0].kind else { continue };
            if *id != unit.output && buffers.row_of[id.0].is_none() {
                buffers.row_of[id.0] = Some(buffers.slots.len());
                buffers.slots.push(BufferSlot { ty: ty.clone(), one_row: true });
            }
        }
    }
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
