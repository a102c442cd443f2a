//! What operations read: values of the program, and weights of the model.

use offshoot_graph::op::Pool;
use offshoot_graph::{Node, Shape, Source, Tensor, ValueId};

use super::{Stored, Writer, refused};
use crate::coreml::proto::Value;
use crate::error::Problem;

impl Writer<'_> {
    /// Core ML's padding: top, bottom, left, right.
    pub(super) fn padding(
        &mut self,
        node: &Node,
        pads: [usize; 4],
    ) -> Result<[(&'static str, String); 2], Problem> {
        let [top, left, bottom, right] = pads;
        let custom = self.program.constant(&format!("{}_pad_type", node.name), Value::string("custom"));
        Ok([("pad_type", custom), ("pad", self.ints(node, "pad", &[top, bottom, left, right])?)])
    }

    /// The padding that gives the graph's windows when their number is rounded down: a window that rounding up adds
    /// begins inside the picture, and padding neither wins nor counts in it.
    pub(super) fn pads_without_rounding(&self, node: &Node, pool: &Pool) -> Result<[usize; 4], Problem> {
        let (x, y) = (self.shape(node, node.inputs[0])?, self.shape(node, node.outputs[0])?);
        let mut pads = pool.pads;
        for axis in 0..2 {
            let reach = (y[2 + axis] - 1)
                .checked_mul(pool.strides[axis])
                .and_then(|n| n.checked_add(pool.kernel[axis]));
            let reach = reach.ok_or_else(|| refused(node, "its windows are too large"))?;
            let missing = reach.saturating_sub(x[2 + axis] + pads[axis] + pads[axis + 2]);
            pads[axis + 2] += missing;
        }
        Ok(pads)
    }

    pub(super) fn ints(&mut self, node: &Node, parameter: &str, values: &[usize]) -> Result<String, Problem> {
        let ints = values.iter().map(|&n| narrow(node, n)).collect::<Result<Vec<i32>, _>>()?;
        let value = Value::ints(ints, &[values.len()]);
        Ok(self.program.constant(&format!("{}_{parameter}", node.name), value))
    }

    pub(super) fn shape(&self, node: &Node, id: ValueId) -> Result<Vec<usize>, Problem> {
        self.graph.value(id).shape.eval(&self.bindings).map_err(|e| refused(node, e.to_string()))
    }

    /// The tensor of a parameter or constant, or of what is only moved of them.
    pub(super) fn tensor(&self, id: ValueId) -> Option<&Tensor> {
        let value = self.graph.value(id);
        match &value.source {
            Source::Parameter(_) => self.weights.get(&value.name),
            Source::Constant(tensor) => Some(tensor),
            Source::Node { .. } => self.moved.get(&id),
            Source::Input => None,
        }
    }

    /// The numbers of an input that the operator must know beforehand.
    pub(super) fn stored(&self, node: &Node, i: usize) -> Result<(&[f32], Vec<usize>), Problem> {
        let value = self.graph.value(node.inputs[i]);
        let place = || format!("parameter `{}`", value.name);
        let tensor = match self.tensor(node.inputs[i]) {
            Some(tensor) => tensor,
            None if self.graph.producer(node.inputs[i]).is_none()
                && !matches!(value.source, Source::Input) =>
            {
                return Err(Problem::unsupported(place(), "the weights do not hold it", "Load all weights"));
            }
            None => return Err(refused(node, format!("Core ML wants `{}` to be a constant", value.name))),
        };
        match tensor.as_f32() {
            Some(numbers) if Shape::fixed(tensor.shape()) == value.shape => {
                Ok((numbers, tensor.shape().to_vec()))
            }
            _ => {
                let held = format!("{}{}", tensor.dtype(), Shape::fixed(tensor.shape()));
                let what = format!("the weights hold {held}, the graph takes f32{}", value.shape);
                Err(Problem::unsupported(place(), what, "Load the weights of this model"))
            }
        }
    }

    /// A value that is computed, or a constant in the program's type.
    pub(super) fn operand(&mut self, node: &Node, i: usize) -> Result<String, Problem> {
        if let Some(name) = self.names.get(&node.inputs[i]) {
            return Ok(name.clone());
        }
        self.vector(node, i)
    }

    /// A constant in the program's type.
    pub(super) fn vector(&mut self, node: &Node, i: usize) -> Result<String, Problem> {
        let key = (node.inputs[i], Stored::Plain);
        if let Some(name) = self.constants.get(&key) {
            return Ok(name.clone());
        }
        let (numbers, shape) = self.stored(node, i)?;
        let (numbers, name) = (numbers.to_vec(), self.graph.value(node.inputs[i]).name.clone());
        let result = self.program.numbers(&format!("parameter `{name}`"), &name, &numbers, &shape)?;
        self.constants.insert(key, result.clone());
        Ok(result)
    }

    /// The weight of a convolution or a linear layer, [output channels, ..].
    pub(super) fn weight(&mut self, node: &Node, i: usize, transpose: bool) -> Result<String, Problem> {
        let key = (node.inputs[i], Stored::Weight { transpose });
        if let Some(name) = self.constants.get(&key) {
            return Ok(name.clone());
        }
        let (numbers, mut shape) = self.stored(node, i)?;
        let mut numbers = numbers.to_vec();
        if transpose {
            let columns = shape[1];
            numbers =
                (0..columns).flat_map(|c| numbers.iter().skip(c).step_by(columns.max(1)).copied()).collect();
            shape.reverse();
        }
        let name = self.graph.value(node.inputs[i]).name.clone();
        let place = format!("parameter `{name}`");
        let result = match self.int8 {
            true => self.program.quantized(&place, &name, &numbers, &shape)?,
            false => self.program.numbers(&place, &name, &numbers, &shape)?,
        };
        self.constants.insert(key, result.clone());
        Ok(result)
    }
}

/// MIL's integers are of 32 bits.
pub(super) fn narrow(node: &Node, n: usize) -> Result<i32, Problem> {
    i32::try_from(n).map_err(|_| refused(node, format!("a size of {n} is too large")))
}
