//! Products of matrices.

use offshoot_graph::op::{Binary, Gemm};
use offshoot_graph::{Op, Role, Tensor, ValueId};

use super::{Dynamic, FLOAT, Operand, SIMPLIFY, Stored, Translator};
use crate::error::Problem;
use crate::onnx::attributes::NodeView;

impl<'a> Translator<'a> {
    pub(super) fn matmul(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let x = self.value(node, 0)?;
        if let Some(matrix) = self.dequantized(node, 1)?.filter(|&m| self.import.shape(m).rank() == 2) {
            let rank = self.import.shape(x).rank();
            if rank != 2 {
                let what = format!("a quantized product of a value of {rank} axes is not read");
                return Err(node.unsupported(what, FLOAT));
            }
            return self.import.push(&node, Op::Gemm(Gemm::default()), &[x, matrix]).map(Operand::Value);
        }
        if let Operand::Value(_) | Operand::ChannelsLast(_) | Operand::Product { .. } =
            self.operand(node, 1)?
        {
            let other = self.value(node, 1)?;
            return self.import.matmul(&node, x, other).map(Operand::Value);
        }
        let matrix = self.stored(node, 1)?;
        Ok(Operand::Product { x, matrix, node })
    }

    pub(super) fn gemm(
        &mut self,
        node: NodeView<'a>,
        x: ValueId,
        matrix: &Stored,
        bias: Option<&Stored>,
    ) -> Result<ValueId, Problem> {
        let mut operands = vec![self.parameter(matrix, Role::Weight)?];
        if let Some(bias) = bias {
            operands.push(self.parameter(bias, Role::Weight)?);
        }
        let product = Op::Gemm(Gemm { trans_a: false, trans_b: matrix.transposed });
        self.import.by_rows(&node, node.name(), product, x, &operands)
    }

    pub(super) fn general_product(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        if node.flag("transA") {
            return Err(node.unsupported("a transposed first operand is not read", SIMPLIFY));
        }
        let x = self.value(node, 0)?;
        if self.is_computed(node, 1)? {
            let matrix = self.value(node, 1)?;
            return self.computed_product(node, x, matrix);
        }
        let mut matrix = self.scaled(node, 1, "alpha")?;
        matrix.transposed ^= node.flag("transB");
        let bias = match node.input(2) {
            Some(_) => {
                let columns = matrix.tensor.shape().get(usize::from(!matrix.transposed)).copied();
                Some(self.bias(node, columns.unwrap_or(0))?)
            }
            None => None,
        };
        self.gemm(node, x, &matrix, bias.as_ref())
    }

    /// A Gemm whose matrix is computed at each run, perhaps from integers that are stored.
    pub(super) fn computed_product(
        &mut self,
        node: NodeView<'a>,
        x: ValueId,
        matrix: ValueId,
    ) -> Result<ValueId, Problem> {
        if ["alpha", "beta"].iter().any(|name| node.float(name).is_some_and(|x| x != 1.0)) {
            return Err(node.unsupported("factors of a product with a computed matrix are not read", FLOAT));
        }
        let mut inputs = vec![x, matrix];
        if node.input(2).is_some() {
            inputs.push(self.weight(node, 2)?);
        }
        self.import.push(&node, Op::Gemm(Gemm { trans_a: false, trans_b: node.flag("transB") }), &inputs)
    }

    /// Input `index` times the attribute `name`, which is 1 in practice.
    pub(super) fn scaled(&mut self, node: NodeView<'a>, index: usize, name: &str) -> Result<Stored, Problem> {
        let stored = self.stored(node, index)?;
        let factor = node.float(name).unwrap_or(1.0);
        if factor == 1.0 {
            return Ok(stored);
        }
        let floats = self.floats(&stored)?;
        // Another product may read the same tensor without the factor.
        let name = format!("{}*{factor}", stored.name);
        let tensor = self.once(&node.place(), &name, String::new(), floats.len(), |_| {
            let mut tensor = (*floats).clone();
            tensor.as_f32_mut().into_iter().flatten().for_each(|x| *x *= factor);
            Ok(tensor)
        })?;
        Ok(Stored { name, tensor, ..stored })
    }

    /// Gemm's third input as one number for each of `columns`.
    pub(super) fn bias(&mut self, node: NodeView<'a>, columns: usize) -> Result<Stored, Problem> {
        let stored = self.scaled(node, 2, "beta")?;
        if *stored.tensor.shape() == [columns] {
            return Ok(stored);
        }
        let floats = self.floats(&stored)?;
        let way = format!("a bias of {columns}");
        let tensor = self.once(&node.place(), &stored.name, way, columns, |_| {
            let tensor = match *floats.shape() {
                [1, n] if n == columns => (*floats).clone().reshape([n]).ok(),
                _ if floats.len() == 1 => floats.as_f32().map(|x| Tensor::full([columns], x[0])),
                _ => None,
            };
            tensor.ok_or_else(|| {
                let what = format!("a bias of {:?} does not fit {columns} outputs", floats.shape());
                node.unsupported(what, SIMPLIFY)
            })
        })?;
        Ok(Stored { tensor, ..stored })
    }

    /// A sum; of a product and a stored vector it is one Gemm.
    pub(super) fn add(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        for (index, other) in [(0, 1), (1, 0)] {
            let name = node.required(index)?;
            let alone = self.context.uses.get(name) == Some(&1);
            let (product, Operand::Stored(bias)) = (self.operand(node, index)?, self.operand(node, other)?)
            else {
                continue;
            };
            let (Operand::Product { ref matrix, .. } | Operand::Dynamic(Dynamic::Product { ref matrix, .. })) =
                product
            else {
                continue;
            };
            let columns = matrix.tensor.shape().get(usize::from(!matrix.transposed));
            if !alone || bias.tensor.shape().first() != columns || bias.tensor.shape().len() != 1 {
                continue;
            }
            match product {
                Operand::Product { x, matrix, node } => {
                    return self.gemm(node, x, &matrix, Some(&bias)).map(Operand::Value);
                }
                Operand::Dynamic(Dynamic::Product { x, matrix, less, scale, node }) => {
                    let product = self.dynamic_product(node, x, (&matrix, less), &scale, Some(&bias));
                    return product.map(Operand::Value);
                }
                _ => {}
            }
        }
        self.binary(node, Binary::Add, |x| x)
    }
}
