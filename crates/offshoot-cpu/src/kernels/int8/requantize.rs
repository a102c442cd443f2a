//! From sums of products to bytes.

use super::simd::Integers;

/// y = clamp(round(sum * scale) + zero_point, bounds), saturated to a byte, where `scale` is the channel's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Requantize {
    /// What stands for 0.
    pub zero_point: u8,
    /// The smallest and the largest byte: an activation, or 0 and 255.
    pub bounds: [u8; 2],
}

/// What is added to a requantized result y before it is stored:
/// clamp(round((y - zero_point) * scale + (x - its zero point) * its scale) + zero_point, bounds), saturated to a byte.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// x, as large as the output; or nothing, where x stands in the output and is replaced.
    pub x: &'a [u8],
    /// x's zero point.
    pub x_zero_point: u8,
    /// x's scale over that of the sum.
    pub x_scale: f32,
    /// y's scale over that of the sum.
    pub scale: f32,
    /// How the sum is stored.
    pub sum: Requantize,
}

/// Where the results of a product go.
#[derive(Debug)]
pub enum Output<'a> {
    /// As bytes.
    Bytes {
        /// The bytes, NHWC.
        y: &'a mut [u8],
        /// How they are made.
        requantize: Requantize,
        /// What is added.
        residual: Option<Residual<'a>>,
    },
    /// As floats: sum * scale, clamped.
    Floats {
        /// The floats, NHWC.
        y: &'a mut [f32],
        /// The smallest and the largest one.
        bounds: (f32, f32),
    },
}

impl Output<'_> {
    /// Elements.
    pub(super) fn len(&self) -> usize {
        match self {
            Output::Bytes { y, .. } => y.len(),
            Output::Floats { y, .. } => y.len(),
        }
    }

    /// The same to share between tasks.
    pub(super) fn shared(&mut self) -> Target<'_> {
        match self {
            Output::Bytes { y, requantize, residual } => {
                let to = y.as_mut_ptr();
                let added = residual.map(|residual| {
                    let inside = residual.x.is_empty();
                    assert!(inside || residual.x.len() == y.len(), "the residual's size");
                    let x = if inside { to.cast_const() } else { residual.x.as_ptr() };
                    Added { x, residual }
                });
                Target::Bytes(to, *requantize, added)
            }
            Output::Floats { y, bounds } => Target::Floats(y.as_mut_ptr(), *bounds),
        }
    }
}

/// An [`Output`] that tasks share, each of which writes other elements.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Bytes(*mut u8, Requantize, Option<Added<'a>>),
    Floats(*mut f32, (f32, f32)),
}

/// A [`Residual`] and where its x is, which may be the output itself: an element is read before it is written, and by the
/// same task.
#[derive(Clone, Copy)]
pub(super) struct Added<'a> {
    x: *const u8,
    residual: Residual<'a>,
}

// Safety: tasks write disjoint elements, and read of what is written only their own.
unsafe impl Send for Target<'_> {}
// Safety: as above.
unsafe impl Sync for Target<'_> {}

impl Target<'_> {
    /// Stores `n` <= LANES sums of products from element `at` on, of channels with these scales.
    ///
    /// # Safety
    /// `S` is available; a vector may be read from `scale`; the elements lie within the output and are the caller's.
    #[inline(always)]
    pub(super) unsafe fn store<S: Integers>(&self, at: usize, n: usize, sums: S::V, scale: *const f32) {
        // Safety: the caller's.
        unsafe {
            let y = S::mul(sums, S::load(scale));
            match self {
                Target::Floats(to, (low, high)) => {
                    let y = S::at_most(S::at_least(y, S::splat(*low)), S::splat(*high));
                    if n == S::LANES { S::store(to.add(at), y) } else { S::store_first(to.add(at), n, y) }
                }
                Target::Bytes(to, requantize, None) => store_bytes::<S>(*to, at, n, requantize.bytes::<S>(y)),
                Target::Bytes(to, requantize, Some(Added { x, residual })) => {
                    let y = requantize.rounded::<S>(y);
                    store_bytes::<S>(*to, at, n, residual.add::<S>(x.add(at), n, y));
                }
            }
        }
    }

    /// Stores a whole vector of sums of two pixels, from the elements `at` on, of channels with these scales.
    ///
    /// # Safety
    /// As [`store`](Self::store).
    #[inline(always)]
    pub(super) unsafe fn store_two<S: Integers>(&self, at: [usize; 2], sums: [S::V; 2], scale: *const f32) {
        // Safety: the caller's.
        unsafe {
            if let Target::Bytes(to, requantize, None) = self {
                let scale = S::load(scale);
                let y = [S::mul(sums[0], scale), S::mul(sums[1], scale)];
                requantize.store::<S>([to.add(at[0]), to.add(at[1])], y);
            } else {
                self.store::<S>(at[0], S::LANES, sums[0], scale);
                self.store::<S>(at[1], S::LANES, sums[1], scale);
            }
        }
    }

    /// Stores rows of `n` sums, `width` apart, from element `at` on, `step` elements apart.
    ///
    /// # Safety
    /// As [`store`](Self::store); whole vectors may be read from a row's sums, from `scale` and from the bias.
    #[inline(always)]
    pub(super) unsafe fn store_rows<S: Integers>(&self, sums: Rows, n: usize, scale: *const f32) {
        let Rows { sums, count, width, at, step, bias } = sums;
        // Safety: the caller's.
        unsafe {
            if let (Target::Bytes(to, requantize, residual), true) = (self, n == 2 * S::LANES) {
                let scales = [S::load(scale), S::load(scale.add(S::LANES))];
                for row in 0..count {
                    let (sums, at) = (sums.add(row * width), at + row * step);
                    let left = S::mul(S::to_floats(S::load_i32(sums)), scales[0]);
                    let right = S::mul(S::to_floats(S::load_i32(sums.add(S::LANES))), scales[1]);
                    let to = [to.add(at), to.add(at + S::LANES)];
                    match residual {
                        None => requantize.store::<S>(to, [left, right]),
                        Some(Added { x, residual }) => {
                            let x = x.add(at);
                            let left = residual.with::<S>(x, S::LANES, requantize.rounded::<S>(left));
                            let right =
                                residual.with::<S>(x.add(S::LANES), S::LANES, requantize.rounded::<S>(right));
                            residual.sum.store::<S>(to, [left, right]);
                        }
                    }
                }
                return;
            }
            if let (Target::Floats(to, _), Some(bias)) = (self, bias) {
                for col in (0..n).step_by(S::LANES) {
                    let (scale, bias) = (S::load(scale.add(col)), S::load(bias.add(col)));
                    for row in 0..count {
                        let sum = S::to_floats(S::load_i32(sums.add(row * width + col)));
                        let (y, to) = (S::add(S::mul(sum, scale), bias), to.add(at + row * step + col));
                        if n - col < S::LANES { S::store_first(to, n - col, y) } else { S::store(to, y) }
                    }
                }
                return;
            }
            for row in 0..count {
                for col in (0..n).step_by(S::LANES) {
                    let sum = S::to_floats(S::load_i32(sums.add(row * width + col)));
                    self.store::<S>(at + row * step + col, (n - col).min(S::LANES), sum, scale.add(col));
                }
            }
        }
    }
}

/// A tile of sums, and where in the output it goes.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) sums: *const i32,
    /// How many rows.
    pub(super) count: usize,
    /// Sums from one row to the next.
    pub(super) width: usize,
    /// The element of the output that the first one goes to.
    pub(super) at: usize,
    /// Elements of the output from one row to the next.
    pub(super) step: usize,
    /// What is added to floats, where nothing clamps them: one for each sum of a row.
    pub(super) bias: Option<*const f32>,
}

impl Requantize {
    /// The byte of y in units of the scale.
    pub fn of(&self, y: f32) -> u8 {
        let [low, high] = self.bounds.map(|bound| f32::from(bound) - f32::from(self.zero_point));
        (y.max(low).min(high).round_ties_even() + f32::from(self.zero_point)) as u8
    }

    /// Writes the bytes of two vectors of y in units of the scale.
    ///
    /// # Safety
    /// `S` is available, and the bytes are the caller's.
    #[inline(always)]
    pub(super) unsafe fn store<S: Integers>(&self, to: [*mut u8; 2], y: [S::V; 2]) {
        // Safety: the caller's.
        unsafe { S::store_requantized(to, y, self.zero_point, self.bounds) }
    }

    /// Rounded steps from the zero point, within the bounds.
    #[inline(always)]
    unsafe fn rounded<S: Integers>(&self, y: S::V) -> S::V {
        let [low, high] = self.bounds.map(|bound| f32::from(bound) - f32::from(self.zero_point));
        // Safety: the caller's. Rounding keeps whole bounds, so that y can be cut before.
        unsafe { S::round(S::at_most(S::at_least(y, S::splat(low)), S::splat(high))) }
    }

    /// The bytes of y in units of the scale.
    ///
    /// # Safety
    /// `S` is available.
    #[inline(always)]
    pub(super) unsafe fn bytes<S: Integers>(&self, y: S::V) -> S::I {
        // Safety: the caller's.
        unsafe { S::add_i32(S::to_integers(self.rounded::<S>(y)), S::splat_i32(self.zero_point.into())) }
    }
}

impl Residual<'_> {
    /// The sum of y, in steps, and the `n` elements of this at `x`, in units of the sum's scale.
    ///
    /// # Safety
    /// `S` is available, and there are `n` elements.
    #[inline(always)]
    unsafe fn with<S: Integers>(&self, x: *const u8, n: usize, y: S::V) -> S::V {
        // Safety: the caller's.
        unsafe {
            let x = S::to_floats(load_bytes::<S>(x, 0, n));
            let x = S::sub(x, S::splat(self.x_zero_point.into()));
            S::fma(x, S::splat(self.x_scale), S::mul(y, S::splat(self.scale)))
        }
    }

    /// The bytes of that sum.
    ///
    /// # Safety
    /// As [`with`](Self::with).
    #[inline(always)]
    pub(super) unsafe fn add<S: Integers>(&self, x: *const u8, n: usize, y: S::V) -> S::I {
        // Safety: the caller's.
        unsafe { self.sum.bytes::<S>(self.with::<S>(x, n, y)) }
    }
}

/// `n` <= LANES bytes from `at` on.
///
/// # Safety
/// `S` is available, and they are readable.
#[inline(always)]
pub(super) unsafe fn load_bytes<S: Integers>(from: *const u8, at: usize, n: usize) -> S::I {
    // Safety: the caller's.
    unsafe { if n == S::LANES { S::load_bytes(from.add(at)) } else { S::load_bytes_first(from.add(at), n) } }
}

/// Writes `n` <= LANES bytes from `at` on.
///
/// # Safety
/// `S` is available, and they are the caller's.
#[inline(always)]
pub(super) unsafe fn store_bytes<S: Integers>(to: *mut u8, at: usize, n: usize, y: S::I) {
    // Safety: the caller's.
    unsafe {
        if n == S::LANES { S::store_bytes(to.add(at), y) } else { S::store_bytes_first(to.add(at), n, y) }
    }
}
