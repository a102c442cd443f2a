//! Why a table is not a data set.

use super::super::error::listed;

/// A table that is not a data set.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// There is nothing in it.
    #[error("the table is empty")]
    Empty,
    /// A column that is needed is not there.
    #[error(
        "no column `{wanted}`; the columns are {}: name the one with the {role} by the setting `columns`, as in {role}={}",
        listed(columns), columns.first().map_or("NAME", String::as_str)
    )]
    NoColumn {
        /// Its usual names.
        wanted: String,
        /// What the column is for.
        role: &'static str,
        /// The columns that are there.
        columns: Vec<String>,
    },
    /// Two columns have the name of one that is needed.
    #[error("two columns are called `{name}`; rename one of them")]
    TwoColumns {
        /// The name.
        name: String,
    },
    /// A model predicts another number of targets than the table has columns for.
    #[error(
        "{found} columns of targets, and the model predicts {}: {}; name as many by the setting `columns`, as in target={}",
        wanted.len(), listed(wanted), wanted.join("|")
    )]
    Targets {
        /// How many there are.
        found: usize,
        /// The model's targets.
        wanted: Vec<String>,
    },
    /// The fields are separated otherwise than the file's name says.
    #[error("the columns are separated by {found}, not by {wanted}; save the table as {ending}")]
    Separator {
        /// What separates them.
        found: &'static str,
        /// What the name says.
        wanted: &'static str,
        /// The file extension of what was found.
        ending: &'static str,
    },
    /// A name with braces stands for no files.
    #[error(
        "`{name}` stands for no list of files; write a range of at most {most} numbers, as in name-{{000..015}}.tar"
    )]
    Shards {
        /// The name.
        name: String,
        /// The most files.
        most: u64,
    },
    /// An archive cannot be read.
    #[error("{}: {source}", offshoot_graph::text::shown(path))]
    Shard {
        /// The archive.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A line is far longer than a row is.
    #[error(
        "line {line}: the row has more than {limit} bytes; a quotation mark that is not closed takes in all lines after it"
    )]
    LongRow {
        /// The line.
        line: u64,
        /// The most bytes of a row.
        limit: usize,
    },
    /// There is no row of a part of the data set.
    #[error("no row that can be used has the split `{part}`; the column names train, val and test")]
    NoPart {
        /// `train` or `val`.
        part: &'static str,
    },
    /// There are classes in the validation rows that no training row has.
    #[error("no training row of the class {}, for which there are validation rows", listed(classes))]
    ValClasses {
        /// The classes.
        classes: Vec<String>,
    },
    /// A class has no picture to train with.
    #[error("no row of the class {class:?} that can be used to train with")]
    EmptyClass {
        /// The class.
        class: String,
    },
    /// No group can be held out for validation.
    #[error(
        "no group can be held out for validation: each holds all pictures of a class; add groups, or say with a column `split` what to \
         validate with"
    )]
    Groups,
    /// No training picture has a label.
    #[error("no row that can be used to train with has a label")]
    NoLabel,
    /// All training pictures weigh nothing.
    #[error("the weights of all training rows are 0; one at least must be above")]
    NoWeight,
}
