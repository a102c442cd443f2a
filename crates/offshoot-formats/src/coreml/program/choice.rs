//! Where: what a boolean chooses, which is an f32 in the graph.

use offshoot_graph::Node;

use super::{Writer, named_type, place};
use crate::coreml::proto::{ValueType, data_type};
use crate::error::Problem;

impl Writer<'_> {
    pub(super) fn choice(&mut self, node: &Node) -> Result<String, Problem> {
        let shape = |i: usize| self.shape(node, node.inputs[i]);
        let (condition_shape, a_shape, b_shape) = (shape(0)?, shape(1)?, shape(2)?);
        let condition = self.operand(node, 0)?;
        let zero = self.program.numbers(&place(node), &format!("{}_zero", node.name), &[0.0], &[])?;
        let truth = self.program.unused(&format!("{}_truth", node.name));
        let of = ValueType::tensor(data_type::BOOL, &condition_shape);
        let inputs = [("x", condition.clone()), ("y", zero.clone())];
        self.program.named("not_equal", &inputs, vec![named_type(&truth, of)]);
        let (a, mut b) = (self.operand(node, 1)?, self.operand(node, 2)?);
        // coremltools takes the sizes of a select from what it chooses among.
        if broadcast(&a_shape, &b_shape) != self.shape(node, node.outputs[0])? {
            let name = |part: &str| format!("{}_{part}", node.name);
            let inputs = [("x", condition), ("y", zero)];
            let zeros = self.program.operator("mul", &name("zeros"), &inputs, &condition_shape);
            let wide = broadcast(&condition_shape, &b_shape);
            b = self.program.operator("add", &name("b"), &[("x", zeros), ("y", b)], &wide);
        }
        self.add("select", node, &[("cond", truth), ("a", a), ("b", b)])
    }
}

/// The sizes of two tensors that are broadcast to each other.
fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let size =
        |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
    (0..rank).map(|axis| size(a, axis).max(size(b, axis))).collect()
}
