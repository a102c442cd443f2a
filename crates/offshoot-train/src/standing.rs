//! How far the run in a folder is.

use std::path::Path;

use offshoot_formats::safetensors::{METADATA_KEY, read_metadata};

use crate::checkpoint::StateHeader;
use crate::recipe::Recipe;
use crate::run::STATE_FILE;

/// How far a run is, by its last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Finished epochs.
    pub done: u64,
    /// Epochs in all.
    pub epochs: u64,
    /// Whether it has come to its end, which early stopping may put before the last epoch.
    pub finished: bool,
}

impl Standing {
    /// That of the run in the folder `run`; `None` where no checkpoint of this version says.
    pub fn read(run: &Path) -> Option<Standing> {
        let metadata = read_metadata(&run.join(STATE_FILE)).ok()?;
        let header: StateHeader = serde_json::from_str(metadata.get(METADATA_KEY)?).ok()?;
        let Recipe { epochs, .. } = toml::from_str(&header.setting.recipe).ok()?;
        let done = header.position.epoch;
        Some(Standing { done, epochs, finished: header.position.ended || done >= epochs })
    }
}
