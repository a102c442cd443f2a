//! How much memory may be taken for what a file of few bytes asks for.

use std::sync::atomic::{AtomicU64, Ordering};

/// The memory that [`memory_limit`] gives unless [`set_memory_limit`] has said otherwise, in bytes.
pub const DEFAULT_MEMORY_LIMIT: u64 = 1 << 30;

/// 0 for the default.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// The most bytes for the pictures and activations of a batch.
pub fn memory_limit() -> u64 {
    match LIMIT.load(Ordering::Relaxed) {
        0 => DEFAULT_MEMORY_LIMIT,
        bytes => bytes,
    }
}

/// The bytes that somebody has allowed, beside those that follow from the size of a file, for the tensors that it holds.
pub fn allowed_memory() -> u64 {
    LIMIT.load(Ordering::Relaxed)
}

/// Sets [`memory_limit`] for all that the process does from now on.
pub fn set_memory_limit(bytes: u64) {
    LIMIT.store(bytes, Ordering::Relaxed);
}
