//! Splitting work over rayon's threads, and the scratch memory of a thread.

use std::cell::{Cell, RefCell};

use rayon::prelude::*;

/// Multiply-adds worth a task of their own: about 20 microseconds on one AVX2 core.
pub(super) const TASK_WORK: usize = 1 << 20;

/// Runs `task(0)`, ..., `task(count - 1)`, in any order and on any thread, together `work` multiply-adds.
///
/// Small amounts of work stay on the calling thread, and so does everything inside of [`serially`].
pub(super) fn for_each_task(count: usize, work: usize, task: impl Fn(usize) + Sync + Send) {
    let least_tasks = count.saturating_mul(TASK_WORK).div_ceil(work.max(1)).max(1);
    if least_tasks >= count || is_serial() {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_min_len(least_tasks).for_each(task);
    }
}

/// A pointer that tasks share because each of them touches other elements.
#[derive(Clone, Copy)]
pub(super) struct Shared<T = f32>(pub(super) *mut T);

// Safety: whoever makes a `Shared` proves that its tasks write disjoint elements.
unsafe impl<T: Send> Send for Shared<T> {}
// Safety: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    #[inline(always)]
    pub(super) fn new(out: &mut [T]) -> Shared<T> {
        Shared(out.as_mut_ptr())
    }

    /// # Safety
    /// `offset` must be within the slice this was made from.
    #[inline(always)]
    pub(super) unsafe fn at(self, offset: usize) -> *mut T {
        // Safety: the caller's promise.
        unsafe { self.0.add(offset) }
    }

    /// The pointer. (A method, so that a closure captures the whole `Shared`.)
    pub(super) fn get(self) -> *mut T {
        self.0
    }
}

/// Floats in a cache line; scratch starts at one.
pub(super) const LINE: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// The scratch of [`serially`], inside of which kernels use the other.
    static OUTER_SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static SERIAL: Cell<bool> = const { Cell::new(false) };
}

/// Whether kernels are to stay on this thread: inside of [`serially`].
pub(super) fn is_serial() -> bool {
    SERIAL.get()
}

/// Threads that share the work of a kernel called here.
pub(super) fn threads() -> usize {
    if is_serial() { 1 } else { rayon::current_num_threads() }
}

/// Calls `f`, a task that calls kernels, with `len` floats of scratch of its own as in [`with_scratch`]. The kernels
/// stay on this thread, so that no stolen task asks for the same scratch.
pub(super) fn serially<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    /// Ends the serial part, also when `f` panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            SERIAL.set(false);
        }
    }
    SERIAL.set(true);
    let _end = End;
    OUTER_SCRATCH.with_borrow_mut(|scratch| f(aligned(scratch, len)))
}

/// Calls `f` with `len` floats of this thread's scratch, aligned to a cache line, with whatever is in them.
///
/// `f` must not call rayon: a stolen task would ask for the same scratch.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| f(aligned(scratch, len)))
}

/// `len` floats of `scratch` that start at a cache line. It grows to hold them.
fn aligned(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if scratch.len() < len + LINE {
        scratch.resize(len + LINE, 0.0);
    }
    let start = scratch.as_ptr().align_offset(LINE * size_of::<f32>());
    &mut scratch[start..start + len]
}

/// The bounds of part `index` when `len` things are split evenly into `parts`.
#[inline(always)]
pub(super) fn part(len: usize, parts: usize, index: usize) -> std::ops::Range<usize> {
    len * index / parts..len * (index + 1) / parts
}
