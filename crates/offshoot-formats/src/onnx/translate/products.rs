//! Products of matrices.

use offshoot_graph::op::{Binary, Gemm};
use offshoot_graph::{Dim, Op, Role, Shape, Tensor, ValueId};

use super::{Dynamic, FLOAT, Operand, SIMPLIFY, Stored, Translator};
use crate::error::Problem;
use crate::import::Part;
use crate::onnx::attributes::NodeView;

impl<'a> Translator<'a> {
    pub(super) fn matmul(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let x = self.value(node, 0)?;
        if let Some(matrix) = self.dequantized(node, 1)?.filter(|&m| self.import.rank(m) == 2)
            && self.import.rank(x) > 1
        {
            let product = Op::Gemm(Gemm::default());
            return self.import.by_rows(&node, node.name(), product, x, &[matrix]).map(Operand::Value);
        }
        if let Operand::Stored(matrix) = self.operand(node, 1)?
            && matrix.tensor.shape().len() == 2
            && self.import.rank(x) > 1
        {
            return Ok(Operand::Product { x, matrix, node });
        }
        let other = self.value(node, 1)?;
        self.import.matmul(&node, x, other).map(Operand::Value)
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

impl<'a> Translator<'a> {
    pub(super) fn einsum(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let mut operands = Vec::new();
        for index in 0..node.proto.input.len() {
            operands.push(self.value(node, index)?);
        }
        self.import.einsum(&node, node.text("equation").unwrap_or_default(), &operands)
    }

    /// Attention of opset 23, of heads that are an axis of its inputs or parts of their last one.
    pub(super) fn attention(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let mut heads = Vec::new();
        for (index, name) in [(0, "q_num_heads"), (1, "kv_num_heads"), (2, "kv_num_heads")] {
            let x = self.value(node, index)?;
            heads.push(self.heads(node, x, usize::try_from(node.int(name, 0)).unwrap_or(0))?);
        }
        if node.flag("is_causal")
            || node.float("softcap").is_some_and(|x| x != 0.0)
            || node.input(4).is_some()
        {
            return Err(node.unsupported("causal masks, a softcap and past keys are not read", SIMPLIFY));
        }
        let mask = match node.input(3) {
            Some(_) => Some(self.value(node, 3)?).filter(|&mask| !self.import.is_truth(mask)),
            None => None,
        };
        if node.input(3).is_some() != mask.is_some() {
            return Err(node.unsupported("a mask of booleans is not read", SIMPLIFY));
        }
        let width = self.import.shape(heads[0]).0.last().and_then(Dim::fixed).filter(|&width| width > 0);
        let width = width.ok_or_else(|| node.unsupported("the width of its heads is not known", SIMPLIFY))?;
        let scale = node.float("scale").unwrap_or(1.0 / (width as f32).sqrt());
        let x = self.value(node, 0)?;
        let flat = self.import.rank(x) == 3;
        let made = self.import.attention(&node, [heads[0], heads[1], heads[2]], mask, scale)?;
        if !flat {
            return Ok(made);
        }
        let part = Part { site: &node, name: format!("{}.joined", node.name()) };
        let turned = self.import.transpose(&part, made, vec![0, 2, 1, 3])?;
        self.import.flatten(&part, turned, 2, 3)
    }

    /// [batch, steps, heads * width] as [batch, heads, steps, width].
    fn heads(&mut self, node: NodeView<'a>, x: ValueId, heads: usize) -> Result<ValueId, Problem> {
        let dims = self.import.shape(x).0.clone();
        if dims.len() == 4 {
            return Ok(x);
        }
        let width = dims.last().and_then(Dim::fixed).and_then(|width| width.checked_div(heads));
        let (3, Some(width)) = (dims.len(), width) else {
            return Err(node.damaged("its inputs have no heads"));
        };
        let part = Part { site: &node, name: format!("{}.heads", node.name()) };
        let shape = Shape(vec![dims[0].clone(), dims[1].clone(), Dim::Fixed(heads), Dim::Fixed(width)]);
        let apart = self.import.reshape_to(&part, x, shape)?;
        self.import.transpose(&part, apart, vec![0, 2, 1, 3])
    }
}
