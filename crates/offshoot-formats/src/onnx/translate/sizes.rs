//! Arithmetic on sizes, before the run.

use offshoot_graph::{Data, Shape};

use super::{Operand, SIMPLIFY, Stored, Translator};
use crate::error::Problem;
use crate::import::Number;
use crate::onnx::attributes::NodeView;
use crate::onnx::fold::{MAX_NUMBERS, Numbers, fold, is_foldable};

impl<'a> Translator<'a> {
    /// What `node` gives when that is known now. (Arithmetic on sizes is on vectors of them.)
    pub(super) fn known(&mut self, node: NodeView<'a>) -> Result<Option<Operand<'a>>, Problem> {
        let x = if node.input(0).is_some() { Some(self.operand(node, 0)?) } else { None };
        if matches!(x, Some(Operand::Stored(x)) if x.tensor.shape().len() > 1)
            && let Some(stored) = self.moved(node)?
        {
            return Ok(Some(Operand::Stored(stored)));
        }
        if self.is_table(node)? {
            return Ok(None);
        }
        match self.fold(node)? {
            Folded::Numbers(numbers) => return Ok(Some(Operand::Numbers(numbers))),
            Folded::Refused => {
                let evaluated = self.evaluated(node, false)?;
                return evaluated.map(Some).ok_or_else(|| {
                    let way_out = "Export with a fixed picture size, or simplify the file with onnxsim";
                    node.unsupported("this arithmetic on shapes is not read", way_out)
                });
            }
            Folded::Other => {}
        }
        match self.moved(node)? {
            Some(stored) => Ok(Some(Operand::Stored(stored))),
            None => self.evaluated(node, false),
        }
    }

    /// What `node` gives when it only computes with sizes.
    fn fold(&mut self, node: NodeView<'a>) -> Result<Folded, Problem> {
        if node.op() == "Shape" {
            return self.shape_of(node).map(Folded::Numbers);
        }
        if !is_foldable(node.op()) || node.proto.input.len() > MAX_NUMBERS {
            return Ok(Folded::Other);
        }
        let mut sizes = false;
        let mut inputs = Vec::new();
        for index in 0..node.proto.input.len() {
            if node.input(index).is_none() {
                inputs.push(None);
                continue;
            }
            let Some(numbers) = self.operand(node, index)?.into_numbers(is_size) else {
                return Ok(Folded::Other);
            };
            sizes = true;
            inputs.push(Some(numbers));
        }
        if !sizes {
            return Ok(Folded::Other);
        }
        let fill = match node.tensor("value") {
            Some(proto) => Numbers::from_tensor(&self.context.tensors.read(proto)?),
            None => None,
        };
        let Some(numbers) = fold(node, &inputs, fill) else { return Ok(Folded::Refused) };
        self.context.tensors.charge(&node.place(), numbers.data.len() + 8, size_of::<Number>())?;
        Ok(Folded::Numbers(numbers))
    }

    pub(super) fn shape_of(&mut self, node: NodeView<'a>) -> Result<Numbers, Problem> {
        let mut shape = match self.operand(node, 0)? {
            Operand::Stored(stored) => Shape::fixed(stored.tensor.shape()),
            Operand::Numbers(numbers) => Shape::fixed(&numbers.shape),
            Operand::Value(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Filled(_)
            | Operand::Rows(_) => {
                let x = self.value(node, 0)?;
                self.import.shape(x).clone()
            }
            Operand::ChannelsLast(x) => channels_last(self.import.shape(x)),
            Operand::Probed(probed) => self.shape_of_probed(&probed).ok_or_else(|| {
                node.unsupported("the shape of its input is not known before the run", SIMPLIFY)
            })?,
        };
        let rank = shape.rank() as i64;
        let bound = |name: &str, default| {
            let axis = node.int(name, default);
            (if axis < 0 { axis.saturating_add(rank) } else { axis }).clamp(0, rank) as usize
        };
        let (start, end) = (bound("start", 0), bound("end", rank));
        shape.0 = shape.0.drain(start..end.max(start)).collect();
        Ok(Numbers::from_shape(&shape))
    }
}

/// The shape of a picture with its channels last.
fn channels_last(shape: &Shape) -> Shape {
    match &shape.0[..] {
        [n, c, rest @ ..] => Shape([n].into_iter().chain(rest).chain([c]).cloned().collect()),
        _ => shape.clone(),
    }
}

/// What arithmetic on sizes gives.
enum Folded {
    Numbers(Numbers),
    /// It is such arithmetic, in a form that [`fold`] does not know.
    Refused,
    /// Something else.
    Other,
}

/// Whether a stored tensor may take part in arithmetic on sizes: a weight never does.
fn is_size(stored: &Stored) -> bool {
    let small = stored.tensor.len() <= MAX_NUMBERS && !stored.transposed;
    small
        && (stored.constant
            || matches!(stored.tensor.data(), Data::I64(_) | Data::I32(_))
            || stored.tensor.len() == 1)
}
