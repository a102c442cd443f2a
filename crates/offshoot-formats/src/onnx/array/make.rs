//! Operators that make tensors of sizes.

use super::{Array, Kind, Known};

impl Known<'_> {
    pub(super) fn made(&self) -> Option<Array> {
        match self.node.op() {
            "Range" => self.range(),
            "EyeLike" => self.eye(),
            "ConstantOfShape" => self.filled(),
            "OneHot" => self.one_hot(),
            _ => None,
        }
    }

    fn range(&self) -> Option<Array> {
        let first = self.input(0)?;
        let (start, end, step) = (first.one()?, self.input(1)?.one()?, self.input(2)?.one()?);
        let count = ((end - start) / step).ceil().max(0.0);
        if !count.is_finite() || count > self.most as f64 {
            return None;
        }
        let round = |x: f64| if first.kind == Kind::Float { f64::from(x as f32) } else { x };
        let data: Vec<f64> = (0..count as usize).map(|i| round(start + i as f64 * step)).collect();
        Array::new(vec![data.len()], data, first.kind)
    }

    fn filled(&self) -> Option<Array> {
        let shape = self.input(0)?.ints()?;
        let shape: Vec<usize> = shape.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<_>>()?;
        let count = self.room(&shape)?;
        let (number, kind) = match &self.fill {
            Some(fill) => (fill.one()?, fill.kind),
            None => (0.0, Kind::Float),
        };
        Array::new(shape, vec![number; count], kind)
    }

    /// Indices as rows with one number in the place of each index, and another elsewhere.
    fn one_hot(&self) -> Option<Array> {
        let (indices, depth, values) = (self.input(0)?, self.input(1)?.one()?, self.input(2)?);
        let &[off, on] = &values.data[..] else { return None };
        let rank = indices.shape.len();
        if !matches!(self.node.int("axis", -1), -1) && self.node.int("axis", -1) != rank as i64 {
            return None;
        }
        let depth = if depth >= 0.0 && depth <= self.most as f64 { depth as usize } else { return None };
        let shape = [&indices.shape[..], &[depth]].concat();
        let mut data = vec![off; self.room(&shape)?];
        for (row, index) in indices.ints()?.into_iter().enumerate() {
            // An index outside of the row has no place in it.
            if let Some(place) = Self::axis(index, depth) {
                data[row * depth + place] = on;
            }
        }
        Array::new(shape, data, values.kind)
    }

    fn eye(&self) -> Option<Array> {
        let x = self.input(0)?;
        let [rows, columns] = x.shape[..] else { return None };
        let shift = self.node.int("k", 0);
        let on = |i: usize| (i % columns.max(1)) as i64 - (i / columns.max(1)) as i64 == shift;
        let data = (0..rows * columns).map(|i| f64::from(u8::from(on(i)))).collect();
        let kind =
            if matches!(self.node.int("dtype", 1), 1 | 10 | 11 | 16) { Kind::Float } else { Kind::Whole };
        Array::new(x.shape.clone(), data, kind)
    }
}
