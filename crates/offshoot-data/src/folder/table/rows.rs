//! Rows of a table, checked one by one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use offshoot_graph::Task;
use offshoot_graph::text::quoted;

use super::super::FolderOptions;
use super::super::parts::{Part, part_of};
use super::columns::{ROLES, Role};
use super::several::labels_of;
use super::targets::targets_of;
use super::{Names, TableError};
use crate::decode::{DecodeError, PictureError};

/// The most bytes of a row.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// A row that can be used, as far as the table says.
#[derive(Debug)]
pub(in super::super) struct Row {
    /// Its line in the table, from 1; of archives, its place among their pictures.
    pub(super) line: u64,
    pub(super) path: PathBuf,
    /// The place of its class among the texts that rows name; where pictures have any number of classes, those places.
    pub(super) label: u32,
    pub(super) labels: Box<[u32]>,
    /// Where numbers are predicted, those.
    pub(super) targets: Box<[f64]>,
    pub(super) part: Option<Part>,
    pub(super) group: Option<u32>,
    pub(super) weight: f32,
}

impl Row {
    /// The places of its classes.
    pub(super) fn all_labels(&self) -> impl Iterator<Item = u32> + '_ {
        let one = (self.label != SEVERAL).then_some(self.label);
        one.into_iter().chain(self.labels.iter().copied())
    }
}

/// What stands in the place of a class where pictures have any number of them, or numbers.
const SEVERAL: u32 = u32::MAX;

/// Why reading ends.
pub(super) enum Problem {
    Table(TableError),
    /// A row that is wrong, where that is an error by request (strict).
    Row(PictureError),
}

impl From<TableError> for Problem {
    fn from(error: TableError) -> Problem {
        Problem::Table(error)
    }
}

/// The rows that were read so far.
pub(super) struct Rows {
    table: PathBuf,
    folder: PathBuf,
    strict: bool,
    pub(super) task: Task,
    pub(super) rows: Vec<Row>,
    pub(super) labels: Names,
    groups: Names,
    /// The line of each path.
    lines: HashMap<PathBuf, u64>,
    /// Which columns any row has.
    pub(super) seen: [bool; ROLES],
    /// Classes that have a column of their own; targets.
    pub(super) declared: Vec<String>,
    /// Rows that cannot be used, by line.
    pub(super) wrong: Vec<(u64, PictureError)>,
}

impl Rows {
    pub(super) fn new(table: &Path, folder: &Path, options: &FolderOptions) -> Rows {
        Rows {
            table: table.to_owned(),
            folder: folder.to_owned(),
            strict: options.strict,
            task: options.task,
            rows: Vec::new(),
            labels: Names::default(),
            groups: Names::default(),
            lines: HashMap::new(),
            seen: [false; ROLES],
            declared: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// Takes the fields of a row, in the order of [`Role::ALL`]; `None` where the row has no such column.
    pub(super) fn add(&mut self, line: u64, fields: [Option<&str>; ROLES]) -> Result<(), Problem> {
        fields.iter().zip(&mut self.seen).for_each(|(field, seen)| *seen |= field.is_some());
        match self.row(line, fields) {
            Ok(row) => self.rows.push(row),
            Err(reason) => self.refuse(line, reason)?,
        }
        Ok(())
    }

    /// Notes that a row cannot be used.
    pub(super) fn refuse(&mut self, line: u64, reason: String) -> Result<(), Problem> {
        let path = self.table.clone();
        self.refuse_picture(line, path, DecodeError::Row { line, reason })
    }

    /// Notes that the picture of a row cannot be used.
    pub(super) fn refuse_picture(
        &mut self,
        line: u64,
        path: PathBuf,
        source: DecodeError,
    ) -> Result<(), Problem> {
        let error = PictureError { path, source };
        if self.strict {
            return Err(Problem::Row(error));
        }
        self.wrong.push((line, error));
        Ok(())
    }

    fn row(&mut self, line: u64, fields: [Option<&str>; ROLES]) -> Result<Row, String> {
        let field = |role: Role| fields[role as usize];
        let needed = |role, what: &str| {
            field(role).filter(|text| !text.is_empty()).ok_or_else(|| format!("no {what} in this row"))
        };
        let path = self.folder.join(needed(Role::Path, "path of a picture")?);
        let label = match self.task {
            Task::Single => needed(Role::Label, "label")?,
            Task::Multi => field(Role::Label).ok_or("no labels in this row")?,
            Task::Regression => field(Role::Target).ok_or("no target in this row")?,
        };
        let part = field(Role::Split).map(part_named).transpose()?;
        let weight = field(Role::Weight).map_or(Ok(1.0), weight)?;
        let targets = match self.task {
            Task::Single | Task::Multi => Box::default(),
            Task::Regression => targets_of(label, &self.declared)?,
        };
        if let Some(other) = self.lines.get(&path) {
            return Err(format!("the picture of line {other} again; each picture stands in a table once"));
        }
        self.lines.insert(path.clone(), line);
        let (label, labels) = match self.task {
            Task::Single => (self.labels.place(label), Box::default()),
            Task::Multi => (SEVERAL, labels_of(label).map(|label| self.labels.place(label)).collect()),
            Task::Regression => (SEVERAL, Box::default()),
        };
        let group = field(Role::Group).filter(|text| !text.is_empty()).map(|text| self.groups.place(text));
        Ok(Row { line, path, label, labels, targets, part, group, weight })
    }

    /// All rows. Those that lack what others have are wrong.
    pub(super) fn finish(mut self) -> Result<Rows, PictureError> {
        self.lines = HashMap::new();
        if self.seen[Role::Split as usize] {
            let (rows, without): (Vec<Row>, Vec<Row>) =
                std::mem::take(&mut self.rows).into_iter().partition(|row| row.part.is_some());
            self.rows = rows;
            for row in without {
                let reason = "no split in this row, and others have one".to_owned();
                if let Err(Problem::Row(error)) = self.refuse(row.line, reason) {
                    return Err(error);
                }
            }
        }
        Ok(self)
    }
}

/// The part that a text names, in any of the spellings of folders.
fn part_named(text: &str) -> Result<Part, String> {
    part_of(text).ok_or_else(|| format!("the split `{}` is none of train, val and test", quoted(text)))
}

fn weight(text: &str) -> Result<f32, String> {
    let weight = text.trim().parse::<f32>().ok().filter(|weight| (0.0..=1e6).contains(weight));
    weight.ok_or_else(|| format!("the weight `{}` is not a number from 0 to 1000000", quoted(text)))
}
