//! The executor without an adapter: the same graph, each op by its reference.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::load::WeightSource;
use super::packed::{Fill, PackedSource};
use super::{Batch, ExecError, Executor, LogitRows, Logits, MemoryUse, Progress, check_batch};
use crate::graph::{Graph, TensorId, TensorKind, VectorId, WeightId};
use crate::ops::{HostInput, HostSlice, HostWeight, Step};
use crate::plan::slices;
use crate::quant::PackedLayout;
use crate::tensor::FEW_ROWS;

/// Tokens of one prefill forward: enough to unpack each weight row rarely.
const PREFILL_CHUNK: usize = 128;

type PackedSlices = Vec<(usize, PackedLayout, Vec<u8>)>;

/// Computes on the host, in plain threaded loops: for machines without an adapter, and as the oracle of tests.
#[derive(Debug)]
pub struct HostExecutor {
    graph: Graph,
    memory: HostMemory,
    position: u32,
}

/// What some nodes of a graph read and keep between forwards.
#[derive(Debug)]
pub(super) struct HostMemory {
    weights: HashMap<WeightId, PackedSlices>,
    vectors: HashMap<VectorId, Vec<f32>>,
    /// KV cache by tensor: values as its format rounds them.
    states: HashMap<TensorId, Vec<f32>>,
}

/// Activations of a forward, by tensor.
pub(super) type Activations = HashMap<TensorId, Vec<f32>>;

impl HostExecutor {
    /// Packs the graph's weights into host memory.
    ///
    /// # Errors
    /// A checkpoint that can't be read.
    pub fn new(graph: Graph, source: WeightSource<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Self, ExecError> {
        let packing = source.packing(&graph, &[], progress)?;
        let memory = HostMemory::load(&graph, 0..graph.nodes.len(), source, &**packing.source(), progress)?;
        packing.mend();
        Ok(Self { graph, memory, position: 0 })
    }

    fn play(&mut self, tokens: &[u32], step: Step) -> Vec<f32> {
        let mut activations = Activations::new();
        let head = self.graph.units.last().expect("a graph has units").nodes.start;
        let nodes = 0..if step.logit_rows == 0 { head } else { self.graph.nodes.len() };
        self.memory.play(&self.graph, nodes, tokens, step, &mut activations);
        activations.remove(&self.graph.logits).unwrap_or_default()
    }
}

impl HostMemory {
    /// Packs the weights of some nodes, and makes their vectors and KV caches.
    pub(super) fn load(
        graph: &Graph,
        nodes: Range<usize>,
        source: WeightSource<'_>,
        packed: &dyn PackedSource,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ExecError> {
        let mut memory = Self { weights: HashMap::new(), vectors: HashMap::new(), states: HashMap::new() };
        for id in graph.nodes[nodes].iter().flat_map(|node| node.inputs.iter().chain(&node.outputs)) {
            match &graph.tensors[id.0].kind {
                TensorKind::Weight(id) if !memory.weights.contains_key(id) => {
                    let mut held = PackedSlices::new();
                    for (first, layout) in slices(&graph.weights[id.0], u64::MAX) {
                        let mut bytes = vec![0; layout.bytes as usize];
                        Fill::slice(*id, Arc::new((first, layout.clone()))).run_in_memory(packed, &mut bytes)?;
                        progress(Progress::Loaded(layout.bytes));
                        held.push((first, layout, bytes));
                    }
                    memory.weights.insert(*id, held);
                }
                TensorKind::Vector(id) if !memory.vectors.contains_key(id) => {
                    memory.vectors.insert(*id, source.vector(&graph.vectors[id.0])?);
                }
                TensorKind::State(state) => {
                    memory.states.entry(*id).or_insert_with(|| vec![0.0; state.elements() as usize]);
                }
                _ => {}
            }
        }
        Ok(memory)
    }

    /// Runs nodes in order; `activations` holds what they read of the nodes before them, then what they made as well.
    pub(super) fn play(
        &mut self,
        graph: &Graph,
        nodes: Range<usize>,
        tokens: &[u32],
        step: Step,
        activations: &mut Activations,
    ) {
        for node in &graph.nodes[nodes] {
            let mut outputs: Vec<Vec<f32>> = Vec::with_capacity(node.outputs.len());
            for id in &node.outputs {
                outputs.push(match graph.activation(*id) {
                    // A column range joins what is already there.
                    Some(ty) => {
                        activations.remove(id).unwrap_or_else(|| vec![0.0; ty.elements(step.extents()) as usize])
                    }
                    None => self.states.remove(id).expect("what is not an activation is a state"),
                });
            }
            let inputs: Vec<HostInput<'_>> =
                node.inputs.iter().map(|id| self.input(graph, *id, tokens, activations)).collect();
            let mut views: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            node.op.reference(step, &inputs, &mut views);
            for (id, values) in node.outputs.iter().zip(outputs) {
                match graph.activation(*id) {
                    Some(_) => activations.insert(*id, values),
                    None => self.states.insert(*id, values),
                };
            }
        }
    }

    fn input<'a>(
        &'a self,
        graph: &'a Graph,
        id: TensorId,
        tokens: &'a [u32],
        activations: &'a Activations,
    ) -> HostInput<'a> {
        match &graph.tensors[id.0].kind {
            TensorKind::Activation(_) if id == graph.tokens => HostInput::U32(tokens),
            TensorKind::Activation(_) => HostInput::F32(&activations[&id]),
            TensorKind::Vector(vector) => HostInput::F32(&self.vectors[vector]),
            TensorKind::State(_) => HostInput::F32(&self.states[&id]),
            TensorKind::Weight(weight) => {
                let source = &graph.weights[weight.0];
                let slices = self.weights[weight].iter();
                let slices =
                    slices.map(|(first_row, layout, bytes)| HostSlice { first_row: *first_row, layout, bytes });
                HostInput::Weight(HostWeight {
                    format: source.format,
                    rows: source.rows(),
                    cols: source.cols(),
                    slices: slices.collect(),
                })
            }
        }
    }
}

impl Executor for HostExecutor {
    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits, ExecError> {
        let logits = self.forward_unless(batch, &AtomicBool::new(false))?;
        Ok(logits.expect("nobody else can set the flag"))
    }

    fn forward_unless(&mut self, batch: &Batch<'_>, cancel: &AtomicBool) -> Result<Option<Logits>, ExecError> {
        check_batch(batch, self.position, self.context_length(), self.graph.vocab_size)?;
        self.position = batch.position;
        let mut values = Vec::new();
        let mut position = batch.position;
        let mut rest = batch.tokens;
        while !rest.is_empty() {
            // A few tokens behind a long chunk belong to it: by themselves they would be rounded where it is not.
            let whole = rest.len() <= PREFILL_CHUNK + FEW_ROWS as usize;
            let (tokens, others) = rest.split_at(if whole { rest.len() } else { PREFILL_CHUNK });
            rest = others;
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let logit_rows = match batch.logits {
                LogitRows::All => tokens.len() as u32,
                LogitRows::Last => u32::from(rest.is_empty()),
            };
            values.extend(self.play(tokens, Step::new(tokens.len() as u32, position, logit_rows)));
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
        let packed = self.memory.weights.values().flatten().map(|(_, _, bytes)| bytes.len() as u64);
        let vectors = self.memory.vectors.values().map(|values| values.len() as u64 * 4);
        vec![MemoryUse {
            place: "host".into(),
            weights: packed.sum::<u64>() + vectors.sum::<u64>(),
            kv_cache: self.memory.states.values().map(|values| values.len() as u64 * 4).sum(),
            other: 0,
        }]
    }
}
