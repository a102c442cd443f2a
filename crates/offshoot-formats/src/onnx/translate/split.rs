//! Split: parts of an axis, an output each.

use offshoot_graph::{Op, ValueId};

use super::{SIMPLIFY, Translator};
use crate::error::Problem;
use crate::onnx::attributes::NodeView;

impl<'a> Translator<'a> {
    /// Gives each output that is used its part of an axis of known size.
    pub(super) fn split(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let x = self.value(node, 0)?;
        let axis = node.place_of(node.int("axis", 0), self.shape(x).rank())?;
        let Some(size) = self.shape(x).0[axis].fixed() else {
            return Err(node.unsupported("only an axis of known size is split", SIMPLIFY));
        };
        let sizes = match self.ints(node, 1, "split")? {
            Some(sizes) => sizes,
            None => equal_parts(node, size)?,
        };
        let outputs = &node.proto.output;
        let sum = sizes.iter().try_fold(0_i64, |sum, &part| sum.checked_add(part).filter(|_| part >= 0));
        if sizes.len() != outputs.len() || sum != i64::try_from(size).ok() {
            return Err(node.damaged(format!(
                "its {} outputs cannot have the sizes {sizes:?} of an axis of {size}",
                outputs.len()
            )));
        }
        let mut start = 0;
        for (index, (output, part)) in outputs.iter().zip(sizes).enumerate() {
            // Checked: no part is below 0, and they add up to a usize.
            let end = start + usize::try_from(part).unwrap_or(0);
            if self.context.uses.contains_key(output.as_str()) {
                let id = self.part(node, index, x, (axis, start, end, size))?;
                self.define(output, id);
            }
            start = end;
        }
        Ok(())
    }

    fn part(
        &mut self,
        node: NodeView<'a>,
        index: usize,
        x: ValueId,
        (axis, start, end, size): (usize, usize, usize, usize),
    ) -> Result<ValueId, Problem> {
        if (start, end) == (0, size) {
            return Ok(x);
        }
        let name = format!("{}.{index}", node.name());
        self.push_named(&name, Op::Slice { axis, start, end }, &[x])
    }
}

/// The sizes where none are given: as equal as they can be, the last one smaller.
fn equal_parts(node: NodeView<'_>, size: usize) -> Result<Vec<i64>, Problem> {
    let parts = usize::try_from(node.int("num_outputs", 0)).unwrap_or(0).max(node.proto.output.len());
    let most = size.div_ceil(parts.max(1));
    let sizes = (0..parts).map(|part| most.min(size.saturating_sub(part * most)));
    sizes
        .map(|part| i64::try_from(part).ok())
        .collect::<Option<Vec<i64>>>()
        .ok_or_else(|| node.damaged(format!("an axis of {size} is too large")))
}
