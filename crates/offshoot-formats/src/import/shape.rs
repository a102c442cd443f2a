//! Operators that move elements: other shapes, other orders, parts.

use offshoot_graph::op::{Composite, ShapeOp};
use offshoot_graph::{Dim, Op, Shape, ValueId};

use super::{Importer, Number, Site};
use crate::elements::MAX_ELEMENTS;
use crate::error::Problem;

/// A size of a reshape.
pub(crate) enum Target {
    Size(Number),
    /// As many places as the axis of the input at the same place has.
    Copied,
    /// What follows from the others.
    Rest,
}

impl Importer {
    /// `x` under another shape of as many elements; to [batch, everything else] it is a Flatten.
    pub(crate) fn reshape_to(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        shape: Shape,
    ) -> Result<ValueId, Problem> {
        let own = self.shape(x);
        if shape == *own {
            return Ok(x);
        }
        let op = match (&shape.0[..], own.0.first()) {
            ([first, Dim::Fixed(_)], Some(batch)) if own.rank() > 2 && first == batch => {
                Op::Shape(ShapeOp::Flatten { axis: 1 })
            }
            _ => Op::Shape(ShapeOp::Reshape { shape }),
        };
        self.push(site, op, &[x])
    }

    /// Whether `n`, which a file with a fixed batch wrote for `dim`, is the batch.
    pub(crate) fn is_batch(&self, dim: Option<&Dim>, n: f64) -> bool {
        dim == Some(&self.batch) && self.fixed_batch.is_some_and(|b| b as f64 == n)
    }

    /// A reshape to sizes that are known but for those of the inputs, and one that follows from the others. The error of sizes that
    /// do not fit comes with the size of the input that the file may count on, if there is one.
    pub(crate) fn reshape(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        target: Vec<Target>,
    ) -> Result<ValueId, (Problem, Option<(Dim, usize)>)> {
        let dims = self.shape(x).0.clone();
        let mut sizes: Vec<Option<Dim>> = Vec::new();
        for (i, target) in target.into_iter().enumerate() {
            sizes.push(match target {
                Target::Rest => None,
                Target::Size(Number::Size(dim)) => Some(dim),
                Target::Copied if i < dims.len() => Some(dims[i].clone()),
                Target::Size(Number::Known(n)) if i == 0 && self.is_batch(dims.first(), n) => {
                    dims.first().cloned()
                }
                Target::Size(Number::Known(n)) if (1.0..=MAX_ELEMENTS as f64).contains(&n) => {
                    Some(Dim::Fixed(n as usize))
                }
                Target::Size(_) | Target::Copied => {
                    return Err((site.refused("its shape is not known before the run"), None));
                }
            });
        }
        let counted_on = dims.iter().zip(&sizes).find_map(|pair| match pair {
            (dim @ Dim::Symbol(_), Some(Dim::Fixed(n))) if *dim != self.batch => Some((dim.clone(), *n)),
            _ => None,
        });
        match Shape(dims).reshaped(&sizes) {
            Some(shape) => self.reshape_to(site, x, shape).map_err(|problem| (problem, None)),
            None => {
                let what = format!("the input, {}, has not as many elements as its result", self.shape(x));
                Err((site.refused(&what), counted_on))
            }
        }
    }

    /// Axes `start` to `end`, both of them, as one.
    pub(crate) fn flatten(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        start: usize,
        end: usize,
    ) -> Result<ValueId, Problem> {
        if start > end {
            return Err(site.damage("it flattens no axes"));
        }
        let dims = &self.shape(x).0;
        let one = dims[start..=end].iter().cloned().reduce(|a, b| a.combine(offshoot_graph::DimOp::Mul, &b));
        let one = one.unwrap_or(Dim::Fixed(1));
        let shape = [&dims[..start], &[one], &dims[end + 1..]].concat();
        self.reshape_to(site, x, Shape(shape))
    }

    /// `x` with axes of one place where the result has `axes`.
    pub(crate) fn unsqueeze(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axes: &[i64],
    ) -> Result<ValueId, Problem> {
        let mut shape = self.shape(x).0.clone();
        let mut axes = site.axes_of(axes, shape.len().saturating_add(axes.len()))?;
        axes.sort_unstable();
        for axis in axes {
            if axis > shape.len() {
                return Err(site.damage("its axes are not those of the result"));
            }
            shape.insert(axis, Dim::Fixed(1));
        }
        self.reshape_to(site, x, Shape(shape))
    }

    /// `x` with its axes in another order.
    pub(crate) fn transpose(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        perm: Vec<usize>,
    ) -> Result<ValueId, Problem> {
        if perm.iter().copied().eq(0..self.rank(x)) {
            return Ok(x);
        }
        self.push(site, Op::Shape(ShapeOp::Transpose { perm }), &[x])
    }

    /// `x` broadcast to sizes, of which -1, and in ONNX 1, leaves an axis as it is.
    pub(crate) fn expand(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        sizes: &[Number],
    ) -> Result<ValueId, Problem> {
        let dims = self.shape(x).0.clone();
        let missing = sizes.len().saturating_sub(dims.len());
        let dim = |(i, number): (usize, &Number)| match *number {
            Number::Size(ref dim) => Some(dim.clone()),
            Number::Known(1.0 | -1.0) if i >= missing => dims.get(i - missing).cloned(),
            Number::Known(n) if i == 0 && self.fixed_batch.is_some_and(|b| b as f64 == n) => {
                Some(self.batch.clone())
            }
            Number::Known(n) if (1.0..=MAX_ELEMENTS as f64).contains(&n) => Some(Dim::Fixed(n as usize)),
            Number::Known(_) | Number::Unknown => None,
        };
        let shape: Option<Vec<Dim>> = sizes.iter().enumerate().map(dim).collect();
        match shape {
            Some(shape) if shape.len() >= dims.len() && shape == dims => Ok(x),
            Some(shape) if shape.len() >= dims.len() => {
                self.push(site, Op::Shape(ShapeOp::Expand { shape: Shape(shape) }), &[x])
            }
            _ => Err(site.refused("its shape is not known before the run")),
        }
    }

    /// The places `start` to `end` (not itself) of an axis of known size, counted from the end when negative, and cut where the
    /// axis ends.
    pub(crate) fn slice(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
        [start, end]: [i64; 2],
    ) -> Result<ValueId, Problem> {
        let Some(size) = self.shape(x).0[axis].fixed() else {
            return Err(site.refused("only neighbours along an axis of known size are read"));
        };
        let place = |i: i64| {
            let counted = if i < 0 { i.saturating_add(size as i64) } else { i };
            usize::try_from(counted).unwrap_or(0).min(size)
        };
        match (place(start), place(end)) {
            (0, end) if end == size => Ok(x),
            (start, end) => self.push(site, Op::Shape(ShapeOp::Slice { axis, start, end }), &[x]),
        }
    }

    /// One place of an axis of known size, which stays where `kept`.
    pub(crate) fn pick(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
        index: i64,
        kept: bool,
    ) -> Result<ValueId, Problem> {
        let mut shape = self.shape(x).clone();
        let size = shape.0[axis].fixed().ok_or_else(|| site.refused("the axis has no known size"))?;
        let counted = if index < 0 { index.saturating_add(size as i64) } else { index };
        let start = usize::try_from(counted).ok().filter(|&i| i < size);
        let start = start.ok_or_else(|| site.damage(&format!("index {index} is outside of {size}")))?;
        let part = self.push(site, Op::Shape(ShapeOp::Slice { axis, start, end: start + 1 }), &[x])?;
        if kept {
            return Ok(part);
        }
        shape.0.remove(axis);
        self.reshape_to(site, part, shape)
    }

    /// Parts of an axis of known size; their sizes add up to it.
    pub(crate) fn split(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
        sizes: Vec<usize>,
    ) -> Result<Vec<ValueId>, Problem> {
        let size = self.shape(x).0[axis].fixed();
        let sum = sizes.iter().try_fold(0usize, |sum, &part| sum.checked_add(part));
        if size.is_none() || sum != size {
            let what = format!("its sizes {sizes:?} are not those of an axis of {}", self.shape(x).0[axis]);
            return Err(site.damage(&what));
        }
        match sizes.len() {
            1 => Ok(vec![x]),
            _ => self.compose_all(site, Composite::Split { axis, sizes }, &[x]),
        }
    }
}
