//! Nodes that are more than an operator with its attributes.

use offshoot_graph::op::{Clip, Conv, Name, Pool, Reduce, Unary};
use offshoot_graph::{Dim, Node, Shape, Tensor, ValueId};

use super::{WAY_OUT, Writer, float, int, ints};
use crate::error::Problem;
use crate::onnx::proto::AttributeProto;

/// Whether an opset of ONNX has a function of one element.
pub(super) fn in_onnx(unary: Unary, opset: i64) -> bool {
    matches!(unary.row().onnx, Name::Operator(_, since) if since <= opset)
}

impl Writer<'_, '_> {
    pub(super) fn conv(&self, conv: &Conv, node: &Node) -> Vec<AttributeProto> {
        let weight = &self.graph.value(node.inputs[1]).shape;
        let kernel: Vec<usize> = weight.0.iter().skip(2).filter_map(Dim::fixed).collect();
        vec![
            ints("dilations", &conv.dilations),
            int("group", conv.group as i64),
            ints("kernel_shape", &kernel),
            ints("pads", &conv.pads),
            ints("strides", &conv.strides),
        ]
    }

    /// The windows. ONNX's ceil mode before opset 22 keeps a last window that lies in the padding alone, which
    /// PyTorch and we do not: where there is one on each axis that is rounded, the floor is the same.
    pub(super) fn pool(&self, pool: &Pool, node: &Node) -> Result<Vec<AttributeProto>, Problem> {
        let ceil_mode = pool.ceil_mode && self.rounds_up(pool, node)?;
        Ok(vec![
            int("ceil_mode", ceil_mode.into()),
            ints("kernel_shape", &pool.kernel),
            ints("pads", &pool.pads),
            ints("strides", &pool.strides),
        ])
    }

    /// Whether rounding up, as ONNX does it, gives the windows of the graph; if not, rounding down must.
    pub(super) fn rounds_up(&self, pool: &Pool, node: &Node) -> Result<bool, Problem> {
        let sides =
            |id: ValueId| self.graph.value(id).shape.0.iter().skip(2).map(Dim::fixed).collect::<Vec<_>>();
        let (sizes, made) = (sides(node.inputs[0]), sides(node.outputs[0]));
        let windows = |round_up: bool| -> Vec<Option<usize>> {
            let side = |(i, size): (usize, &Option<usize>)| {
                let span =
                    (*size)?.checked_add(pool.pads[i] + pool.pads[i + 2])?.checked_sub(pool.kernel[i])?;
                Some(if round_up { span.div_ceil(pool.strides[i]) } else { span / pool.strides[i] } + 1)
            };
            sizes.iter().enumerate().map(side).collect()
        };
        if windows(true) == made {
            return Ok(true);
        }
        if windows(false) == made {
            return Ok(false);
        }
        let place = format!("node `{}` ({})", node.name, node.op.name());
        let what = "ONNX cannot say that the last window counts on one axis and not on the other";
        Err(Problem::unsupported(place, what, "Use another picture size"))
    }

    /// The name of the shape that an Expand makes: what is not known of it is the batch of the graph's input.
    pub(super) fn expanded(&mut self, node: &Node, shape: &Shape) -> Result<String, Problem> {
        let rest: Option<Vec<i64>> = shape.0.iter().skip(1).map(|d| d.fixed().map(|n| n as i64)).collect();
        let input = self.graph.inputs().first().copied();
        let batch = input.and_then(|id| self.graph.value(id).shape.0.first());
        match (shape.0.first(), rest) {
            (Some(Dim::Fixed(n)), Some(rest)) => {
                let all = std::iter::once(*n as i64).chain(rest).collect();
                self.numbers(node, "shape", all)
            }
            (first, Some(rest)) if first.is_some() && first == batch => {
                let input = input.map(|id| self.name(id).to_owned()).unwrap_or_default();
                let sizes = self.helper("Shape", node, "sizes", vec![input]);
                let zero = self.numbers(node, "zero", vec![0])?;
                let batch = self.helper("Gather", node, "batch", vec![sizes, zero]);
                let rest = self.numbers(node, "rest", rest)?;
                let name = self.helper("Concat", node, "shape", vec![batch, rest]);
                self.attribute(int("axis", 0));
                Ok(name)
            }
            _ => self.computed_shape(node, shape),
        }
    }

    /// The attributes of a reduction. Sums have their axes as an input from opset 13 on, the others from 18 on.
    pub(super) fn reduction(
        &mut self,
        node: &Node,
        op: Reduce,
        axis: usize,
        inputs: &mut Vec<String>,
    ) -> Result<Vec<AttributeProto>, Problem> {
        if self.opset < 18 && op != Reduce::Sum {
            return Ok(vec![ints("axes", &[axis]), int("keepdims", 1)]);
        }
        inputs.push(self.numbers(node, "axes", vec![axis as i64])?);
        Ok(vec![int("keepdims", 1)])
    }

    /// The attributes of a function of one element; a Clip's are inputs.
    pub(super) fn unary(
        &mut self,
        node: &Node,
        unary: Unary,
        inputs: &mut Vec<String>,
    ) -> Result<Vec<AttributeProto>, Problem> {
        if let Unary::Clip(clip) = unary {
            inputs.extend(self.bounds(node, clip)?);
            return Ok(Vec::new());
        }
        let row = unary.row();
        let Name::Operator(_, since) = row.onnx else {
            let place = format!("node `{}` ({})", node.name, node.op.name());
            return Err(Problem::unsupported(place, "ONNX has no such operator", WAY_OUT));
        };
        self.since(since, node)?;
        Ok(row.attributes.iter().zip(unary.numbers()).map(|(a, number)| float(a.onnx, number)).collect())
    }

    /// The names of a Clip's bounds, scalars of the file; an infinite one is left out.
    pub(super) fn bounds(&mut self, node: &Node, clip: Clip) -> Result<Vec<String>, Problem> {
        let mut names = Vec::new();
        for (suffix, bound) in [("min", clip.min), ("max", clip.max)] {
            if bound.is_infinite() {
                names.push(String::new());
                continue;
            }
            let name = self.unused(format!("{}.{suffix}", node.name));
            let proto = self.tensor(&name, &Tensor::f32([], vec![bound]))?;
            self.proto.initializer.push(proto);
            names.push(name);
        }
        let given = names.iter().rposition(|n| !n.is_empty()).map_or(0, |last| last + 1);
        names.truncate(given);
        Ok(names)
    }
}
