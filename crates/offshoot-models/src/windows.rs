//! Attention among the pixels of windows, with a bias for each pair of places that depends on how far they are apart: what Swin and
//! MaxViT share.

use offshoot_graph::op::{Binary, MatMul, Op, SequenceOp, ShapeOp};
use offshoot_graph::{Dim, Graph, GraphError, Shape, Tensor, ValueId};

/// Windows of one size, and the heads that their pixels attend with.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    /// Pictures.
    pub(crate) batch: Dim,
    /// Windows of a picture.
    pub(crate) count: usize,
    /// Height and width of a window in pixels.
    pub(crate) side: usize,
    pub(crate) heads: usize,
    /// Features of a pixel, a multiple of the heads.
    pub(crate) width: usize,
}

impl Windows {
    /// Pixels of a window.
    pub(crate) fn pixels(&self) -> usize {
        self.side * self.side
    }

    /// Features of a head.
    pub(crate) fn depth(&self) -> usize {
        self.width / self.heads
    }

    /// Queries, keys and values of each head, [batch, count, heads, pixels, depth], of rows that hold them one after another,
    /// [batch count pixels, 3 width]. `change` makes of each part, by its number, other rows of the same shape.
    pub(crate) fn split(
        &self,
        graph: &mut Graph,
        path: &str,
        rows: ValueId,
        mut change: impl FnMut(&mut Graph, &str, usize, ValueId) -> Result<ValueId, GraphError>,
    ) -> Result<[ValueId; 3], GraphError> {
        let mut part = |index: usize, name: &str| {
            let path = format!("{path}.{name}");
            let (start, end) = (index * self.width, (index + 1) * self.width);
            let x = graph.add(&path, Op::Shape(ShapeOp::Slice { axis: 1, start, end }), &[rows])?;
            let x = change(graph, &path, index, x)?;
            let shape = with_batch(&self.batch, &[self.count, self.pixels(), self.heads, self.depth()]);
            let x = graph.add(&format!("{path}.heads"), Op::Shape(ShapeOp::Reshape { shape }), &[x])?;
            transposed(graph, &format!("{path}.pixels"), x, [0, 1, 3, 2, 4])
        };
        Ok([part(0, "q")?, part(1, "k")?, part(2, "v")?])
    }

    /// softmax(q kᵀ scale + bias) v of each head, all [batch, count, heads, pixels, depth] -> rows [batch count pixels, width]. The
    /// bias is broadcast to [batch, count, heads, pixels, pixels], the scale, where there is one, too.
    pub(crate) fn attend(
        &self,
        graph: &mut Graph,
        path: &str,
        [q, k, v]: [ValueId; 3],
        scale: Option<ValueId>,
        bias: ValueId,
    ) -> Result<ValueId, GraphError> {
        let product = Op::MatMul(MatMul::default());
        let k = transposed(graph, &format!("{path}.k.columns"), k, [0, 1, 2, 4, 3])?;
        let mut scores = graph.add(&format!("{path}.scores"), product.clone(), &[q, k])?;
        if let Some(scale) = scale {
            scores = graph.add(&format!("{path}.scaled"), Op::Binary(Binary::Mul), &[scores, scale])?;
        }
        let scores = graph.add(&format!("{path}.biased"), Op::Binary(Binary::Add), &[scores, bias])?;
        let scores = graph.add(&format!("{path}.softmax"), Op::Softmax { axis: 4 }, &[scores])?;
        let x = graph.add(&format!("{path}.values"), product, &[scores, v])?;
        let x = transposed(graph, &format!("{path}.together"), x, [0, 1, 3, 2, 4])?;
        let shape = with_batch(&self.batch, &[self.count, self.pixels(), self.width]);
        let x = graph.add(&format!("{path}.merged"), Op::Shape(ShapeOp::Reshape { shape }), &[x])?;
        graph.add(&format!("{path}.rows"), Op::Shape(ShapeOp::Flatten { axis: 3 }), &[x])
    }

    /// Pairs of pixels of a window.
    pub(crate) fn pairs(&self) -> usize {
        self.pixels() * self.pixels()
    }

    /// The rows of `table`, [(2 side - 1)², heads], in which pairs of pixels find their bias: [heads, pixels, pixels]. The indices of the
    /// rows have the shape `stored`, as the library stores them.
    pub(crate) fn bias(
        &self,
        graph: &mut Graph,
        path: &str,
        table: ValueId,
        stored: impl Into<Vec<usize>>,
    ) -> Result<ValueId, GraphError> {
        let pixels = self.pixels();
        let index = Tensor::i64(stored, relative_positions(self.side));
        let index = graph.add_constant(&format!("{path}.relative_position_index"), index);
        let x = graph.add(&format!("{path}.bias.rows"), Op::Sequence(SequenceOp::Gather), &[table, index])?;
        let shape = Shape::fixed(&[pixels, pixels, self.heads]);
        let x = graph.add(&format!("{path}.bias.pairs"), Op::Shape(ShapeOp::Reshape { shape }), &[x])?;
        transposed(graph, &format!("{path}.bias"), x, [2, 0, 1])
    }
}

/// For each pair of pixels (i, j) of a window the row of the table of its bias: that of the distance from j to i, rows first, as
/// torchvision's `relative_position_index`.
fn relative_positions(side: usize) -> Vec<i64> {
    let pixels = || (0..side).flat_map(|row| (0..side).map(move |column| (row, column)));
    let row = |(y, x): (usize, usize), (y2, x2): (usize, usize)| {
        (y + side - 1 - y2) * (2 * side - 1) + x + side - 1 - x2
    };
    pixels().flat_map(|i| pixels().map(move |j| row(i, j) as i64)).collect()
}

/// [N, H, W, C] -> [N, H W / side², side, side, C] as rows [.., C]: windows of `side` by `side` pixels, each after the other. No value has
/// more than five axes, which is the most that Core ML has.
pub(crate) fn parted(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    batch: &Dim,
    [height, width, channels]: [usize; 3],
    side: usize,
) -> Result<ValueId, GraphError> {
    let apart = [height / side, side, width / side, side * channels];
    let together = [height / side * (width / side), side * side, channels];
    let x = regrouped(graph, path, x, batch, (apart, together), ["windows", "parted"])?;
    graph.add(&format!("{path}.rows"), Op::Shape(ShapeOp::Flatten { axis: 3 }), &[x])
}

/// The inverse of [`parted`]: [N, height, width, channels].
pub(crate) fn joined(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    batch: &Dim,
    [height, width, channels]: [usize; 3],
    side: usize,
) -> Result<ValueId, GraphError> {
    let apart = [height / side, width / side, side, side * channels];
    regrouped(graph, path, x, batch, (apart, [height, width, channels]), ["lines", "joined"])
}

/// The elements in the shape `apart` with its second and third axes exchanged, in the shape `together`; both have the batch dimension
/// in front. The `names` are those of the last two operators.
fn regrouped(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    batch: &Dim,
    (apart, together): ([usize; 4], [usize; 3]),
    [exchanged, regrouped]: [&str; 2],
) -> Result<ValueId, GraphError> {
    let shape = with_batch(batch, &apart);
    let x = graph.add(&format!("{path}.apart"), Op::Shape(ShapeOp::Reshape { shape }), &[x])?;
    let x = transposed(graph, &format!("{path}.{exchanged}"), x, [0, 1, 3, 2, 4])?;
    let shape = with_batch(batch, &together);
    graph.add(&format!("{path}.{regrouped}"), Op::Shape(ShapeOp::Reshape { shape }), &[x])
}

/// The shape with the batch dimension in front.
pub(crate) fn with_batch(batch: &Dim, sizes: &[usize]) -> Shape {
    Shape(std::iter::once(batch.clone()).chain(sizes.iter().map(|&size| size.into())).collect())
}

/// x with its axes in the order `perm`.
pub(crate) fn transposed<const RANK: usize>(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    perm: [usize; RANK],
) -> Result<ValueId, GraphError> {
    graph.add(path, Op::Shape(ShapeOp::Transpose { perm: perm.to_vec() }), &[x])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_of_the_paper() {
        // torchvision's `relative_position_index` of windows of two pixels.
        assert_eq!(relative_positions(2), [4, 3, 1, 0, 5, 4, 2, 1, 7, 6, 4, 3, 8, 7, 5, 4]);
        assert_eq!(relative_positions(1), [0]);
        let all = relative_positions(7);
        assert_eq!((all.len(), all.iter().min(), all.iter().max()), (2401, Some(&0), Some(&168)));
    }
}
