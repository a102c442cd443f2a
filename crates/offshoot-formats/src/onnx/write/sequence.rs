//! Operators on tokens, and sizes that are known at the run.

use offshoot_graph::op::SequenceOp;
use offshoot_graph::{DType, Dim, DimOp, Node, Shape, Tensor};

use super::{WAY_OUT, Writer, element_type, int, proto_node};
use crate::error::Problem;

impl Writer<'_, '_> {
    pub(super) fn sequence(&mut self, node: &Node, op: SequenceOp) -> Result<(), Problem> {
        let mut inputs: Vec<String> = node.inputs.iter().map(|&id| self.name(id).to_owned()).collect();
        let (op, attributes) = match op {
            SequenceOp::Gather => ("Gather", vec![int("axis", 0)]),
            SequenceOp::Positions { axis } => {
                inputs = self.range(node, axis, inputs)?;
                ("Range", Vec::new())
            }
            SequenceOp::Equal { number } => {
                inputs.push(self.number(node, "number", number)?);
                inputs = vec![self.helper("Equal", node, "truth", inputs)];
                ("Cast", vec![int("to", element_type(DType::F32).into())])
            }
            SequenceOp::ToFloat => ("Cast", vec![int("to", element_type(DType::F32).into())]),
            SequenceOp::Where => {
                inputs[0] = self.helper("Cast", node, "truth", vec![inputs[0].clone()]);
                self.attribute(int("to", element_type(DType::Bool).into()));
                ("Where", Vec::new())
            }
        };
        let mut proto = proto_node(op, &node.name, inputs, self.name(node.outputs[0]));
        proto.attribute = attributes;
        self.proto.node.push(proto);
        Ok(())
    }

    /// The operands of a Range over an axis of the one input.
    fn range(&mut self, node: &Node, axis: usize, inputs: Vec<String>) -> Result<Vec<String>, Problem> {
        let sizes = self.helper("Shape", node, "sizes", inputs);
        let axis = self.number(node, "axis", axis as i64)?;
        let count = self.helper("Gather", node, "count", vec![sizes, axis]);
        let (start, step) = (self.number(node, "start", 0)?, self.number(node, "step", 1)?);
        Ok(vec![start, count, step])
    }

    /// The name of a whole number that `node` reads.
    fn number(&mut self, node: &Node, suffix: &str, value: i64) -> Result<String, Problem> {
        let name = self.unused(format!("{}.{suffix}", node.name));
        let proto = self.tensor(&name, &Tensor::i64([], vec![value]))?;
        self.proto.initializer.push(proto);
        Ok(name)
    }

    /// The name of a shape of which several sizes are computed from those of the graph's inputs.
    pub(super) fn computed_shape(&mut self, node: &Node, shape: &Shape) -> Result<String, Problem> {
        let mut parts = Vec::new();
        for (axis, dim) in shape.0.iter().enumerate() {
            let part = self.size(node, &format!("size{axis}"), dim)?;
            parts.push(part.ok_or_else(|| {
                let place = format!("node `{}` ({})", node.name, node.op.name());
                Problem::unsupported(place, format!("{shape} has sizes that are not known"), WAY_OUT)
            })?);
        }
        let name = self.helper("Concat", node, "shape", parts);
        self.attribute(int("axis", 0));
        Ok(name)
    }

    /// The name of a vector that holds a size; `None` for one that is none of the inputs' nor computed from them.
    fn size(&mut self, node: &Node, name: &str, dim: &Dim) -> Result<Option<String>, Problem> {
        let (op, a, b) = match dim {
            Dim::Fixed(n) => return self.numbers(node, name, vec![*n as i64]).map(Some),
            Dim::Symbol(_) => return self.input_size(node, name, dim),
            Dim::Expr(e) => (e.0, &e.1, &e.2),
        };
        let (Some(a), Some(b)) =
            (self.size(node, &format!("{name}a"), a)?, self.size(node, &format!("{name}b"), b)?)
        else {
            return Ok(None);
        };
        let op = match op {
            DimOp::Add => "Add",
            DimOp::Sub => "Sub",
            DimOp::Mul => "Mul",
            DimOp::Div => "Div",
        };
        Ok(Some(self.helper(op, node, name, vec![a, b])))
    }

    fn input_size(&mut self, node: &Node, name: &str, dim: &Dim) -> Result<Option<String>, Problem> {
        let graph = self.graph;
        let of = |&id: &_| Some((id, graph.value(id).shape.0.iter().position(|own| own == dim)?));
        let Some((input, axis)) = graph.inputs().iter().find_map(of) else { return Ok(None) };
        let input = self.name(input).to_owned();
        let sizes = self.helper("Shape", node, &format!("{name}.sizes"), vec![input]);
        let axis = self.numbers(node, &format!("{name}.axis"), vec![axis as i64])?;
        Ok(Some(self.helper("Gather", node, name, vec![sizes, axis])))
    }
}
