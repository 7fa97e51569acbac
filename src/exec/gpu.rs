//! The executor on adapters: plays a plan's steps.

use std::sync::atomic::{AtomicBool, Ordering};

use super::build::{Allocated, LanePlan};
use super::lane::Lane;
use super::load::WeightSource;
use super::{Batch, ExecError, Executor, KernelTime, LogitRows, Logits, MemoryUse, check_batch};
use crate::gpu::{Device, Timed};
use crate::graph::{Buffers, Graph, assign_buffers};
use crate::ops::Step;
use crate::plan::{AdapterId, AdapterLimits, Plan, PlanStep, largest_forward, unit_costs};
use crate::tensor::Extents;

/// How to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuOptions {
    /// Tokens of one prefill forward.
    pub prefill_chunk: u32,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { prefill_chunk: 512 }
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
    graph: Graph,
    buffers: Buffers,
    steps: Vec<PlanStep>,
    lanes: Vec<Lane>,
    /// The largest forward.
    extents: Extents,
    position: u32,
}

impl GpuExecutor {
    /// Places the graph's weights as the plan says, on these devices in the plan's order. `progress` is told of
    /// bytes loaded.
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
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, ExecError> {
        let bindings = devices.iter().map(|device| device.max_binding);
        let extents = largest_forward(&graph, options.prefill_chunk, bindings);
        Self::build(graph, plan, devices, source, extents, progress).map_err(|refusal| refusal.error)
    }

    /// As [`Self::new`] for a known largest forward; an error says on which adapter, and what that one did hold.
    pub(super) fn build(
        graph: Graph,
        plan: &Plan,
        devices: Vec<Device>,
        source: WeightSource<'_>,
        extents: Extents,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, Refusal> {
        assert!(devices.len() >= plan.adapters(), "a plan for {} adapters needs as many devices", plan.adapters());
        let buffers = assign_buffers(&graph);
        let mut allocated = Vec::with_capacity(devices.len());
        for (adapter, device) in devices.into_iter().enumerate() {
            let limits = AdapterLimits { max_binding: device.max_binding, traits: &device.traits };
            let bytes = plan.adapter_bytes(&unit_costs(&graph, &buffers, extents, limits), adapter);
            let plan = LanePlan { graph: &graph, buffers: &buffers, plan, adapter, extents, bytes };
            let lane = Allocated::new(device, plan);
            allocated.push(lane.map_err(|(held, error)| Refusal { adapter, held, error })?);
        }
        let mut lanes = Vec::with_capacity(allocated.len());
        for (adapter, lane) in allocated.into_iter().enumerate() {
            let lane = lane.load(source, progress);
            lanes.push(lane.map_err(|error| Refusal { adapter, held: 0, error })?);
        }
        Ok(Self { steps: plan.steps(), graph, buffers, lanes, extents, position: 0 })
    }

    /// One chunk through every step; logits are fetched where the step wants rows of them. `false` when cancelled
    /// before the last one.
    fn play(&self, tokens: &[u32], step: Step, cancel: &AtomicBool, values: &mut Vec<f32>) -> Result<bool, ExecError> {
        let wants_logits = step.logit_rows > 0;
        self.lanes.iter().for_each(|lane| lane.begin(step));
        self.lanes[self.first_lane()].write(&self.buffers, self.graph.tokens, bytemuck::cast_slice(tokens));
        for (index, plan_step) in self.steps.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
            match plan_step {
                PlanStep::Upload { unit, adapter, .. } => self.lanes[*adapter].upload(*unit)?,
                PlanStep::Compute { adapter, units } => {
                    // A chunk whose logits nobody wants skips the head, which is the last unit.
                    let end = if wants_logits { units.end } else { units.end.min(self.graph.units.len() - 1) };
                    if units.start < end {
                        let nodes = self.graph.units[units.start].nodes.start..self.graph.units[end - 1].nodes.end;
                        let fetch = self.fetched(self.steps.get(index + 1), step);
                        self.lanes[*adapter].submit(&self.graph, &self.buffers, nodes, step, fetch)?;
                    }
                }
                PlanStep::Transfer { after, from, to } => {
                    let id = self.graph.units[*after].output;
                    // The head alone on the next adapter has nothing to do.
                    if wants_logits || *after + 2 < self.graph.units.len() {
                        let bytes = self.bytes(id, step);
                        self.lanes[*from].read(bytes, |bytes| self.lanes[*to].write(&self.buffers, id, bytes))?;
                    }
                }
                PlanStep::Readback { from } if wants_logits => {
                    let bytes = self.bytes(self.graph.logits, step);
                    let read = |bytes: &[u8]| values.extend_from_slice(bytemuck::cast_slice(bytes));
                    self.lanes[*from].read(bytes, read)?;
                }
                PlanStep::Readback { .. } => {}
            }
        }
        Ok(true)
    }

    /// What the step after a compute wants of it.
    fn fetched(&self, next: Option<&PlanStep>, step: Step) -> Option<(crate::graph::TensorId, u64)> {
        let id = match next? {
            PlanStep::Transfer { after, .. } => self.graph.units[*after].output,
            PlanStep::Readback { .. } if step.logit_rows > 0 => self.graph.logits,
            _ => return None,
        };
        Some((id, self.bytes(id, step)))
    }

    fn bytes(&self, id: crate::graph::TensorId, step: Step) -> u64 {
        self.graph.activation(id).expect("only activations are fetched").bytes(step.extents())
    }

    fn first_lane(&self) -> usize {
        let compute = self.steps.iter().find_map(|step| match step {
            PlanStep::Compute { adapter, .. } => Some(*adapter),
            _ => None,
        });
        compute.expect("a plan computes something")
    }
}

impl Executor for GpuExecutor {
    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits, ExecError> {
        let logits = self.forward_unless(batch, &AtomicBool::new(false))?;
        Ok(logits.expect("nobody else can set the flag"))
    }

    fn forward_unless(&mut self, batch: &Batch<'_>, cancel: &AtomicBool) -> Result<Option<Logits>, ExecError> {
        check_batch(batch, self.position, self.context_length(), self.vocab_size_in())?;
        let chunk = match batch.logits {
            LogitRows::Last => self.extents.tokens,
            LogitRows::All => self.extents.logit_rows,
        };
        // What the batch overwrites is gone even if the forward fails half-way.
        self.position = batch.position;
        let mut values = Vec::new();
        let mut position = batch.position;
        let chunks = batch.tokens.chunks(chunk as usize);
        let last = chunks.len() - 1;
        for (index, tokens) in chunks.enumerate() {
            let logit_rows = match batch.logits {
                LogitRows::All => tokens.len() as u32,
                LogitRows::Last => u32::from(index == last),
            };
            let step = Step::new(tokens.len() as u32, position, logit_rows);
            if !self.play(tokens, step, cancel, &mut values)? {
                return Ok(None);
            }
            position += tokens.len() as u32;
        }
        self.position = position;
        Ok(Some(Logits { values, vocab_size: self.vocab_size() }))
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
        let weights: u64 = self.lanes.iter().map(Lane::host_bytes).sum();
        if weights > 0 {
            places.push(MemoryUse { place: "host".into(), weights, kv_cache: 0, other: 0 });
        }
        places
    }

    fn profile(&mut self, batch: &Batch<'_>) -> Result<Vec<KernelTime>, ExecError> {
        check_batch(batch, self.position, self.context_length(), self.vocab_size_in())?;
        let at_once =
            self.steps.iter().all(|step| matches!(step, PlanStep::Compute { .. } | PlanStep::Readback { .. }));
        if !at_once || batch.tokens.len() > self.extents.tokens as usize {
            return Err(ExecError::NoProfile);
        }
        let lane = &self.lanes[self.first_lane()];
        let step = Step::new(batch.tokens.len() as u32, batch.position, 1);
        self.position = batch.position;
        lane.begin(step);
        lane.write(&self.buffers, self.graph.tokens, bytemuck::cast_slice(batch.tokens));
        let times = lane.time(&self.graph, 0..self.graph.nodes.len(), step)?;
        self.position += batch.tokens.len() as u32;
        let named = |(node, timed): (usize, Timed)| {
            let result = self.graph.nodes[node].outputs[0];
            let result = self.graph.tensors[result.0].name.clone();
            KernelTime { result, kernel: timed.kernel, seconds: timed.seconds }
        };
        Ok(times.into_iter().map(named).collect())
    }
}

impl GpuExecutor {
    fn vocab_size_in(&self) -> usize {
        self.graph.vocab_size
    }
}
