//! Numbers that are known before the run, or are sizes of the inputs.

use offshoot_graph::{Dim, DimOp, Shape};

/// An expression of sizes has at most this many parts: it is computed by recursion, and a file can double it with each node.
pub(crate) const MAX_PARTS: usize = 512;

/// More than any size is.
const MAX_SIZE: f64 = (1u64 << 40) as f64;

/// One number of a file's arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Number {
    Known(f64),
    /// A size of the inputs, or what is computed from some.
    Size(Dim),
    /// Something that is no size and not known.
    Unknown,
}

impl Number {
    pub(crate) fn of(dim: Dim) -> Number {
        match dim {
            Dim::Fixed(n) => Number::Known(n as f64),
            dim if dim.is_small(MAX_PARTS) => Number::Size(dim),
            Dim::Symbol(_) | Dim::Expr(_) => Number::Unknown,
        }
    }

    /// The size that it is.
    pub(crate) fn dim(&self) -> Option<Dim> {
        match self {
            Number::Known(n) if n.fract() == 0.0 && (0.0..=MAX_SIZE).contains(n) => {
                Some(Dim::Fixed(*n as usize))
            }
            Number::Size(dim) => Some(dim.clone()),
            Number::Known(_) | Number::Unknown => None,
        }
    }

    /// Two sizes as one. A product is divided by its own factors without a rest: so many pictures have the windows of a batch.
    pub(crate) fn combine(&self, op: DimOp, other: &Number) -> Number {
        match (self.dim(), other.dim()) {
            (Some(a), Some(b)) if op == DimOp::Div && b != Dim::Fixed(0) => {
                let quotient = Shape(vec![a.clone()]).reshaped(&[Some(b.clone()), None]);
                let quotient = quotient.and_then(|shape| shape.0.into_iter().nth(1));
                Number::of(quotient.unwrap_or_else(|| a.combine(op, &b)))
            }
            (Some(a), Some(b)) => Number::of(a.combine(op, &b)),
            _ => Number::Unknown,
        }
    }
}
