//! Operators that say where elements go.

use super::arithmetic::spread;
use super::{Array, Known, count, strides};
use crate::onnx::fold::reshaped;

impl Known<'_> {
    pub(super) fn moved(&self) -> Option<Array> {
        let x = self.input(0)?;
        match self.node.op() {
            "Reshape" => {
                let shape = reshaped(&x.shape, &self.ints(1, "shape")?, !self.node.flag("allowzero"))?;
                Array::new(shape, x.data.clone(), x.kind)
            }
            "Flatten" => {
                let axis = self.node.int("axis", 1);
                let axis = if axis == x.shape.len() as i64 {
                    x.shape.len()
                } else {
                    Self::axis(axis, x.shape.len())?
                };
                let shape = vec![count(&x.shape[..axis])?, count(&x.shape[axis..])?];
                Array::new(shape, x.data.clone(), x.kind)
            }
            "Transpose" => self.transposed(x),
            "Unsqueeze" => self.unsqueezed(x),
            "Squeeze" => self.squeezed(x),
            "Expand" => self.expanded(x),
            "Tile" => self.tiled(x),
            "Concat" => self.joined(x),
            "Slice" => self.sliced(x),
            "Gather" => self.gathered(x),
            "GatherND" if self.node.int("batch_dims", 0) == 0 => self.gathered_by_rows(x),
            "ScatterND" if self.node.text("reduction").unwrap_or("none") == "none" => self.scattered(x),
            _ => None,
        }
    }

    fn transposed(&self, x: &Array) -> Option<Array> {
        let rank = x.shape.len();
        let perm: Vec<usize> = match self.node.ints("perm") {
            Some(perm) => perm.iter().map(|&axis| Self::axis(axis, rank)).collect::<Option<_>>()?,
            None => (0..rank).rev().collect(),
        };
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..rank) {
            return None;
        }
        let own = x.strides();
        let strides: Vec<isize> = perm.iter().map(|&axis| own[axis]).collect();
        x.at(perm.iter().map(|&axis| x.shape[axis]).collect(), &strides, 0)
    }

    fn unsqueezed(&self, x: &Array) -> Option<Array> {
        let axes = self.ints(1, "axes")?;
        let rank = x.shape.len().checked_add(axes.len())?;
        let axes: Vec<usize> = axes.iter().map(|&axis| Self::axis(axis, rank)).collect::<Option<_>>()?;
        let mut own = x.shape.iter();
        let dim = |axis: usize| if axes.contains(&axis) { Some(1) } else { own.next().copied() };
        let shape: Option<Vec<usize>> = (0..rank).map(dim).collect();
        Array::new(shape?, x.data.clone(), x.kind)
    }

    fn squeezed(&self, x: &Array) -> Option<Array> {
        let rank = x.shape.len();
        let axes: Vec<usize> = match self.ints(1, "axes") {
            Some(axes) => axes.iter().map(|&axis| Self::axis(axis, rank)).collect::<Option<_>>()?,
            None => (0..rank).filter(|&axis| x.shape[axis] == 1).collect(),
        };
        let shape = (0..rank).filter(|axis| !axes.contains(axis)).map(|axis| x.shape[axis]).collect();
        Array::new(shape, x.data.clone(), x.kind)
    }

    fn expanded(&self, x: &Array) -> Option<Array> {
        let target = self.ints(1, "shape")?;
        let target: Vec<usize> = target.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<_>>()?;
        let shape = super::broadcast(&x.shape, &target)?;
        self.room(&shape)?;
        spread(x, &shape)
    }

    fn tiled(&self, x: &Array) -> Option<Array> {
        let times = self.ints(1, "repeats")?;
        let times: Vec<usize> = times.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<_>>()?;
        if times.len() != x.shape.len() {
            return None;
        }
        let shape: Option<Vec<usize>> =
            times.iter().zip(&x.shape).map(|(&n, &dim)| n.checked_mul(dim)).collect();
        let shape = shape?;
        self.room(&shape)?;
        // Each axis as one of repetitions before itself.
        let own = x.strides();
        let apart: Vec<usize> = times.iter().zip(&x.shape).flat_map(|(&n, &dim)| [n, dim]).collect();
        let strides: Vec<isize> = own.iter().flat_map(|&stride| [0, stride]).collect();
        let data = super::places(&apart, &strides, 0).into_iter().map(|at| x.data[at as usize]).collect();
        Array::new(shape, data, x.kind)
    }

    fn joined(&self, x: &Array) -> Option<Array> {
        let axis = Self::axis(self.node.int("axis", 0), x.shape.len())?;
        let parts: Vec<&Array> = self.inputs.iter().map(Option::as_ref).collect::<Option<_>>()?;
        let alike = |part: &&Array| {
            let same = |i: usize| i == axis || part.shape.get(i) == x.shape.get(i);
            part.shape.len() == x.shape.len() && (0..x.shape.len()).all(same)
        };
        if !parts.iter().all(alike) {
            return None;
        }
        let mut shape = x.shape.clone();
        shape[axis] = parts.iter().try_fold(0usize, |sum, part| sum.checked_add(part.shape[axis]))?;
        let mut data = Vec::with_capacity(self.room(&shape)?);
        for outer in 0..count(&shape[..axis])? {
            for part in &parts {
                let row = count(&part.shape[axis..])?;
                data.extend_from_slice(&part.data[outer * row..(outer + 1) * row]);
            }
        }
        Array::new(shape, data, x.kind)
    }

    /// Places of axes, with steps.
    fn sliced(&self, x: &Array) -> Option<Array> {
        let (starts, ends) = (self.ints(1, "starts")?, self.ints(2, "ends")?);
        let axes = self.ints(3, "axes").unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self.ints(4, "steps").unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return None;
        }
        let (mut shape, mut strides, mut start) = (x.shape.clone(), x.strides(), 0);
        for i in 0..starts.len() {
            let axis = Self::axis(axes[i], x.shape.len())?;
            let (first, count, step) = part(x.shape[axis], [starts[i], ends[i], steps[i]])?;
            start += first * strides[axis];
            strides[axis] *= step;
            shape[axis] = count;
        }
        x.at(shape, &strides, start)
    }

    fn gathered(&self, x: &Array) -> Option<Array> {
        let indices = self.input(1)?;
        let axis = Self::axis(self.node.int("axis", 0), x.shape.len())?;
        let shape = [&x.shape[..axis], &indices.shape, &x.shape[axis + 1..]].concat();
        let mut data = Vec::with_capacity(self.room(&shape)?);
        let (size, inner) = (x.shape[axis], count(&x.shape[axis + 1..])?);
        let rows: Vec<usize> =
            indices.ints()?.into_iter().map(|i| Self::axis(i, size)).collect::<Option<_>>()?;
        for outer in 0..count(&x.shape[..axis])? {
            for row in &rows {
                let start = (outer * size + row) * inner;
                data.extend_from_slice(&x.data[start..start + inner]);
            }
        }
        Array::new(shape, data, x.kind)
    }

    /// Where the blocks begin that rows of indices name, and how many elements each has.
    fn blocks(shape: &[usize], indices: &Array) -> Option<(Vec<usize>, usize)> {
        let (&depth, _) = indices.shape.split_last()?;
        let (named, rest) = shape.split_at_checked(depth)?;
        let strides = strides(shape);
        let numbers = indices.ints()?;
        let mut starts = Vec::new();
        for row in numbers.chunks_exact(depth.max(1)) {
            let mut start = 0;
            for (axis, &index) in row.iter().enumerate() {
                start += Self::axis(index, named[axis])? * strides[axis] as usize;
            }
            starts.push(start);
        }
        Some((starts, count(rest)?))
    }

    fn gathered_by_rows(&self, x: &Array) -> Option<Array> {
        let indices = self.input(1)?;
        let (starts, block) = Self::blocks(&x.shape, indices)?;
        let (&depth, outer) = indices.shape.split_last()?;
        let shape = [outer, &x.shape[depth..]].concat();
        self.room(&shape)?;
        let data = starts.iter().flat_map(|&start| x.data[start..start + block].iter().copied()).collect();
        Array::new(shape, data, x.kind)
    }

    fn scattered(&self, x: &Array) -> Option<Array> {
        let (indices, updates) = (self.input(1)?, self.input(2)?);
        let (starts, block) = Self::blocks(&x.shape, indices)?;
        if starts.len().checked_mul(block) != Some(updates.len()) {
            return None;
        }
        let mut made = x.clone();
        for (start, update) in starts.iter().zip(updates.data.chunks_exact(block.max(1))) {
            made.data[*start..start + block].copy_from_slice(update);
        }
        Some(made)
    }
}

/// The first place, the number and the step of what a Slice takes of an axis.
fn part(size: usize, [start, end, step]: [i64; 3]) -> Option<(isize, usize, isize)> {
    let size = i64::try_from(size).ok()?;
    let place = |i: i64| if i < 0 { i.saturating_add(size) } else { i };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let (start, end) = (place(start).clamp(low, high), place(end).clamp(low, high));
    let distance = if step > 0 { end - start } else { start - end };
    let count = match step {
        0 => return None,
        _ => distance.max(0) as u64,
    };
    let count = usize::try_from(count.div_ceil(step.unsigned_abs())).ok()?;
    // A step of one place too many is never taken.
    let step = if count > 1 { isize::try_from(step).ok()? } else { 0 };
    Some((if count == 0 { 0 } else { start as isize }, count, step))
}
