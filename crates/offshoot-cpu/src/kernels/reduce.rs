//! Reductions along one axis of a value in the graph's order, and their gradients.

use offshoot_graph::op::Reduce;

/// A shape as the axes before an axis, the axis, and those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Along {
    /// The product of the sizes before the axis.
    pub(crate) outer: usize,
    /// The size of the axis.
    pub(crate) count: usize,
    /// The product of the sizes behind the axis.
    pub(crate) inner: usize,
}

impl Along {
    /// `shape` along `axis`.
    pub(crate) fn new(shape: &[usize], axis: usize) -> Along {
        let product = |sizes: &[usize]| sizes.iter().product();
        Along { outer: product(&shape[..axis]), count: shape[axis], inner: product(&shape[axis + 1..]) }
    }

    /// The offset of the first element of each row, and where its result is: the others follow at steps of `inner`.
    fn rows(self) -> impl Iterator<Item = (usize, usize)> {
        let block = self.count * self.inner;
        (0..self.outer).flat_map(move |o| (0..self.inner).map(move |i| (o * block + i, o * self.inner + i)))
    }
}

/// out = the reduction of each row of x, summed in f64.
///
/// # Panics
/// When a slice is shorter than `along` says.
pub(crate) fn reduce(op: Reduce, along: Along, x: &[f32], out: &mut [f32]) {
    for (from, to) in along.rows() {
        let row = || (0..along.count).map(|k| x[from + k * along.inner]);
        let sum = |f: fn(f64) -> f64| row().map(|x| f(f64::from(x))).sum::<f64>();
        let nan_or = |wins: fn(f32, f32) -> bool, start: f32| {
            row().fold(start, |best, x| if x.is_nan() || wins(x, best) { x } else { best })
        };
        out[to] = match op {
            Reduce::Sum => sum(|x| x) as f32,
            Reduce::Mean => (sum(|x| x) / along.count as f64) as f32,
            Reduce::Max => nan_or(|x, best| x > best, f32::NEG_INFINITY),
            Reduce::Min => nan_or(|x, best| x < best, f32::INFINITY),
            Reduce::L2 => sum(|x| x * x).sqrt() as f32,
        };
    }
}

/// dx of [`reduce`], from dy, x and y.
///
/// # Panics
/// When a slice is shorter than `along` says.
pub(crate) fn reduce_grad(op: Reduce, along: Along, [dy, x, y]: [&[f32]; 3], dx: &mut [f32]) {
    for (from, to) in along.rows() {
        let (dy, y) = (dy[to], y[to]);
        let at = |k: usize| from + k * along.inner;
        let ties = || (0..along.count).filter(|&k| x[at(k)] == y).count().max(1) as f32;
        let share = match op {
            Reduce::Sum => dy,
            Reduce::Mean => dy / along.count as f32,
            Reduce::Max | Reduce::Min => dy / ties(),
            Reduce::L2 => {
                if y == 0.0 {
                    0.0
                } else {
                    dy / y
                }
            }
        };
        for k in 0..along.count {
            dx[at(k)] = match op {
                Reduce::Sum | Reduce::Mean => share,
                Reduce::Max | Reduce::Min => {
                    if x[at(k)] == y {
                        share
                    } else {
                        0.0
                    }
                }
                Reduce::L2 => share * x[at(k)],
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_wins_and_equal_elements_share_the_gradient() {
        let along = Along::new(&[2, 3], 1);
        let x = [1.0, f32::NAN, 2.0, 4.0, 4.0, -1.0];
        let mut y = [0.0; 2];
        reduce(Reduce::Max, along, &x, &mut y);
        assert!(y[0].is_nan() && y[1] == 4.0, "{y:?}");
        reduce(Reduce::Min, along, &x, &mut y);
        assert!(y[0].is_nan() && y[1] == -1.0, "{y:?}");
        let mut dx = [9.0; 3];
        reduce_grad(Reduce::Max, Along::new(&[3], 0), [&[1.0], &x[3..], &[4.0]], &mut dx);
        assert_eq!(dx, [0.5, 0.5, 0.0]);
        reduce_grad(Reduce::L2, Along::new(&[3], 0), [&[1.0], &[0.0; 3], &[0.0]], &mut dx);
        assert_eq!(dx, [0.0; 3]);
    }
}
