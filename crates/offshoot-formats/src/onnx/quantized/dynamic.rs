//! Tensors that are quantized at each run.

use super::super::attributes::NodeView;
use super::{Note, Pass, Steps, attributes, is_matrix};
use crate::error::Problem;

/// The smallest scale: what it divides is 0.
const SMALLEST: f32 = f32::MIN_POSITIVE;

impl<'a> Pass<'a> {
    /// DynamicQuantizeLinear. Where matrices of bytes alone read it, it is left to them; else it is computed of floats.
    pub(super) fn dynamic_quantize(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let output = node.required_output()?;
        let products = |readers: &Vec<(&super::NodeProto, usize)>| {
            readers.iter().all(|(reader, index)| {
                *index == 0 && reader.op_type == "MatMulInteger" && self.multiplies_a_matrix(reader)
            })
        };
        if self.readers.get(output).is_none_or(products) {
            self.nodes.push(node.proto.clone());
            return Ok(());
        }
        self.note(Note::Dynamic);
        let x = node.required(0)?.to_owned();
        let name = node.name();
        let mut bounds = Vec::new();
        for (reduction, op) in [("ReduceMin", "Min"), ("ReduceMax", "Max")] {
            let zero = self.number(node, 0.0)?;
            let keep = vec![super::int("keepdims", 0)];
            let all = self.push(reduction, format!("{name}.{op}"), vec![x.clone()], keep, None);
            bounds.push(self.push(op, format!("{name}.{op}.zero"), vec![all, zero], Vec::new(), None));
        }
        let (most, smallest) = (self.number(node, 255.0)?, self.number(node, SMALLEST)?);
        let range = vec![bounds[1].clone(), bounds[0].clone()];
        let range = self.push("Sub", format!("{name}.range"), range, Vec::new(), None);
        let scale = self.push("Div", format!("{name}.scale"), vec![range, most], Vec::new(), None);
        let given = node.proto.output.get(1).filter(|name| !name.is_empty()).map(String::as_str);
        let scale = self.push("Max", format!("{name}.scale.used"), vec![scale, smallest], Vec::new(), given);
        let zero_point = vec![bounds[0].clone(), scale.clone()];
        let below = self.push("Div", format!("{name}.below"), zero_point, Vec::new(), None);
        // The smallest level less the zero point, and the largest one.
        let below = self.rounded(node, below, [-255.0, 0.0])?;
        let most = self.number(node, 255.0)?;
        let above = self.push("Add", format!("{name}.above"), vec![below.clone(), most], Vec::new(), None);
        let levels = self.push("Div", format!("{name}.levels"), vec![x, scale.clone()], Vec::new(), None);
        let levels = self.rounded(node, levels, [-256.0, 256.0])?;
        let levels = self.push("Max", format!("{name}.low"), vec![levels, below], Vec::new(), None);
        let levels = self.push("Min", format!("{name}.high"), vec![levels, above], Vec::new(), None);
        self.levels.insert(output.to_owned(), levels);
        let zero_point = node.proto.output.get(2).filter(|name| !name.is_empty()).cloned();
        let zero_point = zero_point.unwrap_or_else(|| self.unused(format!("{name}.zero_point")));
        self.steps.insert(output.to_owned(), Steps { scale, zero_point: Some(zero_point) });
        Ok(())
    }

    /// Whether a MatMulInteger reads a stored matrix.
    fn multiplies_a_matrix(&self, node: &super::NodeProto) -> bool {
        let is_stored = |name: &str| is_matrix(&self.stored, name) || self.transposed.contains(name);
        node.input.get(1).is_some_and(|name| is_stored(name))
    }

    /// ConvInteger or MatMulInteger of levels as floats, or of bytes whose zero point the file stores.
    pub(super) fn integer_sums(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let x = node.required(0)?;
        let is_conv = node.op() == "ConvInteger";
        if !is_conv && !self.stands_for_floats(x) {
            self.nodes.push(node.proto.clone());
            return Ok(());
        }
        let zero_point = node.input(2);
        let x = match self.levels.get(x).cloned() {
            Some(levels) => {
                self.same_zero_point(node, x, zero_point)?;
                levels
            }
            None => self.unscaled(node, x, zero_point, None)?,
        };
        let w = self.unscaled(node, node.required(1)?, node.input(3), Some(i64::from(!is_conv)))?;
        let op = if is_conv { "Conv" } else { "MatMul" };
        let output = node.required_output()?;
        self.push(op, node.name().to_owned(), vec![x, w], attributes(node, &[]), Some(output));
        Ok(())
    }

    /// Bytes less their zero point.
    fn unscaled(
        &mut self,
        node: NodeView<'a>,
        x: &str,
        zero_point: Option<&str>,
        axis: Option<i64>,
    ) -> Result<String, Problem> {
        let steps = Steps { scale: self.number(node, 1.0)?, zero_point: zero_point.map(str::to_owned) };
        self.dequantized(node, x, &steps, axis, None)
    }
}
