//! One adapter's part of a plan: its buffers, its ring, and the dispatches of its nodes, made once.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::load::{WeightSource, slices, spread};
use super::{ExecError, MemoryUse};
use crate::gpu::{Buffer, BufferPart, Device, Dispatch, Readback, Usage};
use crate::graph::{Buffers, Graph, TensorId, TensorKind, VectorId, WeightId};
use crate::ops::{Bind, Call, Kernel, Operand, Phase, Step, WeightType};
use crate::plan::{AdapterId, Plan, Residency};
use crate::tensor::{Dim, Extents, TensorType};

/// Staged bytes after which loading waits for the device, so that staging memory stays bounded.
const FLUSH_BYTES: u64 = 256 << 20;

/// Where a weight's slices are: buffer, offset.
#[derive(Debug, Clone)]
struct Placed {
    ty: WeightType,
    at: Vec<(Buffer, u64)>,
}

/// Packed bytes of one streamed unit, kept on the host: for each weight its slices.
#[derive(Debug)]
struct Streamed {
    /// Destination in the unit's ring slot and bytes.
    uploads: Vec<(Buffer, u64, Vec<u8>)>,
}

/// An adapter playing its part of a plan.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) device: Device,
    step: Buffer,
    activations: Vec<Option<Buffer>>,
    vectors: HashMap<VectorId, Buffer>,
    states: HashMap<TensorId, Buffer>,
    streamed: HashMap<usize, Streamed>,
    /// By node, then by phase: its dispatches, where this adapter computes it.
    dispatches: Vec<[Vec<Dispatch>; 2]>,
    readback: Readback,
    weight_bytes: u64,
    kv_bytes: u64,
    other_bytes: u64,
}

/// What a lane is made from.
#[derive(Clone, Copy)]
pub(super) struct LanePlan<'a> {
    pub(super) graph: &'a Graph,
    pub(super) buffers: &'a Buffers,
    pub(super) plan: &'a Plan,
    pub(super) adapter: AdapterId,
    /// The largest forward.
    pub(super) extents: Extents,
}

impl LanePlan<'_> {
    fn units(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.graph.units.len()).filter(|unit| self.plan.placements[*unit].adapter == self.adapter)
    }

    fn nodes(&self) -> impl Iterator<Item = usize> + '_ {
        self.units().flat_map(|unit| self.graph.units[unit].nodes.clone())
    }

    fn operands(&self) -> BTreeSet<TensorId> {
        self.nodes()
            .flat_map(|node| {
                let node = &self.graph.nodes[node];
                node.inputs.iter().chain(&node.outputs).copied()
            })
            .collect()
    }
}

impl Lane {
    /// Allocates everything, loads the weights and makes the dispatches; `progress` is told of bytes loaded.
    pub(super) fn new(
        device: Device,
        plan: &LanePlan<'_>,
        source: WeightSource<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, ExecError> {
        let step = device.buffer("step", size_of::<Step>() as u64, Usage::Uniform)?;
        let crossing = plan.units().map(|unit| plan.graph.units[unit].output);
        let largest = crossing.filter_map(|id| plan.graph.activation(id)).map(|ty| ty.bytes(plan.extents)).max();
        let readback = device.readback("readback", largest.unwrap_or(0))?;
        let mut lane = Self {
            step,
            activations: vec![None; plan.buffers.slots.len()],
            vectors: HashMap::new(),
            states: HashMap::new(),
            streamed: HashMap::new(),
            dispatches: (0..plan.graph.nodes.len()).map(|_| [Vec::new(), Vec::new()]).collect(),
            weight_bytes: 0,
            kv_bytes: 0,
            other_bytes: readback.bytes(),
            readback,
            device,
        };
        lane.allocate(plan, source)?;
        let mut weights = HashMap::new();
        let mut pending = 0;
        for unit in plan.units() {
            match plan.plan.placements[unit].residency {
                Residency::Resident => {
                    for weight in &plan.graph.units[unit].weights {
                        // A tied head finds the embedding already there.
                        let resident = weights.contains_key(&(None, *weight));
                        if !resident {
                            let placed = lane.load(plan.graph, *weight, source, &mut pending, progress)?;
                            weights.insert((None, *weight), placed);
                        }
                    }
                }
                Residency::Streamed => {}
            }
        }
        lane.load_streamed(plan, source, &mut weights, progress)?;
        lane.device.flush()?;
        lane.record(plan, &weights)?;
        Ok(lane)
    }

    /// Activations, vectors and KV cache.
    fn allocate(&mut self, plan: &LanePlan<'_>, source: WeightSource<'_>) -> Result<(), ExecError> {
        for id in plan.operands() {
            let tensor = &plan.graph.tensors[id.0];
            match &tensor.kind {
                TensorKind::Activation(ty) => {
                    let slot = plan.buffers.slot_of[id.0].expect("every activation has a slot");
                    if self.activations[slot].is_none() {
                        let buffer = self.device.buffer(&tensor.name, ty.bytes(plan.extents), Usage::Activations)?;
                        self.other_bytes += buffer.bytes();
                        self.activations[slot] = Some(buffer);
                    }
                }
                TensorKind::State(state) => {
                    let buffer = self.device.buffer(&tensor.name, state.bytes(), Usage::Activations)?;
                    self.kv_bytes += buffer.bytes();
                    self.states.insert(id, buffer);
                }
                TensorKind::Vector(vector) => {
                    let values = source.vector(&plan.graph.vectors[vector.0])?;
                    let bytes: &[u8] = bytemuck::cast_slice(&values);
                    let buffer = self.device.buffer(&tensor.name, bytes.len() as u64, Usage::Weights)?;
                    self.device.write(&buffer, 0, bytes);
                    self.weight_bytes += buffer.bytes();
                    self.vectors.insert(*vector, buffer);
                }
                TensorKind::Weight(_) => {}
            }
        }
        Ok(())
    }

    /// Loads a resident weight, slice by slice, piece by piece.
    fn load(
        &mut self,
        graph: &Graph,
        id: WeightId,
        source: WeightSource<'_>,
        pending: &mut u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Placed, ExecError> {
        let weight = &graph.weights[id.0];
        let slices = slices(weight, self.device.max_binding);
        let mut at = Vec::with_capacity(slices.len());
        for (first, layout) in &slices {
            let buffer = self.device.buffer(&weight.spec.label(), layout.bytes, Usage::Weights)?;
            self.weight_bytes += buffer.bytes();
            source.pieces(weight, *first..first + layout.rows, |piece| {
                for (offset, bytes) in spread(piece, *first, layout) {
                    self.device.write(&buffer, offset, bytes);
                    *pending += bytes.len() as u64;
                }
                progress(piece.bytes.len() as u64);
                if *pending >= FLUSH_BYTES {
                    *pending = 0;
                    self.device.flush()?;
                }
                Ok(())
            })?;
            at.push((buffer, 0));
        }
        Ok(Placed { ty: weight_type(graph, id, slices), at })
    }

    /// Packs the streamed units on the host and makes the ring that they come through.
    fn load_streamed(
        &mut self,
        plan: &LanePlan<'_>,
        source: WeightSource<'_>,
        weights: &mut HashMap<(Option<usize>, WeightId), Placed>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ExecError> {
        let streamed: Vec<usize> =
            plan.units().filter(|unit| plan.plan.placements[*unit].residency == Residency::Streamed).collect();
        let limit = self.device.max_binding;
        let slices_of = |id: &WeightId| slices(&plan.graph.weights[id.0], limit);
        // A slot's buffers are as large as the largest unit that passes through it.
        let mut sizes: Vec<Vec<u64>> = vec![Vec::new(); plan.plan.ring_slots];
        for unit in &streamed {
            let slot = plan.plan.slot_of(*unit).expect("a streamed unit has a slot");
            let layouts = plan.graph.units[*unit].weights.iter().flat_map(slices_of);
            for (index, (_, layout)) in layouts.enumerate() {
                match sizes[slot].get_mut(index) {
                    Some(size) => *size = layout.bytes.max(*size),
                    None => sizes[slot].push(layout.bytes),
                }
            }
        }
        let mut ring = Vec::with_capacity(sizes.len());
        for sizes in &sizes {
            let buffers = sizes.iter().map(|bytes| self.device.buffer("ring slot", *bytes, Usage::Weights));
            ring.push(buffers.collect::<Result<Vec<Buffer>, _>>()?);
        }
        self.weight_bytes += ring.iter().flatten().map(Buffer::bytes).sum::<u64>();
        for unit in streamed {
            let slot = plan.plan.slot_of(unit).expect("a streamed unit has a slot");
            let mut free = ring[slot].iter();
            let mut uploads = Vec::new();
            for id in &plan.graph.units[unit].weights {
                let slices = slices_of(id);
                let packed = source.packed(&plan.graph.weights[id.0], &slices)?;
                let at: Vec<(Buffer, u64)> = free.by_ref().take(slices.len()).map(|b| (b.clone(), 0)).collect();
                for (bytes, (buffer, offset)) in packed.into_iter().zip(&at) {
                    progress(bytes.len() as u64);
                    uploads.push((buffer.clone(), *offset, bytes));
                }
                weights.insert((Some(unit), *id), Placed { ty: weight_type(plan.graph, *id, slices), at });
            }
            self.streamed.insert(unit, Streamed { uploads });
        }
        Ok(())
    }

    /// Chooses kernels, compiles them in parallel, allocates scratch, and makes every dispatch.
    fn record(
        &mut self,
        plan: &LanePlan<'_>,
        weights: &HashMap<(Option<usize>, WeightId), Placed>,
    ) -> Result<(), ExecError> {
        let mut chosen: Vec<(usize, usize, Phase, Vec<Kernel>)> = Vec::new();
        for unit in plan.units() {
            let streamed = plan.plan.placements[unit].residency == Residency::Streamed;
            let key = streamed.then_some(unit);
            for node in plan.graph.units[unit].nodes.clone() {
                let op = &plan.graph.nodes[node];
                let types = |ids: &[TensorId]| -> Vec<Operand> {
                    ids.iter().map(|id| operand(plan.graph, *id, |weight| &weights[&(key, weight)].ty)).collect()
                };
                let (inputs, outputs) = (types(&op.inputs), types(&op.outputs));
                for phase in [Phase::Decode, Phase::Prefill] {
                    let call = Call { phase, inputs: &inputs, outputs: &outputs, traits: &self.device.traits };
                    chosen.push((unit, node, phase, op.op.kernels(&call)));
                }
            }
        }
        let all: Vec<Kernel> = chosen.iter().flat_map(|(_, _, _, kernels)| kernels.clone()).collect();
        self.device.compile(&all)?;
        let scratch = self.scratch(&all)?;
        for (unit, node, phase, kernels) in chosen {
            let streamed = plan.plan.placements[unit].residency == Residency::Streamed;
            let key = streamed.then_some(unit);
            let op = &plan.graph.nodes[node];
            let mut made = Vec::with_capacity(kernels.len());
            for kernel in &kernels {
                let dispatch = self.device.dispatch(kernel, &self.step, |bind| match bind {
                    Bind::Input(n) => self.tensor(plan, op.inputs[n]).whole(),
                    Bind::Output(n) => self.tensor(plan, op.outputs[n]).whole(),
                    Bind::Scratch(n) => scratch[n].whole(),
                    Bind::Weight { input, slice, region } => {
                        let TensorKind::Weight(id) = plan.graph.tensors[op.inputs[input].0].kind else {
                            panic!("input {input} of {op:?} is bound as a weight")
                        };
                        weight_part(&weights[&(key, id)], slice, region)
                    }
                })?;
                made.push(dispatch);
            }
            self.dispatches[node][phase as usize] = made;
        }
        Ok(())
    }

    fn scratch(&mut self, kernels: &[Kernel]) -> Result<Vec<Buffer>, ExecError> {
        let count = kernels.iter().map(|kernel| kernel.scratch.len()).max().unwrap_or(0);
        let mut buffers = Vec::with_capacity(count);
        for index in 0..count {
            let bytes = kernels.iter().filter_map(|kernel| kernel.scratch.get(index)).max();
            let buffer = self.device.buffer("scratch", *bytes.expect("some kernel has it"), Usage::Activations)?;
            self.other_bytes += buffer.bytes();
            buffers.push(buffer);
        }
        Ok(buffers)
    }

    /// The buffer of a tensor that is not a weight.
    fn tensor(&self, plan: &LanePlan<'_>, id: TensorId) -> &Buffer {
        match &plan.graph.tensors[id.0].kind {
            TensorKind::Activation(_) => self.activation(plan.buffers, id),
            TensorKind::Vector(vector) => &self.vectors[vector],
            TensorKind::State(_) => &self.states[&id],
            TensorKind::Weight(_) => panic!("weights are bound by slice and region"),
        }
    }

    fn activation(&self, buffers: &Buffers, id: TensorId) -> &Buffer {
        let slot = buffers.slot_of[id.0].expect("every activation has a slot");
        self.activations[slot].as_ref().expect("allocated for every operand of this lane")
    }

    /// Tells the lane what the next submissions compute.
    pub(super) fn begin(&self, step: Step) {
        self.device.write(&self.step, 0, bytemuck::bytes_of(&step));
    }

    /// Writes an activation from the host.
    pub(super) fn write(&self, buffers: &Buffers, id: TensorId, bytes: &[u8]) {
        self.device.write(self.activation(buffers, id), 0, bytes);
    }

    /// Fills the ring slot of a streamed unit.
    pub(super) fn upload(&self, unit: usize) {
        for (buffer, offset, bytes) in &self.streamed[&unit].uploads {
            self.device.write(buffer, *offset, bytes);
        }
    }

    /// Submits nodes in one compute pass; where `fetch` names an activation and its bytes, copies it for [`Self::read`].
    pub(super) fn submit(
        &self,
        graph: &Graph,
        buffers: &Buffers,
        nodes: Range<usize>,
        step: Step,
        fetch: Option<(TensorId, u64)>,
    ) -> Result<(), ExecError> {
        let dispatches = nodes.flat_map(|node| &self.dispatches[node][phase(graph, node, step) as usize]);
        let results: Vec<(&Buffer, u64, u64)> =
            fetch.iter().map(|(id, bytes)| (self.activation(buffers, *id), 0, *bytes)).collect();
        Ok(self.device.submit(step, dispatches, &results, fetch.map(|_| &self.readback))?)
    }

    /// Waits for a submission that fetched `bytes`, and reads them.
    pub(super) fn read<R>(&self, bytes: u64, read: impl FnOnce(&[u8]) -> R) -> Result<R, ExecError> {
        Ok(self.device.read(&self.readback, bytes, read)?)
    }

    /// What the lane holds on its adapter.
    pub(super) fn memory(&self) -> MemoryUse {
        MemoryUse {
            place: self.device.info.name.clone(),
            weights: self.weight_bytes,
            kv_cache: self.kv_bytes,
            other: self.other_bytes,
        }
    }

    /// Packed bytes kept on the host for streaming.
    pub(super) fn host_bytes(&self) -> u64 {
        let uploads = self.streamed.values().flat_map(|streamed| &streamed.uploads);
        uploads.map(|(_, _, bytes)| bytes.len() as u64).sum()
    }
}

/// One row or several, by what the node's output has.
fn phase(graph: &Graph, node: usize, step: Step) -> Phase {
    let rows = graph.activation(graph.nodes[node].outputs[0]).and_then(|ty| ty.shape.first().copied());
    match rows.unwrap_or(Dim::Tokens).length(step.extents()) {
        1 => Phase::Decode,
        _ => Phase::Prefill,
    }
}

fn weight_type(graph: &Graph, id: WeightId, slices: Vec<(usize, crate::quant::PackedLayout)>) -> WeightType {
    let weight = &graph.weights[id.0];
    WeightType { format: weight.format, rows: weight.spec.rows(), cols: weight.spec.cols, slices }
}

fn weight_part(placed: &Placed, slice: usize, region: usize) -> BufferPart<'_> {
    let (buffer, offset) = &placed.at[slice];
    let range = &placed.ty.slices[slice].1.regions[region];
    buffer.part(offset + range.start, range.end - range.start)
}

/// The type of a tensor as an op's operand.
pub(super) fn operand<'w>(graph: &Graph, id: TensorId, weight: impl FnOnce(WeightId) -> &'w WeightType) -> Operand {
    match &graph.tensors[id.0].kind {
        TensorKind::Activation(ty) => Operand::Activation(TensorType::clone(ty)),
        TensorKind::Weight(id) => Operand::Weight(weight(*id).clone()),
        TensorKind::Vector(id) => Operand::Vector(graph.vectors[id.0].len()),
        TensorKind::State(state) => Operand::State(*state),
    }
}
