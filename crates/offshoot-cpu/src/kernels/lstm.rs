//! Long short-term memory, as ONNX defines it: with i, o, f, c the four blocks of x Wᵀ + h Rᵀ + b,
//! C = sigmoid(f) C + sigmoid(i) tanh(c) and h = sigmoid(o) tanh(C), from states of 0.
//!
//! The four gates of a vector of units lie side by side ([`Units`]), in the packed weights and in the products: whoever computes these
//! goes on to the units' next state, and threads meet once a step. A thread has the same units at every step, whose weights stay in its
//! cache. Products with x are computed for all steps at once.

pub(super) mod step;

use self::step::{Floats, Step};
use super::conv::{Epilogue, PackedFilter, conv};
use super::dynamic::{ByteMatrix, DynamicProduct, dynamic_product, scale_of};
use super::int8::lstm::ByteRecurrence;
use super::parallel::{self, Shared};
use super::quantize::{Scales, quantize};
use super::simd::{Isa, dispatch};
use super::size::elements;
use super::{Activation, ConvShape};
use crate::buffer::Buffer;

/// Gates of a unit.
pub(super) const GATES: usize = 4;

/// Multiply-adds of a step that are worth more than one thread: waiting for each other takes less than a microsecond.
const STEP_WORK: usize = 1 << 17;

/// Sizes of an LSTM's operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Steps.
    pub steps: usize,
    /// Rows at each step.
    pub batch: usize,
    /// Elements of a row of x.
    pub input: usize,
    /// Elements of a row of h.
    pub hidden: usize,
}

/// How units lie side by side: a vector of them, and of each gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Units {
    pub(super) hidden: usize,
    pub(super) lanes: usize,
}

impl Units {
    /// Vectors of units; the last one may be filled up.
    pub(super) fn groups(self) -> usize {
        self.hidden.div_ceil(self.lanes)
    }

    /// Gates of all units, with those that fill the last vectors.
    pub(super) fn columns(self) -> usize {
        elements([GATES, self.groups(), self.lanes])
    }

    /// Rows \[4 hidden, k\] in this order; those that fill the last vectors are 0.
    fn sort<T: Copy + Default>(self, rows: &[T], k: usize) -> Vec<T> {
        let Units { hidden, lanes } = self;
        assert_eq!(rows.len(), elements([GATES, hidden, k]), "rows of {self:?}");
        let mut sorted = vec![T::default(); elements([self.columns(), k])];
        for (column, to) in sorted.chunks_exact_mut(k.max(1)).enumerate() {
            let (vector, lane) = (column / lanes, column % lanes);
            let unit = vector / GATES * lanes + lane;
            if unit < hidden {
                to.copy_from_slice(&rows[(vector % GATES * hidden + unit) * k..][..k]);
            }
        }
        sorted
    }
}

/// A matrix \[4 hidden, input\] that x is multiplied with, packed.
#[derive(Clone, Debug)]
enum Matrix {
    Floats(PackedFilter),
    /// Bytes; what they are multiplied with is quantized by its own range.
    Bytes {
        weight: ByteMatrix,
        /// The scale of each row.
        scale: Vec<f32>,
    },
}

/// A matrix \[4 hidden, hidden\] that h is multiplied with, packed.
#[derive(Clone, Debug)]
enum Recurrence {
    /// For each vector of units and each element of h the weights of the four gates.
    Floats(Buffer),
    Bytes(Box<ByteRecurrence>),
}

/// The numbers of one way of an LSTM, as ONNX has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers<'a> {
    /// \[4 hidden, input\] and \[4 hidden, hidden\]
    pub weights: Weights<'a>,
    /// The sum of both biases, 4 hidden.
    pub bias: &'a [f32],
}

/// W, of x, and R, of h.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weights<'a> {
    /// As they are.
    Floats([&'a [f32]; 2]),
    /// Bytes, and what each row of both is multiplied with.
    Bytes([&'a [i8]; 2], [&'a [f32]; 2]),
}

/// One way of an LSTM.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    units: Units,
    weight: Matrix,
    recurrence: Recurrence,
    /// For each gate.
    bias: Vec<f32>,
    /// Whether it starts at the last step.
    reverse: bool,
}

impl Way {
    /// Packs the weights.
    ///
    /// # Panics
    /// When a slice has not the size that `sizes` says.
    pub(crate) fn pack(isa: Isa, sizes: Sizes, numbers: &Numbers<'_>, reverse: bool) -> Way {
        let Sizes { input, hidden, .. } = sizes;
        let (units, weight, recurrence) = match numbers.weights {
            Weights::Floats([w, r]) => {
                let units = Units { hidden, lanes: isa.lanes() };
                let mut filter = PackedFilter::new();
                let shape = ConvShape::of_matrices(1, input, units.columns());
                filter.pack(isa, &shape, &units.sort(w, input));
                (units, Matrix::Floats(filter), Recurrence::Floats(step::pack(units, &units.sort(r, hidden))))
            }
            Weights::Bytes([w, r], [w_scale, r_scale]) => {
                let units = Units { hidden, lanes: ByteRecurrence::lanes(isa) };
                let weight = ByteMatrix::pack(isa, &units.sort(w, input), [units.columns(), input]);
                let (r, r_scale) = (units.sort(r, hidden), units.sort(r_scale, 1));
                let recurrence = ByteRecurrence::pack(isa, hidden, &r, r_scale);
                let weight = Matrix::Bytes { weight, scale: units.sort(w_scale, 1) };
                (units, weight, Recurrence::Bytes(Box::new(recurrence)))
            }
        };
        Way { units, weight, recurrence, bias: units.sort(numbers.bias, 1), reverse }
    }
}

/// Memory that [`lstm`] works in; it grows to what is needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    x_gates: Vec<f32>,
    cell: Vec<f32>,
    bytes: Vec<u8>,
}

/// y \[steps, ways, batch, hidden\] and the last h \[ways, batch, hidden\] from x \[steps, batch, input\].
///
/// # Panics
/// When a slice has not the size that `sizes` says.
pub(crate) fn lstm(
    isa: Isa,
    sizes: Sizes,
    x: &[f32],
    ways: &[Way],
    work: &mut Work,
    [y, last]: [&mut [f32]; 2],
) {
    let Sizes { steps, batch, input, hidden } = sizes;
    assert!(elements([steps, batch, GATES, hidden]) < usize::MAX, "the gates of all steps");
    let state = elements([batch, hidden]);
    let (x_len, y_len) = (elements([steps, batch, input]), elements([steps, ways.len(), batch, hidden]));
    assert_eq!([x.len(), y.len()], [x_len, y_len], "{sizes:?}");
    assert_eq!(last.len(), elements([ways.len(), state]), "{sizes:?}");
    for (index, (way, last)) in ways.iter().zip(last.chunks_exact_mut(state.max(1))).enumerate() {
        assert_eq!(way.units.hidden, hidden, "units of {sizes:?}");
        let columns = way.units.columns();
        work.x_gates.resize(elements([steps, batch, columns]), 0.0);
        work.cell.clear();
        work.cell.resize(state, 0.0);
        way.multiply(isa, sizes, x, work);
        let place = |step: usize| (step * ways.len() + index) * state;
        let mut before = None;
        for i in 0..steps {
            let step = if way.reverse { steps - 1 - i } else { i };
            let (h, out) = states(y, before, place(step), state);
            let Work { x_gates, cell, bytes } = &mut *work;
            let x_gates = &x_gates[step * batch * columns..][..batch * columns];
            way.advance(isa, [x_gates, h], bytes, [cell, out]);
            before = Some(place(step));
        }
        match before {
            Some(place) => last.copy_from_slice(&y[place..][..state]),
            None => last.fill(0.0),
        }
    }
}

/// The `len` elements at `before`, or none, and those at `now`, to change.
fn states(y: &mut [f32], before: Option<usize>, now: usize, len: usize) -> (&[f32], &mut [f32]) {
    let Some(before) = before else { return (&[], &mut y[now..][..len]) };
    let (low, high) = y.split_at_mut(before.max(now));
    if before < now {
        (&low[before..][..len], &mut high[..len])
    } else {
        (&high[..len], &mut low[now..][..len])
    }
}

impl Way {
    /// The part of the gates that is of x, for all steps.
    fn multiply(&self, isa: Isa, sizes: Sizes, x: &[f32], work: &mut Work) {
        let Work { x_gates, bytes, .. } = work;
        match &self.weight {
            Matrix::Floats(filter) => {
                let (rows, columns) = (sizes.steps * sizes.batch, self.units.columns());
                let shape = ConvShape::of_matrices(rows, sizes.input, columns);
                let bias = Some(&self.bias[..]);
                let epilogue = Epilogue { bias, residual: None, activation: Activation::None, then: None };
                conv(isa, &shape, x, filter, &epilogue, x_gates);
            }
            Matrix::Bytes { weight, scale } => {
                bytes.resize(x.len(), 0);
                let product = DynamicProduct { x, weight, scale, bias: Some(&self.bias) };
                dynamic_product(isa, &product, bytes, x_gates);
            }
        }
    }

    /// The next states from the last h, which is empty where that is 0.
    fn advance(
        &self,
        isa: Isa,
        [x_gates, h]: [&[f32]; 2],
        bytes: &mut Vec<u8>,
        [cell, out]: [&mut [f32]; 2],
    ) {
        let Units { hidden, .. } = self.units;
        let batch = out.len() / hidden.max(1);
        let quantized = match &self.recurrence {
            Recurrence::Bytes(weight) if !h.is_empty() => {
                let (scale, zero_point) = scale_of(isa, h);
                bytes.resize(elements([batch, weight.row()]), 0);
                for (h, bytes) in h.chunks_exact(hidden).zip(bytes.chunks_exact_mut(weight.row())) {
                    quantize(isa, h, Scales::new(&[scale], &[zero_point], 1), &mut bytes[..hidden]);
                }
                (scale, zero_point)
            }
            _ => (1.0, 0),
        };
        let step = Step { units: self.units, x_gates, batch, cell: Shared::new(cell), out: Shared::new(out) };
        let tasks = self.units.groups().min(parallel::threads());
        // An exponential is worth some tens of multiply-adds, and reading a weight two.
        let work = batch * hidden * 128 + self.units.columns() * h.len().max(2 * hidden);
        let work = if work < STEP_WORK { 0 } else { usize::MAX };
        parallel::for_each_task(tasks, work, |task| {
            let groups = parallel::part(self.units.groups(), tasks, task);
            match &self.recurrence {
                Recurrence::Floats(weights) => {
                    let weights = weights.get(self.units.columns() * hidden);
                    dispatch(isa, Floats { step, weights, h, groups });
                }
                Recurrence::Bytes(weight) => {
                    let bytes = if h.is_empty() { &[][..] } else { &bytes[..] };
                    weight.advance(isa, step, (bytes, quantized), groups);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
