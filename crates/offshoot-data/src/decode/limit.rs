//! How large pictures may be.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most pixels of a picture, unless [`set_max_pixels`] says otherwise: more than the largest telephones take.
pub const DEFAULT_MAX_PIXELS: u64 = 256_000_000;

/// Pictures of more pixels are in memory one at a time.
const LARGE: usize = 64_000_000;

static MAX_PIXELS: AtomicU64 = AtomicU64::new(DEFAULT_MAX_PIXELS);
static TURN: Mutex<()> = Mutex::new(());

/// The most pixels that [`DecodeOptions::default`](super::DecodeOptions) allows.
pub fn max_pixels() -> u64 {
    MAX_PIXELS.load(Ordering::Relaxed)
}

/// Sets [`max_pixels`] for all that the process reads from now on: it is a limit of the machine's memory, of which a picture
/// takes three bytes a pixel and, while it is decoded, up to sixteen: those of 32 bits a sample. Of PNG it is four at most, and of
/// JPEG six.
pub fn set_max_pixels(pixels: u64) {
    MAX_PIXELS.store(pixels, Ordering::Relaxed);
}

/// Waits until no other thread has a large picture, where this is one.
pub(super) fn turn(width: usize, height: usize) -> Option<MutexGuard<'static, ()>> {
    // There is nothing behind the lock that a panic could have left half-changed.
    (width.saturating_mul(height) > LARGE).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pictures_take_turns_and_the_limit_can_be_set() {
        assert!(turn(8000, 8000).is_none());
        let held = turn(8000, 8001);
        assert!(held.is_some() && TURN.try_lock().is_err());
        assert!(turn(8000, 8000).is_none());
        drop(held);
        assert_eq!(max_pixels(), DEFAULT_MAX_PIXELS);
        set_max_pixels(DEFAULT_MAX_PIXELS + 1);
        assert_eq!(max_pixels(), DEFAULT_MAX_PIXELS + 1);
        set_max_pixels(DEFAULT_MAX_PIXELS);
    }
}
