//! Which columns of a table say what.

use std::fmt;
use std::str::FromStr;

use offshoot_graph::Task;
use serde::{Deserialize, Serialize};

use super::TableError;

/// What a column is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Path,
    Label,
    Split,
    Group,
    Weight,
}

/// How many roles there are.
pub(super) const ROLES: usize = 5;

impl Role {
    pub(super) const ALL: [Role; ROLES] = [Role::Path, Role::Label, Role::Split, Role::Group, Role::Weight];

    fn name(self) -> &'static str {
        match self {
            Role::Path => "path",
            Role::Label => "label",
            Role::Split => "split",
            Role::Group => "group",
            Role::Weight => "weight",
        }
    }

    /// The names that a column has unless another is given. The first that is there counts.
    fn usual(self, task: Task) -> &'static [&'static str] {
        match self {
            // Hugging Face's tables beside pictures have `file_name`.
            Role::Path => &["path", "image", "file_name"],
            Role::Label if task == Task::Multi => &["labels", "label"],
            Role::Label => &["label"],
            Role::Split => &["split"],
            Role::Group => &["group"],
            Role::Weight => &["weight"],
        }
    }

    fn is_needed(self) -> bool {
        matches!(self, Role::Path | Role::Label)
    }
}

/// Names of columns that are not the usual ones, as a text: `path=file,label=species`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Columns {
    names: [Option<String>; ROLES],
}

/// A text that does not name columns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    /// A part is not of the form `ROLE=NAME`.
    #[error("`{0}` is not of the form ROLE=COLUMN; give them as in path=file,label=species")]
    Form(String),
    /// There is no such role.
    #[error("there is no `{0}`; give names of columns for path, label, split, group or weight")]
    Role(String),
    /// A role is given twice.
    #[error("`{0}` is given twice")]
    Twice(String),
}

/// Where columns are in a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Places {
    /// In the order of [`Role::ALL`].
    pub(super) roles: [Option<usize>; ROLES],
    /// Those of classes, of 0 and 1, where each class has one.
    pub(super) classes: Vec<usize>,
}

impl FromStr for Columns {
    type Err = ColumnsError;

    fn from_str(text: &str) -> Result<Columns, ColumnsError> {
        let mut columns = Columns::default();
        for part in text.split(',') {
            let (role, name) = part.split_once('=').ok_or_else(|| ColumnsError::Form(part.to_owned()))?;
            if name.is_empty() {
                return Err(ColumnsError::Form(part.to_owned()));
            }
            let known = Role::ALL.into_iter().find(|known| known.name() == role);
            let place = known.ok_or_else(|| ColumnsError::Role(role.to_owned()))? as usize;
            if columns.names[place].replace(name.to_owned()).is_some() {
                return Err(ColumnsError::Twice(role.to_owned()));
            }
        }
        Ok(columns)
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given =
            Role::ALL.into_iter().filter_map(|role| Some((role.name(), self.names[role as usize].as_ref()?)));
        for (place, (role, name)) in given.enumerate() {
            write!(f, "{}{role}={name}", if place > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Columns {
    type Error = ColumnsError;

    fn try_from(text: String) -> Result<Columns, ColumnsError> {
        text.parse()
    }
}

impl From<Columns> for String {
    fn from(columns: Columns) -> String {
        columns.to_string()
    }
}

impl Columns {
    /// Where the columns are among `header`.
    pub(super) fn find(&self, header: &[String], task: Task) -> Result<Places, TableError> {
        let mut places = [None; ROLES];
        let of_classes = self.names_classes(header, task);
        for role in Role::ALL {
            if role == Role::Label && of_classes {
                continue;
            }
            let names = self.names(role, task);
            let name = names.iter().find(|name| header.iter().any(|column| column == *name));
            let all = |name: &&str| header.iter().filter(|column| column == name).count();
            places[role as usize] = match name {
                Some(name) if all(name) > 1 => {
                    return Err(TableError::TwoColumns { name: (*name).to_owned() });
                }
                Some(name) => header.iter().position(|column| column == name),
                None if role.is_needed() || self.names[role as usize].is_some() => {
                    return Err(self.missing(role, header, task));
                }
                None => None,
            };
        }
        let classes = if of_classes { self.class_columns(header, &places, task)? } else { Vec::new() };
        Ok(Places { roles: places, classes })
    }

    /// Whether each class has a column of its own: pictures may have several, and no column names them.
    fn names_classes(&self, header: &[String], task: Task) -> bool {
        let named = |name: &&str| header.iter().any(|column| column == name);
        let only = self.names[Role::Label as usize].as_deref().is_some_and(|name| !name.contains('|'));
        task == Task::Multi && !only && !self.names(Role::Label, task).iter().any(named)
    }

    /// The columns of classes: those that are named, or all that are for nothing else.
    fn class_columns(
        &self,
        header: &[String],
        roles: &[Option<usize>; ROLES],
        task: Task,
    ) -> Result<Vec<usize>, TableError> {
        let place = |name: &str| header.iter().position(|column| column == name);
        let found: Option<Vec<usize>> = match &self.names[Role::Label as usize] {
            Some(names) => names.split('|').map(place).collect(),
            None => Some((0..header.len()).filter(|place| !roles.contains(&Some(*place))).collect()),
        };
        let found = found.filter(|found| !found.is_empty());
        let found = found.ok_or_else(|| self.missing(Role::Label, header, task))?;
        match found.iter().find(|&&at| place(&header[at]) != Some(at)) {
            Some(&twice) => Err(TableError::TwoColumns { name: header[twice].clone() }),
            None => Ok(found),
        }
    }

    /// The names that the column of a role may have.
    pub(super) fn names(&self, role: Role, task: Task) -> Vec<&str> {
        match &self.names[role as usize] {
            Some(name) => vec![name],
            None => role.usual(task).to_vec(),
        }
    }

    /// What is said where no column has a role that is needed.
    pub(super) fn missing(&self, role: Role, header: &[String], task: Task) -> TableError {
        let wanted = self.names(role, task).join("`, `");
        TableError::NoColumn { wanted, role: role.name(), columns: header.to_vec() }
    }
}
