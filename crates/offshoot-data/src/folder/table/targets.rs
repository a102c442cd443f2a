//! Rows whose pictures have numbers to predict: how a row gives them, and how rows are split then.

use offshoot_graph::text::quoted;

use super::super::{Dataset, FolderError, FolderOptions};
use super::{Row, Table, TableError};
use crate::loader::Sample;

/// What separates targets in the text that [`targets_of`] takes apart: no number holds it.
const SEPARATOR: char = '\u{1f}';
/// The largest target, and the largest below 0: f32 holds sums and squares of such.
const MOST: f64 = 1e15;

/// The texts of targets as one.
pub(super) fn listed_targets<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.enumerate().fold(String::new(), |all, (place, text)| match place {
        0 => text.to_owned(),
        _ => format!("{all}{SEPARATOR}{text}"),
    })
}

/// The targets that `text` has for columns of these names.
///
/// # Errors
/// When one is not a finite number that f32 computes with: what is wrong.
pub(super) fn targets_of(text: &str, names: &[String]) -> Result<Box<[f64]>, String> {
    let number = |(text, name): (&str, &String)| {
        let number = text.trim().parse::<f64>().ok().filter(|number| number.abs() <= MOST);
        number.ok_or_else(|| {
            let (name, text) = (quoted(name), quoted(text));
            format!("`{name}` holds `{text}`, and a target is a number from -{MOST:e} to {MOST:e}")
        })
    };
    if text.split(SEPARATOR).count() != names.len() {
        return Err("a target holds a control character, and is a number".to_owned());
    }
    text.split(SEPARATOR).zip(names).map(number).collect()
}

/// The data set of `table`, whose rows have targets.
pub(super) fn dataset(
    table: &mut Table,
    rows: Vec<Row>,
    data: &mut Dataset,
    options: &FolderOptions,
) -> Result<(), FolderError> {
    // Rows without labels are of one kind, of which a part is held out.
    let (train, val) = table.parted(rows, options, &mut data.notes)?;
    let train = table.ordered(train);
    data.weights = table.weights_of(train.iter())?;
    (data.train, data.val) = (table.with_targets(train), table.with_targets(val));
    data.classes = std::mem::take(&mut table.declared);
    Ok(())
}

impl Table {
    /// The pictures of rows with their targets, in the order of their paths.
    pub(super) fn with_targets(&self, rows: Vec<Row>) -> Vec<Sample> {
        self.ordered(rows).into_iter().map(|row| Sample::with_targets(row.path, row.targets)).collect()
    }

    /// An error where a model of these targets predicts another number of them than there are.
    pub(super) fn check_targets(&self, targets: &[String]) -> Result<(), FolderError> {
        let found = self.declared.len();
        match found == targets.len() {
            true => Ok(()),
            false => Err(self.refused(TableError::Targets { found, wanted: targets.to_vec() })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_finite_numbers() {
        let names = ["a".to_owned(), "b".to_owned()];
        let read = |texts: [&str; 2]| targets_of(&listed_targets(texts.into_iter()), &names);
        assert_eq!(*read(["1.5", " -2e3 "]).unwrap(), [1.5, -2000.0]);
        for wrong in ["", "x", "nan", "inf", "1e16", "1,5", "0x1"] {
            let why = read(["1", wrong]).unwrap_err();
            assert!(why.contains("`b` holds") && why.contains("a target is a number"), "{why}");
        }
        assert!(targets_of("1\u{1f}2\u{1f}3", &names).is_err());
    }
}
