//! Files of a run that cannot be used for the page.

use std::path::Path;

use offshoot_graph::text::shown;

use super::table::Table;

/// The files of a run that the page is made without, because they are not what was written.
pub(super) struct Damaged<'a> {
    pub(super) run: &'a Path,
    /// Why each was left out, a sentence each.
    pub(super) found: Vec<String>,
}

impl Damaged<'_> {
    /// What was read of the file `name`; nothing where that is not as it should be.
    pub(super) fn without<T>(&mut self, name: &str, read: Result<Option<T>, String>) -> Option<T> {
        read.unwrap_or_else(|why| {
            let path = shown(self.run.join(name));
            self.found.push(format!("{path}: {why}; the report is made without it"));
            None
        })
    }

    /// The same of a table with these columns at its beginning, which `check` looks at.
    pub(super) fn table(
        &mut self,
        name: &str,
        columns: &[&str],
        check: impl FnOnce(Option<Table>) -> Result<Option<Table>, String>,
    ) -> Table {
        let read = Table::read(&self.run.join(name), columns).and_then(check);
        self.without(name, read).unwrap_or_default()
    }
}
