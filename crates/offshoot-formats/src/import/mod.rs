//! What every reader of foreign files shares: a graph that grows operator by operator, under the names that the file has.
//!
//! A front end (ONNX, TorchScript) finds out what an operator of its file reads, and calls what is here: a file for each family
//! of operators. Those of PyTorch are one table for all formats that hold them ([`aten`]).

pub(crate) mod aten;
mod composite;
mod einsum;
mod elementwise;
mod logic;
mod normalization;
mod number;
mod overlap;
mod pad;
mod places;
mod product;
mod reduce;
mod resize;
mod shape;
mod soft;
mod window;

use std::collections::{HashMap, HashSet};

use offshoot_graph::op::ShapeOp;
use offshoot_graph::{DType, Dim, DimOp, Graph, Op, Role, Shape, Source, Tensor, ValueId};

pub(crate) use self::logic::Comparison;
pub(crate) use self::normalization::Affine;
pub(crate) use self::number::{MAX_PARTS, Number};
pub(crate) use self::overlap::Overlap;
pub(crate) use self::pad::Padded;
pub(crate) use self::shape::Target;
pub(crate) use self::window::Windows;

use crate::elements::check_activation;
use crate::error::Problem;
use crate::names::Names;

/// An operator of a file: what errors name, and what the nodes that it becomes are called.
pub(crate) trait Site {
    /// The name of the node that it becomes.
    fn name(&self) -> &str;
    /// Where it is.
    fn place(&self) -> String;
    /// What to do where it is not read.
    fn way_out(&self) -> &str;

    /// An operator in a form that is not read.
    fn refused(&self, what: &str) -> Problem {
        Problem::unsupported(self.place(), what, self.way_out())
    }

    /// A file that contradicts itself.
    fn damage(&self, what: &str) -> Problem {
        Problem::damaged(self.place(), what)
    }

    /// The name of a part of what it becomes.
    fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.name())
    }

    /// An axis of a value of `rank` axes, counted from the end when negative.
    fn axis_of(&self, axis: i64, rank: usize) -> Result<usize, Problem> {
        let counted = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
        usize::try_from(counted)
            .ok()
            .filter(|&a| a < rank)
            .ok_or_else(|| self.damage(&format!("axis {axis} is outside of {rank} axes")))
    }

    /// Axes in the order in which they are given, each once.
    fn axes_of(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, Problem> {
        let mut found = Vec::new();
        for &axis in axes {
            let axis = self.axis_of(axis, rank)?;
            if !found.contains(&axis) {
                found.push(axis);
            }
        }
        Ok(found)
    }
}

/// A part of what a site computes.
pub(crate) struct Part<'a> {
    pub(crate) site: &'a dyn Site,
    pub(crate) name: String,
}

impl Site for Part<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> String {
        self.site.place()
    }

    fn way_out(&self) -> &str {
        self.site.way_out()
    }
}

/// The graph built so far.
pub(crate) struct Importer {
    pub(crate) graph: Graph,
    /// The batch axis of the input.
    pub(crate) batch: Dim,
    /// The number that the file has in its place, if any.
    pub(crate) fixed_batch: Option<usize>,
    pub(crate) names: Names,
    /// By the name of the tensor, by whether it is a running statistic, and by shape.
    pub(crate) parameters: HashMap<(String, bool, Vec<usize>), ValueId>,
    /// What the composite operators so far become.
    composed: composite::Parts,
    /// Values that a file calls booleans, and that are f32 of 1 or 0 here.
    truths: HashSet<ValueId>,
}

impl Importer {
    pub(crate) fn new(name: &str, batch: Dim, fixed_batch: Option<usize>) -> Importer {
        Importer {
            graph: Graph::new(name),
            batch,
            fixed_batch,
            names: Names::default(),
            parameters: HashMap::new(),
            composed: composite::Parts::default(),
            truths: HashSet::new(),
        }
    }

    pub(crate) fn shape(&self, id: ValueId) -> &Shape {
        &self.graph.value(id).shape
    }

    pub(crate) fn rank(&self, id: ValueId) -> usize {
        self.shape(id).rank()
    }

    /// The operator that makes `id`, and what it reads.
    pub(crate) fn made_by(&self, id: ValueId) -> Option<(&Op, &[ValueId])> {
        let node = self.graph.node(self.graph.producer(id)?);
        Some((&node.op, &node.inputs))
    }

    /// A node under the name of `site`.
    pub(crate) fn push(&mut self, site: &dyn Site, op: Op, inputs: &[ValueId]) -> Result<ValueId, Problem> {
        self.push_named(site, site.name(), op, inputs)
    }

    /// A node for a part of what `site` computes.
    pub(crate) fn push_part(
        &mut self,
        site: &dyn Site,
        part: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, Problem> {
        self.push_named(site, &site.part(part), op, inputs)
    }

    pub(crate) fn push_named(
        &mut self,
        site: &dyn Site,
        name: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, Problem> {
        self.push_all(site, name, op, inputs).map(|results| results[0])
    }

    /// The results of a node, of which the first is the largest.
    pub(crate) fn push_all(
        &mut self,
        site: &dyn Site,
        name: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, Problem> {
        let name = self.names.unused(name);
        let results = self.graph.add_node(&name, op, inputs).map_err(|e| site.refused(&e.reason))?;
        let shape = self.shape(results[0]);
        check_activation(&site.place(), shape.0.iter().skip(1).map(known_factor))?;
        if !shape.0.iter().all(|dim| dim.is_small(MAX_PARTS)) {
            let what = "its output has a size that takes too many steps to compute".into();
            return Err(Problem::TooLarge { place: site.place(), what, limit: MAX_PARTS as u64 });
        }
        Ok(results)
    }

    /// A constant that is a part of what `site` computes.
    pub(crate) fn constant(&mut self, site: &dyn Site, part: &str, tensor: Tensor) -> ValueId {
        let name = self.names.unused(&site.part(part));
        self.graph.add_constant(&name, tensor)
    }

    pub(crate) fn number(&mut self, site: &dyn Site, part: &str, number: f32) -> ValueId {
        self.constant(site, part, Tensor::f32([], vec![number]))
    }

    /// The number that a constant is everywhere.
    pub(crate) fn known_number(&self, id: ValueId) -> Option<f32> {
        let Source::Constant(tensor) = &self.graph.value(id).source else { return None };
        let numbers = tensor.as_f32()?;
        let first = *numbers.first()?;
        numbers.iter().all(|&n| n == first).then_some(first)
    }

    /// Whether a value is a part or a repetition of a constant that is 0 everywhere.
    pub(crate) fn is_zero(&self, mut id: ValueId) -> bool {
        while let Some((op, inputs)) = self.made_by(id) {
            if !matches!(
                op,
                Op::Shape(ShapeOp::Slice { .. } | ShapeOp::Expand { .. } | ShapeOp::Reshape { .. })
            ) {
                return false;
            }
            id = inputs[0];
        }
        self.known_number(id) == Some(0.0)
    }

    /// The parameter for the tensor called `key`, and whether it is new. One tensor in two roles becomes two parameters.
    pub(crate) fn parameter(
        &mut self,
        key: &str,
        dtype: DType,
        shape: &[usize],
        role: Role,
    ) -> (ValueId, bool) {
        let known = (key.to_owned(), role == Role::Buffer, shape.to_vec());
        if let Some(&id) = self.parameters.get(&known) {
            return (id, false);
        }
        let name = self.names.unused(key);
        let id = self.graph.add_typed_parameter(&name, dtype, shape, role);
        self.parameters.insert(known, id);
        (id, true)
    }
}

/// The part of a size that a file decides, whatever the sizes of the inputs are.
fn known_factor(dim: &Dim) -> usize {
    match dim {
        Dim::Fixed(n) => *n,
        Dim::Symbol(_) => 1,
        Dim::Expr(e) if !dim.is_small(MAX_PARTS) || matches!(e.0, DimOp::Div | DimOp::Sub) => 1,
        Dim::Expr(e) => {
            let (a, b) = (known_factor(&e.1), known_factor(&e.2));
            if e.0 == DimOp::Mul { a.saturating_mul(b) } else { a.saturating_add(b) }
        }
    }
}
