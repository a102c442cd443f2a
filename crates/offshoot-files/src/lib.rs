//! How offshoot uses the file system: files that others wrote are opened and read by [`open`], [`read()`] and [`read_text`]
//! alone, files that it writes get names by [`stem`], and places are tried by [`check_file`] and [`check_folder`] before
//! the work for what goes there. [`memory_limit`] bounds what a small file can ask for.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod memory;
mod name;
#[cfg(feature = "write")]
mod place;
mod read;

pub use memory::{DEFAULT_MEMORY_LIMIT, allowed_memory, memory_limit, set_memory_limit};
pub use name::stem;
#[cfg(feature = "write")]
pub use place::{check_file, check_folder, plain};
pub use read::{Kind, open, open_folder, open_within, read, read_text, sync_folder};
