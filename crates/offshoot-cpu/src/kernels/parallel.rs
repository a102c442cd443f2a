//! Splitting work over threads, and the scratch memory of a thread.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use rayon::prelude::*;

use super::team::{Member, Team};

/// Multiply-adds worth a task of their own: a few microseconds of one core.
pub(super) const TASK_WORK: usize = 1 << 18;

thread_local! {
    /// The threads that wait for this one's tasks, inside of [`together`].
    static TEAM: RefCell<Option<Team>> = const { RefCell::new(None) };
}

/// Calls `f`, which calls kernels one after the other. Meanwhile the threads of the current rayon pool do nothing but wait
/// for tasks of these kernels, which takes them a fraction of the time that rayon needs to wake one up.
pub(crate) fn together<R>(f: impl FnOnce() -> R) -> R {
    /// Sends the team home, also when `f` panics.
    struct End(Member);
    impl Drop for End {
        fn drop(&mut self) {
            TEAM.set(None);
            self.0.disband();
        }
    }
    let others = rayon::current_num_threads() - 1;
    if others == 0 || rayon::current_thread_index().is_none() {
        return f();
    }
    let team = Team::new(others);
    rayon::in_place_scope(|scope| {
        for _ in 0..others {
            let member = team.member();
            scope.spawn(move |_| member.help());
        }
        let _end = End(team.member());
        TEAM.set(Some(team));
        f()
    })
}

/// Runs `task(0)`, ..., `task(count - 1)`, in any order and on any thread, together `work` multiply-adds.
///
/// Small amounts of work stay on the calling thread, and so does everything inside of [`serially`].
#[inline]
pub(super) fn for_each_task(count: usize, work: usize, task: impl Fn(usize) + Sync + Send) {
    for_each_range(count, work, &|range| range.for_each(&task));
}

/// As [`for_each_task`], some tasks after one another a call. (Not generic: what shares them out would be compiled again for each kernel.)
fn for_each_range(count: usize, work: usize, run: &(dyn Fn(Range<usize>) + Sync)) {
    let least_tasks = count.saturating_mul(TASK_WORK).div_ceil(work.max(1)).max(1);
    if least_tasks >= count || is_serial() {
        return run(0..count);
    }
    let parts = count.div_ceil(least_tasks);
    let run_part = |i: usize| run(i * least_tasks..count.min((i + 1) * least_tasks));
    // Taken for the time being: a task that splits its own work is not to interrupt this.
    let Some(team) = TEAM.take() else {
        return (0..parts).into_par_iter().for_each(run_part);
    };
    let mut back = Back(Some(team));
    if let Some(team) = &mut back.0 {
        team.run(parts, &run_part);
    }
}

/// Gives the team back to its thread in the end, also when a task panics.
struct Back(Option<Team>);

impl Drop for Back {
    fn drop(&mut self) {
        TEAM.set(self.0.take());
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
    let _end = Serial::begin(true);
    OUTER_SCRATCH.with_borrow_mut(|scratch| f(aligned(scratch, len)))
}

/// Calls `f`, which calls kernels while it holds a lock. Inside of [`together`] the team shares their work; elsewhere they stay on this thread,
/// for one that waits for others in rayon takes up any other work meanwhile, and that may want the same lock.
pub(crate) fn holding_a_lock<R>(f: impl FnOnce() -> R) -> R {
    let _end = Serial::begin(TEAM.with_borrow(Option::is_none));
    f()
}

/// A part in which kernels stay on this thread. In the end it is as before, also after a panic.
struct Serial {
    before: bool,
}

impl Serial {
    fn begin(serial: bool) -> Serial {
        Serial { before: SERIAL.replace(is_serial() || serial) }
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        SERIAL.set(self.before);
    }
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
    // The end of the last part is `len`, and a smaller product cannot wrap where this one does not.
    let Some(end) = len.checked_mul(index + 1) else { too_long(len) };
    len * index / parts..end / parts
}

/// (Apart, as [`part`] is compiled into every kernel.)
#[cold]
fn too_long(len: usize) -> ! {
    panic!("{len} things are too many to split")
}
