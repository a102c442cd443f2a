//! Which operators are computed in integers, and which values are rounded for that.

use std::collections::BTreeSet;

use offshoot_graph::op::{Binary, Gemm, Pooling, ShapeOp, Unary};
use offshoot_graph::passes::{expand, shipped};
use offshoot_graph::{DType, Graph, Metadata, Model, Node, Op, Source, ValueId, Weights};

use crate::error::QuantError;
use crate::scheme::{Placement, Scheme};

/// A network in float, batch norms folded, and what of it a [`Scheme`] computes in integers.
#[derive(Clone, Debug)]
pub struct Network {
    pub(crate) graph: Graph,
    pub(crate) weights: Weights,
    pub(crate) metadata: Metadata,
    pub(crate) scheme: Scheme,
    /// What each node is.
    pub(crate) parts: Vec<Part>,
    uses: Vec<usize>,
}

/// What a node of a quantized network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// In float.
    Float,
    /// A convolution or product with a weight.
    Weighted,
    /// Computed on integers, with a result under a scale of its own.
    Computed,
    /// Moves integers: the result has the scale of the operand.
    Moved,
    /// An activation that belongs to the operator before it.
    Follows,
}

impl Network {
    /// Folds the batch norms of `model` and selects what `scheme` quantizes.
    ///
    /// # Errors
    /// When the weights do not fit, or there is nothing to quantize.
    pub fn new(model: &Model, scheme: Scheme) -> Result<Network, QuantError> {
        let (graph, weights) = shipped(&model.graph, &model.weights)?;
        let graph = expand(&graph, |_| true)?;
        let uses = graph.use_counts();
        let mut network = Network {
            metadata: model.metadata.clone(),
            parts: Vec::with_capacity(graph.nodes().len()),
            graph,
            weights,
            scheme,
            uses,
        };
        for index in 0..network.graph.nodes().len() {
            let part = network.part(&network.graph.nodes()[index]);
            network.parts.push(part);
        }
        if !network.parts.contains(&Part::Weighted) {
            return Err(QuantError::Nothing);
        }
        Ok(network)
    }

    /// The float model: batch norms folded.
    pub fn model(&self) -> Model {
        Model { graph: self.graph.clone(), weights: self.weights.clone(), metadata: self.metadata.clone() }
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The names of the operators that are quantized and may be kept in float instead.
    pub fn operators(&self) -> Vec<String> {
        let nodes = self.graph.nodes().iter().zip(&self.parts);
        let own = nodes.filter(|(_, part)| matches!(part, Part::Weighted | Part::Computed));
        own.map(|(node, _)| node.name.clone()).collect()
    }

    /// What `node` is, whose predecessors are known.
    fn part(&self, node: &Node) -> Part {
        let everywhere = self.scheme.placement == Placement::Everywhere;
        let integers = || self.operands(node).iter().all(|&v| self.is_integer(v));
        match &node.op {
            Op::Conv(_) | Op::Gemm(Gemm { trans_a: false, .. }) if self.has_weight(node) => Part::Weighted,
            Op::Unary(Unary::Relu | Unary::Clip(_)) if self.follows(node) => Part::Follows,
            Op::Binary(Binary::Add) | Op::Pool(Pooling::GlobalAverage)
                if self.operands(node).len() == node.inputs.len() && integers() =>
            {
                Part::Computed
            }
            Op::Pool(Pooling::Average(_)) | Op::Shape(ShapeOp::Concat { .. })
                if everywhere && self.operands(node).len() == node.inputs.len() && integers() =>
            {
                Part::Computed
            }
            Op::Pool(Pooling::Max(_))
            | Op::Shape(
                ShapeOp::Flatten { .. }
                | ShapeOp::Reshape { .. }
                | ShapeOp::Transpose { .. }
                | ShapeOp::Slice { .. },
            ) if everywhere && integers() => Part::Moved,
            Op::Conv(_)
            | Op::Gemm(_)
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Reduce { .. }
            | Op::Pool(_)
            | Op::Shape(_)
            | Op::Norm(_)
            | Op::MatMul(_)
            | Op::Dropout { .. }
            | Op::Softmax { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::Sequence(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_)
            | Op::Composite(_)
            | Op::DynamicQuantizeMatMul { .. }
            | Op::Recurrent(_) => Part::Float,
        }
    }

    /// Whether a convolution or product has a float weight of its own, and a bias of its own if any.
    fn has_weight(&self, node: &Node) -> bool {
        let parameter = |id: ValueId| {
            let value = self.graph.value(id);
            matches!(value.source, Source::Parameter(_)) && value.dtype == DType::F32
        };
        self.is_computed(node.inputs[0]) && node.inputs[1..].iter().all(|&id| parameter(id))
    }

    /// Whether an activation alone reads what an operator in integers gives.
    fn follows(&self, node: &Node) -> bool {
        let producer = self.graph.producer(node.inputs[0]).map(|n| self.parts[n.index()]);
        self.uses[node.inputs[0].index()] == 1 && matches!(producer, Some(Part::Weighted | Part::Computed))
    }

    fn is_computed(&self, id: ValueId) -> bool {
        matches!(self.graph.value(id).source, Source::Input | Source::Node { .. })
    }

    /// The operands of a node that a run computes.
    fn operands(&self, node: &Node) -> Vec<ValueId> {
        node.inputs.iter().copied().filter(|&v| self.is_computed(v)).collect()
    }

    /// Whether an operator in integers gives a value.
    fn is_integer(&self, id: ValueId) -> bool {
        self.graph.producer(id).is_some_and(|n| self.parts[n.index()] != Part::Float)
    }

    /// Which values are rounded to integers when the operators in `kept` stay in float.
    pub(crate) fn rounded(&self, kept: &BTreeSet<String>) -> Vec<bool> {
        let mut rounded = vec![false; self.graph.values().len()];
        for (node, &part) in self.graph.nodes().iter().zip(&self.parts) {
            if kept.contains(&node.name) {
                continue;
            }
            for id in self.reads(node, part) {
                rounded[id.index()] = true;
            }
        }
        for id in self.rounded_outputs() {
            let producer = self.graph.producer(id).map(|n| &self.graph.node(n).name);
            rounded[id.index()] |= producer.is_some_and(|name| !kept.contains(name));
        }
        rounded
    }

    /// What the network gives and the scheme rounds.
    pub(crate) fn rounded_outputs(&self) -> impl Iterator<Item = ValueId> {
        let outputs = self.graph.outputs().iter().map(|&(_, id)| id);
        outputs.filter(|&id| self.scheme.outputs && self.is_integer(id))
    }

    /// The activations that a node takes as integers.
    pub(crate) fn reads(&self, node: &Node, part: Part) -> Vec<ValueId> {
        match part {
            Part::Float | Part::Follows => Vec::new(),
            Part::Weighted => vec![node.inputs[0]],
            Part::Computed
                if node.op == Op::Binary(Binary::Add) && self.scheme.placement == Placement::Inputs =>
            {
                vec![self.skipping(node)]
            }
            Part::Computed | Part::Moved => self.operands(node),
        }
    }

    /// The operand of a sum that does not come straight out of a convolution that nothing else reads; of two that do, the
    /// second.
    fn skipping(&self, add: &Node) -> ValueId {
        let fused = |id: ValueId| {
            let producer = self.graph.producer(id).map(|n| self.parts[n.index()]);
            producer == Some(Part::Weighted) && self.uses[id.index()] == 1
        };
        match (fused(add.inputs[0]), fused(add.inputs[1])) {
            (false, true) => add.inputs[0],
            _ => add.inputs[1],
        }
    }

    /// The value whose scale `id` has: where it was moved from.
    pub(crate) fn origin(&self, mut id: ValueId) -> ValueId {
        while let Some(node) = self.graph.producer(id).filter(|n| self.parts[n.index()] == Part::Moved) {
            id = self.graph.node(node).inputs[0];
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use offshoot_graph::builder::Conv2d;
    use offshoot_graph::op::{AveragePool, Pool};
    use offshoot_graph::{Shape, Tensor};

    use super::*;
    use crate::scheme::WeightBits;

    /// Convolutions with what may stand behind them.
    fn model() -> Model {
        let mut g = Graph::new("parts");
        let x = g.add_input("input", DType::F32, Shape::fixed(&[1, 4, 8, 8]));
        let node = |g: &mut Graph, name: &str, op: Op, inputs: &[ValueId]| {
            g.add(name, op, inputs).expect("the sizes fit")
        };
        let pool = Pool { kernel: [2; 2], strides: [1; 2], pads: [0; 4], ceil_mode: false };
        let average = Pooling::Average(AveragePool { pool: pool.clone(), count_include_pad: true });
        let relu = Op::Unary(Unary::Relu);
        let conv = g.conv2d("conv", x, &Conv2d::new(4, 3)).expect("the sizes fit");
        let act = node(&mut g, "act", relu.clone(), &[conv]);
        let mean = node(&mut g, "mean", Op::Pool(average), &[act]);
        let join = node(&mut g, "join", Op::Shape(ShapeOp::Concat { axis: 1 }), &[mean, mean]);
        let most = node(&mut g, "most", Op::Pool(Pooling::Max(pool.clone())), &[join]);
        let cut = node(&mut g, "cut", Op::Shape(ShapeOp::Slice { axis: 1, start: 0, end: 4 }), &[most]);
        let number = g.add_constant("number", Tensor::full([1], 2.0));
        let shifted = node(&mut g, "shifted", Op::Binary(Binary::Add), &[cut, number]);
        let raw = node(&mut g, "raw", Op::Pool(Pooling::Max(pool)), &[x]);
        let twice = g.conv2d("twice", cut, &Conv2d::new(4, 1)).expect("the sizes fit");
        let late = node(&mut g, "late", relu, &[twice]);
        let sum = node(&mut g, "sum", Op::Binary(Binary::Add), &[cut, twice]);
        let half = node(&mut g, "half", Op::Binary(Binary::Add), &[shifted, sum]);
        for (i, output) in [shifted, raw, late, half].into_iter().enumerate() {
            g.add_output(&i.to_string(), output);
        }
        let one = |&id: &ValueId| {
            let value = g.value(id);
            (value.name.clone(), Tensor::full(value.shape.as_fixed().expect("parameters are fixed"), 1.0))
        };
        let weights = g.parameters().iter().map(one).collect();
        let metadata = Metadata::default();
        Model { graph: g, weights, metadata }
    }

    fn named(scheme: Scheme, wanted: Part) -> Vec<String> {
        let network = Network::new(&model(), scheme).expect("there are convolutions");
        let nodes = network.graph.nodes().iter().zip(&network.parts);
        nodes.filter(|(_, part)| **part == wanted).map(|(node, _)| node.name.clone()).collect()
    }

    #[test]
    fn operators_are_in_integers_where_all_that_they_read_is() {
        let cpu = Scheme::cpu(WeightBits::Seven);
        assert_eq!(named(cpu, Part::Weighted), ["conv", "twice"]);
        assert_eq!(named(cpu, Part::Follows), ["act"]);
        assert_eq!(named(cpu, Part::Computed), ["mean", "join", "sum"]);
        assert_eq!(named(cpu, Part::Moved), ["most", "cut"]);
        // With a constant, of the input, of what another reads too, of one in float.
        assert_eq!(named(cpu, Part::Float), ["shifted", "raw", "late", "half"]);
        assert_eq!(named(Scheme::tensorrt(), Part::Computed), Vec::<String>::new());
        assert_eq!(named(Scheme::tensorrt(), Part::Moved), Vec::<String>::new());
    }

    #[test]
    fn what_is_moved_has_the_scale_of_its_origin() {
        let network = Network::new(&model(), Scheme::cpu(WeightBits::Seven)).expect("there are convolutions");
        let value = |name: &str| network.graph.values().find(|(_, v)| v.name == name).expect("it is there").0;
        let origin = |name: &str| network.graph.value(network.origin(value(name))).name.clone();
        assert_eq!(["cut", "most", "join", "input"].map(origin), ["join", "join", "join", "input"]);
        let kept = BTreeSet::from(["twice".to_owned(), "sum".to_owned()]);
        let rounded = |kept: &BTreeSet<String>, name: &str| network.rounded(kept)[value(name).index()];
        assert!(rounded(&BTreeSet::new(), "cut") && rounded(&BTreeSet::new(), "twice"));
        assert!(!rounded(&kept, "cut") && !rounded(&kept, "twice") && rounded(&kept, "input"));
    }
}
