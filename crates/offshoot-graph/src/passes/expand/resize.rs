//! Resizing as products with matrices of weights, which are ONNX's.

use super::Parts;
use crate::graph::{GraphError, ValueId};
use crate::op::{Coordinates, Gemm, Op, Resampling, ShapeOp};
use crate::shape::{Dim, DimOp};
use crate::tensor::Tensor;

/// A matrix of weights holds no more elements than this.
const MAX_WEIGHTS: usize = 1 << 24;

impl Parts<'_> {
    pub(super) fn resize(
        &mut self,
        x: ValueId,
        [height, width]: [usize; 2],
        resampling: Resampling,
        coordinates: Coordinates,
    ) -> Result<ValueId, GraphError> {
        self.floats(x)?;
        let dims = self.dims(x);
        let &[ref n, ref c, Dim::Fixed(h), Dim::Fixed(w)] = &dims[..] else {
            return Err(self.error("its input must be [N, C, H, W] with a known height and width"));
        };
        let (n, c) = (n.clone(), c.clone());
        let y = self.resize_last(x, "w", [w, width], resampling, coordinates)?;
        let perm = vec![0, 1, 3, 2];
        let y = self.add("turned", Op::Shape(ShapeOp::Transpose { perm: perm.clone() }), &[y])?;
        let y = self.resize_last(y, "h", [h, height], resampling, coordinates)?;
        let y = self.add("result", Op::Shape(ShapeOp::Transpose { perm }), &[y])?;
        debug_assert_eq!(self.dims(y), vec![n, c, height.into(), width.into()]);
        Ok(y)
    }

    /// x with `to` places in its last axis, which has `from`.
    fn resize_last(
        &mut self,
        x: ValueId,
        suffix: &str,
        [from, to]: [usize; 2],
        resampling: Resampling,
        coordinates: Coordinates,
    ) -> Result<ValueId, GraphError> {
        if from == 0 || to == 0 || from.checked_mul(to).is_none_or(|weights| weights > MAX_WEIGHTS) {
            return Err(self.error(format!("{from} places cannot become {to}")));
        }
        let mut dims = self.dims(x);
        let rows = dims[..3].iter().fold(Dim::Fixed(1), |product, dim| product.combine(DimOp::Mul, dim));
        let flat = self.reshape(&format!("{suffix}.rows"), x, vec![rows, from.into()])?;
        let weights = Tensor::f32([to, from], weights([from, to], resampling, coordinates));
        let weights = self.constant(&format!("{suffix}.weights"), weights);
        let gemm = Op::Gemm(Gemm { trans_a: false, trans_b: true });
        let product = self.add(&format!("{suffix}.product"), gemm, &[flat, weights])?;
        dims[3] = to.into();
        self.reshape(suffix, product, dims)
    }
}

/// A row for each of the `to` places: what it takes of each of `from`.
fn weights([from, to]: [usize; 2], resampling: Resampling, coordinates: Coordinates) -> Vec<f32> {
    let (m, n) = (from as f64, to as f64);
    let mut weights = vec![0.0f32; from * to];
    for (i, row) in weights.chunks_exact_mut(from).enumerate() {
        let at = match coordinates {
            Coordinates::HalfPixel => (i as f64 + 0.5) * m / n - 0.5,
            Coordinates::AlignCorners if to == 1 => 0.0,
            Coordinates::AlignCorners => i as f64 * (m - 1.0) / (n - 1.0),
            Coordinates::Asymmetric => i as f64 * m / n,
        };
        let base = at.floor();
        let part = at - base;
        let taken: &[(f64, f64)] = match resampling {
            // Of two as near the first.
            Resampling::Nearest => &[((at - 0.5).ceil(), 1.0)],
            Resampling::NearestCeil => &[((at + 0.5).floor(), 1.0)],
            Resampling::NearestFloor => &[(base, 1.0)],
            Resampling::Linear => &[(base, 1.0 - part), (base + 1.0, part)],
            Resampling::Cubic => {
                let [a, b, c, d] = cubic(part);
                &[(base - 1.0, a), (base, b), (base + 1.0, c), (base + 2.0, d)]
            }
        };
        for &(place, weight) in taken {
            row[place.clamp(0.0, m - 1.0) as usize] += weight as f32;
        }
    }
    weights
}

/// The weights of four neighbours at a distance of `t` behind the second: Keys' cubic with a = -0.75.
fn cubic(t: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}
