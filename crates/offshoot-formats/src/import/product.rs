//! Products of matrices.

use offshoot_graph::op::{Binary, Gemm, MatMul, ShapeOp};
use offshoot_graph::{Op, ValueId};

use super::{Importer, Site};
use crate::error::Problem;

impl Importer {
    /// A product of x, perhaps of rows of tokens or pixels, with `operands`: one matrix of all of them.
    pub(crate) fn by_rows(
        &mut self,
        site: &dyn Site,
        name: &str,
        product: Op,
        x: ValueId,
        operands: &[ValueId],
    ) -> Result<ValueId, Problem> {
        let mut shape = self.shape(x).clone();
        let axis = shape.rank().saturating_sub(1);
        let rows = match axis {
            0 | 1 => x,
            _ => {
                self.push_named(site, &format!("{name}.rows"), Op::Shape(ShapeOp::Flatten { axis }), &[x])?
            }
        };
        let y = self.push_named(site, name, product, &[&[rows], operands].concat())?;
        let (true, Some(width)) = (axis > 1, self.shape(y).0.last().cloned()) else { return Ok(y) };
        shape.0[axis] = width;
        self.push_named(site, &format!("{name}.shape"), Op::Shape(ShapeOp::Reshape { shape }), &[y])
    }

    /// A product of two values: of rows with one matrix, or of stacks of matrices.
    pub(crate) fn matmul(&mut self, site: &dyn Site, a: ValueId, b: ValueId) -> Result<ValueId, Problem> {
        match (self.rank(a), self.rank(b)) {
            (3.., 2) => self.by_rows(site, site.name(), Op::Gemm(Gemm::default()), a, &[b]),
            _ => self.push(site, Op::MatMul(MatMul::default()), &[a, b]),
        }
    }

    /// softmax(q k' scale + mask) v, over the last two axes.
    pub(crate) fn attention(
        &mut self,
        site: &dyn Site,
        [q, k, v]: [ValueId; 3],
        mask: Option<ValueId>,
        scale: f32,
    ) -> Result<ValueId, Problem> {
        let scale = self.number(site, "scale", scale);
        let q = self.push_part(site, "scaled", Op::Binary(Binary::Mul), &[q, scale])?;
        let mut perm: Vec<usize> = (0..self.rank(k)).collect();
        if let [.., a, b] = &mut perm[..] {
            std::mem::swap(a, b);
        }
        let keys = self.push_part(site, "keys", Op::Shape(ShapeOp::Transpose { perm }), &[k])?;
        let mut scores = self.push_part(site, "scores", Op::MatMul(MatMul::default()), &[q, keys])?;
        if let Some(mask) = mask {
            scores = self.push_part(site, "masked", Op::Binary(Binary::Add), &[scores, mask])?;
        }
        let axis = self.rank(scores).saturating_sub(1);
        let weights = self.push_part(site, "weights", Op::Softmax { axis }, &[scores])?;
        self.push(site, Op::MatMul(MatMul::default()), &[weights, v])
    }
}
