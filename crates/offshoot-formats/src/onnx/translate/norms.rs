//! Norms.

use offshoot_graph::op::{BatchNormalization, ShapeOp};
use offshoot_graph::{Dim, Op, Role, Shape, Tensor, ValueId};

use super::{Operand, SIMPLIFY, Stored, Translator, in_training_mode};
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

    pub(super) fn batch_norm(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if node.flag("training_mode")
            && let Operand::Stored(weight) = self.operand(node, 0)?
        {
            return self.standardized(node, &weight).map(Operand::Stored);
        }
        // Before opset 14, the statistics among the outputs say that those of the batch are meant.
        if node.flag("training_mode") || node.proto.output.iter().skip(1).any(|name| !name.is_empty()) {
            return Err(in_training_mode(node));
        }
        if node.int("spatial", 1) != 1 {
            return Err(node.unsupported("`spatial` = 0 is not read", SIMPLIFY));
        }
        let epsilon = node.float("epsilon").unwrap_or(1e-5);
        let momentum = complement(node.float("momentum").unwrap_or(0.9));
        let x = self.value(node, 0)?;
        let mut parameter = |index, role| self.plain_parameter(node, index, role);
        let parameters = [
            parameter(1, Role::Weight)?,
            parameter(2, Role::Weight)?,
            parameter(3, Role::Buffer)?,
            parameter(4, Role::Buffer)?,
        ];
        let norm = BatchNormalization { epsilon, momentum };
        self.import.batch_norm(&node, x, parameters, norm).map(Operand::Value)
    }

    /// A weight whose filters have each the mean and the variance that the file gives them: what networks without batch norms do at
    /// each run, with a norm in training mode.
    fn standardized(&mut self, node: NodeView<'a>, weight: &Stored) -> Result<Stored, Problem> {
        let floats = self.floats(weight)?;
        let (scale, shift) = (self.stored(node, 1)?, self.stored(node, 2)?);
        let (scale, shift) = (self.floats(&scale)?, self.floats(&shift)?);
        let (numbers, scale, shift) = (floats.as_f32(), scale.as_f32(), shift.as_f32());
        let (Some(numbers), Some(scale), Some(shift)) = (numbers, scale, shift) else {
            return Err(node.damaged("it reads no floats"));
        };
        let [1, filters, rest @ ..] = floats.shape() else {
            return Err(in_training_mode(node));
        };
        let each: usize = rest.iter().product();
        if weight.transposed || each == 0 || scale.len() != *filters || shift.len() != *filters {
            return Err(in_training_mode(node));
        }
        let epsilon = f64::from(node.float("epsilon").unwrap_or(1e-5));
        self.context.tensors.charge(&node.place(), numbers.len(), 4)?;
        let mut made = Vec::with_capacity(numbers.len());
        for (i, filter) in numbers.chunks_exact(each).enumerate() {
            let mean = filter.iter().map(|&x| f64::from(x)).sum::<f64>() / each as f64;
            let squares = filter.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
            let factor = f64::from(scale[i]) / (squares / each as f64 + epsilon).sqrt();
            made.extend(
                filter.iter().map(|&x| ((f64::from(x) - mean) * factor + f64::from(shift[i])) as f32),
            );
        }
        Ok(self.derived(node, Tensor::f32(floats.shape(), made), false))
    }
}
