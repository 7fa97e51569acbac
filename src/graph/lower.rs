//! From a model's description to its straight line of ops. Fusion happens here, as rules, not in family files.

mod mlp;
mod parallel;

use std::collections::HashMap;
use std::sync::Arc;

use self::mlp::Inner;
use super::{Graph, GraphError, Node, Tensor, TensorId, TensorKind, Unit, Vector, VectorId, Weight, WeightId};
use crate::model::{
    AttentionSpec, LayerSpec, LinearSpec, ModelSpec, NormSpan, NormSpec, QkNormSpec, Residual, VectorSpec, WeightSpec,
};
use crate::ops::{
    Activation, AddPositions, Attention, Columns, Embed, GatherColumns, KvFormat, Matmul, Norm, NormGroups, NormKind,
    Op, QkNorm, QuantizeRow, RopeAppend, RopeStyle, Softcap, StateType,
};
use crate::quant::BlockFormat;
use crate::tensor::{DType, Dim, TensorType};

/// What lowering needs to know besides the model.
#[derive(Clone, Copy)]
pub struct LowerOptions<'a> {
    /// Positions the KV cache has room for.
    pub context_length: u32,
    /// How keys and values are held.
    pub kv_format: KvFormat,
    /// Whether decode multiplies quantized weights by rows rounded to 8 bits.
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
    /// Activations with their columns in the order of this vector.
    gathered: HashMap<(TensorId, TensorId), TensorId>,
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
        let attended = self.attention(index, &layer.attention, qkv, None)?;
        let joined = self.attention_joined(index, layer, attended, x)?;
        let normed = self.layer_norm(index, "mlp norm", layer.mlp_norm.as_ref(), joined, joined);
        let inner = self.mlp_inner(index, &layer.mlp, normed, None)?;
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

    /// Fused rows `[q | k | v]`.
    fn qkv(&mut self, index: usize, spec: &AttentionSpec, x: TensorId) -> Result<TensorId, GraphError> {
        self.multiple_of_four("head_dim", spec.head_dim as usize)?;
        if spec.head_dim > Attention::MAX_HEAD_DIM {
            return Err(GraphError::HeadTooLarge { head_dim: spec.head_dim, limit: Attention::MAX_HEAD_DIM });
        }
        self.concatenated(format!("layer {index} qkv"), &[&spec.q, &spec.k, &spec.v], x)
    }

    /// The values attended to; where `into` names one, in columns of that tensor.
    fn attention(
        &mut self,
        index: usize,
        spec: &AttentionSpec,
        qkv: TensorId,
        into: Option<(TensorId, Columns)>,
    ) -> Result<TensorId, GraphError> {
        let qkv = match &spec.qk_norm {
            Some(norm) => self.qk_norm(index, spec, norm, qkv),
            None => qkv,
        };
        let state = StateType {
            kv_heads: spec.kv_heads,
            context_length: self.options.context_length,
            head_dim: spec.head_dim,
            format: self.options.kv_format,
        };
        let keys = self.tensor(format!("layer {index} keys"), TensorKind::State(state));
        let values = self.tensor(format!("layer {index} values"), TensorKind::State(state));
        let width = (spec.heads * spec.head_dim) as usize;
        let q = self.hidden(format!("layer {index} q"), Dim::Tokens, width);
        let rope = spec.rope.as_ref();
        let table = match rope {
            Some(rope) => {
                let positions = self.options.context_length;
                self.vector("rope table".into(), Vector::RopeTable { rope: rope.clone(), positions })
            }
            None => self.vector("no rope".into(), Vector::Values(vec![0.0; 2])),
        };
        let append = RopeAppend {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            rotary_dim: rope.map_or(0, |rope| rope.rotary_dim),
            style: rope.map_or(RopeStyle::HalfSplit, |rope| rope.style),
            clip: spec.clip_qkv,
            format: state.format,
        };
        self.node(append, vec![qkv, table], vec![q, keys, values]);
        let (output, columns) = self.place(into, || format!("layer {index} attention"), width);
        let attention = Attention {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: spec.scale,
            // A window beyond the context hides nothing; without it all such layers share a kernel.
            window: spec.window.filter(|window| *window < self.options.context_length),
            softcap: spec.softcap,
            alibi: spec.alibi.as_ref().map(|(alibi, _)| *alibi),
            format: state.format,
            columns,
        };
        let mut inputs = vec![q, keys, values];
        if let Some((_, slopes)) = &spec.alibi {
            inputs.push(self.vector("slopes".into(), Vector::Values(slopes.clone())));
        }
        self.node(attention, inputs, vec![output]);
        Ok(output)
    }

    fn qk_norm(&mut self, index: usize, spec: &AttentionSpec, norm: &QkNormSpec, qkv: TensorId) -> TensorId {
        let groups = |heads: u32| match norm.span {
            NormSpan::Head => NormGroups { count: heads, cols: spec.head_dim },
            NormSpan::Row => NormGroups { count: 1, cols: heads * spec.head_dim },
        };
        let width = ((spec.heads + 2 * spec.kv_heads) * spec.head_dim) as usize;
        let normed = ((spec.heads + spec.kv_heads) * spec.head_dim) as usize;
        let weight = self.norm_weight(Some(&norm.weight), norm.one_plus, normed);
        let bias = self.norm_bias(norm.bias.as_ref(), normed);
        let output = self.hidden(format!("layer {index} normed qkv"), Dim::Tokens, width);
        let op = QkNorm {
            kind: norm.kind,
            eps: norm.eps,
            q: groups(spec.heads),
            k: groups(spec.kv_heads),
            v_cols: spec.kv_heads * spec.head_dim,
        };
        self.node(op, vec![qkv, weight, bias], vec![output]);
        output
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
        // What is added to the residual stream goes through another norm before a matmul reads it.
        let rounded = if residual.is_none() { self.rounded_beside(output) } else { None };
        let op = Norm {
            kind: spec.kind,
            eps: spec.eps,
            logit_rows_only,
            residual: residual.is_some(),
            quantized: rounded.is_some(),
        };
        self.node(op, inputs, std::iter::once(output).chain(rounded).collect());
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

    fn linear(
        &mut self,
        name: String,
        spec: &LinearSpec,
        x: TensorId,
        rows: Dim,
        activation: Activation,
        residual: Option<TensorId>,
    ) -> Result<TensorId, GraphError> {
        let output = self.hidden(name, rows, spec.weight.rows());
        self.linear_into(spec, x, output, activation, residual, None)?;
        Ok(output)
    }

    fn linear_into(
        &mut self,
        spec: &LinearSpec,
        x: TensorId,
        output: TensorId,
        activation: Activation,
        residual: Option<TensorId>,
        columns: Option<Columns>,
    ) -> Result<(), GraphError> {
        let (x, weight) = match self.order(&spec.weight) {
            Some((format, order)) => (self.gather(x, &order), self.weight_of(&[&spec.weight], format, true)?),
            None => (x, self.weight(&spec.weight)?),
        };
        let mut inputs = vec![x, weight];
        if let Some(bias) = &spec.bias {
            inputs.push(self.vector(bias.label(), Vector::Spec(bias.clone())));
        }
        inputs.extend(residual);
        let integer = self.options.integer && self.held(&spec.weight)?.0.integer();
        inputs.extend(integer.then(|| self.rounded(x)));
        let (bias, residual) = (spec.bias.is_some(), residual.is_some());
        let op = Matmul { bias, residual, activation, columns, quantized: integer };
        self.node(op, inputs, vec![output]);
        Ok(())
    }

    /// x with its columns in this order; once for all that want it so.
    fn gather(&mut self, x: TensorId, order: &[u32]) -> TensorId {
        let ty = self.graph.activation(x).expect("matrices multiply activations").clone();
        // Exact: rows are far shorter than 2^24.
        let vector = Vector::Values(order.iter().map(|input| *input as f32).collect());
        let order = self.vector("order of columns".into(), vector);
        if let Some(gathered) = self.gathered.get(&(x, order)) {
            return *gathered;
        }
        let name = format!("{}, columns in order", self.graph.tensors[x.0].name);
        let logit_rows_only = ty.shape.first() == Some(&Dim::LogitRows);
        let output = self.tensor(name, TensorKind::Activation(ty));
        self.node(GatherColumns { logit_rows_only }, vec![x, order], vec![output]);
        self.gathered.insert((x, order), output);
        output
    }

    /// Format and order of columns of a weight all of whose tensors have them in common, if they have any.
    fn order(&self, spec: &WeightSpec) -> Option<Ordered> {
        let mut orders = spec.parts.iter().map(|part| (self.options.ordered)(&part.tensor));
        let first = orders.next()??;
        let same = |other: Option<Ordered>| {
            other.is_some_and(|(format, order)| format.name() == first.0.name() && order == first.1)
        };
        // As f16, in the order of the inputs, they do go together.
        orders.all(same).then_some(first)
    }

    /// Several linears of one input, side by side in one output: one matmul where their formats, orders of columns and
    /// biases agree, else one for each.
    fn concatenated(&mut self, name: String, specs: &[&LinearSpec], x: TensorId) -> Result<TensorId, GraphError> {
        let width: usize = specs.iter().map(|spec| spec.weight.rows()).sum();
        let formats: Vec<_> = specs.iter().map(|spec| self.held(&spec.weight)).collect::<Result<_, _>>()?;
        let same_format = formats.iter().all(|(format, _)| format.name() == formats[0].0.name());
        let same_order = formats.iter().all(|(_, order)| *order == formats[0].1);
        let same_bias = specs.iter().all(|spec| spec.bias.is_some() == specs[0].bias.is_some());
        if same_format && same_order && same_bias {
            return self.linear(name, &stack(specs), x, Dim::Tokens, Activation::Identity, None);
        }
        let output = self.hidden(name, Dim::Tokens, width);
        let mut start = 0;
        for spec in specs {
            let columns = Some(Columns { start, of: width as u32 });
            self.linear_into(spec, x, output, Activation::Identity, None, columns)?;
            start += spec.weight.rows() as u32;
        }
        Ok(output)
    }

    /// `x` in 8-bit blocks: as its op writes it, or by an op of its own.
    fn rounded(&mut self, x: TensorId) -> TensorId {
        if let Some(known) = self.rounded.get(&x) {
            return *known;
        }
        let output = self.rounded_tensor(x);
        self.node(QuantizeRow, vec![x], vec![output]);
        output
    }

    /// Where the op that makes `x` also writes it rounded; nowhere where nobody would read that.
    fn rounded_beside(&mut self, x: TensorId) -> Option<TensorId> {
        let columns = self.graph.activation(x).and_then(TensorType::columns)?;
        let whole = columns.is_multiple_of(2 * DType::Q8_BLOCK as u32);
        (self.options.integer && whole).then(|| self.rounded_tensor(x))
    }

    fn rounded_tensor(&mut self, x: TensorId) -> TensorId {
        let ty = self.graph.activation(x).expect("only activations are rounded").rounded();
        let name = format!("{}, rounded", self.graph.tensors[x.0].name);
        let output = self.tensor(name, TensorKind::Activation(ty));
        self.rounded.insert(x, output);
        output
    }

    /// The tensor of a weight; the same rows are the same tensor, so tied weights are held once.
    fn weight(&mut self, spec: &WeightSpec) -> Result<TensorId, GraphError> {
        let format = self.format(spec)?;
        self.weight_of(&[spec], format, false)
    }

    /// The tensor of matrices of one format side by side along the columns.
    fn beside(&mut self, specs: &[&WeightSpec]) -> Result<TensorId, GraphError> {
        let format = self.format(specs[0])?;
        self.weight_of(specs, format, false)
    }

    fn weight_of(
        &mut self,
        specs: &[&WeightSpec],
        format: &'static dyn BlockFormat,
        ordered: bool,
    ) -> Result<TensorId, GraphError> {
        let specs: Vec<WeightSpec> = specs.iter().copied().cloned().collect();
        if let Some(id) = self.weight_ids.get(&specs) {
            return Ok(*id);
        }
        for spec in &specs {
            self.multiple_of_four(&format!("the row length of \"{}\"", spec.label()), spec.cols)?;
        }
        let weight = Weight { specs: specs.clone(), format, ordered };
        let id = self.tensor(weight.label(), TensorKind::Weight(WeightId(self.graph.weights.len())));
        self.graph.weights.push(weight);
        self.weight_ids.insert(specs, id);
        Ok(id)
    }

    /// The format that a linear's weight is held in, and the order of its columns where they have one.
    fn held(&self, spec: &WeightSpec) -> Result<Held, GraphError> {
        match self.order(spec) {
            Some((format, order)) => Ok((format, Some(order))),
            None => Ok((self.format(spec)?, None)),
        }
    }

    fn format(&self, spec: &WeightSpec) -> Result<&'static dyn BlockFormat, GraphError> {
        let of =
            |tensor: &str| (self.options.format_of)(tensor).ok_or_else(|| GraphError::MissingTensor(tensor.to_owned()));
        let first = of(&spec.parts[0].tensor)?;
        for part in &spec.parts[1..] {
            let format = of(&part.tensor)?;
            if format.name() != first.name() {
                let (found, expected) = (format.name(), first.name());
                return Err(GraphError::MixedFormats { tensor: part.tensor.clone(), found, expected });
            }
        }
        Ok(first)
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

    /// Where a result of this width goes: into columns of another tensor, or into one of its own.
    fn place(
        &mut self,
        into: Option<(TensorId, Columns)>,
        name: impl FnOnce() -> String,
        width: usize,
    ) -> (TensorId, Option<Columns>) {
        match into {
            Some((tensor, columns)) => (tensor, Some(columns)),
            None => (self.hidden(name(), Dim::Tokens, width), None),
        }
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

/// Linears of one input as one: rows and biases one after the other.
fn stack(specs: &[&LinearSpec]) -> LinearSpec {
    let parts = specs.iter().flat_map(|spec| spec.weight.parts.clone()).collect();
    let bias_parts: Vec<_> =
        specs.iter().filter_map(|spec| spec.bias.as_ref()).flat_map(|bias| bias.parts.clone()).collect();
    LinearSpec {
        weight: WeightSpec { parts, cols: specs[0].weight.cols },
        bias: (!bias_parts.is_empty()).then_some(VectorSpec { parts: bias_parts }),
    }
}
