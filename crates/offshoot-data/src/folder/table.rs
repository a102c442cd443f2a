//! Data sets in tables: a line for each picture, in `.csv`, `.tsv` or `.jsonl`, or a member of a `.tar`.
//!
//! A row names a picture and its class, and may name its split, its group and its weight. A row that cannot be used is
//! skipped, and named by the table and its line. Pictures of a class stand in the byte order of their paths, as those of a folder do:
//! the order of the rows does not matter, and the same pictures give the same data set in any form.

mod columns;
mod error;
mod json;
mod rows;
mod several;
mod shards;
mod split;
mod targets;
mod text;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::columns::Role;
pub use self::columns::{Columns, ColumnsError};
pub use self::error::TableError;
pub(super) use self::rows::Row;
use self::rows::Rows;
pub(super) use self::split::{dataset, labelled, training};
use super::parts::Part;
use super::{FolderError, FolderOptions};
use crate::decode::{DecodeError, PictureError, probe};

/// What a table is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Fields separated by this byte.
    Text(u8),
    /// An object on each line.
    Json,
    /// Members of archives.
    Tar,
}

impl Form {
    fn of(path: &Path) -> Option<Form> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "csv" => Some(Form::Text(b',')),
            "tsv" => Some(Form::Text(b'\t')),
            "jsonl" => Some(Form::Json),
            "tar" => Some(Form::Tar),
            _ => None,
        }
    }
}

/// Whether `root` is a data set in a table or in archives, and no folder.
pub fn is_table(root: &Path) -> bool {
    Form::of(root).is_some() && !root.is_dir()
}

/// Whether a data set is there: its folder, its table, or all of its archives.
pub fn data_exists(root: &Path) -> bool {
    match Form::of(root) {
        Some(Form::Tar) => shards::shards(root).is_ok_and(|shards| shards.iter().all(|shard| shard.exists())),
        Some(Form::Text(_) | Form::Json) | None => root.exists(),
    }
}

/// The folder that the pictures of a data set are in: of a table, the one that its paths are relative to; of archives, their own.
pub fn picture_folder<'a>(root: &'a Path, options: &'a FolderOptions) -> &'a Path {
    let own = root.parent().unwrap_or(Path::new(""));
    match (Form::of(root).filter(|_| !root.is_dir()), &options.root) {
        (Some(Form::Text(_) | Form::Json), Some(folder)) => folder,
        (Some(Form::Text(_) | Form::Json | Form::Tar), _) => own,
        (None, _) => root,
    }
}

/// The rows of a table whose pictures can be read, and what else was found in it.
struct Table {
    path: PathBuf,
    rows: Vec<Row>,
    /// The texts that rows name their class by.
    labels: Vec<String>,
    /// Those of the rows to train with, in byte order, whether their pictures can be read or not.
    classes: Vec<String>,
    /// Classes that have a column of their own; targets.
    declared: Vec<String>,
    /// Whether there are such columns.
    has_split: bool,
    has_group: bool,
    has_weight: bool,
    /// Rows that cannot be used, in the order of their lines.
    skipped: Vec<PictureError>,
}

impl Table {
    fn read(path: &Path, options: &FolderOptions) -> Result<Table, FolderError> {
        let refused = |error| FolderError::Table { path: path.to_owned(), source: error };
        let form = Form::of(path).ok_or_else(|| FolderError::NotAFolder { path: path.to_owned() })?;
        if !data_exists(path) && form != Form::Tar {
            return Err(FolderError::NotFound { path: path.to_owned() });
        }
        let folder = match form {
            Form::Text(_) | Form::Json => picture_folder(path, options),
            // The paths of its pictures begin with that of the archive.
            Form::Tar => Path::new(""),
        };
        let mut rows = Rows::new(path, folder, options);
        match form {
            Form::Text(separator) => text::read(path, separator, &options.columns, &mut rows),
            Form::Json => json::read(path, &options.columns, &mut rows),
            Form::Tar => shards::read(path, &options.columns, &mut rows),
        }
        .map_err(|problem| match problem {
            rows::Problem::Table(error) => refused(error),
            rows::Problem::Row(error) => error.into(),
        })?;
        let found = rows.finish().map_err(FolderError::Picture)?;
        let Rows { rows, labels, wrong, seen, declared, .. } = found;
        let mut table = Table {
            path: path.to_owned(),
            rows: Vec::with_capacity(rows.len()),
            labels: labels.into_names(),
            classes: Vec::new(),
            declared,
            has_split: seen[Role::Split as usize],
            has_group: seen[Role::Group as usize],
            has_weight: seen[Role::Weight as usize],
            skipped: Vec::new(),
        };
        let trained = rows.iter().filter(|row| matches!(row.part, None | Some(Part::Train)));
        let used: BTreeSet<&String> =
            trained.flat_map(Row::all_labels).map(|label| &table.labels[label as usize]).collect();
        table.classes = used.into_iter().cloned().collect();
        table.check(rows, wrong, options)?;
        Ok(table)
    }

    /// Keeps the rows whose pictures have the header of one.
    fn check(
        &mut self,
        rows: Vec<Row>,
        mut wrong: Vec<(u64, PictureError)>,
        options: &FolderOptions,
    ) -> Result<(), FolderError> {
        let check = |row: Row| match probe(&row.path, &options.decode) {
            Ok(_) => Ok(row),
            Err(error) => Err((row.line, self.listed(row.line, error))),
        };
        let checked: Vec<Result<Row, (u64, PictureError)>> = rows.into_par_iter().map(check).collect();
        for row in checked {
            match row {
                Ok(row) => self.rows.push(row),
                Err((_, error)) if options.strict => return Err(error.into()),
                Err(error) => wrong.push(error),
            }
        }
        wrong.sort_by_key(|(line, _)| *line);
        self.skipped = wrong.into_iter().map(|(_, error)| error).collect();
        Ok(())
    }

    /// What is wrong with the picture that a line names.
    fn listed(&self, line: u64, error: PictureError) -> PictureError {
        if Form::of(&self.path) == Some(Form::Tar) {
            return error;
        }
        let PictureError { path, source } = error;
        let source = DecodeError::Listed { table: self.path.clone(), line, source: Box::new(source) };
        PictureError { path, source }
    }

    /// An error of the table.
    fn refused(&self, source: TableError) -> FolderError {
        FolderError::Table { path: self.path.clone(), source }
    }
}

/// Texts that come again and again, each kept once.
#[derive(Default)]
struct Names {
    places: HashMap<String, u32>,
}

impl Names {
    fn place(&mut self, name: &str) -> u32 {
        if let Some(&place) = self.places.get(name) {
            return place;
        }
        let place = self.places.len() as u32;
        self.places.insert(name.to_owned(), place);
        place
    }

    fn into_names(self) -> Vec<String> {
        let mut names: Vec<(String, u32)> = self.places.into_iter().collect();
        names.sort_by_key(|(_, place)| *place);
        names.into_iter().map(|(name, _)| name).collect()
    }
}
