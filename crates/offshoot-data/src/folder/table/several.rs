//! Rows whose pictures have any number of classes: how a row names them, and how rows are split then.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use offshoot_graph::text::{quoted, shown};

use super::super::error::listed;
use super::super::parts::Part;
use super::super::{Dataset, FolderError, FolderOptions};
use super::split::held_groups;
use super::{Row, Table, TableError};
use crate::loader::Sample;

/// What separates the labels of a text.
const SEPARATORS: [char; 3] = ['|', ';', ','];
/// What separates the labels that were a list: no name holds it.
const OF_A_LIST: char = '\u{1f}';

/// Labels as a text that [`labels_of`] takes apart again, whatever is in them.
pub(super) fn listed_labels<'a>(labels: impl Iterator<Item = &'a str>) -> String {
    labels.fold(String::new(), |text, label| format!("{text}{OF_A_LIST}{label}"))
}

/// The labels that a field names: separated by `|`, `;` or `,`, or the elements of a list.
pub(super) fn labels_of(text: &str) -> impl Iterator<Item = &str> {
    let is_list = text.starts_with(OF_A_LIST);
    let separates = move |c: char| if is_list { c == OF_A_LIST } else { SEPARATORS.contains(&c) };
    text.split(separates).map(str::trim).filter(|label| !label.is_empty())
}

/// Whether the column of a class says that a picture has it.
///
/// # Errors
/// When it says something else: what to do.
pub(super) fn truth(column: &str, text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "0" | "0.0" | "false" => Ok(false),
        "1" | "1.0" | "true" => Ok(true),
        _ => Err(format!(
            "`{}` holds `{}`, and the column of a class holds 0 or 1; say which columns are those of classes by the setting `columns`, as in \
             label=cat|dog",
            quoted(column),
            quoted(text)
        )),
    }
}

/// The data set of `table`, whose rows have labels.
pub(super) fn dataset(
    table: &mut Table,
    rows: Vec<Row>,
    data: &mut Dataset,
    options: &FolderOptions,
) -> Result<(), FolderError> {
    let (train, val) = table.parted(rows, options, &mut data.notes)?;
    let classes = table.classes_of(&train);
    if classes.is_empty() {
        return Err(table.refused(TableError::NoLabel));
    }
    let known: BTreeSet<&String> = classes.iter().collect();
    let extra: Vec<String> =
        table.classes_of(&val).into_iter().filter(|class| !known.contains(class)).collect();
    if !extra.is_empty() {
        return Err(table.refused(TableError::ValClasses { classes: extra }));
    }
    let empty: Vec<String> = table.declared.iter().filter(|class| !known.contains(class)).cloned().collect();
    if !empty.is_empty() {
        let (path, few) = (shown(&table.path), listed(&empty));
        data.notes
            .push(format!("{path}: no row of {few} to train with, so that the model will not know that"));
    }
    let (train, val) = (table.ordered(train), table.ordered(val));
    data.weights = table.weights_of(train.iter())?;
    (data.train, data.val) = (table.labelled(train, &classes), table.labelled(val, &classes));
    data.notes.extend(table.without(&classes, &data.val));
    data.classes = classes;
    Ok(())
}

impl Table {
    /// Rows by path.
    pub(super) fn ordered(&self, mut rows: Vec<Row>) -> Vec<Row> {
        rows.sort_by_cached_key(|row| row.path.as_os_str().as_encoded_bytes().to_owned());
        rows
    }

    /// The pictures of rows with their places among `classes`, in the order of their paths.
    pub(super) fn labelled(&self, rows: Vec<Row>, classes: &[String]) -> Vec<Sample> {
        let places: HashMap<&String, usize> =
            classes.iter().enumerate().map(|(place, class)| (class, place)).collect();
        let place = |&label: &u32| places.get(&self.labels[label as usize]).copied();
        let sample = |row: Row| {
            let labels: Vec<usize> = row.labels.iter().filter_map(place).collect();
            Sample::several(row.path, labels)
        };
        self.ordered(rows).into_iter().map(sample).collect()
    }

    /// Rows to train and to validate with: those of the column `split`, or some are held out.
    pub(super) fn parted(
        &self,
        rows: Vec<Row>,
        options: &FolderOptions,
        notes: &mut Vec<String>,
    ) -> Result<(Vec<Row>, Vec<Row>), FolderError> {
        if self.has_split { self.parts(rows, notes) } else { self.by_labels(rows, options) }
    }

    /// The weights of the rows to train with; none without a column of them.
    pub(super) fn weights_of<'r>(
        &self,
        train: impl Iterator<Item = &'r Row>,
    ) -> Result<Vec<f32>, FolderError> {
        let weights: Vec<f32> = train.filter(|_| self.has_weight).map(|row| row.weight).collect();
        if self.has_weight && weights.iter().all(|&weight| weight == 0.0) {
            return Err(self.refused(TableError::NoWeight));
        }
        Ok(weights)
    }

    /// Rows to train and to validate with by the column `split`.
    fn parts(&self, rows: Vec<Row>, notes: &mut Vec<String>) -> Result<(Vec<Row>, Vec<Row>), FolderError> {
        let (train, others): (Vec<Row>, Vec<Row>) =
            rows.into_iter().partition(|row| row.part == Some(Part::Train));
        if train.is_empty() {
            return Err(self.refused(TableError::NoPart { part: "train" }));
        }
        let val = self.of_part(others, Part::Val, notes)?;
        notes.extend(self.shared_groups(&train, &val));
        Ok((train, val))
    }

    /// Groups are held out, or pictures where there are none, so that about the same part of each class is. Pictures without a label
    /// count as a class of their own.
    fn by_labels(
        &self,
        rows: Vec<Row>,
        options: &FolderOptions,
    ) -> Result<(Vec<Row>, Vec<Row>), FolderError> {
        let rows = self.ordered(rows);
        let none = self.labels.len();
        let mut groups: Vec<BTreeMap<usize, usize>> = Vec::new();
        let (mut places, mut of_rows, mut counts) = (HashMap::new(), Vec::new(), vec![0usize; none + 1]);
        for row in &rows {
            let key = (row.group, if row.group.is_none() { row.line } else { 0 });
            let place = *places.entry(key).or_insert(groups.len());
            if place == groups.len() {
                groups.push(BTreeMap::new());
            }
            of_rows.push(place);
            let unlabelled = row.labels.is_empty().then_some(none);
            for label in row.labels.iter().map(|&label| label as usize).chain(unlabelled) {
                *groups[place].entry(label).or_default() += 1;
                counts[label] += 1;
            }
        }
        let held = held_groups(&groups, &counts, options);
        if options.val_fraction > 0.0 && !held.contains(&true) {
            return Err(self.refused(TableError::Groups));
        }
        let (mut train, mut val) = (Vec::new(), Vec::new());
        for (row, group) in rows.into_iter().zip(of_rows) {
            if held[group] { val.push(row) } else { train.push(row) }
        }
        Ok((train, val))
    }

    /// A note where no picture to validate with has some classes.
    fn without(&self, classes: &[String], val: &[Sample]) -> Option<String> {
        let has: BTreeSet<usize> = val.iter().flat_map(Sample::classes).collect();
        let absent = (0..classes.len()).filter(|label| !has.contains(label));
        let absent: Vec<String> = absent.map(|label| classes[label].clone()).collect();
        (!absent.is_empty() && !val.is_empty()).then(|| {
            let (table, few) = (shown(&self.path), listed(&absent));
            format!("{table}: no row of {few} to validate with; the validation figures say nothing of that")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_separated_in_the_usual_ways() {
        let all = |text: &str| labels_of(text).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(all("cat|dog"), ["cat", "dog"]);
        assert_eq!(all(" cat ; polar bear, dog ,"), ["cat", "polar bear", "dog"]);
        assert!(all("").is_empty() && all(" | ").is_empty());
        let list = listed_labels(["a,b", "c|d"].into_iter());
        assert_eq!(all(&list), ["a,b", "c|d"]);
        assert!(all(&listed_labels([].into_iter())).is_empty());
    }

    #[test]
    fn a_column_of_a_class_is_true_or_false() {
        for (text, wanted) in [("1", true), ("0", false), ("1.0", true), ("False", false), (" 1 ", true)] {
            assert_eq!(truth("cat", text), Ok(wanted), "{text}");
        }
        for text in ["", "2", "0.5", "cat", "nan"] {
            assert!(truth("cat", text).is_err_and(|why| why.contains("`cat` holds")), "{text}");
        }
    }
}
