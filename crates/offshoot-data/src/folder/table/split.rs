//! Rows of a table to train and to validate with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use offshoot_graph::Task;
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::text::shown;

use super::super::error::listed;
use super::super::parts::Part;
use super::super::{Dataset, FolderError, FolderOptions, Labelled, kept_for_val};
use super::{Row, Table, TableError, several, targets};
use crate::loader::Sample;

/// The data set in the table `root`; see [`Dataset::open`].
pub(in super::super) fn dataset(root: &Path, options: &FolderOptions) -> Result<Dataset, FolderError> {
    let mut table = Table::read(root, options)?;
    let mut data = Dataset { skipped: std::mem::take(&mut table.skipped), ..Dataset::default() };
    table.refuse_none(&data.skipped)?;
    let rows = std::mem::take(&mut table.rows);
    match options.task {
        Task::Single => {}
        Task::Multi => {
            several::dataset(&mut table, rows, &mut data, options)?;
            return Ok(data);
        }
        Task::Regression => {
            targets::dataset(&mut table, rows, &mut data, options)?;
            return Ok(data);
        }
    }
    let classes = std::mem::take(&mut table.classes);
    let (train, val) = match table.has_split {
        true => table.by_part(rows, &classes, &mut data.notes)?,
        false => {
            let placed = table.in_order(rows, &classes);
            table.check_classes(&classes, &placed)?;
            match table.has_group {
                true => table.by_group(placed, classes.len(), options)?,
                false => by_seed(placed, classes.len(), options),
            }
        }
    };
    data.weights = table.weights_of(train.iter().map(|(_, row)| row))?;
    data.classes = classes;
    data.train = samples(train);
    data.val = samples(val);
    Ok(data)
}

/// The rows of `root` to evaluate a model of these classes with: those to validate with where the table has splits, else those to
/// test with, else all.
pub(in super::super) fn labelled(
    root: &Path,
    classes: &[String],
    options: &FolderOptions,
) -> Result<Labelled, FolderError> {
    part_of_classes(root, classes, options, Part::Val)
}

/// The rows to train with where the table has splits, else all.
pub(in super::super) fn training(
    root: &Path,
    classes: &[String],
    options: &FolderOptions,
) -> Result<Labelled, FolderError> {
    part_of_classes(root, classes, options, Part::Train)
}

fn part_of_classes(
    root: &Path,
    classes: &[String],
    options: &FolderOptions,
    part: Part,
) -> Result<Labelled, FolderError> {
    let mut table = Table::read(root, options)?;
    let skipped = std::mem::take(&mut table.skipped);
    table.refuse_none(&skipped)?;
    let mut result = Labelled { skipped, ..Labelled::default() };
    let mut rows = std::mem::take(&mut table.rows);
    if table.has_split {
        rows = table.of_part(rows, part, &mut result.notes)?;
    }
    if options.task == Task::Regression {
        table.check_targets(classes)?;
        result.samples = table.with_targets(rows);
        return Ok(result);
    }
    let known: BTreeSet<&String> = classes.iter().collect();
    let unknown: Vec<String> =
        table.classes_of(&rows).into_iter().filter(|class| !known.contains(class)).collect();
    if !unknown.is_empty() {
        return Err(FolderError::UnknownClass { path: root.to_owned(), unknown, classes: classes.to_vec() });
    }
    result.samples = match options.task {
        Task::Single => samples(table.in_order(rows, classes)),
        Task::Multi => table.labelled(rows, classes),
        Task::Regression => table.with_targets(rows),
    };
    let mut has = vec![false; classes.len()];
    result.samples.iter().flat_map(Sample::classes).for_each(|label| has[label] = true);
    result.absent = classes.iter().zip(has).filter(|(_, has)| !has).map(|(class, _)| class.clone()).collect();
    Ok(result)
}

/// Rows with the places of their classes.
type Placed = Vec<(usize, Row)>;

fn samples(rows: Placed) -> Vec<Sample> {
    rows.into_iter().map(|(label, row)| Sample::new(row.path, label)).collect()
}

impl Table {
    /// An error where no row is left.
    fn refuse_none(&self, skipped: &[crate::decode::PictureError]) -> Result<(), FolderError> {
        let path = || self.path.clone();
        match (self.rows.is_empty(), skipped.first()) {
            (false, _) => Ok(()),
            (true, Some(first)) => Err(FolderError::NoUsablePicture { path: path(), first: first.clone() }),
            (true, None) => Err(FolderError::NoPicture { path: path() }),
        }
    }

    /// The classes of rows, in the byte order of their names.
    pub(super) fn classes_of(&self, rows: &[Row]) -> Vec<String> {
        let used: BTreeSet<&String> =
            rows.iter().flat_map(Row::all_labels).map(|label| &self.labels[label as usize]).collect();
        used.into_iter().cloned().collect()
    }

    /// Rows by class and path, with the places of their classes in `classes`, all of which are there.
    fn in_order(&self, rows: Vec<Row>, classes: &[String]) -> Placed {
        let places: HashMap<&String, usize> =
            classes.iter().enumerate().map(|(place, class)| (class, place)).collect();
        let place = |row: Row| Some((*places.get(&self.labels[row.label as usize])?, row));
        let mut placed: Placed = rows.into_iter().filter_map(place).collect();
        let bytes = |row: &Row| row.path.as_os_str().as_encoded_bytes().to_owned();
        placed.sort_by_cached_key(|(label, row)| (*label, bytes(row)));
        placed
    }

    /// The rows of one part, where the table has splits. In the place of those to validate with, those to test with do.
    pub(super) fn of_part(
        &self,
        rows: Vec<Row>,
        part: Part,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Row>, FolderError> {
        let count = |part| rows.iter().filter(|row| row.part == Some(part)).count();
        let [train, val, test] = [Part::Train, Part::Val, Part::Test].map(count);
        let taken = match part {
            Part::Train if train == 0 => return Err(self.refused(TableError::NoPart { part: "train" })),
            Part::Val if val > 0 => Part::Val,
            Part::Val if test > 0 => Part::Test,
            Part::Val => return Err(self.refused(TableError::NoPart { part: "val" })),
            Part::Train | Part::Test => part,
        };
        if part == Part::Val && taken == Part::Test {
            notes.push(format!(
                "{}: no row to validate with, so the {test} of the split `test` are taken for that; a model whose best epoch was \
                 chosen by them is to be measured on other pictures",
                shown(&self.path)
            ));
        } else if part == Part::Val && test > 0 {
            notes.push(format!("{}: not used: the {test} rows of the split `test`", shown(&self.path)));
        }
        Ok(rows.into_iter().filter(|row| row.part == Some(taken)).collect())
    }

    /// By the column `split`.
    fn by_part(
        &self,
        rows: Vec<Row>,
        classes: &[String],
        notes: &mut Vec<String>,
    ) -> Result<(Placed, Placed), FolderError> {
        let (train, others): (Vec<Row>, Vec<Row>) =
            rows.into_iter().partition(|row| row.part == Some(Part::Train));
        if train.is_empty() {
            return Err(self.refused(TableError::NoPart { part: "train" }));
        }
        let val = self.of_part(others, Part::Val, notes)?;
        let extra: Vec<String> =
            self.classes_of(&val).into_iter().filter(|class| !classes.contains(class)).collect();
        if !extra.is_empty() {
            return Err(self.refused(TableError::ValClasses { classes: extra }));
        }
        notes.extend(self.shared_groups(&train, &val));
        let (train, val) = (self.in_order(train, classes), self.in_order(val, classes));
        self.check_classes(classes, &train)?;
        notes.extend(self.not_validated(classes, &val));
        Ok((train, val))
    }

    /// A note where there is no picture of some classes to validate with.
    fn not_validated(&self, classes: &[String], val: &Placed) -> Option<String> {
        let has: BTreeSet<usize> = val.iter().map(|(label, _)| *label).collect();
        let absent: Vec<String> = (0..classes.len())
            .filter(|label| !has.contains(label))
            .map(|label| classes[label].clone())
            .collect();
        (!absent.is_empty()).then(|| {
            let (table, few) = (shown(&self.path), listed(&absent));
            format!("{table}: no row of {few} to validate with; the validation figures say nothing of that")
        })
    }

    /// A note where the column `split` tears groups apart.
    pub(super) fn shared_groups(&self, train: &[Row], val: &[Row]) -> Option<String> {
        let groups = |rows: &[Row]| rows.iter().filter_map(|row| row.group).collect::<BTreeSet<u32>>();
        let shared = groups(train).intersection(&groups(val)).count();
        (shared > 0).then(|| {
            format!(
                "{}: {shared} groups have rows both to train and to validate with, so that the validation figures say less of new \
                 groups; the column `split` was followed",
                shown(&self.path)
            )
        })
    }

    /// Whole groups are held out, drawn in a random order by the seed: each that brings the classes nearer to their part, and leaves
    /// each class a picture to train with.
    fn by_group(
        &self,
        rows: Placed,
        classes: usize,
        options: &FolderOptions,
    ) -> Result<(Placed, Placed), FolderError> {
        // A row without a group is one of its own.
        let group_of = |row: &Row| (row.group, if row.group.is_none() { row.line } else { 0 });
        let mut groups: Vec<BTreeMap<usize, usize>> = Vec::new();
        let mut places = HashMap::new();
        let mut counts = vec![0usize; classes];
        for (label, row) in &rows {
            let place = *places.entry(group_of(row)).or_insert(groups.len());
            if place == groups.len() {
                groups.push(BTreeMap::new());
            }
            *groups[place].entry(*label).or_default() += 1;
            counts[*label] += 1;
        }
        let held = held_groups(&groups, &counts, options);
        if options.val_fraction > 0.0 && !held.contains(&true) {
            return Err(self.refused(TableError::Groups));
        }
        let (train, val): (Placed, Placed) =
            rows.into_iter().partition(|(_, row)| !held[places[&group_of(row)]]);
        Ok((train, val))
    }

    /// An error where there are no two classes, or one has nothing to train with.
    fn check_classes(&self, classes: &[String], train: &Placed) -> Result<(), FolderError> {
        if let [class] = classes {
            return Err(FolderError::OneClass { path: self.path.clone(), class: class.clone() });
        }
        let trained: BTreeSet<usize> = train.iter().map(|(label, _)| *label).collect();
        match (0..classes.len()).find(|label| !trained.contains(label)) {
            Some(label) => Err(self.refused(TableError::EmptyClass { class: classes[label].clone() })),
            None => Ok(()),
        }
    }
}

/// As folders are split: a part of each class, drawn by the seed.
fn by_seed(rows: Placed, classes: usize, options: &FolderOptions) -> (Placed, Placed) {
    let mut counts = vec![0usize; classes];
    rows.iter().for_each(|(label, _)| counts[*label] += 1);
    let kept = counts.iter().enumerate().flat_map(|(label, &count)| kept_for_val(count, label, options));
    let (mut train, mut val) = (Placed::new(), Placed::new());
    for (row, is_val) in rows.into_iter().zip(kept) {
        if is_val { val.push(row) } else { train.push(row) }
    }
    (train, val)
}

/// Which groups are held out for validation; `groups` have the pictures of each class in them, and `counts` those of all.
pub(super) fn held_groups(
    groups: &[BTreeMap<usize, usize>],
    counts: &[usize],
    options: &FolderOptions,
) -> Vec<bool> {
    let mut order: Vec<usize> = (0..groups.len()).collect();
    Random::new(options.seed, 0, 0, Purpose::Split).shuffle(&mut order);
    let wanted: Vec<f64> = counts.iter().map(|&count| count as f64 * options.val_fraction).collect();
    let mut held = vec![0usize; counts.len()];
    let mut is_held = vec![false; groups.len()];
    // How much further from their part the classes of a group come with it, each in parts of its pictures.
    let cost = |group: &BTreeMap<usize, usize>, held: &[usize]| -> f64 {
        let of = |(&class, &n): (&usize, &usize)| {
            let (before, n) = (held[class] as f64 - wanted[class], n as f64);
            n * (2.0 * before + n) / counts[class] as f64
        };
        group.iter().map(of).sum()
    };
    let leaves_some = |group: &BTreeMap<usize, usize>, held: &[usize]| {
        group.iter().all(|(&class, &n)| held[class] + n < counts[class])
    };
    let mut take = |place: usize, held: &mut Vec<usize>| {
        is_held[place] = true;
        groups[place].iter().for_each(|(&class, &n)| held[class] += n);
    };
    for &place in &order {
        if leaves_some(&groups[place], &held) && cost(&groups[place], &held) < 0.0 {
            take(place, &mut held);
        }
    }
    // All groups are larger than twice the part: the one that is the least too much.
    if options.val_fraction > 0.0 && held.iter().all(|&n| n == 0) {
        let fits = order.iter().filter(|&&place| leaves_some(&groups[place], &held));
        let least = fits.min_by(|&&a, &&b| cost(&groups[a], &held).total_cmp(&cost(&groups[b], &held)));
        if let Some(&place) = least {
            take(place, &mut held);
        }
    }
    is_held
}
