//! Hints to the processor that memory will be read or written. They read nothing themselves: any address is allowed.

use std::ops::Range;

use super::element::View;

/// Bytes in a line of the cache.
const LINE: usize = 64;

/// Asks for the cache line of `at` to be brought into the first-level cache, for what is read or written within a few hundred
/// cycles.
#[inline(always)]
pub(super) fn soon<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // Safety: every x86-64 processor has the instruction, and it never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    // (Miri does not know the instruction.)
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// As [`soon`], into the second-level cache, for what is read later.
#[inline(always)]
pub(super) fn later<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // Safety: every x86-64 processor has the instruction, and it never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    // (Miri does not know the instruction.)
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// Asks for elements of `from` as [`later`] does.
#[inline(always)]
pub(super) fn elements<E>(from: &[E], elements: Range<usize>) {
    for at in elements.step_by(LINE / size_of::<E>()) {
        later(from.as_ptr().wrapping_add(at));
    }
}

/// Asks for the `n` elements from `first` on, counted from the start of `source`, as [`later`] does.
#[inline(always)]
pub(super) fn view(source: View<'_>, first: isize, n: usize) {
    let (start, size) = source.bytes();
    let from = start.wrapping_offset(first * size as isize);
    for at in (0..n * size).step_by(LINE) {
        later(from.wrapping_add(at));
    }
}

/// Memory that a loop asks for bit by bit while it computes, for what comes after it. (Asked for at once, it takes all the places
/// that the processor has for missing lines, and what the loop itself reads waits.)
#[derive(Clone, Copy)]
pub(super) struct Stream {
    at: *const f32,
    end: *const f32,
    /// Floats a step of the loop.
    rate: usize,
}

impl Stream {
    /// Nothing is asked for.
    pub(super) const NOTHING: Stream = Stream { at: std::ptr::null(), end: std::ptr::null(), rate: 0 };

    /// What loop `index` of `loops`, each of `steps` steps, asks for of a panel with `width` floats a step: the first four share it.
    #[inline(always)]
    pub(super) fn of_panel(
        panel: *const f32,
        [steps, width]: [usize; 2],
        index: usize,
        loops: usize,
    ) -> Stream {
        // (Divisions by numbers that the compiler does not know take as long as a few steps.)
        let (portions, rate) = match loops {
            0 | 1 => (loops, width),
            2 | 3 => (2, width / 2),
            _ => (4, width / 4),
        };
        if index >= portions {
            return Stream::NOTHING;
        }
        let at = panel.wrapping_add(index * steps * rate);
        Stream { at, end: at, rate }
    }

    /// `n` floats from `at` on, asked for in as many `steps`.
    #[inline(always)]
    pub(super) fn of_floats(at: *const f32, n: usize, steps: usize) -> Stream {
        Stream::at_rate(at, n.div_ceil(steps.max(1)))
    }

    /// So many floats a step, from `at` on.
    #[inline(always)]
    pub(super) fn at_rate(at: *const f32, rate: usize) -> Stream {
        Stream { at, end: at, rate }
    }

    /// All of `bytes`, asked for in as many `steps`.
    #[inline(always)]
    pub(super) fn of_bytes(bytes: &[u8], steps: usize) -> Stream {
        Stream::of_floats(bytes.as_ptr().cast(), bytes.len() / size_of::<f32>(), steps)
    }

    /// Asks for the share of `steps` steps, as [`later`] does.
    #[inline(always)]
    pub(super) fn advance(&mut self, steps: usize) {
        self.end = self.end.wrapping_add(steps * self.rate);
        while self.at < self.end {
            later(self.at);
            self.at = self.at.wrapping_add(LINE / size_of::<f32>());
        }
    }
}
