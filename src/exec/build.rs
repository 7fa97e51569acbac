//! Making a lane: all buffers first, then the weights, then the dispatches.
//!
//! A plan that an adapter does not hold after all fails before anything is read from the checkpoint. Invariant: the
//! buffers made are those the plan counts.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use super::lane::{Lane, Placed, rows};
use super::load::WeightSource;
use super::overlap::bind_early;
use super::packed::{Fill, PackedSource, batches};
use super::stream::Stream;
use super::uploads::{Packed, Streamed};
use super::{ExecError, Progress};
use crate::gpu::{Buffer, BufferPart, Device, Dispatch, HostBuffer, HostUse, Readback, Usage};
use crate::graph::{Buffers, Graph, Node, TensorId, TensorKind, WeightId};
use crate::ops::{Bind, Kernel, Phase, Step};
use crate::plan::{
    AdapterBytes, AdapterId, NodeKernels, OffloadMode, Plan, Residency, unit_kernels, unit_kernels_apart, weight_type,
};
use crate::quant::PackedLayout;
use crate::tensor::Extents;

/// What a lane is made from.
#[derive(Clone, Copy)]
pub(super) struct LanePlan<'a> {
    pub(super) graph: &'a Graph,
    pub(super) buffers: &'a Buffers,
    pub(super) plan: &'a Plan,
    pub(super) adapter: AdapterId,
    /// The largest forward.
    pub(super) extents: Extents,
    pub(super) bytes: AdapterBytes,
    /// Whether activations within units are ever read back, as f32.
    pub(super) looked_into: bool,
}

impl LanePlan<'_> {
    fn units(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.graph.units.len()).filter(|unit| self.plan.placements[*unit].adapter == self.adapter)
    }

    fn streams(&self, unit: usize) -> bool {
        self.plan.placements[unit].residency == Residency::Streamed
    }

    fn pins(&self, unit: usize) -> bool {
        self.streams(unit) && self.plan.offload_mode == OffloadMode::Pinned
    }

    fn leaves_in_place(&self, unit: usize) -> bool {
        self.plan.placements[unit].residency == Residency::InPlace
    }

    /// What a unit's weights are found by: resident ones are the same for all units.
    fn key(&self, unit: usize) -> Option<usize> {
        (self.streams(unit) || self.leaves_in_place(unit)).then_some(unit)
    }
}

/// Where weights are: resident ones once, streamed ones by the unit whose ring slot they come through.
type Places = HashMap<(Option<usize>, WeightId), Placed>;

/// The kernels of a node in a phase.
struct Chosen {
    unit: usize,
    node: usize,
    phase: Phase,
    kernels: Vec<Kernel>,
}

/// A lane with its buffers, still empty.
pub(super) struct Allocated<'a> {
    lane: Lane,
    plan: LanePlan<'a>,
    places: Places,
    /// Host memory of pinned weights, by slice.
    pinned: HashMap<(usize, WeightId), Vec<HostBuffer>>,
    chosen: Vec<Chosen>,
}

impl<'a> Allocated<'a> {
    /// Makes every buffer that the plan counts. On failure also says how many bytes the device did hold.
    pub(super) fn new(device: Device, plan: LanePlan<'a>) -> Result<Self, (u64, ExecError)> {
        let lane = match empty_lane(&device, &plan) {
            Ok((step, readback, spare)) => Lane {
                step,
                readback,
                spare,
                activations: vec![None; plan.buffers.slots.len()],
                vectors: HashMap::new(),
                states: HashMap::new(),
                scratch: Vec::new(),
                in_place: Vec::new(),
                streamed: BTreeMap::new(),
                stream: None,
                due: Mutex::default(),
                dispatches: (0..plan.graph.nodes.len()).map(|_| Phase::ALL.map(|_| Vec::new())).collect(),
                planned: plan.bytes,
                device,
            },
            Err(error) => return Err((device.allocated(), error)),
        };
        let mut allocated = Self { lane, plan, places: Places::new(), pinned: HashMap::new(), chosen: Vec::new() };
        match allocated.allocate() {
            Ok(()) => Ok(allocated),
            Err(error) => Err((allocated.lane.device.allocated(), error)),
        }
    }

    /// The device it is on.
    pub(super) const fn device(&self) -> &Device {
        &self.lane.device
    }

    fn allocate(&mut self) -> Result<(), ExecError> {
        let (lane, plan) = (&mut self.lane, self.plan);
        let nodes = plan.units().flat_map(|unit| &plan.graph.nodes[plan.graph.units[unit].nodes.clone()]);
        for id in nodes.flat_map(|node| node.inputs.iter().chain(&node.outputs)) {
            lane.allocate_operand(&plan, *id)?;
        }
        for unit in plan.units().filter(|unit| plan.key(*unit).is_none()) {
            for id in &plan.graph.units[unit].weights {
                // A tied head finds the embedding already there.
                if let Entry::Vacant(place) = self.places.entry((None, *id)) {
                    place.insert(lane.allocate_weight(&plan, *id)?);
                }
            }
        }
        lane.allocate_ring(&plan, &mut self.places)?;
        for unit in plan.units().filter(|unit| plan.leaves_in_place(*unit)) {
            for id in &plan.graph.units[unit].weights {
                let ty = weight_type(&plan.graph.weights[id.0], lane.device.max_binding);
                self.places.insert((Some(unit), *id), Placed { ty, slices: Vec::new() });
            }
        }
        for unit in plan.units().filter(|unit| plan.pins(*unit) || plan.leaves_in_place(*unit)) {
            for id in &plan.graph.units[unit].weights {
                let (label, ty) = (plan.graph.weights[id.0].label(), &self.places[&(Some(unit), *id)].ty);
                let host = |layout: &PackedLayout| lane.device.host_buffer(&label, layout.bytes, HostUse::Weights);
                let slices = ty.slices.iter().map(|(_, layout)| host(layout)).collect::<Result<_, _>>()?;
                self.pinned.insert((unit, *id), slices);
            }
        }
        self.chosen = choose(lane, &plan, &self.places);
        lane.scratch = scratch(&lane.device, &self.chosen)?;
        Ok(())
    }

    /// Loads the weights and makes the dispatches.
    pub(super) fn load(
        mut self,
        source: WeightSource<'_>,
        packed: &Arc<dyn PackedSource>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Lane, ExecError> {
        let graph = self.plan.graph;
        let vectors = self.lane.vectors.iter().collect::<BTreeMap<_, _>>();
        for (id, buffer) in vectors {
            let values = source.vector(&graph.vectors[id.0])?;
            self.lane.stage(buffer, bytemuck::cast_slice(&values))?;
        }
        self.load_staged(packed, progress)?;
        let plan = self.plan;
        for unit in plan.units().filter(|unit| plan.pins(*unit) || plan.leaves_in_place(*unit)) {
            self.pin(unit, &**packed, progress)?;
        }
        self.record()?;
        Ok(self.lane)
    }

    /// Loads resident weights through a staging ring, which is kept where weights are streamed through it.
    fn load_staged(
        &mut self,
        packed: &Arc<dyn PackedSource>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ExecError> {
        let mapped = |unit: &usize| self.plan.streams(*unit) && !self.plan.pins(*unit);
        let streamed: Vec<usize> = self.plan.units().filter(mapped).collect();
        // In the order of the graph, which is about that of the file.
        let resident: BTreeMap<WeightId, &Placed> =
            self.places.iter().filter(|((unit, _), _)| unit.is_none()).map(|((_, id), placed)| (*id, placed)).collect();
        if resident.is_empty() && streamed.is_empty() {
            return Ok(());
        }
        let stream = Stream::new(&self.lane.device, self.plan.bytes.staging, packed.clone())?;
        let resident = resident.into_iter().flat_map(|(id, placed)| slices(id, placed));
        let all = batches(resident, stream.capacity());
        stream.start(all.clone());
        for batch in &all {
            let staged = stream.next(true)?.expect("who waits gets one");
            self.lane.device.copy(&stream.copies(&staged).collect::<Vec<_>>())?;
            stream.release(staged);
            progress(Progress::Loaded(batch.bytes));
        }
        for unit in &streamed {
            let weights = self.plan.graph.units[*unit].weights.iter();
            let all = weights.flat_map(|id| slices(*id, &self.places[&(Some(*unit), *id)]));
            let packed = Packed::Mapped(batches(all, stream.capacity()));
            self.lane.streamed.insert(*unit, self.streamed(*unit, packed, false));
        }
        self.lane.stream = (!streamed.is_empty()).then_some(stream);
        Ok(self.lane.device.flush()?)
    }

    /// Packs a unit's weights into host memory, where they stay.
    fn pin(
        &mut self,
        unit: usize,
        packed: &dyn PackedSource,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ExecError> {
        let mut kept = Vec::new();
        for id in &self.plan.graph.units[unit].weights {
            let (hosts, placed) = (&self.pinned[&(unit, *id)], &self.places[&(Some(unit), *id)]);
            self.lane.device.map_new(hosts)?;
            for (host, slice) in hosts.iter().zip(&placed.ty.slices) {
                Fill::slice(*id, Arc::new(slice.clone())).run(packed, host)?;
                host.unmap();
                progress(Progress::Loaded(host.bytes()));
            }
            match self.plan.leaves_in_place(unit) {
                true => self.lane.in_place.extend(hosts.iter().cloned()),
                false => kept.extend(hosts.iter().cloned().zip(placed.slices.iter().cloned())),
            }
        }
        if self.plan.leaves_in_place(unit) {
            return Ok(());
        }
        let in_place = self.reads_in_place();
        self.lane.streamed.insert(unit, self.streamed(unit, Packed::Pinned(kept), in_place));
        Ok(())
    }

    fn reads_in_place(&self) -> bool {
        self.plan.plan.in_place && self.lane.device.reads_host
    }

    fn streamed(&self, unit: usize, packed: Packed, in_place: bool) -> Streamed {
        let graph = self.plan.graph;
        let nodes = graph.units[unit].nodes.clone();
        let is_weight = |id: &TensorId| matches!(graph.tensors[id.0].kind, TensorKind::Weight(_));
        let weighs = |node: &usize| graph.nodes[*node].inputs.iter().any(is_weight);
        let rows = nodes.clone().filter(weighs).map(|node| rows(graph, node)).collect();
        Streamed { packed, nodes, rows, in_place }
    }

    /// Compiles all kernels in parallel and makes every dispatch.
    fn record(&mut self) -> Result<(), ExecError> {
        let all: Vec<Kernel> = self.chosen.iter().flat_map(|chosen| chosen.kernels.clone()).collect();
        self.lane.device.compile(&all)?;
        for (index, chosen) in self.chosen.iter().enumerate() {
            let known = self.chosen[..index].iter().rev().take_while(|other| other.node == chosen.node);
            // One row has buffers of its own.
            let row = |phase| phase == Phase::Decode;
            let mut alike = known.filter(|other| row(other.phase) == row(chosen.phase));
            let alike = alike.find(|other| other.kernels == chosen.kernels);
            let made = match alike {
                Some(other) => self.lane.dispatches[chosen.node][other.phase as usize].clone(),
                None => self.dispatches(chosen)?,
            };
            self.lane.dispatches[chosen.node][chosen.phase as usize] = made;
        }
        Ok(())
    }

    fn dispatches(&self, chosen: &Chosen) -> Result<Vec<Dispatch>, ExecError> {
        let key = self.plan.key(chosen.unit);
        let op = &self.plan.graph.nodes[chosen.node];
        let dispatch =
            |kernel| self.lane.device.dispatch(kernel, &self.lane.step, |bind| self.bind(op, key, chosen.phase, bind));
        Ok(chosen.kernels.iter().map(dispatch).collect::<Result<_, _>>()?)
    }

    fn bind(&self, op: &Node, key: Option<usize>, phase: Phase, bind: Bind) -> BufferPart<'_> {
        match bind {
            Bind::Input(n) => self.tensor(op.inputs[n], phase).whole(),
            Bind::Output(n) => self.tensor(op.outputs[n], phase).whole(),
            Bind::Scratch(n) => self.lane.scratch[n].whole(),
            Bind::Tensor(n) => self.tensor(TensorId(n), phase).whole(),
            Bind::Weight { input, slice, region } => self.weight(op.inputs[input], key, phase, (slice, region)),
            Bind::TensorWeight { tensor, slice, region } => self.weight(TensorId(tensor), key, phase, (slice, region)),
        }
    }

    /// A region of a slice of a weight, where this phase reads it.
    fn weight(
        &self,
        id: TensorId,
        key: Option<usize>,
        phase: Phase,
        (slice, region): (usize, usize),
    ) -> BufferPart<'_> {
        let TensorKind::Weight(id) = self.plan.graph.tensors[id.0].kind else { panic!("{id:?} is bound as a weight") };
        let placed = &self.places[&(key, id)];
        let range = &placed.ty.slices[slice].1.regions[region];
        let host = key.and_then(|unit| self.pinned.get(&(unit, id)));
        let stays = key.is_some_and(|unit| self.plan.leaves_in_place(unit));
        let buffer = match host.filter(|_| stays || phase == Phase::Decode && self.reads_in_place()) {
            Some(host) => host[slice].buffer(),
            None => &placed.slices[slice],
        };
        buffer.part(range.start, range.end - range.start)
    }

    /// The buffer of a tensor that is not a weight.
    fn tensor(&self, id: TensorId, phase: Phase) -> &Buffer {
        match &self.plan.graph.tensors[id.0].kind {
            TensorKind::Activation(_) => self.lane.activation(self.plan.buffers, id, phase),
            TensorKind::Vector(vector) => &self.lane.vectors[vector],
            TensorKind::State(_) => &self.lane.states[&id],
            TensorKind::Weight(_) => panic!("weights are bound by slice and region"),
        }
    }
}

fn empty_lane(device: &Device, plan: &LanePlan<'_>) -> Result<(Buffer, Readback, Option<Readback>), ExecError> {
    let step = device.buffer("step", size_of::<Step>() as u64, Usage::Uniform)?;
    let crossing = plan.bytes.crossing;
    let spare = (crossing > 0).then(|| device.readback("crossing", crossing)).transpose()?;
    Ok((step, device.readback("readback", plan.bytes.readback)?, spare))
}

impl Lane {
    /// The buffer of an activation, a state or a vector, where it has none yet.
    fn allocate_operand(&mut self, plan: &LanePlan<'_>, id: TensorId) -> Result<(), ExecError> {
        let tensor = &plan.graph.tensors[id.0];
        let new = |bytes, usage| self.device.buffer(&tensor.name, bytes, usage);
        match &tensor.kind {
            TensorKind::Activation(_) => {
                for slot in plan.buffers.slots_of(id) {
                    if self.activations[slot].is_none() {
                        let bytes = plan.buffers.slots[slot].bytes(plan.extents);
                        self.activations[slot] = Some(new(bytes, Usage::Activations)?);
                    }
                }
            }
            TensorKind::State(state) if !self.states.contains_key(&id) => {
                let buffer = new(state.bytes(), Usage::Activations)?;
                self.states.insert(id, buffer);
            }
            TensorKind::Vector(vector) if !self.vectors.contains_key(vector) => {
                let buffer = new(plan.graph.vectors[vector.0].len() as u64 * 4, Usage::Weights)?;
                self.vectors.insert(*vector, buffer);
            }
            _ => {}
        }
        Ok(())
    }

    /// A buffer for each slice of a resident weight.
    fn allocate_weight(&self, plan: &LanePlan<'_>, id: WeightId) -> Result<Placed, ExecError> {
        let weight = &plan.graph.weights[id.0];
        let ty = weight_type(weight, self.device.max_binding);
        let label = weight.label();
        let slices = ty.slices.iter().map(|(_, layout)| self.device.buffer(&label, layout.bytes, Usage::Weights));
        Ok(Placed { slices: slices.collect::<Result<_, _>>()?, ty })
    }

    /// The ring: each slot's buffers are as large as the largest unit that passes through it.
    fn allocate_ring(&self, plan: &LanePlan<'_>, places: &mut Places) -> Result<(), ExecError> {
        let slot_of = |unit| plan.plan.slot_of(unit).expect("a streamed unit has a slot");
        let types = |unit: usize| {
            let weights = plan.graph.units[unit].weights.iter();
            weights.map(|id| (*id, weight_type(&plan.graph.weights[id.0], self.device.max_binding)))
        };
        let mut sizes: Vec<Vec<u64>> = vec![Vec::new(); plan.plan.ring_slots];
        for unit in plan.units().filter(|unit| plan.streams(*unit)) {
            let sizes = &mut sizes[slot_of(unit)];
            for (index, (_, layout)) in types(unit).flat_map(|(_, ty)| ty.slices).enumerate() {
                match sizes.get_mut(index) {
                    Some(size) => *size = layout.bytes.max(*size),
                    None => sizes.push(layout.bytes),
                }
            }
        }
        let mut ring = Vec::with_capacity(sizes.len());
        for sizes in &sizes {
            let buffers = sizes.iter().map(|bytes| self.device.buffer("ring slot", *bytes, Usage::Weights));
            ring.push(buffers.collect::<Result<Vec<Buffer>, _>>()?);
        }
        for unit in plan.units().filter(|unit| plan.streams(*unit)) {
            let mut free = ring[slot_of(unit)].iter().cloned();
            for (id, ty) in types(unit) {
                let slices = free.by_ref().take(ty.slices.len()).collect();
                places.insert((Some(unit), id), Placed { ty, slices });
            }
        }
        Ok(())
    }
}

/// The kernels of every node of the lane, for each phase.
fn choose(lane: &Lane, plan: &LanePlan<'_>, places: &Places) -> Vec<Chosen> {
    let mut chosen = Vec::new();
    for unit in plan.units() {
        let key = plan.key(unit);
        let weight = |id| &places[&(key, id)].ty;
        let adapter = (&lane.device.traits, plan.extents);
        let (graph, of_unit) = (plan.graph, &plan.graph.units[unit]);
        let kernels = match plan.looked_into {
            true => unit_kernels_apart(graph, of_unit, adapter, weight),
            false => unit_kernels(graph, of_unit, adapter, weight),
        };
        let of = |NodeKernels { node, phase, kernels }| Chosen { unit, node, phase, kernels };
        chosen.extend(kernels.into_iter().map(of));
        let of_unit = chosen.iter_mut().filter(|chosen| chosen.unit == unit && chosen.phase == Phase::Decode);
        let mut rows: Vec<_> = of_unit.map(|chosen| &mut chosen.kernels).collect();
        bind_early(plan.graph, plan.graph.units[unit].nodes.clone(), &mut rows);
    }
    chosen
}

/// Scratch buffers, each as large as the kernel that needs most of it.
fn scratch(device: &Device, chosen: &[Chosen]) -> Result<Vec<Buffer>, ExecError> {
    let kernels = || chosen.iter().flat_map(|chosen| &chosen.kernels);
    let count = kernels().map(|kernel| kernel.scratch.len()).max().unwrap_or(0);
    let largest = |index| kernels().filter_map(|kernel| kernel.scratch.get(index)).max().copied().unwrap_or(0);
    let buffers = (0..count).map(|index| device.buffer("scratch", largest(index), Usage::Activations));
    Ok(buffers.collect::<Result<_, _>>()?)
}

/// The slices of a weight, each with its buffer.
fn slices(id: WeightId, placed: &Placed) -> impl Iterator<Item = (WeightId, (usize, PackedLayout), Buffer)> {
    placed.ty.slices.iter().zip(&placed.slices).map(move |(slice, buffer)| (id, slice.clone(), buffer.clone()))
}
