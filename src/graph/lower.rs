//! From a model's description to its straight line of ops. Fusion happens here, as rules, not in family files; `attention`,
//! `mlp` and `linear` lower the parts of a layer, `parallel` layers whose parts stand side by side.

mod attention;
mod linear;
mod mlp;
mod parallel;

use std::collections::HashMap;
use std::sync::Arc;

use self::mlp::Inner;
use super::{Graph, GraphError, Node, Tensor, TensorId, TensorKind, Unit, Vector, VectorId};
use crate::model::{LayerSpec, ModelSpec, NormSpec, Residual, VectorSpec, WeightSpec};
use crate::ops::{Activation, AddPositions, Embed, KvFormat, Norm, NormKind, Op, Softcap};
use crate::quant::BlockFormat;
use crate::tensor::{DType, Dim, TensorType};

/// What lowering needs to know besides the model.
#[derive(Clone, Copy)]
pub struct LowerOptions<'a> {
    /// Positions the KV cache has room for.
    pub context_length: u32,
    /// How keys and values are held.
    pub kv_format: KvFormat,
    /// Whether one row and few are rounded to 8 bits where quantized weights multiply them.
    pub integer: bool,
    /// The format a tensor of this name is stored in; `None` where the checkpoint lacks it.
    pub format_of: &'a dyn Fn(&str) -> Option<&'static dyn BlockFormat>,
    /// Keep matrices of different inputs apart, also where two could be one.
    pub apart: bool,
    /// Where a tensor of this name has fewer bits with its columns in another order: that format, and the input of each
    /// column.
    pub ordered: &'a dyn Fn(&str) -> Option<Ordered>,
}

/// A format with the input of each of its columns.
pub type Ordered = (&'static dyn BlockFormat, Arc<[u32]>);

/// A format, with the input of each of its columns where they are not in the inputs' order.
type Held = (&'static dyn BlockFormat, Option<Arc<[u32]>>);

/// Lowers a model.
///
/// # Errors
/// A size the kernels can't take, a missing tensor, or a weight of mixed formats.
pub fn lower(spec: &ModelSpec, options: &LowerOptions<'_>) -> Result<Graph, GraphError> {
    let graph = empty(spec, options);
    let hidden_size = spec.hidden_size;
    let mut lowering = Lowering {
        options: *options,
        hidden_size,
        weight_ids: HashMap::new(),
        rounded: HashMap::new(),
        rounding: Vec::new(),
        gathered: HashMap::new(),
        graph,
    };
    lowering.multiple_of_four("hidden_size", spec.hidden_size)?;
    let mut hidden = lowering.unit("embedding".into(), lowering.graph.tokens, |l| l.embedding(spec))?;
    for (index, layer) in spec.layers.iter().enumerate() {
        hidden = lowering.unit(format!("layer {index}"), hidden, |l| l.layer(index, layer, hidden))?;
    }
    let logits = lowering.unit("head".into(), hidden, |l| l.head(spec, hidden))?;
    lowering.graph.logits = logits;
    Ok(lowering.graph)
}

fn empty(spec: &ModelSpec, options: &LowerOptions<'_>) -> Graph {
    let tokens = TensorType { dtype: DType::U32, shape: vec![Dim::Tokens] };
    Graph {
        tensors: vec![Tensor { name: "tokens".into(), kind: TensorKind::Activation(tokens) }],
        weights: Vec::new(),
        vectors: Vec::new(),
        nodes: Vec::new(),
        units: Vec::new(),
        tokens: TensorId(0),
        logits: TensorId(0),
        vocab_size: spec.vocab_size(),
        context_length: options.context_length,
    }
}

struct Lowering<'a> {
    options: LowerOptions<'a>,
    hidden_size: usize,
    graph: Graph,
    weight_ids: HashMap<Vec<WeightSpec>, TensorId>,
    /// By activation: the same in 8-bit blocks.
    rounded: HashMap<TensorId, TensorId>,
    /// Ops of this unit that can also round what they make.
    rounding: Vec<Rounding>,
    /// Activations with their columns in the order of this vector.
    gathered: HashMap<(TensorId, TensorId), TensorId>,
}

/// An op that can also write in 8-bit blocks what it makes.
struct Rounding {
    node: usize,
    /// What it is then.
    op: Box<dyn Op>,
    /// What it makes, and rounds then.
    outputs: Vec<TensorId>,
}

impl Lowering<'_> {
    /// Runs `build` and makes what it added a unit.
    fn unit(
        &mut self,
        name: String,
        input: TensorId,
        build: impl FnOnce(&mut Self) -> Result<TensorId, GraphError>,
    ) -> Result<TensorId, GraphError> {
        let first = self.graph.nodes.len();
        let output = build(self)?;
        // Only a unit's output is there for the next one.
        self.rounding.clear();
        let nodes = first..self.graph.nodes.len();
        let (mut weights, mut vectors, mut states) = (Vec::new(), Vec::new(), Vec::new());
        for node in &self.graph.nodes[nodes.clone()] {
            for id in node.inputs.iter().chain(&node.outputs) {
                match &self.graph.tensors[id.0].kind {
                    TensorKind::Weight(id) => weights.push(*id),
                    TensorKind::Vector(id) => vectors.push(*id),
                    TensorKind::State(state) => states.push((*id, state.bytes())),
                    TensorKind::Activation(_) => {}
                }
            }
        }
        weights.sort_unstable();
        weights.dedup();
        vectors.sort_unstable();
        vectors.dedup();
        states.sort_unstable();
        states.dedup();
        let weight_bytes: u64 = weights.iter().map(|id| self.graph.weights[id.0].bytes()).sum();
        let vector_bytes: u64 = vectors.iter().map(|id| self.graph.vectors[id.0].len() as u64 * 4).sum();
        let kv_bytes = states.iter().map(|(_, bytes)| bytes).sum();
        let bytes = weight_bytes + vector_bytes;
        self.graph.units.push(Unit { name, nodes, weights, vectors, input, output, bytes, kv_bytes });
        Ok(output)
    }

    fn embedding(&mut self, spec: &ModelSpec) -> Result<TensorId, GraphError> {
        let weight = self.weight(&spec.embedding)?;
        let hidden = self.hidden("embedding".into(), Dim::Tokens, spec.hidden_size);
        self.node(Embed { scale: spec.embedding_scale }, vec![self.graph.tokens, weight], vec![hidden]);
        let Some(positions) = &spec.position_embedding else { return Ok(hidden) };
        let table = self.weight(positions)?;
        let placed = self.hidden("embedding with positions".into(), Dim::Tokens, spec.hidden_size);
        self.node(AddPositions, vec![hidden, table], vec![placed]);
        Ok(placed)
    }

    fn head(&mut self, spec: &ModelSpec, x: TensorId) -> Result<TensorId, GraphError> {
        // Only the rows whose logits are wanted go through the norm and the head.
        let normed = self.norm("final norm".into(), &spec.norm, x, spec.hidden_size, Dim::LogitRows, None);
        let logits = self.linear("logits".into(), &spec.lm_head, normed, Dim::LogitRows, Activation::Identity, None)?;
        let Some(cap) = spec.logit_softcap else { return Ok(logits) };
        let capped = self.hidden("capped logits".into(), Dim::LogitRows, spec.lm_head.weight.rows());
        self.node(Softcap { cap }, vec![logits], vec![capped]);
        Ok(capped)
    }

    fn layer(&mut self, index: usize, layer: &LayerSpec, x: TensorId) -> Result<TensorId, GraphError> {
        match layer.residual {
            Residual::Sequential => self.sequential(index, layer, x),
            Residual::Parallel => self.parallel(index, layer, x),
        }
    }

    /// An MLP that reads what attention added to the residual stream.
    fn sequential(&mut self, index: usize, layer: &LayerSpec, x: TensorId) -> Result<TensorId, GraphError> {
        let normed = self.layer_norm(index, "attention norm", layer.attention_norm.as_ref(), x, x);
        let qkv = self.qkv(index, &layer.attention, normed)?;
        let attended = self.attention(index, &layer.attention, qkv)?;
        let joined = self.attention_joined(index, layer, attended, x)?;
        let normed = self.layer_norm(index, "mlp norm", layer.mlp_norm.as_ref(), joined, joined);
        let inner = self.mlp_inner(index, &layer.mlp, normed)?;
        self.mlp_joined(index, layer, inner, joined)
    }

    /// What was attended to, projected and added to the residual stream.
    fn attention_joined(
        &mut self,
        index: usize,
        layer: &LayerSpec,
        attended: TensorId,
        residual: TensorId,
    ) -> Result<TensorId, GraphError> {
        self.joined(index, "o", layer.attention_post_norm.as_ref(), residual, |l, name, residual| {
            l.linear(name, &layer.attention.o, attended, Dim::Tokens, Activation::Identity, residual)
        })
    }

    /// What the MLP makes, added to the residual stream.
    fn mlp_joined(
        &mut self,
        index: usize,
        layer: &LayerSpec,
        inner: Inner,
        residual: TensorId,
    ) -> Result<TensorId, GraphError> {
        self.joined(index, "output", layer.mlp_post_norm.as_ref(), residual, |l, name, residual| {
            l.mlp_outer(index, name, &layer.mlp, inner, residual)
        })
    }

    /// `x` normed, or `otherwise` where there is no norm.
    fn layer_norm(
        &mut self,
        index: usize,
        what: &str,
        spec: Option<&NormSpec>,
        x: TensorId,
        otherwise: TensorId,
    ) -> TensorId {
        let Some(spec) = spec else { return otherwise };
        self.norm(format!("layer {index} {what}"), spec, x, self.hidden_size, Dim::Tokens, None)
    }

    /// What `part` makes, added to the residual stream: in its own epilogue, or after the norm that follows it.
    fn joined(
        &mut self,
        index: usize,
        what: &str,
        post: Option<&NormSpec>,
        residual: TensorId,
        part: impl FnOnce(&mut Self, String, Option<TensorId>) -> Result<TensorId, GraphError>,
    ) -> Result<TensorId, GraphError> {
        let name = format!("layer {index} {what}");
        let Some(post) = post else { return part(self, name, Some(residual)) };
        let output = part(self, name.clone(), None)?;
        Ok(self.norm(name + " norm", post, output, self.hidden_size, Dim::Tokens, Some(residual)))
    }

    fn norm(
        &mut self,
        name: String,
        spec: &NormSpec,
        x: TensorId,
        width: usize,
        rows: Dim,
        residual: Option<TensorId>,
    ) -> TensorId {
        let mut inputs = vec![x, self.norm_weight(spec.weight.as_ref(), spec.one_plus, width)];
        if spec.kind == NormKind::Layer {
            inputs.push(self.norm_bias(spec.bias.as_ref(), width));
        }
        inputs.extend(residual);
        let output = self.hidden(name, rows, width);
        let logit_rows_only = rows == Dim::LogitRows;
        let op = Norm { logit_rows_only, residual: residual.is_some(), ..Norm::plain(spec.kind, spec.eps) };
        self.node(op.clone(), inputs, vec![output]);
        self.may_round(&[output], Norm { quantized: true, ..op });
        output
    }

    /// A norm's weight; ones where it has none.
    fn norm_weight(&mut self, weight: Option<&VectorSpec>, one_plus: bool, width: usize) -> TensorId {
        match weight {
            Some(weight) if one_plus => self.vector(weight.label(), Vector::OnePlus(weight.clone())),
            Some(weight) => self.vector(weight.label(), Vector::Spec(weight.clone())),
            None => self.vector("ones".into(), Vector::Values(vec![1.0; width])),
        }
    }

    /// A norm's bias; zeros where it has none.
    fn norm_bias(&mut self, bias: Option<&VectorSpec>, width: usize) -> TensorId {
        match bias {
            Some(bias) => self.vector(bias.label(), Vector::Spec(bias.clone())),
            None => self.vector("zeros".into(), Vector::Values(vec![0.0; width])),
        }
    }

    /// The tensor of a vector; equal ones are the same tensor, so all layers share one RoPE table.
    fn vector(&mut self, name: String, vector: Vector) -> TensorId {
        if let Some(known) = self.graph.vectors.iter().position(|other| *other == vector) {
            let kind = TensorKind::Vector(VectorId(known));
            let id = self.graph.tensors.iter().position(|tensor| tensor.kind == kind);
            return TensorId(id.expect("every vector has a tensor"));
        }
        self.graph.vectors.push(vector);
        self.tensor(name, TensorKind::Vector(VectorId(self.graph.vectors.len() - 1)))
    }

    fn hidden(&mut self, name: String, rows: Dim, width: usize) -> TensorId {
        let ty = TensorType::f32([rows, Dim::Fixed(width as u32)]);
        self.tensor(name, TensorKind::Activation(ty))
    }

    fn tensor(&mut self, name: String, kind: TensorKind) -> TensorId {
        self.graph.tensors.push(Tensor { name, kind });
        TensorId(self.graph.tensors.len() - 1)
    }

    fn node(&mut self, op: impl Op + 'static, inputs: Vec<TensorId>, outputs: Vec<TensorId>) {
        self.graph.nodes.push(Node { op: Box::new(op), inputs, outputs });
    }

    fn multiple_of_four(&self, what: &str, size: usize) -> Result<(), GraphError> {
        if size.is_multiple_of(4) && size > 0 {
            return Ok(());
        }
        Err(GraphError::Size { what: what.into(), size, multiple: 4 })
    }
}
