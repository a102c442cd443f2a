//! Products of matrices.

use offshoot_graph::op::{Binary, Gemm, MatMul, ShapeOp};
use offshoot_graph::{Dim, Op, Shape, ValueId};

use super::{Importer, Part, Site};
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

    /// A product of two values: of rows with one matrix, of one matrix with each of a stack, or of stacks of matrices, whose leading
    /// axes are broadcast to each other. A vector is a row or a column.
    pub(crate) fn matmul(&mut self, site: &dyn Site, a: ValueId, b: ValueId) -> Result<ValueId, Problem> {
        match (self.rank(a), self.rank(b)) {
            (0, _) | (_, 0) => Err(site.damage("a number is no matrix")),
            (1, _) | (_, 1) => self.vector_product(site, a, b),
            (3.., 2) => self.by_rows(site, site.name(), Op::Gemm(Gemm::default()), a, &[b]),
            (2, 3..) => {
                let columns = self.exchanged(site, "columns", b)?;
                let product = Op::Gemm(Gemm { trans_a: false, trans_b: true });
                let turned = self.by_rows(site, &site.part("turned"), product, columns, &[a])?;
                let perm = exchanging(self.rank(turned));
                self.push(site, Op::Shape(ShapeOp::Transpose { perm }), &[turned])
            }
            (2, 2) => self.push(site, Op::MatMul(MatMul::default()), &[a, b]),
            _ => {
                let [a, b] = self.stacks(site, a, b)?;
                self.push(site, Op::MatMul(MatMul::default()), &[a, b])
            }
        }
    }

    /// A product with a row (`a`) or a column (`b`), which the result has no axis for.
    fn vector_product(&mut self, site: &dyn Site, a: ValueId, b: ValueId) -> Result<ValueId, Problem> {
        let (row, column) = (self.rank(a) == 1, self.rank(b) == 1);
        let [left, right] =
            [("row", a, row, 0), ("column", b, column, 1)].map(|(name, id, is, axis)| match is {
                true => self.unsqueeze(&Part { site, name: site.part(name) }, id, &[axis]),
                false => Ok(id),
            });
        let product = self.matmul(&Part { site, name: site.part("matrix") }, left?, right?)?;
        let rank = self.rank(product);
        let gone: Vec<usize> = [row.then(|| rank.saturating_sub(2)), column.then(|| rank.saturating_sub(1))]
            .into_iter()
            .flatten()
            .collect();
        let mut axis = 0;
        let mut shape = self.shape(product).clone();
        shape.0.retain(|_| {
            axis += 1;
            !gone.contains(&(axis - 1))
        });
        self.reshape_to(site, product, shape)
    }

    /// Both with the same leading axes.
    fn stacks(&mut self, site: &dyn Site, a: ValueId, b: ValueId) -> Result<[ValueId; 2], Problem> {
        let lead = |importer: &Importer, id: ValueId| {
            let dims = &importer.shape(id).0;
            dims[..dims.len() - 2].to_vec()
        };
        let (own, other) = (lead(self, a), lead(self, b));
        let rank = own.len().max(other.len());
        let one = Dim::Fixed(1);
        let at = |dims: &[Dim], axis: usize| {
            (axis + dims.len()).checked_sub(rank).map_or(one.clone(), |i| dims[i].clone())
        };
        let joined = |axis| match (at(&own, axis), at(&other, axis)) {
            (x, y) if x == y || y == one => Some(x),
            (x, y) if x == one => Some(y),
            _ => None,
        };
        let joined: Option<Vec<Dim>> = (0..rank).map(joined).collect();
        let joined = joined.ok_or_else(|| site.damage("its operands are no stacks of as many matrices"))?;
        let mut wide = |name: &str, id: ValueId| {
            let dims = self.shape(id).0.clone();
            let shape = Shape([&joined[..], &dims[dims.len() - 2..]].concat());
            if shape.0 == dims {
                return Ok(id);
            }
            let ones = vec![Dim::Fixed(1); shape.rank() - dims.len()];
            let axes = Part { site, name: site.part(&format!("{name}.axes")) };
            let id = self.reshape_to(&axes, id, Shape([ones, dims].concat()))?;
            if shape == *self.shape(id) {
                return Ok(id);
            }
            self.push_part(site, name, Op::Shape(ShapeOp::Expand { shape }), &[id])
        };
        Ok([wide("first", a)?, wide("second", b)?])
    }

    /// `x` with its last two axes exchanged.
    fn exchanged(&mut self, site: &dyn Site, part: &str, x: ValueId) -> Result<ValueId, Problem> {
        let perm = exchanging(self.rank(x));
        self.push_part(site, part, Op::Shape(ShapeOp::Transpose { perm }), &[x])
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
        let keys = self.exchanged(site, "keys", k)?;
        let mut scores = self.push_part(site, "scores", Op::MatMul(MatMul::default()), &[q, keys])?;
        if let Some(mask) = mask {
            scores = self.push_part(site, "masked", Op::Binary(Binary::Add), &[scores, mask])?;
        }
        let axis = self.rank(scores).saturating_sub(1);
        let weights = self.push_part(site, "weights", Op::Softmax { axis }, &[scores])?;
        self.push(site, Op::MatMul(MatMul::default()), &[weights, v])
    }
}

/// The order of `rank` axes that exchanges the last two.
fn exchanging(rank: usize) -> Vec<usize> {
    let mut perm: Vec<usize> = (0..rank).collect();
    if let [.., a, b] = &mut perm[..] {
        std::mem::swap(a, b);
    }
    perm
}
