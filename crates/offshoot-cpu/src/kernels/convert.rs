//! Between element types.

use super::element::Element;
use super::rows::{Area, Shared, TASK, for_chunks};
use super::simd::{Isa, Kernel, Simd, dispatch};

struct Convert<'a, A, B> {
    from: &'a [A],
    to: &'a mut [B],
}

impl<A: Element, B: Element> Kernel for Convert<'_, A, B> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.from.len() - self.from.len() % S::LANES;
        let rest = self.from.len() - whole;
        let (from, to) = (self.from.as_ptr(), self.to.as_mut_ptr());
        // Safety: the vectors lie within both slices, which have one length.
        unsafe {
            for at in (0..whole).step_by(S::LANES) {
                B::store::<S>(to.add(at), A::load::<S>(from.add(at)));
            }
            if rest > 0 {
                B::store_first::<S>(to.add(whole), rest, A::load_first::<S>(from.add(whole), rest));
            }
        }
    }
}

/// to = from, rounded to nearest even, on this thread.
pub(super) fn convert_task<A: Element, B: Element>(isa: Isa, from: &[A], to: &mut [B]) {
    assert_eq!(from.len(), to.len(), "the slices differ in length");
    dispatch(isa, Convert { from, to });
}

/// to = from, rounded to nearest even.
///
/// # Panics
/// When the slices differ in length.
pub fn convert<A: Element, B: Element>(isa: Isa, from: &[A], to: &mut [B]) {
    assert_eq!(from.len(), to.len(), "the slices differ in length");
    let shared = Shared::new(to);
    for_chunks(from.len(), TASK, |chunk| {
        // Safety: chunks do not overlap.
        let to = unsafe { std::slice::from_raw_parts_mut(shared.at(chunk.start), chunk.len()) };
        convert_task(isa, &from[chunk], to);
    });
}

/// What [`round_area`] runs.
struct RoundArea<E> {
    from: (*const f32, usize),
    to: *mut E,
    area: Area,
}

impl<E: Element> Kernel for RoundArea<E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Area { rows, pitch, cols } = self.area;
        let whole = cols - cols % S::LANES;
        for row in 0..rows {
            // Safety: the rows and columns are the area's.
            unsafe {
                let (from, to) = (self.from.0.add(row * self.from.1), self.to.add(row * pitch));
                for c in (0..whole).step_by(S::LANES) {
                    E::store::<S>(to.add(c), S::load(from.add(c)));
                }
                if whole < cols {
                    E::store_first::<S>(
                        to.add(whole),
                        cols - whole,
                        S::load_first(from.add(whole), cols - whole),
                    );
                }
            }
        }
    }
}

/// Rounds rows of scratch, `from.1` floats apart, to an area whose first element `to` points to.
///
/// # Safety
/// There are as many rows of as many columns at both.
pub(super) unsafe fn round_area<E: Element>(isa: Isa, from: (*const f32, usize), to: *mut E, area: Area) {
    dispatch(isa, RoundArea { from, to, area });
}

struct Round<'a, E> {
    from: &'a [f32],
    to: &'a mut [f32],
    element: std::marker::PhantomData<E>,
}

impl<E: Element> Kernel for Round<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut lanes = [E::zeroed(); MAX_LANES];
        let whole = self.from.len() - self.from.len() % S::LANES;
        // Safety: the vectors lie within both slices, which have one length.
        unsafe {
            for at in (0..whole).step_by(S::LANES) {
                E::store::<S>(lanes.as_mut_ptr(), S::load(self.from.as_ptr().add(at)));
                S::store(self.to.as_mut_ptr().add(at), E::load::<S>(lanes.as_ptr()));
            }
        }
        for (to, from) in self.to[whole..].iter_mut().zip(&self.from[whole..]) {
            *to = E::from_f32(*from).to_f32();
        }
    }
}

/// The most lanes a vector has.
const MAX_LANES: usize = 16;

/// to = from, rounded to the nearest numbers that `E` has, ties to even.
///
/// # Panics
/// When the slices differ in length.
pub fn round<E: Element>(isa: Isa, from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "the slices differ in length");
    let shared = Shared::new(to);
    for_chunks(from.len(), TASK, |chunk| {
        // Safety: chunks do not overlap.
        let to = unsafe { std::slice::from_raw_parts_mut(shared.at(chunk.start), chunk.len()) };
        dispatch(isa, Round::<E> { from: &from[chunk], to, element: std::marker::PhantomData });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// Every 16-bit number, and f32 on, just beside and in the middle between them, NaN, infinity and what overflows.
    fn numbers() -> Vec<f32> {
        let halves =
            (0..=u16::MAX).flat_map(|bits| [bf16::from_bits(bits).to_f32(), f16::from_bits(bits).to_f32()]);
        let beside = |x: f32| {
            let bits = x.to_bits();
            [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFF, 0x1000, 0x1001]
                .map(|d| f32::from_bits(bits.wrapping_add(d)))
        };
        halves.flat_map(beside).collect()
    }

    fn same<E: Element>(converted: E, wanted: E) -> bool {
        let (a, b) = (converted.to_f32(), wanted.to_f32());
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    fn agrees_with_half<E: Element>() {
        let numbers = numbers();
        for isa in Isa::available() {
            // An odd length leaves a rest for every path.
            for len in [numbers.len(), 21] {
                let from = &numbers[..len];
                let mut to = vec![E::zeroed(); len];
                convert(isa, from, &mut to);
                for (&x, &y) in from.iter().zip(&to) {
                    assert!(same(y, E::from_f32(x)), "{isa}: {x:e} became {:e}", y.to_f32());
                }
                let (mut back, mut rounded) = (vec![0.0; len], vec![0.0; len]);
                convert(isa, &to, &mut back);
                round::<E>(isa, from, &mut rounded);
                for ((&x, &y), &z) in to.iter().zip(&back).zip(&rounded) {
                    assert!(
                        same(x.to_f32(), y) && same(y, z),
                        "{isa}: {:e} became {y:e} and {z:e}",
                        x.to_f32()
                    );
                }
            }
        }
    }

    #[test]
    fn bf16_is_rounded_to_nearest_even() {
        agrees_with_half::<bf16>();
    }

    #[test]
    fn f16_is_rounded_to_nearest_even() {
        agrees_with_half::<f16>();
    }
}
