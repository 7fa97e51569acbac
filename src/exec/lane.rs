//! One adapter playing its part of a plan: what it holds, and what it does in a forward.
//!
//! `build` makes it, `uploads` fills its ring, `handover` submits. Invariant: what it holds is what the plan says.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Mutex;

use super::stream::Stream;
use super::uploads::{Due, Streamed};
use super::{ExecError, MemoryUse};
use crate::gpu::{Buffer, Device, Dispatch, GpuError, HostBuffer, Readback, Timed};
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
    /// Weights that stay on the host.
    pub(super) in_place: Vec<HostBuffer>,
    /// By unit.
    pub(super) streamed: BTreeMap<usize, Streamed>,
    /// What mapped weights come through.
    pub(super) stream: Option<Stream>,
    pub(super) due: Mutex<Due>,
    /// By node, then by phase: its dispatches, where this adapter computes it.
    pub(super) dispatches: Vec<[Vec<Dispatch>; Phase::ALL.len()]>,
    pub(super) readback: Readback,
    /// A second one, where it hands on to another adapter.
    pub(super) spare: Option<Readback>,
    /// What the plan gives it.
    pub(super) planned: AdapterBytes,
}

impl Lane {
    /// Tells the lane what the next submissions compute: one forward, from its first unit here to the last.
    pub(super) fn begin(&self, step: Step) {
        self.device.write(&self.step, 0, bytemuck::bytes_of(&step));
        self.expect_uploads(step);
    }

    /// Writes a unit's input from the host.
    pub(super) fn write(&self, buffers: &Buffers, id: TensorId, bytes: &[u8]) {
        self.device.write(self.activation(buffers, id, Phase::Prefill), 0, bytes);
    }

    /// Writes to a buffer, in pieces of the staging memory that the plan allows, waiting for the device after each.
    pub(super) fn stage(&self, buffer: &Buffer, bytes: &[u8]) -> Result<(), GpuError> {
        let limit = self.planned.staging as usize / 4 * 4;
        for (index, piece) in bytes.chunks(limit).enumerate() {
            self.device.write(buffer, (index * limit) as u64, piece);
            self.device.flush()?;
        }
        Ok(())
    }

    /// Runs nodes and says how long each of their kernels took: the node, and its time. Then runs them again, untimed
    /// but for the whole of them, in seconds.
    pub(super) fn time(
        &self,
        graph: &Graph,
        nodes: Range<usize>,
        pass: Pass,
    ) -> Result<(Vec<(usize, Timed)>, f64), ExecError> {
        let of_node = |node: usize| {
            let all = self.dispatches_of(graph, node, pass).iter();
            all.filter(|dispatch| dispatch.runs(pass.step)).map(move |dispatch| (node, dispatch))
        };
        let all: Vec<_> = nodes.flat_map(of_node).collect();
        let dispatches = || all.iter().map(|(_, dispatch)| *dispatch);
        let times = self.device.time(pass.step, dispatches())?;
        let span = self.device.span(pass.step, dispatches())?;
        Ok((all.iter().map(|(node, _)| *node).zip(times).collect(), span))
    }

    /// The buffer of an activation in a phase; what units hand on is in the same one in all.
    pub(super) fn activation(&self, buffers: &Buffers, id: TensorId, phase: Phase) -> &Buffer {
        self.activations[buffers.slot(id, phase)].as_ref().expect("allocated for every operand of this lane")
    }

    /// Whether what the host fills and reads is in the host's memory.
    pub(super) fn is_apart(&self) -> bool {
        self.device.info.has_own_memory() && self.device.reads_host
    }

    /// The buffers that the host reads, and the staging memory that the lane keeps to.
    pub(super) fn of_host(&self) -> u64 {
        self.readback.bytes() + self.spare.as_ref().map_or(0, Readback::bytes) + self.planned.staging
    }

    /// What the lane holds on its adapter: every buffer that was made, and the staging memory it keeps to.
    pub(super) fn memory(&self) -> MemoryUse {
        let kv_cache = self.states.values().map(Buffer::bytes).sum();
        let activations: u64 = self.activations.iter().flatten().map(Buffer::bytes).sum();
        let scratch: u64 = self.scratch.iter().map(Buffer::bytes).sum();
        let working = activations + scratch + self.step.bytes();
        let read = self.of_host() - self.planned.staging;
        MemoryUse {
            place: self.device.info.name.clone(),
            weights: self.device.allocated() - kv_cache - working - read,
            kv_cache,
            other: working + if self.is_apart() { 0 } else { self.of_host() },
        }
    }
}

/// What the kernels of one pass through the nodes are given, and chosen by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) step: Step,
    /// Tokens of the whole batch, of which this may be a piece.
    pub(super) batch: u32,
}

impl Pass {
    /// A forward in one pass.
    pub(super) const fn whole(step: Step) -> Self {
        Self { step, batch: step.tokens }
    }

    /// One row, a few or many.
    pub(super) fn phase(self, rows: Dim) -> Phase {
        Phase::of(rows.length(self.step.extents()), self.batch)
    }
}

impl Lane {
    /// The dispatches of a node.
    pub(super) fn dispatches_of(&self, graph: &Graph, node: usize, pass: Pass) -> &[Dispatch] {
        &self.dispatches[node][pass.phase(rows(graph, node)) as usize]
    }
}

/// Rows that a node computes.
pub(super) fn rows(graph: &Graph, node: usize) -> Dim {
    rows_of(graph, graph.nodes[node].outputs[0])
}

/// Rows of an activation.
pub(super) fn rows_of(graph: &Graph, id: TensorId) -> Dim {
    graph.activation(id).and_then(|ty| ty.shape.first().copied()).unwrap_or(Dim::Tokens)
}
