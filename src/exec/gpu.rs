//! The executor on adapters: plays a plan's steps.

use std::sync::atomic::AtomicBool;

use super::ahead::{Next, Ticket};
use super::build::{Allocated, LanePlan};
use super::chooser::{Chooser, ChooserBuffers};
use super::lane::{Lane, Pass};
use super::load::WeightSource;
use super::play::{Chunk, Play, first_lane};
use super::{Batch, ExecError, Executor, KernelTime, LogitRows, Logits, MemoryUse, Profile, Progress, check_batch};
use crate::gpu::{Device, GpuError, Timed};
use crate::graph::{Buffers, Graph, WeightId, assign_buffers};
use crate::ops::{Chosen, Step};
use crate::plan::{
    AdapterId, AdapterLimits, LEAST_PIECE, OffloadMode, Plan, PlanStep, Residency, chunks, largest_forward, pieces,
    unit_costs,
};
use crate::sampler::Rule;
use crate::tensor::Extents;

/// How to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuOptions {
    /// Tokens of one prefill forward.
    pub prefill_chunk: u32,
    /// Several adapters take it in pieces, none below so many tokens.
    pub least_piece: u32,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { prefill_chunk: 512, least_piece: LEAST_PIECE }
    }
}

/// An adapter that did not take its part of a plan.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) adapter: AdapterId,
    /// Bytes it had taken before.
    pub(super) held: u64,
    pub(super) error: ExecError,
}

/// Computes on one or several adapters.
#[derive(Debug)]
pub struct GpuExecutor {
    pub(super) graph: Graph,
    pub(super) buffers: Buffers,
    pub(super) steps: Vec<PlanStep>,
    pub(super) lanes: Vec<Lane>,
    pub(super) chooser: Chooser,
    /// The largest forward.
    extents: Extents,
    /// Adapters that a prefill chunk is cut into pieces for.
    sharing: usize,
    least_piece: u32,
    pub(super) position: u32,
}

impl GpuExecutor {
    /// Places the graph's weights as the plan says, on these devices in the plan's order.
    ///
    /// # Errors
    /// A device that refuses a buffer or a kernel, or a checkpoint that can't be read.
    ///
    /// # Panics
    /// If there are fewer devices than the plan uses: a caller's mistake.
    pub fn new(
        graph: Graph,
        plan: &Plan,
        devices: Vec<Device>,
        source: WeightSource<'_>,
        options: GpuOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ExecError> {
        let extents = largest_forward(&graph, options.prefill_chunk, devices.iter().map(limits));
        Self::build(graph, plan, devices, source, (extents, options.least_piece), progress)
            .map_err(|refusal| refusal.error)
    }

    /// As [`Self::new`] for a known largest forward and least piece of it; an error says on which adapter, and what that
    /// one did hold.
    pub(super) fn build(
        graph: Graph,
        plan: &Plan,
        devices: Vec<Device>,
        source: WeightSource<'_>,
        (extents, least_piece): (Extents, u32),
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Refusal> {
        assert!(devices.len() >= plan.adapters(), "a plan for {} adapters needs as many devices", plan.adapters());
        let buffers = assign_buffers(&graph);
        let mut allocated = Vec::with_capacity(devices.len());
        for (adapter, device) in devices.into_iter().enumerate() {
            let bytes = plan.adapter_bytes(&unit_costs(&graph, &buffers, extents, limits(&device)), adapter);
            let plan = LanePlan { graph: &graph, buffers: &buffers, plan, adapter, extents, bytes, looked_into: false };
            let lane = Allocated::new(device, plan);
            allocated.push(lane.map_err(|(held, error)| Refusal { adapter, held, error })?);
        }
        let last = plan.placements[graph.units.len() - 1].adapter;
        let refused = |error: GpuError, held| Refusal { adapter: last, held, error: error.into() };
        let device: &Device = allocated[last].device();
        let choice = ChooserBuffers::new(device).map_err(|error| refused(error, device.allocated()))?;
        let failed = |adapter| move |error| Refusal { adapter, held: 0, error };
        let packing = source.packing(&graph, &mapped(&graph, plan), progress).map_err(failed(0))?;
        let mut lanes = Vec::with_capacity(allocated.len());
        for (adapter, lane) in allocated.into_iter().enumerate() {
            lanes.push(lane.load(source, packing.source(), progress).map_err(failed(adapter))?);
        }
        packing.mend();
        let sharing = if plan.streams() { 1 } else { plan.adapters() };
        let chooser = Chooser::new(choice, plan, &lanes, &graph, &buffers).map_err(|error| refused(error, 0))?;
        Ok(Self { steps: plan.steps(), graph, buffers, lanes, chooser, extents, sharing, least_piece, position: 0 })
    }

    /// Its devices, in the plan's order, for another executor: pipelines stay compiled, buffers are freed.
    pub fn into_devices(self) -> Vec<Device> {
        drop(self.chooser);
        let mut devices: Vec<_> = self.lanes.into_iter().map(|lane| lane.device).collect();
        devices.iter_mut().for_each(Device::forget_buffers);
        devices
    }

    /// The chunks of a batch, in pieces where several adapters share it.
    fn chunks<'t>(&self, batch: &Batch<'t>) -> Vec<Chunk<'t>> {
        let longest = match batch.logits {
            LogitRows::Last => self.extents.tokens,
            LogitRows::All => self.extents.logit_rows,
        };
        let (mut rest, mut position) = (batch.tokens, batch.position);
        let mut made = Vec::new();
        let whole = chunks(batch.tokens.len() as u32, longest).into_iter();
        for length in whole.flat_map(|tokens| pieces(tokens, self.sharing, self.least_piece)) {
            let (tokens, others) = rest.split_at(length as usize);
            rest = others;
            let logit_rows = match batch.logits {
                LogitRows::All => length,
                LogitRows::Last => u32::from(rest.is_empty()),
            };
            made.push(Chunk {
                tokens,
                step: Step::new(length, position, logit_rows),
                batch: batch.tokens.len() as u32,
            });
            position += length;
        }
        made
    }
}

const fn limits(device: &Device) -> AdapterLimits<'_> {
    AdapterLimits { max_binding: device.max_binding, traits: &device.traits }
}

/// Weights that are read anew for every forward.
fn mapped(graph: &Graph, plan: &Plan) -> Vec<WeightId> {
    let units = graph.units.iter().zip(&plan.placements);
    let streamed = units.filter(|(_, placement)| {
        plan.offload_mode == OffloadMode::Mapped && placement.residency == Residency::Streamed
    });
    streamed.flat_map(|(unit, _)| unit.weights.iter().copied()).collect()
}

impl Executor for GpuExecutor {
    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits, ExecError> {
        let logits = self.forward_unless(batch, &AtomicBool::new(false))?;
        Ok(logits.expect("nobody else can set the flag"))
    }

    fn forward_unless(&mut self, batch: &Batch<'_>, cancel: &AtomicBool) -> Result<Option<Logits>, ExecError> {
        check_batch(batch, self.position, self.context_length(), self.vocab_size_in())?;
        // What the batch overwrites is gone even if the forward fails half-way.
        self.position = batch.position;
        self.chooser.interrupt();
        let Self { graph, buffers, steps, lanes, .. } = &*self;
        let play = Play { graph, buffers, steps, lanes, cancel, choice: None };
        let Some(values) = play.run(&self.chunks(batch))? else { return Ok(None) };
        self.position = batch.position + batch.tokens.len() as u32;
        Ok(Some(Logits { values, vocab_size: self.vocab_size() }))
    }

    fn ahead(&self) -> usize {
        self.decode_ahead()
    }

    fn queue(
        &mut self,
        next: Next<'_>,
        position: u32,
        rule: &Rule,
        cancel: &AtomicBool,
    ) -> Result<Option<Ticket>, ExecError> {
        self.queue_choice(next, position, rule, cancel)
    }

    fn take(&mut self, ticket: &Ticket) -> Result<Chosen, ExecError> {
        self.taken(ticket)
    }

    fn position(&self) -> u32 {
        self.position
    }

    fn context_length(&self) -> u32 {
        self.graph.context_length
    }

    fn vocab_size(&self) -> usize {
        self.graph.logits_width()
    }

    fn memory(&self) -> Vec<MemoryUse> {
        let mut places: Vec<MemoryUse> = self.lanes.iter().map(Lane::memory).collect();
        // Among the lane's buffers that are not its own.
        places[self.chooser.lane].weights -= self.chooser.bytes();
        places[self.chooser.lane].other += self.chooser.bytes();
        let weights: u64 = self.lanes.iter().map(Lane::host_bytes).sum();
        let other: u64 = self.lanes.iter().filter(|lane| lane.is_apart()).map(Lane::of_host).sum();
        if weights + other > 0 {
            places.push(MemoryUse { place: "host".into(), weights, kv_cache: 0, other });
        }
        places
    }

    fn check_profile(&self, tokens: u32) -> Result<(), ExecError> {
        let chunk = self.extents.tokens;
        match self.at_once() {
            false => Err(ExecError::NoProfile),
            true if tokens > chunk => Err(ExecError::LongProfile { tokens, chunk }),
            true => Ok(()),
        }
    }

    fn profile(&mut self, batch: &Batch<'_>) -> Result<Profile, ExecError> {
        check_batch(batch, self.position, self.context_length(), self.vocab_size_in())?;
        self.check_profile(batch.tokens.len() as u32)?;
        let lane = &self.lanes[first_lane(&self.steps)];
        let step = Step::new(batch.tokens.len() as u32, batch.position, 1);
        self.position = batch.position;
        self.chooser.interrupt();
        lane.begin(step);
        lane.write(&self.buffers, self.graph.tokens, bytemuck::cast_slice(batch.tokens));
        let (times, span) = lane.time(&self.graph, 0..self.graph.nodes.len(), Pass::whole(step))?;
        self.position += batch.tokens.len() as u32;
        let named = |(node, timed): (usize, Timed)| {
            let unit = self.graph.units.iter().find(|unit| unit.nodes.contains(&node)).expect("units cover all nodes");
            let result = self.graph.nodes[node].outputs[0];
            let (unit, result) = (unit.name.clone(), self.graph.tensors[result.0].name.clone());
            KernelTime { unit, result, kernel: timed.kernel, seconds: timed.seconds }
        };
        Ok(Profile { kernels: times.into_iter().map(named).collect(), span })
    }
}

impl GpuExecutor {
    /// Keeps what was compiled for it, where its devices were opened to.
    pub(super) fn save_pipelines(&self) {
        for lane in &self.lanes {
            lane.device.save_pipelines();
        }
    }

    /// Whether a forward is one submission: everything resident on one adapter.
    pub(super) fn at_once(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, PlanStep::Compute { .. } | PlanStep::Readback { .. }))
    }

    fn vocab_size_in(&self) -> usize {
        self.graph.vocab_size
    }
}
