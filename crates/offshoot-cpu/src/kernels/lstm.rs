//! Long short-term memory, as ONNX defines it: with i, o, f, c the four blocks of x Wᵀ + h Rᵀ + b,
//! C = sigmoid(f) C + sigmoid(i) tanh(c) and h = sigmoid(o) tanh(C), from states of 0.

use super::conv::{Epilogue, PackedFilter, conv};
use super::dynamic::{ByteMatrix, DynamicProduct, dynamic_product};
use super::parallel::{self, Shared};
use super::rows::{load, load_all, store};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::size::elements;
use super::{Activation, ConvShape, math};

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

/// A matrix [4 hidden, k] that rows are multiplied with.
#[derive(Clone, Debug)]
pub(crate) enum Matrix {
    /// Packed, for rows of the [shape](ConvShape)'s length.
    Floats(PackedFilter),
    /// Bytes; what they are multiplied with is quantized by its own range.
    Bytes {
        /// [4 hidden, k]
        weight: ByteMatrix,
        /// The scale of each row.
        scale: Vec<f32>,
    },
}

/// One way of an LSTM.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// W, of x.
    pub weight: Matrix,
    /// R, of h.
    pub recurrence: Matrix,
    /// The sum of both biases, 4 hidden.
    pub bias: Vec<f32>,
    /// Whether it starts at the last step.
    pub reverse: bool,
}

/// Memory that [`lstm`] works in; it grows to what is needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    x_gates: Vec<f32>,
    gates: Vec<f32>,
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
    let (units, state) = (elements([4, hidden]), elements([batch, hidden]));
    let (x_len, y_len) = (elements([steps, batch, input]), elements([steps, ways.len(), batch, hidden]));
    assert_eq!([x.len(), y.len()], [x_len, y_len], "{sizes:?}");
    assert_eq!(last.len(), elements([ways.len(), state]), "{sizes:?}");
    work.x_gates.resize(elements([steps, batch, units]), 0.0);
    work.gates.resize(elements([batch, units]), 0.0);
    for (index, (way, h)) in ways.iter().zip(last.chunks_exact_mut(state.max(1))).enumerate() {
        let Work { x_gates, gates, cell, bytes } = work;
        let shape = ConvShape::of_matrices(steps * batch, input, units);
        way.weight.product(isa, &shape, x, Added::Bias(&way.bias), bytes, x_gates);
        h.fill(0.0);
        cell.clear();
        cell.resize(state, 0.0);
        for i in 0..steps {
            let step = if way.reverse { steps - 1 - i } else { i };
            let of_x = &x_gates[step * batch * units..][..batch * units];
            if i == 0 {
                gates.copy_from_slice(of_x);
            } else {
                let shape = ConvShape::of_matrices(batch, hidden, units);
                way.recurrence.product(isa, &shape, h, Added::Rows(of_x), bytes, gates);
            }
            advance(isa, hidden, gates, cell, h);
            y[(step * ways.len() + index) * state..][..state].copy_from_slice(h);
        }
    }
}

/// What is added to a product.
#[derive(Clone, Copy)]
enum Added<'a> {
    /// A number for each column.
    Bias(&'a [f32]),
    /// A number for each element.
    Rows(&'a [f32]),
}

impl Matrix {
    /// out = x times this, plus `added`.
    fn product(
        &self,
        isa: Isa,
        shape: &ConvShape,
        x: &[f32],
        added: Added<'_>,
        bytes: &mut Vec<u8>,
        out: &mut [f32],
    ) {
        let (bias, rows) = match added {
            Added::Bias(bias) => (Some(bias), None),
            Added::Rows(rows) => (None, Some(rows)),
        };
        match self {
            Matrix::Floats(filter) => {
                let epilogue = Epilogue { bias, residual: rows, activation: Activation::None, then: None };
                conv(isa, shape, x, filter, &epilogue, out);
            }
            Matrix::Bytes { weight, scale } => {
                bytes.resize(x.len(), 0);
                let product = DynamicProduct { x, weight, scale, bias };
                dynamic_product(isa, &product, bytes, out);
                if let Some(rows) = rows {
                    out.iter_mut().zip(rows).for_each(|(out, x)| *out += x);
                }
            }
        }
    }
}

/// The next states from the four gates of each row.
fn advance(isa: Isa, hidden: usize, gates: &[f32], cell: &mut [f32], h: &mut [f32]) {
    let rows = h.len() / hidden;
    assert_eq!([cell.len(), gates.len()], [h.len(), elements([4, h.len()])], "states and gates");
    let (cell, h) = (Shared::new(cell), Shared::new(h));
    // An exponential is worth some tens of multiply-adds.
    parallel::for_each_task(rows, rows * hidden * 128, |row| {
        let gates = &gates[4 * row * hidden..][..4 * hidden];
        // Safety: rows lie within both states, which have one length, and each is one task's.
        let (cell, h) = unsafe {
            let at = |state: Shared| std::slice::from_raw_parts_mut(state.at(row * hidden), hidden);
            (at(cell), at(h))
        };
        dispatch(isa, Advance { gates, cell, h });
    });
}

struct Advance<'a> {
    gates: &'a [f32],
    cell: &'a mut [f32],
    h: &'a mut [f32],
}

impl Kernel for Advance<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let (hidden, mut at) = (self.h.len(), 0);
        // Safety: `S` is available; the four gates, the cell and h have `hidden` elements.
        unsafe {
            while at + S::LANES <= hidden {
                self.step::<S, true>(at, S::LANES);
                at += S::LANES;
            }
            if at < hidden {
                self.step::<S, false>(at, hidden - at);
            }
        }
    }
}

impl Advance<'_> {
    /// The `n` <= LANES elements from `at` on.
    #[inline(always)]
    unsafe fn step<S: Simd, const FULL: bool>(&mut self, at: usize, n: usize) {
        let (hidden, gates, cell) = (self.h.len(), self.gates.as_ptr(), self.cell.as_mut_ptr());
        // Safety: the caller's.
        unsafe {
            let gates = [gates, gates.add(hidden), gates.add(2 * hidden), gates.add(3 * hidden)];
            let [input, output, forget, candidate] = load_all::<S, f32, 4, FULL>(gates, at, n);
            let old = load::<S, f32, FULL>(cell.add(at), n);
            let new = S::mul(math::sigmoid::<S>(input), math::tanh::<S>(candidate));
            let next = S::fma(math::sigmoid::<S>(forget), old, new);
            store::<S, f32, FULL>(cell.add(at), n, next);
            let h = S::mul(math::sigmoid::<S>(output), math::tanh::<S>(next));
            store::<S, f32, FULL>(self.h.as_mut_ptr().add(at), n, h);
        }
    }
}
