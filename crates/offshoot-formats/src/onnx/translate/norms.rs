//! Norms.

use offshoot_graph::op::{BatchNormalization, Norm, ShapeOp};
use offshoot_graph::{Dim, Op, Role, Shape, ValueId};

use super::{Operand, SIMPLIFY, Translator, in_training_mode};
use crate::error::Problem;
use crate::import::Affine;
use crate::onnx::attributes::NodeView;
use crate::onnx::complement;

impl<'a> Translator<'a> {
    pub(super) fn layer_norm(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let axis = node.place_of(node.int("axis", -1), self.import.rank(x))?;
        let affine = self.affine(node)?;
        self.import.layer_norm(&node, x, axis, affine, node.float("epsilon").unwrap_or(1e-5))
    }

    /// A weight and a bias: inputs 1 and 2.
    fn affine(&mut self, node: NodeView<'a>) -> Result<Affine, Problem> {
        let mut given = [None; 2];
        for index in [1, 2] {
            if node.input(index).is_some() {
                given[index - 1] = Some(match self.operand(node, index)? {
                    Operand::Stored(stored) if !stored.constant => {
                        self.plain_parameter(node, index, Role::Weight)?
                    }
                    _ => self.value(node, index)?,
                });
            }
        }
        Ok(Affine { weight: given[0], bias: given[1] })
    }

    pub(super) fn instance_norm(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let affine = self.affine(node)?;
        self.import.instance_norm(&node, x, affine, node.float("epsilon").unwrap_or(1e-5))
    }

    /// A norm of groups of channels; before opset 21 with a weight and a bias for each group.
    pub(super) fn group_norm(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let groups = usize::try_from(node.int("num_groups", 0)).unwrap_or(0);
        let mut affine = self.affine(node)?;
        if self.context.opset < 21 {
            let channels = self.import.shape(x).0.get(1).and_then(Dim::fixed).unwrap_or(0);
            for id in [&mut affine.weight, &mut affine.bias].into_iter().flatten() {
                *id = self.of_groups(node, *id, groups, channels)?;
            }
        }
        self.import.group_norm(&node, x, groups, affine, node.float("epsilon").unwrap_or(1e-5))
    }

    /// A number for each group, for each of its channels.
    fn of_groups(
        &mut self,
        node: NodeView<'a>,
        id: ValueId,
        groups: usize,
        channels: usize,
    ) -> Result<ValueId, Problem> {
        let each = channels.checked_div(groups).filter(|each| each * groups == channels);
        let each = each.ok_or_else(|| node.damaged(format!("{channels} channels are no {groups} groups")))?;
        let column = self.import.push_part(
            &node,
            "column",
            Op::Shape(ShapeOp::Reshape { shape: Shape::fixed(&[groups, 1]) }),
            &[id],
        )?;
        let wide = Op::Shape(ShapeOp::Expand { shape: Shape::fixed(&[groups, each]) });
        let wide = self.import.push_part(&node, "channels", wide, &[column])?;
        self.import.push_part(
            &node,
            "row",
            Op::Shape(ShapeOp::Reshape { shape: Shape::fixed(&[channels]) }),
            &[wide],
        )
    }

    pub(super) fn batch_norm(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        // Before opset 14, the statistics among the outputs say that those of the batch are meant.
        if node.flag("training_mode") || node.proto.output.iter().skip(1).any(|name| !name.is_empty()) {
            return Err(in_training_mode(node));
        }
        if node.int("spatial", 1) != 1 {
            return Err(node.unsupported("`spatial` = 0 is not read", SIMPLIFY));
        }
        let epsilon = node.float("epsilon").unwrap_or(1e-5);
        let momentum = complement(node.float("momentum").unwrap_or(0.9));
        let mut inputs = vec![self.value(node, 0)?];
        for (index, role) in [(1, Role::Weight), (2, Role::Weight), (3, Role::Buffer), (4, Role::Buffer)] {
            inputs.push(self.plain_parameter(node, index, role)?);
        }
        self.import.push(&node, Op::Norm(Norm::Batch(BatchNormalization { epsilon, momentum })), &inputs)
    }
}
