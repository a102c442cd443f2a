//! Composite operators as the operators that define them.

mod recurrent;
mod resize;

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, Node, ValueId};
use crate::op::{Binary, Composite, Op, PadMode, Recurrent, Reduce, ShapeOp, Unary};
use crate::shape::{Dim, DimOp, Shape};
use crate::tensor::{DType, Tensor};

/// The graph with the operators that define it in place of each composite one that `which` holds for.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn expand(graph: &Graph, which: impl Fn(&Composite) -> bool) -> Result<Graph, GraphError> {
    expand_nodes(graph, |_, composite| which(composite))
}

/// As [`expand`], where `which` sees the node too.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn expand_nodes(graph: &Graph, which: impl Fn(&Node, &Composite) -> bool) -> Result<Graph, GraphError> {
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        if let Op::Composite(composite) = &node.op
            && which(node, composite)
        {
            let inputs: Vec<ValueId> = node.inputs.iter().map(|&v| rewriter.get(v)).collect();
            let outputs = expanded(composite, &mut rewriter.new, &node.name, &inputs)?;
            for (&old, new) in node.outputs.iter().zip(outputs) {
                rewriter.set(old, new);
            }
        } else {
            rewriter.copy(node)?;
        }
    }
    rewriter.finish()
}

/// The graph with the steps of each [`Recurrent::Lstm`] that `which` holds for as operators of their own, which have gradients.
///
/// # Errors
/// When the number of steps is not known.
pub fn unroll(graph: &Graph, which: impl Fn(&Node) -> bool) -> Result<Graph, GraphError> {
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        if let Op::Recurrent(Recurrent::Lstm(direction)) = node.op
            && which(node)
        {
            let inputs: Vec<ValueId> = node.inputs.iter().map(|&v| rewriter.get(v)).collect();
            let outputs = recurrent::lstm(&mut rewriter.new, &node.name, &inputs, direction)?;
            for (&old, new) in node.outputs.iter().zip(outputs) {
                rewriter.set(old, new);
            }
        } else {
            rewriter.copy(node)?;
        }
    }
    rewriter.finish()
}

/// The outputs of `composite`, computed by nodes that are added to `graph` and named after `node`.
///
/// # Errors
/// When the inputs do not fit it.
pub(crate) fn expanded(
    composite: &Composite,
    graph: &mut Graph,
    node: &str,
    inputs: &[ValueId],
) -> Result<Vec<ValueId>, GraphError> {
    let mut parts = Parts { graph, node, op: composite.name() };
    match composite {
        Composite::LogSoftmax { axis } => parts.log_softmax(parts.only(inputs)?, *axis).map(|y| vec![y]),
        Composite::GroupNormalization { groups, epsilon } => {
            let &[x, weight, bias] = inputs else { return Err(parts.takes(3, inputs)) };
            parts.group_norm([x, weight, bias], *groups, *epsilon).map(|y| vec![y])
        }
        Composite::InstanceNormalization { epsilon } => {
            let &[x, weight, bias] = inputs else { return Err(parts.takes(3, inputs)) };
            let groups = parts.dim(x, 1)?.fixed().ok_or_else(|| parts.error("its channels must be known"))?;
            parts.group_norm([x, weight, bias], groups, *epsilon).map(|y| vec![y])
        }
        Composite::Pad { pads, mode } => parts.pad(parts.only(inputs)?, pads, *mode).map(|y| vec![y]),
        Composite::Split { axis, sizes } => parts.split(parts.only(inputs)?, *axis, sizes),
        Composite::Resize { size, resampling, coordinates } => {
            let x = parts.only(inputs)?;
            parts.resize(x, *size, *resampling, *coordinates).map(|y| vec![y])
        }
        Composite::Gru { direction, linear_before_reset } => {
            let &[x, weight, recurrence, bias] = inputs else { return Err(parts.takes(4, inputs)) };
            parts.gru([x, weight, recurrence, bias], *direction, *linear_before_reset)
        }
    }
}

/// The nodes that one composite operator consists of.
struct Parts<'a> {
    graph: &'a mut Graph,
    node: &'a str,
    op: &'static str,
}

impl Parts<'_> {
    fn error(&self, reason: impl Into<String>) -> GraphError {
        GraphError { node: self.node.to_owned(), op: self.op, reason: reason.into() }
    }

    fn takes(&self, count: usize, inputs: &[ValueId]) -> GraphError {
        self.error(format!("takes {count} inputs, not {}", inputs.len()))
    }

    fn only(&self, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        match inputs {
            &[x] => Ok(x),
            others => Err(self.takes(1, others)),
        }
    }

    /// Adds a node. An error names the composite operator.
    fn add(&mut self, suffix: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        let name = format!("{}.{suffix}", self.node);
        self.graph.add(&name, op, inputs).map_err(|error| self.error(error.reason))
    }

    fn unary(&mut self, suffix: &str, op: Unary, x: ValueId) -> Result<ValueId, GraphError> {
        self.add(suffix, Op::Unary(op), &[x])
    }

    fn binary(&mut self, suffix: &str, op: Binary, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.add(suffix, Op::Binary(op), &[a, b])
    }

    fn reshape(&mut self, suffix: &str, x: ValueId, shape: Vec<Dim>) -> Result<ValueId, GraphError> {
        self.add(suffix, Op::Shape(ShapeOp::Reshape { shape: Shape(shape) }), &[x])
    }

    fn slice(
        &mut self,
        suffix: &str,
        x: ValueId,
        axis: usize,
        start: usize,
        end: usize,
    ) -> Result<ValueId, GraphError> {
        self.add(suffix, Op::Shape(ShapeOp::Slice { axis, start, end }), &[x])
    }

    fn constant(&mut self, suffix: &str, tensor: Tensor) -> ValueId {
        let name = format!("{}.{suffix}", self.node);
        self.graph.add_constant(&name, tensor)
    }

    fn dims(&self, x: ValueId) -> Vec<Dim> {
        self.graph.value(x).shape.0.clone()
    }

    fn dim(&self, x: ValueId, axis: usize) -> Result<Dim, GraphError> {
        let shape = &self.graph.value(x).shape;
        let dim = shape.0.get(axis).cloned();
        dim.ok_or_else(|| self.error(format!("axis {axis} is outside of the shape {shape}")))
    }

    fn floats(&self, x: ValueId) -> Result<(), GraphError> {
        match self.graph.value(x).dtype {
            DType::F32 => Ok(()),
            other => Err(self.error(format!("it computes f32, not {other}"))),
        }
    }

    fn log_softmax(&mut self, x: ValueId, axis: usize) -> Result<ValueId, GraphError> {
        let reduce = |op| Op::Reduce { op, axis };
        let most = self.add("max", reduce(Reduce::Max), &[x])?;
        let shifted = self.binary("shifted", Binary::Sub, x, most)?;
        let exponentials = self.unary("exp", Unary::Exp, shifted)?;
        let sum = self.add("sum", reduce(Reduce::Sum), &[exponentials])?;
        let log = self.unary("log", Unary::Log, sum)?;
        self.binary("result", Binary::Sub, shifted, log)
    }

    fn group_norm(
        &mut self,
        [x, weight, bias]: [ValueId; 3],
        groups: usize,
        epsilon: f32,
    ) -> Result<ValueId, GraphError> {
        self.floats(x)?;
        let dims = self.dims(x);
        let channels = self.dim(x, 1)?.fixed().ok_or_else(|| self.error("its channels must be known"))?;
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(self.error(format!("{channels} channels are not {groups} equal groups")));
        }
        let per_group = dims[2..]
            .iter()
            .fold(Dim::Fixed(channels / groups), |product, dim| product.combine(DimOp::Mul, dim));
        let grouped = self.reshape("groups", x, vec![dims[0].clone(), groups.into(), per_group])?;
        let mean_of = Op::Reduce { op: Reduce::Mean, axis: 2 };
        let mean = self.add("mean", mean_of.clone(), &[grouped])?;
        let centered = self.binary("centered", Binary::Sub, grouped, mean)?;
        let squares = self.binary("squares", Binary::Mul, centered, centered)?;
        let variance = self.add("variance", mean_of, &[squares])?;
        let epsilon = self.constant("epsilon", Tensor::f32([], vec![epsilon]));
        let variance = self.binary("variance_epsilon", Binary::Add, variance, epsilon)?;
        let deviation = self.unary("deviation", Unary::Sqrt, variance)?;
        let normal = self.binary("normal", Binary::Div, centered, deviation)?;
        let rank = dims.len();
        let normal = self.reshape("ungrouped", normal, dims)?;
        let per_channel: Vec<Dim> = [channels].into_iter().chain(vec![1; rank - 2]).map(Dim::Fixed).collect();
        let weight = self.reshape("weight", weight, per_channel.clone())?;
        let bias = self.reshape("bias", bias, per_channel)?;
        let scaled = self.binary("scaled", Binary::Mul, normal, weight)?;
        self.binary("result", Binary::Add, scaled, bias)
    }

    fn pad(&mut self, x: ValueId, pads: &[[usize; 2]], mode: PadMode) -> Result<ValueId, GraphError> {
        if pads.len() != self.dims(x).len() {
            return Err(self.error(format!(
                "it has {} pairs of pads for {} axes",
                pads.len(),
                self.dims(x).len()
            )));
        }
        let mut y = x;
        for (axis, &[before, behind]) in pads.iter().enumerate() {
            if before == 0 && behind == 0 {
                continue;
            }
            let mut row = Vec::new();
            if before > 0 {
                row.extend(self.margin(y, axis, before, true, mode)?);
            }
            row.push(y);
            if behind > 0 {
                row.extend(self.margin(y, axis, behind, false, mode)?);
            }
            y = self.add(&format!("axis{axis}"), Op::Shape(ShapeOp::Concat { axis }), &row)?;
        }
        if y == x { self.add("result", Op::Shape(ShapeOp::Identity), &[x]) } else { Ok(y) }
    }

    /// `places` to stand before or behind x along an axis.
    fn margin(
        &mut self,
        x: ValueId,
        axis: usize,
        places: usize,
        before: bool,
        mode: PadMode,
    ) -> Result<Vec<ValueId>, GraphError> {
        let suffix = format!("{}{axis}", if before { "before" } else { "behind" });
        let mut dims = self.dims(x);
        let size = dims[axis].fixed();
        let known = || size.ok_or_else(|| self.error(format!("the size of axis {axis} must be known")));
        match mode {
            PadMode::Constant(number) => {
                self.floats(x)?;
                dims[axis] = places.into();
                let number =
                    self.constant(&format!("{suffix}.number"), Tensor::full(vec![1; dims.len()], number));
                Ok(vec![self.add(&suffix, Op::Shape(ShapeOp::Expand { shape: Shape(dims) }), &[number])?])
            }
            PadMode::Edge => {
                let at = if before { 0 } else { known()?.saturating_sub(1) };
                let edge = self.slice(&format!("{suffix}.edge"), x, axis, at, at + 1)?;
                dims[axis] = places.into();
                Ok(vec![self.add(&suffix, Op::Shape(ShapeOp::Expand { shape: Shape(dims) }), &[edge])?])
            }
            PadMode::Reflect => {
                let size = known()?;
                if places >= size {
                    return Err(
                        self.error(format!("{places} places are mirrored, and axis {axis} has {size}"))
                    );
                }
                let mirrored = |i: usize| if before { places - i } else { size - 2 - i };
                (0..places)
                    .map(|i| {
                        let at = mirrored(i);
                        self.slice(&format!("{suffix}.{i}"), x, axis, at, at + 1)
                    })
                    .collect()
            }
        }
    }

    fn split(&mut self, x: ValueId, axis: usize, sizes: &[usize]) -> Result<Vec<ValueId>, GraphError> {
        let total = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
        let size = self.dim(x, axis)?;
        if size.fixed().is_some_and(|size| total != Some(size)) || total.is_none() || sizes.is_empty() {
            return Err(self.error(format!("parts of {sizes:?} are not an axis of {size}")));
        }
        let mut start = 0;
        let mut parts = Vec::with_capacity(sizes.len());
        for (i, &size) in sizes.iter().enumerate() {
            parts.push(self.slice(&format!("part{i}"), x, axis, start, start + size)?);
            start += size;
        }
        Ok(parts)
    }
}
