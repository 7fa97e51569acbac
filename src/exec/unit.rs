//! One unit of a graph by itself: what it reads goes in, any activation that it makes comes out.
//!
//! For whoever looks into a model layer by layer (calibration): only one unit's weights are loaded, and the next unit
//! takes its place. Plays the same kernels as the executors. Does not look at logits. Invariant: each run is a text of
//! its own, from position 0.

use std::sync::Arc;

use super::build::{Allocated, LanePlan};
use super::handover::Ending;
use super::host::{Activations, HostMemory};
use super::lane::{Lane, Pass};
use super::open::open_device;
use super::packed::PackedSource;
use super::{ExecError, ExecOptions, Gram, WeightSource};
use crate::gpu::{AdapterChoice, Device, GpuError, adapters, choose};
use crate::graph::{Buffers, Graph, TensorId, TensorKind, assign_buffers};
use crate::ops::Step;
use crate::plan::{AdapterLimits, Placement, Plan, Residency, unit_costs};
use crate::tensor::Extents;

/// Where units run, one after the other.
#[derive(Debug)]
pub enum UnitPlace {
    /// Each op by its reference.
    Host,
    /// On an adapter.
    Adapter(Box<Device>),
}

/// What a unit reads.
#[derive(Debug, Clone, Copy)]
pub enum UnitInput<'a> {
    /// Token ids: the embedding.
    Tokens(&'a [u32]),
    /// f32 `(tokens, hidden_size)`: all others.
    Hidden(&'a [f32]),
}

impl UnitPlace {
    /// The first adapter of the options; the host where they say so or where there is none.
    ///
    /// # Errors
    /// No such adapter, or one that can't be opened.
    pub fn open(options: &ExecOptions) -> Result<Self, ExecError> {
        if options.adapter == AdapterChoice::Host {
            return Ok(Self::Host);
        }
        match choose(&options.adapter, &adapters()) {
            Err(GpuError::NoAdapter) if options.adapter == AdapterChoice::Default => Ok(Self::Host),
            found => Ok(Self::Adapter(Box::new(open_device(found?[0].index, options.device, options)?))),
        }
    }

    /// The adapter's name, or `host`.
    pub fn name(&self) -> &str {
        match self {
            Self::Host => "host",
            Self::Adapter(device) => &device.info.name,
        }
    }
}

/// A unit, loaded.
#[derive(Debug)]
pub struct UnitRunner<'g> {
    graph: &'g Graph,
    unit: usize,
    tokens: u32,
    loaded: Loaded,
}

#[derive(Debug)]
enum Loaded {
    Host(HostMemory),
    Adapter(Box<Lane>, Buffers),
}

impl<'g> UnitRunner<'g> {
    /// Loads a unit for runs of `tokens` tokens.
    ///
    /// # Errors
    /// A checkpoint that can't be read, or a device that refuses a buffer or a kernel.
    pub fn new(
        place: UnitPlace,
        graph: &'g Graph,
        unit: usize,
        tokens: u32,
        source: WeightSource<'_>,
    ) -> Result<Self, ExecError> {
        let packing = source.packing(graph, &[], &mut |_| ())?;
        let loaded = match place {
            UnitPlace::Host => {
                let nodes = graph.units[unit].nodes.clone();
                Loaded::Host(HostMemory::load(graph, nodes, source, &**packing.source(), &mut |_| ())?)
            }
            UnitPlace::Adapter(device) => {
                let buffers = assign_buffers(graph);
                let lane = lane(*device, graph, &buffers, (unit, tokens), source, packing.source())?;
                lane.device.save_pipelines();
                Loaded::Adapter(Box::new(lane), buffers)
            }
        };
        Ok(Self { graph, unit, tokens, loaded })
    }

    /// Runs the unit's nodes before `end` (its own number in the graph) and returns an activation that they made, or
    /// the input where that is what is asked for.
    ///
    /// # Errors
    /// A lost device.
    ///
    /// # Panics
    /// If the input is not as long as the unit was loaded for, or no node makes the activation: a caller's mistake.
    pub fn run(&mut self, input: UnitInput<'_>, end: usize, wanted: TensorId) -> Result<Vec<f32>, ExecError> {
        let (unit, step) = (&self.graph.units[self.unit], Step::new(self.tokens, 0, 0));
        let nodes = unit.nodes.start..end;
        match input {
            UnitInput::Hidden(hidden) if wanted == unit.input => return Ok(hidden.to_vec()),
            UnitInput::Hidden(hidden) => assert_eq!(hidden.len() as u64 * 4, self.bytes(unit.input), "the input"),
            UnitInput::Tokens(tokens) => assert_eq!(tokens.len(), self.tokens as usize, "the input"),
        }
        match &mut self.loaded {
            Loaded::Host(memory) => {
                let mut activations = Activations::new();
                let tokens = match input {
                    UnitInput::Tokens(tokens) => tokens,
                    UnitInput::Hidden(hidden) => {
                        activations.insert(unit.input, hidden.to_vec());
                        &[]
                    }
                };
                memory.play(self.graph, nodes, tokens, step, &mut activations);
                Ok(activations.remove(&wanted).expect("a node of the unit makes it"))
            }
            Loaded::Adapter(lane, buffers) => {
                let bytes = match input {
                    UnitInput::Tokens(tokens) => bytemuck::cast_slice(tokens),
                    UnitInput::Hidden(hidden) => bytemuck::cast_slice(hidden),
                };
                lane.begin(step);
                lane.write(buffers, unit.input, bytes);
                let fetched = activation_bytes(self.graph, wanted, self.tokens);
                let ending = Ending::Fetch { id: wanted, bytes: fetched, spare: false };
                lane.submit(self.graph, buffers, nodes, Pass::whole(step), ending)?;
                lane.read(false, fetched, bytemuck::pod_collect_to_vec)
            }
        }
    }

    /// Sums of products of rows of `width`, on the same place.
    ///
    /// # Errors
    /// A device that refuses a buffer or a kernel.
    pub fn gram(&self, width: usize) -> Result<Gram, ExecError> {
        match &self.loaded {
            Loaded::Adapter(lane, _) if Gram::suits(&lane.device, width) => {
                match Gram::on_adapter(&lane.device, width, self.tokens as usize) {
                    // The host has more.
                    Err(ExecError::Gpu(GpuError::OutOfMemory { .. })) => Ok(Gram::on_host(width)),
                    made => made,
                }
            }
            _ => Ok(Gram::on_host(width)),
        }
    }

    /// The adapter it is on; none on the host.
    pub fn device(&self) -> Option<&Device> {
        match &self.loaded {
            Loaded::Host(_) => None,
            Loaded::Adapter(lane, _) => Some(&lane.device),
        }
    }

    /// Unloads the unit.
    pub fn into_place(self) -> UnitPlace {
        match self.loaded {
            Loaded::Host(_) => UnitPlace::Host,
            Loaded::Adapter(lane, _) => UnitPlace::Adapter(Box::new(lane.device)),
        }
    }

    fn bytes(&self, id: TensorId) -> u64 {
        activation_bytes(self.graph, id, self.tokens)
    }
}

fn activation_bytes(graph: &Graph, id: TensorId, tokens: u32) -> u64 {
    let ty = graph.activation(id).expect("only activations go in and come out");
    ty.bytes(Extents { tokens, logit_rows: 0 })
}

/// A lane that holds one unit and can read back any of its activations.
fn lane(
    device: Device,
    graph: &Graph,
    buffers: &Buffers,
    (unit, tokens): (usize, u32),
    source: WeightSource<'_>,
    packed: &Arc<dyn PackedSource>,
) -> Result<Lane, ExecError> {
    let elsewhere = Placement { adapter: 1, residency: Residency::Resident };
    let mut plan = Plan { placements: vec![elsewhere; graph.units.len()], ..Plan::single(0) };
    plan.placements[unit].adapter = 0;
    let extents = Extents { tokens, logit_rows: 1 };
    let limits = AdapterLimits { max_binding: device.max_binding, traits: &device.traits };
    let mut bytes = plan.adapter_bytes(&unit_costs(graph, buffers, extents, limits), 0);
    let nodes = &graph.nodes[graph.units[unit].nodes.clone()];
    let made = nodes.iter().flat_map(|node| &node.outputs);
    let activations = made.filter(|id| matches!(graph.tensors[id.0].kind, TensorKind::Activation(_)));
    bytes.readback = activations.map(|id| activation_bytes(graph, *id, tokens)).fold(bytes.readback, u64::max);
    let plan = LanePlan { graph, buffers, plan: &plan, adapter: 0, extents, bytes, looked_into: true };
    let allocated = Allocated::new(device, plan).map_err(|(_, error)| error)?;
    allocated.load(source, packed, &mut |_| ())
}
