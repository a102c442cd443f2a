//! What a checkpoint holds, how it is written and read, and whether a run can go on from it.

mod checks;
mod position;
mod state;

pub(crate) use checks::{check_best, check_counts, check_stage, read_last};
pub(crate) use position::{MAX_ROLLBACKS, Position, Sums};
pub(crate) use state::{FrozenHash, RunSetting, Saved, StateHeader, read_state, write_state};
