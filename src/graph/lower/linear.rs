//! Lowering of linears: one matmul where several agree, and what their inputs and weights need to be.

use super::super::{GraphError, TensorId, TensorKind, Vector, Weight, WeightId};
use super::{Held, Lowering, Ordered, Rounding};
use crate::model::{LinearSpec, VectorSpec, WeightSpec};
use crate::ops::{Activation, Columns, GatherColumns, Matmul, Op, QuantizeRow};
use crate::quant::BlockFormat;
use crate::tensor::{DType, Dim, TensorType};

impl Lowering<'_> {
    pub(super) fn linear(
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

    pub(super) fn linear_into(
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
        let op = Matmul { bias, residual, activation, columns, quantized: integer, ..Matmul::plain() };
        self.node(op.clone(), inputs, vec![output]);
        if columns.is_none() {
            self.may_round(&[output], Matmul { rounds: true, ..op });
        }
        Ok(())
    }

    /// x with its columns in this order; once for all that want it so.
    pub(super) fn gather(&mut self, x: TensorId, order: &[u32]) -> TensorId {
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
    pub(super) fn order(&self, spec: &WeightSpec) -> Option<Ordered> {
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
    pub(super) fn concatenated(
        &mut self,
        name: String,
        specs: &[&LinearSpec],
        x: TensorId,
    ) -> Result<TensorId, GraphError> {
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

    /// `x` in 8-bit blocks: written by the op that makes it, where that can, or by an op of its own.
    pub(super) fn rounded(&mut self, x: TensorId) -> TensorId {
        if let Some(known) = self.rounded.get(&x) {
            return *known;
        }
        match self.rounding.iter().position(|rounding| rounding.outputs.contains(&x)) {
            Some(at) => {
                let Rounding { node, op, outputs } = self.rounding.swap_remove(at);
                let rounded: Vec<_> = outputs.into_iter().map(|output| self.rounded_tensor(output)).collect();
                self.graph.nodes[node].op = op;
                self.graph.nodes[node].outputs.extend(rounded);
            }
            None => {
                let output = self.rounded_tensor(x);
                self.node(QuantizeRow, vec![x], vec![output]);
            }
        }
        self.rounded[&x]
    }

    /// Says that the op which was just made could also write its results, of one width, rounded, as this one does. It will
    /// where anything reads one of them.
    pub(super) fn may_round(&mut self, results: &[TensorId], op: impl Op + 'static) {
        let columns = self.graph.activation(results[0]).and_then(TensorType::columns);
        if columns.is_some_and(|columns| columns.is_multiple_of(2 * DType::Q8_BLOCK as u32)) {
            let (node, op) = (self.graph.nodes.len() - 1, Box::new(op));
            self.rounding.push(Rounding { node, op, outputs: results.to_vec() });
        }
    }

    fn rounded_tensor(&mut self, x: TensorId) -> TensorId {
        let ty = self.graph.activation(x).expect("only activations are rounded").rounded();
        let name = format!("{}, rounded", self.graph.tensors[x.0].name);
        let output = self.tensor(name, TensorKind::Activation(ty));
        self.rounded.insert(x, output);
        output
    }

    /// The tensor of a weight; the same rows are the same tensor, so tied weights are held once.
    pub(super) fn weight(&mut self, spec: &WeightSpec) -> Result<TensorId, GraphError> {
        let format = self.format(spec)?;
        self.weight_of(&[spec], format, false)
    }

    /// The tensor of matrices of one format side by side along the columns.
    pub(super) fn beside(&mut self, specs: &[&WeightSpec]) -> Result<TensorId, GraphError> {
        let format = self.format(specs[0])?;
        self.weight_of(specs, format, false)
    }

    pub(super) fn weight_of(
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
    pub(super) fn held(&self, spec: &WeightSpec) -> Result<Held, GraphError> {
        match self.order(spec) {
            Some((format, order)) => Ok((format, Some(order))),
            None => Ok((self.format(spec)?, None)),
        }
    }

    pub(super) fn format(&self, spec: &WeightSpec) -> Result<&'static dyn BlockFormat, GraphError> {
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
