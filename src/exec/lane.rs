//! One adapter playing its part of a plan: what it holds, and what it does in a forward.
//!
//! `build` makes it. Invariant: uploads on their way never take more staging memory than the plan says.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use super::{ExecError, MemoryUse};
use crate::gpu::{Buffer, Device, Dispatch, GpuError, Readback, Timed};
use crate::graph::{Buffers, Graph, TensorId, VectorId};
use crate::ops::{Phase, Step, WeightType};
use crate::plan::AdapterBytes;
use crate::tensor::Dim;

/// A weight's type and the buffer of each of its slices.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) ty: WeightType,
    pub(super) slices: Vec<Buffer>,
}

/// Packed bytes of one streamed unit, kept on the host, each with its place in the unit's ring slot.
#[derive(Debug)]
pub(super) struct Streamed {
    pub(super) uploads: Vec<(Buffer, Vec<u8>)>,
}

/// An adapter playing its part of a plan.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) device: Device,
    pub(super) step: Buffer,
    /// By slot of [`Buffers`].
    pub(super) activations: Vec<Option<Buffer>>,
    pub(super) vectors: HashMap<VectorId, Buffer>,
    pub(super) states: HashMap<TensorId, Buffer>,
    pub(super) scratch: Vec<Buffer>,
    pub(super) streamed: HashMap<usize, Streamed>,
    /// By node, then by phase: its dispatches, where this adapter computes it.
    pub(super) dispatches: Vec<[Vec<Dispatch>; 2]>,
    pub(super) readback: Readback,
    /// A second one, where it hands on to another adapter.
    pub(super) spare: Option<Readback>,
    /// What the plan gives it.
    pub(super) planned: AdapterBytes,
    /// Bytes staged since the device was last waited for.
    pub(super) pending: Mutex<u64>,
}

impl Lane {
    /// Tells the lane what the next submissions compute.
    pub(super) fn begin(&self, step: Step) {
        self.device.write(&self.step, 0, bytemuck::bytes_of(&step));
    }

    /// Writes an activation from the host.
    pub(super) fn write(&self, buffers: &Buffers, id: TensorId, bytes: &[u8]) {
        self.device.write(self.activation(buffers, id), 0, bytes);
    }

    /// Fills the ring slot of a streamed unit.
    pub(super) fn upload(&self, unit: usize) -> Result<(), ExecError> {
        for (buffer, bytes) in &self.streamed[&unit].uploads {
            self.stage(buffer, 0, bytes)?;
        }
        Ok(())
    }

    /// Writes to a buffer through staging memory, waiting for the device whenever that is used up.
    pub(super) fn stage(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) -> Result<(), GpuError> {
        let limit = self.planned.staging;
        let mut pending = self.pending.lock().expect("no thread panics while it stages");
        for (index, piece) in bytes.chunks(limit as usize / 4 * 4).enumerate() {
            if *pending + piece.len() as u64 > limit {
                self.device.flush()?;
                *pending = 0;
            }
            self.device.write(buffer, offset + index as u64 * (limit / 4 * 4), piece);
            *pending += piece.len() as u64;
        }
        Ok(())
    }

    /// Runs nodes and says how long each of their kernels took: the node, and its time.
    pub(super) fn time(
        &self,
        graph: &Graph,
        nodes: Range<usize>,
        step: Step,
    ) -> Result<Vec<(usize, Timed)>, ExecError> {
        let of_node = |node: usize| {
            self.dispatches[node][phase(graph, node, step) as usize].iter().map(move |dispatch| (node, dispatch))
        };
        let all: Vec<_> = nodes.flat_map(of_node).collect();
        let times = self.device.time(step, all.iter().map(|(_, dispatch)| *dispatch))?;
        Ok(all.iter().map(|(node, _)| *node).zip(times).collect())
    }

    pub(super) fn activation(&self, buffers: &Buffers, id: TensorId) -> &Buffer {
        let slot = buffers.slot_of[id.0].expect("every activation has a slot");
        self.activations[slot].as_ref().expect("allocated for every operand of this lane")
    }

    /// What the lane holds on its adapter: every buffer that was made, and the staging memory it keeps to.
    pub(super) fn memory(&self) -> MemoryUse {
        let kv_cache = self.states.values().map(Buffer::bytes).sum();
        let activations: u64 = self.activations.iter().flatten().map(Buffer::bytes).sum();
        let scratch: u64 = self.scratch.iter().map(Buffer::bytes).sum();
        let working = activations + scratch + self.step.bytes() + self.readback.bytes();
        let working = working + self.spare.as_ref().map_or(0, Readback::bytes);
        MemoryUse {
            place: self.device.info.name.clone(),
            weights: self.device.allocated() - kv_cache - working,
            kv_cache,
            other: working + self.planned.staging,
        }
    }

    /// Packed bytes kept on the host for streaming.
    pub(super) fn host_bytes(&self) -> u64 {
        let uploads = self.streamed.values().flat_map(|streamed| &streamed.uploads);
        uploads.map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// One row or several, by what the node's output has.
pub(super) fn phase(graph: &Graph, node: usize, step: Step) -> Phase {
    let rows = graph.activation(graph.nodes[node].outputs[0]).and_then(|ty| ty.shape.first().copied());
    match rows.unwrap_or(Dim::Tokens).length(step.extents()) {
        1 => Phase::Decode,
        _ => Phase::Prefill,
    }
}
