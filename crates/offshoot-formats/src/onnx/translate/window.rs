//! Windows over pictures: convolutions, poolings, padding.

use std::rc::Rc;

use offshoot_graph::op::{AveragePool, Conv, PadMode, Pool, Reduce};
use offshoot_graph::{Dim, Role, Shape, ValueId};

use super::{Operand, SIMPLIFY, Stored, Translator, laid};
use crate::error::Problem;
use crate::import::{Overlap, Part, Windows};
use crate::onnx::attributes::NodeView;

impl<'a> Translator<'a> {
    /// More places around a value.
    pub(super) fn pad(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        let mode = match node.text("mode").unwrap_or("constant") {
            "constant" => PadMode::Constant(self.pad_number(node)?),
            "reflect" => PadMode::Reflect,
            "edge" => PadMode::Edge,
            other => {
                let what = format!("padding of the mode `{other:.20}` is not read");
                return Err(node.unsupported(what, SIMPLIFY));
            }
        };
        let pads = self.ints(node, 1, "pads")?.unwrap_or_default();
        let axes = match node.input(3) {
            Some(_) => self.ints(node, 3, "axes")?.unwrap_or_default(),
            None => (0..self.import.rank(x) as i64).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(node.damaged(format!("{} pads for {} axes", pads.len(), axes.len())));
        }
        let mut sides = Vec::new();
        for (i, &axis) in axes.iter().enumerate() {
            let axis = node.place_of(axis, self.import.rank(x))?;
            let axis = if channels_last { [0, 2, 3, 1][axis] } else { axis };
            sides.push((axis, pads[i], pads[axes.len() + i]));
        }
        Ok(match self.import.pad(&node, x, &sides, mode)? {
            Ok(id) => laid(id, channels_last),
            Err(padded) => Operand::Padded { padded, node, channels_last },
        })
    }

    fn pad_number(&mut self, node: NodeView<'a>) -> Result<f32, Problem> {
        let number = match node.input(2) {
            Some(_) => self.one_number(node, 2)?,
            None => Some(node.float("value").unwrap_or(0.0)),
        };
        number.ok_or_else(|| {
            node.unsupported("the number of its padding is not known before the run", SIMPLIFY)
        })
    }

    pub(super) fn conv(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        if let Operand::Stored(weight) = self.operand(node, 1)?
            && weight.tensor.shape().len() == 3
        {
            return self.conv_over_steps(node, &weight);
        }
        if let Operand::Stored(weight) = self.operand(node, 1)?
            && matches!(weight.tensor.shape(), [_, _, _, _, 1])
        {
            return self.conv_of_planes(node, &weight);
        }
        let x = self.windows(node, 0)?;
        let shape = match self.dequantized(node, 1)? {
            Some(weight) => self.import.shape(weight).as_fixed().unwrap_or_default(),
            None => self.stored(node, 1)?.tensor.shape().to_vec(),
        };
        let kernel = match shape[..] {
            [_, _, rows, columns] => [rows, columns],
            ref shape => {
                let what = format!("a weight of {} axes is no convolution over pictures", shape.len());
                return Err(node.unsupported(what, SIMPLIFY));
            }
        };
        if node.sizes("kernel_shape", kernel, 1)? != kernel {
            return Err(node.damaged("kernel_shape is not that of its weight"));
        }
        let (strides, dilations) = (node.sizes("strides", [1, 1], 1)?, node.sizes("dilations", [1, 1], 1)?);
        let pads = self.pads(node, x, kernel, strides, dilations)?;
        let group = usize::try_from(node.int("group", 1)).map_err(|_| node.damaged("group is negative"))?;
        let mut operands = vec![self.weight(node, 1)?];
        if node.input(2).is_some() {
            operands.push(self.weight(node, 2)?);
        }
        self.import.conv(&node, x, Conv { strides, pads, dilations, group }, &operands)
    }

    /// A convolution over one axis: that of a picture with one row.
    fn conv_over_steps(&mut self, node: NodeView<'a>, weight: &Stored) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let &[outputs, inputs, steps] = weight.tensor.shape() else {
            return Err(node.damaged("its weight has not three axes"));
        };
        if self.import.rank(x) != 3 || weight.transposed {
            return Err(node.damaged("its input has not as many axes as its weight"));
        }
        if !matches!(node.text("auto_pad"), None | Some("" | "NOTSET" | "VALID")) {
            return Err(node.unsupported("padding by rule over one axis is not read", SIMPLIFY));
        }
        let ([stride], [dilation], [before, behind]) = (
            node.sizes("strides", [1], 1)?,
            node.sizes("dilations", [1], 1)?,
            node.sizes("pads", [0; 2], 0)?,
        );
        let group = usize::try_from(node.int("group", 1)).map_err(|_| node.damaged("group is negative"))?;
        let floats = (*self.floats(weight)?).clone().reshape([outputs, inputs, 1, steps]);
        let tensor = Rc::new(floats.map_err(|e| node.damaged(e.to_string()))?);
        let mut operands = vec![self.parameter(&Stored { tensor, ..weight.clone() }, Role::Weight)?];
        if node.input(2).is_some() {
            operands.push(self.weight(node, 2)?);
        }
        let row = Part { site: &node, name: format!("{}.row", node.name()) };
        let x = self.import.unsqueeze(&row, x, &[2])?;
        let conv =
            Conv { strides: [1, stride], pads: [0, before, 0, behind], dilations: [1, dilation], group };
        let y = self.import.conv(&node, Windows::Of(x), conv, &operands)?;
        let mut shape = self.import.shape(y).clone();
        shape.0.remove(2);
        self.import.reshape_to(&Part { site: &node, name: format!("{}.steps", node.name()) }, y, shape)
    }

    /// A convolution over volumes with windows of one place along the last axis: that of each of its planes as a picture.
    fn conv_of_planes(&mut self, node: NodeView<'a>, weight: &Stored) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let dims = self.import.shape(x).0.clone();
        let shape = weight.tensor.shape();
        let one = (
            node.sizes("strides", [1; 3], 1)?,
            node.sizes("pads", [0; 6], 0)?,
            node.sizes("dilations", [1; 3], 1)?,
        );
        let ([rows, columns, 1], [top, left, 0, bottom, right, 0], [down, across, _]) = one else {
            return Err(node.unsupported("a convolution over volumes is not read", SIMPLIFY));
        };
        if dims.len() != 5
            || weight.transposed
            || !matches!(node.text("auto_pad"), None | Some("" | "NOTSET"))
        {
            return Err(node.unsupported("a convolution over volumes is not read", SIMPLIFY));
        }
        let group = usize::try_from(node.int("group", 1)).map_err(|_| node.damaged("group is negative"))?;
        let floats = (*self.floats(weight)?).clone().reshape(&shape[..4]);
        let tensor = Rc::new(floats.map_err(|e| node.damaged(e.to_string()))?);
        let mut operands = vec![self.parameter(&Stored { tensor, ..weight.clone() }, Role::Weight)?];
        if node.input(2).is_some() {
            operands.push(self.weight(node, 2)?);
        }
        let part = |name: &str| Part { site: &node, name: format!("{}.{name}", node.name()) };
        let turned = self.import.transpose(&part("planes"), x, vec![0, 4, 1, 2, 3])?;
        let planes = self.import.flatten(&part("pictures"), turned, 0, 1)?;
        let conv = Conv {
            strides: [rows, columns],
            pads: [top, left, bottom, right],
            dilations: [down, across],
            group,
        };
        let y = self.import.conv(&node, Windows::Of(planes), conv, &operands)?;
        let shape = [&dims[..1], &dims[4..], &self.import.shape(y).0[1..]].concat();
        let apart = self.import.reshape_to(&part("apart"), y, Shape(shape))?;
        self.import.transpose(&part("volumes"), apart, vec![0, 2, 3, 4, 1])
    }

    /// The padding by attribute or by rule: top, left, bottom, right. What a Pad adds before is not among them.
    fn pads(
        &self,
        node: NodeView<'a>,
        x: Windows,
        kernel: [usize; 2],
        strides: [usize; 2],
        dilations: [usize; 2],
    ) -> Result<[usize; 4], Problem> {
        let upper = match node.text("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" | "" => return node.sizes("pads", [0; 4], 0),
            "VALID" => return Ok([0; 4]),
            "SAME_UPPER" => true,
            "SAME_LOWER" => false,
            other => return Err(node.damaged(format!("auto_pad is `{other}`"))),
        };
        let (mut pads, around) = ([0; 4], x.pads());
        for side in 0..2 {
            let size =
                self.import.shape(x.value()).0.get(2 + side).and_then(Dim::fixed).ok_or_else(|| {
                    node.unsupported(
                        "auto_pad needs a known height and width",
                        "Say the pictures' size with {size}, or export with a fixed one, such as 224 by 224",
                    )
                })?;
            let size = size.saturating_add(around[side] + around[side + 2]);
            let reach = dilations[side] * (kernel[side].max(1) - 1) + 1;
            let covered =
                (size.div_ceil(strides[side]).max(1) - 1).saturating_mul(strides[side]).saturating_add(reach);
            let total = covered.saturating_sub(size);
            let before = if upper { total / 2 } else { total.div_ceil(2) };
            (pads[side], pads[side + 2]) = (before, total - before);
        }
        Ok(pads)
    }

    /// The sums of windows that overlap.
    pub(super) fn overlapped(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let mut two = |index, name| {
            let given = self.ints(node, index, name)?.unwrap_or_default();
            let sizes: Option<Vec<usize>> = given.iter().map(|&n| usize::try_from(n).ok()).collect();
            let sizes = sizes.and_then(|sizes| <[usize; 2]>::try_from(sizes).ok());
            sizes.ok_or_else(|| node.unsupported(format!("its {name} is not of two sides"), SIMPLIFY))
        };
        let of = Overlap {
            size: two(1, "image_shape")?,
            kernel: two(2, "block_shape")?,
            strides: node.sizes("strides", [1, 1], 1)?,
            dilations: node.sizes("dilations", [1, 1], 1)?,
            pads: node.sizes("pads", [0; 4], 0)?,
        };
        self.import.overlapped(&node, x, &of)
    }

    /// The windows of a pooling.
    fn pool(&mut self, node: NodeView<'a>, x: Windows) -> Result<Pool, Problem> {
        if node.sizes("dilations", [1, 1], 1)? != [1, 1] {
            return Err(node.unsupported("pooling with dilations is not read", SIMPLIFY));
        }
        let kernel = node.sizes("kernel_shape", [0, 0], 1)?;
        if kernel == [0, 0] {
            return Err(node.damaged("kernel_shape is missing"));
        }
        let strides = node.sizes("strides", [1, 1], 1)?;
        let pads = self.pads(node, x, kernel, strides, [1, 1])?;
        Ok(Pool { kernel, strides, pads, ceil_mode: node.flag("ceil_mode") })
    }

    pub(super) fn max_pool(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.windows(node, 0)?;
        let pool = self.pool(node, x)?;
        self.import.max_pool(&node, x, pool)
    }

    pub(super) fn average_pool(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.windows(node, 0)?;
        let average =
            AveragePool { pool: self.pool(node, x)?, count_include_pad: node.flag("count_include_pad") };
        self.import.average_pool(&node, x, average)
    }

    pub(super) fn global_pool(&mut self, node: NodeView<'a>, op: Reduce) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        self.import.global_pool(&node, op, x)
    }
}
