//! The executor without an adapter: the same graph, each op by its reference.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::load::WeightSource;
use super::{Batch, ExecError, Executor, LogitRows, Logits, MemoryUse, check_batch};
use crate::graph::{Graph, TensorId, TensorKind, VectorId, WeightId};
use crate::ops::{HostInput, HostSlice, HostWeight, Step};
use crate::plan::slices;
use crate::quant::PackedLayout;

/// Tokens of one prefill forward: enough to unpack each weight row rarely.
const PREFILL_CHUNK: usize = 128;

type PackedSlices = Vec<(usize, PackedLayout, Vec<u8>)>;

/// Computes on the host, in plain threaded loops: for machines without an adapter, and as the oracle of tests.
#[derive(Debug)]
pub struct HostExecutor {
    graph: Graph,
    weights: HashMap<WeightId, PackedSlices>,
    vectors: HashMap<VectorId, Vec<f32>>,
    /// KV cache by tensor: values as its format rounds them.
    states: HashMap<TensorId, Vec<f32>>,
    position: u32,
}

impl HostExecutor {
    /// Packs the graph's weights into host memory. `progress` is told of bytes loaded.
    ///
    /// # Errors
    /// A checkpoint that can't be read.
    pub fn new(graph: Graph, source: WeightSource<'_>, progress: &mut dyn FnMut(u64)) -> Result<Self, ExecError> {
        let mut weights = HashMap::new();
        for (index, weight) in graph.weights.iter().enumerate() {
            let slices = slices(weight, u64::MAX);
            let packed = source.packed(weight, &slices)?;
            progress(packed.iter().map(|bytes| bytes.len() as u64).sum());
            let joined = slices.into_iter().zip(packed).map(|((first, layout), bytes)| (first, layout, bytes));
            weights.insert(WeightId(index), joined.collect());
        }
        let mut vectors = HashMap::new();
        for (index, vector) in graph.vectors.iter().enumerate() {
            vectors.insert(VectorId(index), source.vector(vector)?);
        }
        let states = graph.tensors.iter().enumerate().filter_map(|(index, tensor)| match &tensor.kind {
            TensorKind::State(state) => Some((TensorId(index), vec![0.0; state.elements() as usize])),
            _ => None,
        });
        Ok(Self { states: states.collect(), graph, weights, vectors, position: 0 })
    }

    fn play(&mut self, tokens: &[u32], step: Step) -> Vec<f32> {
        let mut activations: HashMap<TensorId, Vec<f32>> = HashMap::new();
        let head = self.graph.units.last().expect("a graph has units").nodes.clone();
        for (index, node) in self.graph.nodes.iter().enumerate() {
            if step.logit_rows == 0 && head.contains(&index) {
                continue;
            }
            let mut outputs: Vec<Vec<f32>> = Vec::with_capacity(node.outputs.len());
            for id in &node.outputs {
                outputs.push(match self.graph.activation(*id) {
                    // A column range joins what is already there.
                    Some(ty) => {
                        activations.remove(id).unwrap_or_else(|| vec![0.0; ty.elements(step.extents()) as usize])
                    }
                    None => self.states.remove(id).expect("what is not an activation is a state"),
                });
            }
            let inputs: Vec<HostInput<'_>> =
                node.inputs.iter().map(|id| self.input(*id, tokens, &activations)).collect();
            let mut views: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            node.op.reference(step, &inputs, &mut views);
            for (id, values) in node.outputs.iter().zip(outputs) {
                match self.graph.activation(*id) {
                    Some(_) => activations.insert(*id, values),
                    None => self.states.insert(*id, values),
                };
            }
        }
        activations.remove(&self.graph.logits).unwrap_or_default()
    }

    fn input<'a>(
        &'a self,
        id: TensorId,
        tokens: &'a [u32],
        activations: &'a HashMap<TensorId, Vec<f32>>,
    ) -> HostInput<'a> {
        match &self.graph.tensors[id.0].kind {
            TensorKind::Activation(_) if id == self.graph.tokens => HostInput::U32(tokens),
            TensorKind::Activation(_) => HostInput::F32(&activations[&id]),
            TensorKind::Vector(vector) => HostInput::F32(&self.vectors[vector]),
            TensorKind::State(_) => HostInput::F32(&self.states[&id]),
            TensorKind::Weight(weight) => {
                let source = &self.graph.weights[weight.0];
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
        let chunks = batch.tokens.chunks(PREFILL_CHUNK);
        let last = chunks.len() - 1;
        for (index, tokens) in chunks.enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let logit_rows = match batch.logits {
                LogitRows::All => tokens.len() as u32,
                LogitRows::Last => u32::from(index == last),
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
        let packed = self.weights.values().flatten().map(|(_, _, bytes)| bytes.len() as u64);
        let vectors = self.vectors.values().map(|values| values.len() as u64 * 4);
        vec![MemoryUse {
            place: "host".into(),
            weights: packed.sum::<u64>() + vectors.sum::<u64>(),
            kv_cache: self.states.values().map(|values| values.len() as u64 * 4).sum(),
            other: 0,
        }]
    }
}
