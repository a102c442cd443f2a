//! MatMul and Gemm with a stored matrix.

use offshoot_graph::{DType, Data, Tensor, int8};

use super::super::attributes::NodeView;
use super::super::proto::NodeProto;
use super::super::wire::Field;
use super::super::write::{int, proto_node};
use super::scope::{Scope, home, is_initializer, stored};
use super::{Bytewise, Pass, node_field, not_finite};
use crate::error::Problem;

/// ONNX's number of f32.
pub(super) const FLOAT: i32 = 1;

impl Pass {
    /// What stands in the place of a MatMul or Gemm, if something does.
    pub(super) fn product(
        &mut self,
        node: NodeView<'_>,
        scopes: &mut [Scope],
    ) -> Result<Option<Vec<Field>>, Problem> {
        let (Some(a), Some(b), [output]) = (node.input(0), node.input(1), &node.proto.output[..]) else {
            return Ok(None);
        };
        let gemm = node.op() == "Gemm";
        if gemm && node.flag("transA") {
            if is_initializer(scopes, b) {
                self.keep(node, "its first operand is transposed");
            }
            return Ok(None);
        }
        let transposed = gemm && node.flag("transB");
        let factor = if gemm { node.float("alpha").unwrap_or(1.0) } else { 1.0 };
        let Some(at) = home(scopes, b) else { return Ok(None) };
        let key = (scopes[at].id, b.to_owned(), transposed, factor.to_bits());
        let bytes = match self.made.get(&key) {
            Some(made) => made.clone(),
            None => {
                let Some(matrix) = stored(scopes, b, &mut self.tensors)? else {
                    if is_initializer(scopes, a) {
                        self.keep(node, "its stored weights are the first operand");
                    }
                    return Ok(None);
                };
                if let Some(reason) = unfit(&matrix, 2) {
                    self.keep(node, reason);
                    return Ok(None);
                }
                let made = match self.tied(&matrix, transposed, factor)? {
                    Some(tied) => Some(tied),
                    None => self.matrix(b, &matrix, transposed, factor)?,
                };
                self.made.insert(key, made.clone());
                made
            }
        };
        let Some(bytes) = bytes else {
            return Err(not_finite(node));
        };
        let mut nodes = Vec::new();
        let quantized = self.quantized(a, scopes, &mut nodes);
        let bias = node.input(2).filter(|_| gemm);
        let product = self.multiply(node, &quantized, &bytes, bias.is_none().then_some(output), &mut nodes);
        if let Some(bias) = bias {
            let bias = self.scaled(node, bias, &mut nodes)?;
            let name = self.unused(format!("{}_add", node.name()));
            nodes.push(proto_node("Add", &name, vec![product, bias], output));
        }
        self.release(b);
        self.report.quantized.push(node.name().to_owned());
        Ok(Some(nodes.iter().map(node_field).collect()))
    }

    /// A stored matrix [k, n], or [n, k] where it is read transposed, times a factor, as bytes [k, n] with a scale for each
    /// column; `None` where it is not finite.
    fn matrix(
        &mut self,
        name: &str,
        matrix: &Tensor,
        transposed: bool,
        factor: f32,
    ) -> Result<Option<Bytewise>, Problem> {
        let (Some(elements), &[rows, columns]) = (matrix.as_f32(), matrix.shape()) else { return Ok(None) };
        let (k, n) = if transposed { (columns, rows) } else { (rows, columns) };
        let at = |i: usize, j: usize| factor * elements[if transposed { j * k + i } else { i * n + j }];
        let scales: Option<Vec<f32>> = (0..n).map(|j| int8::scale((0..k).map(|i| at(i, j)))).collect();
        let Some(scales) = scales else { return Ok(None) };
        let mut bytes = Vec::with_capacity(elements.len());
        for i in 0..k {
            bytes.extend(scales.iter().enumerate().map(|(j, &scale)| int8::quantize(at(i, j), scale)));
        }
        self.report.quantized_bytes += 4 * elements.len() as u64;
        Ok(Some(Bytewise {
            weight: self.add(format!("{name}_quantized"), &[k, n], Data::I8(bytes))?,
            scale: self.add(format!("{name}_scale"), &[n], Data::F32(scales))?,
            zero_point: self.add(format!("{name}_zero_point"), &[], Data::I8(vec![0]))?,
        }))
    }

    /// The names of `value`'s bytes, their scale and zero point, which every product of this graph shares.
    fn quantized(&mut self, value: &str, scopes: &mut [Scope], nodes: &mut Vec<NodeProto>) -> [String; 3] {
        let scope = scopes.last_mut();
        if let Some(names) = scope.as_ref().and_then(|s| s.quantized.get(value)) {
            return names.clone();
        }
        let names = ["quantized", "scale", "zero_point"].map(|part| self.unused(format!("{value}_{part}")));
        let name = self.unused(format!("{value}_QuantizeLinear"));
        nodes.push(NodeProto {
            output: names.to_vec(),
            ..proto_node("DynamicQuantizeLinear", &name, vec![value.to_owned()], "")
        });
        if let Some(scope) = scope {
            scope.quantized.insert(value.to_owned(), names.clone());
        }
        names
    }

    /// Adds the nodes of a product, and returns the name of the result: `output` where it is given.
    fn multiply(
        &mut self,
        node: NodeView<'_>,
        [bytes, scale, zero_point]: &[String; 3],
        matrix: &Bytewise,
        output: Option<&String>,
        nodes: &mut Vec<NodeProto>,
    ) -> String {
        let mut step = |op: &str, part: &str, inputs: &[&String], output: Option<&String>| {
            let name = self.unused(format!("{}_{part}", node.name()));
            let output =
                output.cloned().unwrap_or_else(|| self.unused(format!("{}_{part}_output", node.name())));
            nodes.push(proto_node(op, &name, inputs.iter().map(|&i| i.clone()).collect(), &output));
            if op == "Cast"
                && let Some(cast) = nodes.last_mut()
            {
                cast.attribute = vec![int("to", FLOAT.into())];
            }
            output
        };
        let operands = [bytes, &matrix.weight, zero_point, &matrix.zero_point];
        let sums = step("MatMulInteger", "quant", &operands, None);
        let floats = step("Cast", "cast", &[&sums], None);
        let scales = step("Mul", "scales_mul", &[scale, &matrix.scale], None);
        step("Mul", "output_scale_mul", &[&floats, &scales], output)
    }

    /// Gemm's third operand times its factor.
    fn scaled(
        &mut self,
        node: NodeView<'_>,
        bias: &str,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<String, Problem> {
        let factor = node.float("beta").unwrap_or(1.0);
        if factor == 1.0 {
            return Ok(bias.to_owned());
        }
        let factor = self.add(format!("{}_beta", node.name()), &[], Data::F32(vec![factor]))?;
        let output = self.unused(format!("{}_bias", node.name()));
        let name = self.unused(format!("{}_bias_mul", node.name()));
        nodes.push(proto_node("Mul", &name, vec![bias.to_owned(), factor], &output));
        Ok(output)
    }
}

/// Why weights stay in float, if they do. They must have `rank` axes.
pub(super) fn unfit(weights: &Tensor, rank: usize) -> Option<String> {
    if weights.dtype() != DType::F32 {
        return Some(format!("its weights are {}, not f32", weights.dtype()));
    }
    let shape = weights.shape();
    (shape.len() != rank || weights.is_empty())
        .then(|| format!("its weights are a tensor of {shape:?}, not of {rank} axes"))
}
