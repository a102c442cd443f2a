//! Which columns of a table say what.

use std::collections::BTreeSet;
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
    /// The numbers to predict.
    Target,
    Split,
    Group,
    Weight,
}

/// How many roles there are.
pub(super) const ROLES: usize = 6;

impl Role {
    pub(super) const ALL: [Role; ROLES] =
        [Role::Path, Role::Label, Role::Target, Role::Split, Role::Group, Role::Weight];

    fn name(self) -> &'static str {
        match self {
            Role::Path => "path",
            Role::Label => "label",
            Role::Target => "target",
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
            Role::Target => &["target"],
            Role::Split => &["split"],
            Role::Group => &["group"],
            Role::Weight => &["weight"],
        }
    }

    fn is_needed(self, task: Task) -> bool {
        match self {
            Role::Path => true,
            Role::Label => task != Task::Regression,
            Role::Target => task == Task::Regression,
            Role::Split | Role::Group | Role::Weight => false,
        }
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
    #[error("there is no `{0}`; give names of columns for path, label, target, split, group or weight")]
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
    /// Those of classes, of 0 and 1, where each class has one; those of targets.
    pub(super) several: Vec<usize>,
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
            if place == Role::Target as usize {
                check_targets(part, name)?;
            }
            if columns.names[place].replace(name.to_owned()).is_some() {
                return Err(ColumnsError::Twice(role.to_owned()));
            }
        }
        Ok(columns)
    }
}

/// An error where `names` has the same column of targets twice, or one without a name; `part` is what was given.
fn check_targets(part: &str, names: &str) -> Result<(), ColumnsError> {
    let mut seen = BTreeSet::new();
    for name in names.split('|') {
        if name.is_empty() {
            return Err(ColumnsError::Form(part.to_owned()));
        }
        if !seen.insert(name) {
            return Err(ColumnsError::Twice(name.to_owned()));
        }
    }
    Ok(())
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
            let other = match role {
                Role::Label => of_classes || task == Task::Regression,
                Role::Target => true,
                Role::Path | Role::Split | Role::Group | Role::Weight => false,
            };
            if other {
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
                None if role.is_needed(task) || self.names[role as usize].is_some() => {
                    return Err(self.missing(role, header, task));
                }
                None => None,
            };
        }
        let several = match task {
            Task::Regression => self.columns_of(Role::Target, header, &places, task)?,
            Task::Multi if of_classes => self.columns_of(Role::Label, header, &places, task)?,
            Task::Single | Task::Multi => Vec::new(),
        };
        Ok(Places { roles: places, several })
    }

    /// Whether each class has a column of its own: pictures may have several, and no column names them.
    fn names_classes(&self, header: &[String], task: Task) -> bool {
        let named = |name: &&str| header.iter().any(|column| column == name);
        let only = self.names[Role::Label as usize].as_deref().is_some_and(|name| !name.contains('|'));
        task == Task::Multi && !only && !self.names(Role::Label, task).iter().any(named)
    }

    /// The columns of classes or of targets: those that are named; else `target`, and for classes all that are for nothing else.
    fn columns_of(
        &self,
        role: Role,
        header: &[String],
        roles: &[Option<usize>; ROLES],
        task: Task,
    ) -> Result<Vec<usize>, TableError> {
        let place = |name: &str| header.iter().position(|column| column == name);
        let found: Option<Vec<usize>> = match &self.names[role as usize] {
            Some(names) => names.split('|').map(place).collect(),
            None if role == Role::Target => self.target_names().iter().map(|name| place(name)).collect(),
            None => Some((0..header.len()).filter(|place| !roles.contains(&Some(*place))).collect()),
        };
        let found = found.filter(|found| !found.is_empty());
        let found = found.ok_or_else(|| self.missing(role, header, task))?;
        match found.iter().find(|&&at| place(&header[at]) != Some(at)) {
            Some(&twice) => Err(TableError::TwoColumns { name: header[twice].clone() }),
            None => Ok(found),
        }
    }

    /// The names of the columns of targets, in their order.
    pub(super) fn target_names(&self) -> Vec<String> {
        let names = self.names[Role::Target as usize].as_deref().unwrap_or("target");
        names.split('|').map(str::to_owned).collect()
    }

    /// The same, with columns of these names for the targets unless others are named.
    #[must_use]
    pub fn or_targets(mut self, names: &[String]) -> Columns {
        let own = || Some(names.join("|")).filter(|names| !names.is_empty());
        self.names[Role::Target as usize] = self.names[Role::Target as usize].take().or_else(own);
        self
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
        let wanted = match role {
            Role::Target => self.target_names().into_iter().filter(|name| !header.contains(name)).collect(),
            _ => self.names(role, task).into_iter().map(str::to_owned).collect::<Vec<_>>(),
        };
        let wanted = wanted.join("`, `");
        TableError::NoColumn { wanted, role: role.name(), columns: header.to_vec() }
    }
}
