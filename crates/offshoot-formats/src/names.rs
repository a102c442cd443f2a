//! Names for what a file's operators become in a graph.

use std::collections::HashMap;

/// The names that were wanted so far, and how often.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<String, u32>);

impl Names {
    /// `name`, or `name_2`, `name_3`, ... when it was wanted before: what the graph does, without its search.
    pub(crate) fn unused(&mut self, name: &str) -> String {
        let times = self.0.entry(name.to_owned()).or_default();
        *times += 1;
        if *times == 1 { name.to_owned() } else { format!("{name}_{times}") }
    }
}
