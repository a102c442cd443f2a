//! Functions of bytes and of another operand to bytes: with the arithmetic of DequantizeLinear, the function of floats and
//! QuantizeLinear, so that the bytes are the same.

use std::borrow::Cow;

use offshoot_graph::op::Binary;

use super::super::elementwise::clamp;
use super::super::parallel;
use super::super::rows::Map;
use super::super::simd::Isa;
use super::requantize::{Requantize, load_bytes};
use super::simd::{IntegerKernel, Integers, dispatch_integers};

/// Bytes that stand for (byte - zero point) * scale.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    /// The bytes.
    pub x: &'a [u8],
    /// The byte that stands for 0.
    pub zero_point: u8,
    /// The size of a step.
    pub scale: f32,
}

/// A function of two operands.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// The function.
    pub op: Binary,
    /// Whether the second operand comes first.
    pub swapped: bool,
}

/// What is done with the first operand.
#[derive(Clone, Copy, Debug)]
pub enum Other<'a> {
    /// A function of it and of as many bytes.
    Bytes(Function, Bytes<'a>),
    /// A function of it and of rows of floats: its rows are as many groups, each of which shares one.
    Rows {
        /// The function.
        function: Function,
        /// The floats.
        numbers: &'a [f32],
        /// How many rows.
        groups: usize,
    },
    /// x scale + shift, with a scale and a shift for each channel.
    Affine {
        /// The scales.
        scale: &'a [f32],
        /// The shifts.
        shift: &'a [f32],
    },
}

/// How a result becomes bytes.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// The smallest and the largest number: an activation. A NaN stays one.
    pub clip: (f32, f32),
    /// The size of a step.
    pub scale: f32,
    /// The byte that stands for 0.
    pub zero_point: u8,
}

/// Bytes of a task.
const TASK: usize = 1 << 14;

/// A row that is shorter is put beside itself, so that vectors are full.
const SHORT: usize = 64;

/// y = what is done with a, as bytes.
///
/// # Panics
/// When the operands have not the size of the result, or rows not that of a group.
pub fn combine(isa: Isa, stored: Stored, a: Bytes<'_>, other: Other<'_>, y: &mut [u8]) {
    assert_eq!(a.x.len(), y.len(), "operands");
    match other {
        Other::Bytes(function, b) => by_elements(isa, stored, a, (function, b), y),
        Other::Rows { function, numbers, groups } => {
            let rows = ([numbers, &[]], groups);
            by_rows(isa, stored, a, rows, |[numbers, _]| Other::Rows { function, numbers, groups: 1 }, y);
        }
        Other::Affine { scale, shift } => {
            assert_eq!(scale.len(), shift.len(), "scales and shifts");
            let rows = ([scale, shift], 1);
            by_rows(isa, stored, a, rows, |[scale, shift]| Other::Affine { scale, shift }, y);
        }
    }
}

fn by_elements(isa: Isa, stored: Stored, a: Bytes<'_>, (function, b): (Function, Bytes<'_>), y: &mut [u8]) {
    assert_eq!(b.x.len(), y.len(), "operands");
    let (len, shared) = (y.len(), parallel::Shared::new(y));
    parallel::for_each_task(len.div_ceil(TASK), len.saturating_mul(4), |i| {
        let range = i * TASK..len.min((i + 1) * TASK);
        // Safety: tasks have elements of their own.
        let y = unsafe { std::slice::from_raw_parts_mut(shared.at(range.start), range.len()) };
        let other = Other::Bytes(function, Bytes { x: &b.x[range.clone()], ..b });
        dispatch_integers(isa, Row { stored, a: Bytes { x: &a.x[range], ..a }, other, y });
    });
}

/// With rows of floats, of which there are one kind or two.
fn by_rows(
    isa: Isa,
    stored: Stored,
    a: Bytes<'_>,
    (numbers, groups): ([&[f32]; 2], usize),
    of: impl for<'r> Fn([&'r [f32]; 2]) -> Other<'r> + Sync + Send,
    y: &mut [u8],
) {
    if y.is_empty() {
        return;
    }
    let [width, group] = [numbers[0].len(), y.len()].map(|len| len.checked_div(groups).unwrap_or(0));
    let sizes = [numbers[0].len(), y.len()] == [width, group].map(|len| len * groups);
    assert!(sizes && width > 0 && group.is_multiple_of(width), "{groups} groups, {width} a row");
    // Rows side by side, as many as make full vectors.
    let copies = SHORT.div_ceil(width);
    let wide = numbers.map(|numbers| match copies {
        1 => Cow::Borrowed(numbers),
        _ => Cow::Owned(numbers.chunks_exact(width).flat_map(|row| row.repeat(copies)).collect()),
    });
    let wide: [&[f32]; 2] = [&wide[0], &wide[1]];
    let (wide_width, rows) = (width * copies, (TASK / (width * copies)).max(1));
    let part = wide_width * rows;
    let parts = group.div_ceil(part);
    let (len, shared) = (y.len(), parallel::Shared::new(y));
    parallel::for_each_task(groups * parts, len.saturating_mul(4), |task| {
        let (index, first) = (task / parts, task % parts * part);
        for at in (first..group.min(first + part)).step_by(wide_width) {
            let range = index * group + at..index * group + group.min(at + wide_width);
            let numbers = wide.map(|wide| wide.get(index * wide_width..).unwrap_or_default());
            let other = of(numbers.map(|numbers| &numbers[..range.len().min(numbers.len())]));
            // Safety: tasks have elements of their own.
            let y = unsafe { std::slice::from_raw_parts_mut(shared.at(range.start), range.len()) };
            dispatch_integers(isa, Row { stored, a: Bytes { x: &a.x[range], ..a }, other, y });
        }
    });
}

/// Some elements, of which the operands have one each.
struct Row<'a> {
    stored: Stored,
    a: Bytes<'a>,
    other: Other<'a>,
    y: &'a mut [u8],
}

impl IntegerKernel for Row<'_> {
    #[inline(always)]
    unsafe fn run<S: Integers>(self) {
        let Row { stored, a, other, y } = self;
        // Safety: `S` is available, and the operands have an element for each of the result.
        unsafe {
            match other {
                Other::Bytes(function, b) => stored.elements::<S, _>(a, (function, b), y),
                Other::Rows { function, numbers, .. } => stored.elements::<S, _>(a, (function, numbers), y),
                Other::Affine { scale, shift } => stored.elements::<S, _>(a, Affine { scale, shift }, y),
            }
        }
    }
}

/// The numbers of an operand.
trait Numbers: Copy {
    /// The `n` <= LANES numbers from `at` on, and zeros.
    ///
    /// # Safety
    /// `S` is available, and there are as many.
    unsafe fn load<S: Integers>(self, at: usize, n: usize) -> S::V;
}

impl Numbers for Bytes<'_> {
    #[inline(always)]
    unsafe fn load<S: Integers>(self, at: usize, n: usize) -> S::V {
        // Safety: the caller's.
        unsafe {
            let x = S::to_floats(load_bytes::<S>(self.x.as_ptr(), at, n));
            S::mul(S::sub(x, S::splat(self.zero_point.into())), S::splat(self.scale))
        }
    }
}

impl Numbers for &[f32] {
    #[inline(always)]
    unsafe fn load<S: Integers>(self, at: usize, n: usize) -> S::V {
        // Safety: the caller's.
        unsafe {
            let from = self.as_ptr().add(at);
            if n == S::LANES { S::load(from) } else { S::load_first(from, n) }
        }
    }
}

/// What is computed of an element.
trait Computes: Copy {
    /// Of the `n` <= LANES elements from `at` on.
    ///
    /// # Safety
    /// `S` is available, and the operands have as many.
    unsafe fn of<S: Integers>(self, a: S::V, at: usize, n: usize) -> S::V;
}

impl<B: Numbers> Computes for (Function, B) {
    #[inline(always)]
    unsafe fn of<S: Integers>(self, a: S::V, at: usize, n: usize) -> S::V {
        // Safety: the caller's.
        unsafe {
            let b = self.1.load::<S>(at, n);
            let operands = if self.0.swapped { [b, a] } else { [a, b] };
            Map::<2, 0>::call::<S>(self.0.op, operands, [])
        }
    }
}

/// x scale + shift.
#[derive(Clone, Copy)]
struct Affine<'a> {
    scale: &'a [f32],
    shift: &'a [f32],
}

impl Computes for Affine<'_> {
    #[inline(always)]
    unsafe fn of<S: Integers>(self, a: S::V, at: usize, n: usize) -> S::V {
        // Safety: the caller's.
        unsafe { S::fma(a, self.scale.load::<S>(at, n), self.shift.load::<S>(at, n)) }
    }
}

impl Stored {
    /// # Safety
    /// `S` is available, and the operands have as many elements as `y`.
    #[inline(always)]
    unsafe fn elements<S: Integers, C: Computes>(&self, a: Bytes<'_>, computed: C, y: &mut [u8]) {
        let requantize = Requantize { zero_point: self.zero_point, bounds: [0, 255] };
        let pair = 2 * S::LANES;
        let whole = y.len() - y.len() % pair;
        // Safety: the caller's.
        unsafe {
            for at in (0..whole).step_by(pair) {
                let to = y.as_mut_ptr().add(at);
                let first = self.of::<S, C>(a, computed, at, S::LANES);
                let second = self.of::<S, C>(a, computed, at + S::LANES, S::LANES);
                requantize.store::<S>([to, to.add(S::LANES)], [first, second]);
            }
            let mut at = whole;
            while at < y.len() {
                let n = (y.len() - at).min(S::LANES);
                let mut bytes = [0; 2 * SHORT];
                let one = self.of::<S, C>(a, computed, at, n);
                let to = bytes.as_mut_ptr();
                requantize.store::<S>([to, to.add(S::LANES)], [one, one]);
                y[at..at + n].copy_from_slice(&bytes[..n]);
                at += n;
            }
        }
    }

    /// `n` results in units of their scale.
    ///
    /// # Safety
    /// As [`elements`](Self::elements); there are `n` <= LANES elements from `at` on.
    #[inline(always)]
    unsafe fn of<S: Integers, C: Computes>(&self, a: Bytes<'_>, computed: C, at: usize, n: usize) -> S::V {
        // Safety: the caller's.
        unsafe {
            let y = computed.of::<S>(a.load::<S>(at, n), at, n);
            S::div(clamp::<S>(y, self.clip.0, self.clip.1), S::splat(self.scale))
        }
    }
}
