//! Where in the code of an archive something stands.

use std::rc::Rc;

use crate::error::Problem;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// The entry of the archive.
    pub(super) file: Rc<str>,
    /// Counted from 1.
    pub(super) line: u32,
}

impl Place {
    pub(super) fn text(&self) -> String {
        format!("{}, line {}", self.file, self.line)
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> Problem {
        Problem::damaged(self.text(), what)
    }

    pub(super) fn unsupported(&self, what: impl Into<String>, way_out: &str) -> Problem {
        Problem::unsupported(self.text(), what, way_out)
    }

    pub(super) fn too_large(&self, what: impl Into<String>, limit: u64) -> Problem {
        Problem::TooLarge { place: self.text(), what: what.into(), limit }
    }
}
