//! Reductions along axes, and softmaxes.

use offshoot_graph::op::Reduce;
use offshoot_graph::{Dim, Op, ValueId};

use super::{Operand, SIMPLIFY, Translator, laid};
use crate::error::Problem;
use crate::import::Site;
use crate::onnx::attributes::NodeView;

/// The function of a reduction: one of the graph's, or one that is made of several.
#[derive(Clone, Copy)]
pub(super) enum Reduction {
    Row(Reduce),
    LogSumExp,
    SumSquare,
    L1,
}

impl Reduction {
    /// The one that ONNX calls `name`.
    pub(super) fn from_onnx(name: &str) -> Option<Reduction> {
        match name {
            "ReduceLogSumExp" => Some(Reduction::LogSumExp),
            "ReduceSumSquare" => Some(Reduction::SumSquare),
            "ReduceL1" => Some(Reduction::L1),
            name => Reduce::from_onnx(name).map(Reduction::Row),
        }
    }
}

impl<'a> Translator<'a> {
    /// The axes of a reduction of `x`, as the file counts them, and whether they stay.
    fn reduced(&mut self, node: NodeView<'a>, rank: usize) -> Result<(Vec<usize>, bool), Problem> {
        let axes = match self.ints(node, 1, "axes")?.filter(|axes| !axes.is_empty()) {
            Some(axes) => Some(axes).filter(|axes| axes.len() <= rank),
            None if node.flag("noop_with_empty_axes") => None,
            None => Some((0..rank as i64).collect()),
        };
        let axes =
            axes.ok_or_else(|| node.unsupported("only a reduction over given axes is read", SIMPLIFY))?;
        Ok((node.axes_of(&axes, rank)?, node.int("keepdims", 1) != 0))
    }

    /// A reduction over axes that are given, which stay or not as the node says.
    pub(super) fn reduction(&mut self, node: NodeView<'a>, op: Reduction) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let (axes, kept) = self.reduced(node, self.import.rank(x))?;
        match op {
            Reduction::Row(op) => self.import.reduction(&node, op, x, &axes, kept),
            Reduction::LogSumExp => self.import.log_sum_exp(&node, x, &axes, kept),
            Reduction::SumSquare => self.import.sum_of_squares(&node, x, &axes, kept),
            Reduction::L1 => self.import.sum_of_absolutes(&node, x, &axes, kept),
        }
    }

    pub(super) fn reduce_mean(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        let (mut axes, kept) = self.reduced(node, self.import.rank(x))?;
        if channels_last {
            axes.iter_mut().for_each(|axis| *axis = [0, 2, 3, 1][*axis]);
            axes.sort_unstable();
            if axes == [2, 3] {
                let mean = self.import.mean(&node, x, &axes, kept)?;
                return Ok(laid(mean, kept));
            }
            return self.reduction(node, Reduction::Row(Reduce::Mean)).map(Operand::Value);
        }
        if self.import.rank(x) == 3 && axes == [1] && !kept {
            return self.mean_of_steps(node, x).map(Operand::Value);
        }
        self.import.mean(&node, x, &axes, kept).map(Operand::Value)
    }

    pub(super) fn softmax(&mut self, node: NodeView<'a>, logarithm: bool) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let rank = self.import.shape(x).rank();
        let mut axis = node.axis(node.int("axis", if self.context.opset < 13 { 1 } else { -1 }), rank)?;
        if self.context.opset < 13 {
            // Over all axes from there on, of which one may have several places.
            let dims = &self.import.shape(x).0;
            let wide: Vec<usize> = (axis..rank).filter(|&axis| dims[axis] != Dim::Fixed(1)).collect();
            axis = match wide[..] {
                [] => axis,
                [only] => only,
                _ => return Err(node.unsupported("a softmax over several axes is not read", SIMPLIFY)),
            };
        }
        match logarithm {
            true => self.import.log_softmax(&node, x, axis),
            false => self.import.push(&node, Op::Softmax { axis }, &[x]),
        }
    }
}
