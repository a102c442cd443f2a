//! Operators that say where elements go and compute none: one row a member.

use super::row::MemberRow;
use super::unary::Autocast;
use crate::shape::Shape;

/// x -> its elements in other places.
#[derive(Clone, Debug, PartialEq)]
pub enum ShapeOp {
    /// [d0, .., dn] -> [d0 * .. * d(axis-1), d(axis) * .. * dn]
    Flatten {
        /// The first axis of the second part.
        axis: usize,
    },
    /// Axis i of the result is axis `perm[i]` of x.
    Transpose {
        /// A permutation of x's axes.
        perm: Vec<usize>,
    },
    /// The same elements in the same order under `shape`
    Reshape {
        /// The result's shape, of as many elements.
        shape: Shape,
    },
    /// Its inputs one after another along `axis`
    Concat {
        /// The axis along which the inputs may differ in size.
        axis: usize,
    },
    /// The part of x with indices `start..end` along `axis`
    Slice {
        /// The axis.
        axis: usize,
        /// The first index.
        start: usize,
        /// The index behind the last one.
        end: usize,
    },
    /// x broadcast to `shape` as NumPy does
    Expand {
        /// The result's shape.
        shape: Shape,
    },
    /// x -> x
    Identity,
}

impl ShapeOp {
    /// The member's row.
    pub const fn row(&self) -> MemberRow {
        let (onnx, autocast) = match self {
            ShapeOp::Flatten { .. } => ("Flatten", Autocast::Follow),
            ShapeOp::Transpose { .. } => ("Transpose", Autocast::Follow),
            ShapeOp::Reshape { .. } => ("Reshape", Autocast::Follow),
            ShapeOp::Concat { .. } => ("Concat", Autocast::Widest),
            ShapeOp::Slice { .. } => ("Slice", Autocast::Follow),
            ShapeOp::Expand { .. } => ("Expand", Autocast::Follow),
            ShapeOp::Identity => ("Identity", Autocast::Follow),
        };
        MemberRow { onnx, autocast }
    }
}
