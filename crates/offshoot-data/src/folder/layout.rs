//! Which folders of a data set are classes, and which are its parts: training, validation, test.
//!
//! A part is known by its name ([`parts`](super::parts)) and by what it holds: folders, one for each class. Where names and
//! content do not agree, the data set is refused, and the error says what to do: parts are never silently taken for classes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use offshoot_graph::text::{escaped, shown};

use super::files::{holds_pictures, is_junk, pictures_in};
use super::parts::{Part, parts};
use super::{FolderError, listed};

/// Class folders by name; a `BTreeMap` of strings is in byte order.
pub(super) type ClassFolders = BTreeMap<String, PathBuf>;

/// How the folders of a data set are to be read, and what is worth knowing about that.
pub(super) struct Layout {
    pub(super) kind: Kind,
    pub(super) notes: Vec<String>,
}

pub(super) enum Kind {
    /// Folders of the parts, each with a folder for each class. A part that is not there is `None`.
    Split { train: Option<PathBuf>, val: Option<PathBuf> },
    /// A folder for each class.
    Classes(ClassFolders),
}

impl Layout {
    pub(super) fn of(root: &Path) -> Result<Layout, FolderError> {
        if !super::metadata(root)?.is_dir() {
            return Err(FolderError::NotAFolder { path: root.to_owned() });
        }
        let (folders, mut notes) = (Folders::of(root)?, Vec::new());
        let kind = match folders.split(&mut notes)? {
            Some(split) => split,
            None => Kind::Classes(class_folders(root, &mut notes)?),
        };
        if !folders.junk.is_empty() {
            notes.push(format!("{}: left out, being no classes: {}", shown(root), listed(&folders.junk)));
        }
        Ok(Layout { kind, notes })
    }
}

/// The class folders in `root`, which is a data set without parts or one part of a data set.
pub(super) fn class_folders(root: &Path, notes: &mut Vec<String>) -> Result<ClassFolders, FolderError> {
    let folders = Folders::of(root)?;
    let mut classes = ClassFolders::new();
    for path in folders.all {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| FolderError::ClassName { path: path.clone() })?;
        classes.insert(name.to_owned(), path);
    }
    check_nesting(root, &classes)?;
    notes.extend(like_parts(root, &classes));
    notes.extend(differ_by_case(root, &classes));
    let outside = if classes.is_empty() { 0 } else { pictures_in(root) };
    if outside > 0 {
        let (root, are) = (shown(root), if outside == 1 { "picture lies" } else { "pictures lie" });
        notes
            .push(format!("{root}: {outside} {are} beside the class folders, in none of them, and not used"));
    }
    Ok(classes)
}

/// The folders in a folder.
struct Folders {
    root: PathBuf,
    /// Sorted by path.
    all: Vec<PathBuf>,
    /// Names of those that tools leave behind.
    junk: Vec<String>,
}

/// Whether a folder is a run that `train` has made, which may lie among the classes.
fn is_run(folder: &Path) -> bool {
    ["recipe.toml", "pictures.csv"].iter().all(|name| folder.join(name).is_file())
}

impl Folders {
    fn of(root: &Path) -> Result<Folders, FolderError> {
        let unreadable = |source| FolderError::Read { path: root.to_owned(), source };
        let (mut all, mut junk) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(root).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(unreadable)?);
            if !(kind.is_dir() || kind.is_symlink() && path.is_dir()) {
                continue;
            }
            match entry.file_name() {
                name if is_junk(&name) || is_run(&path) => junk.push(name.to_string_lossy().into_owned()),
                _ => all.push(path),
            }
        }
        all.sort();
        junk.sort();
        Ok(Folders { root: root.to_owned(), all, junk })
    }

    /// The parts among the folders; `None` where they are classes.
    fn split(&self, notes: &mut Vec<String>) -> Result<Option<Kind>, FolderError> {
        let parts = parts(&self.all);
        match self.is_split(&parts, notes)? {
            true => self.choose(&parts, notes).map(Some),
            false => Ok(None),
        }
    }

    /// Whether folders that are named after parts are parts, and not classes.
    fn is_split(&self, parts: &[(&PathBuf, Part)], notes: &mut Vec<String>) -> Result<bool, FolderError> {
        let kinds: BTreeSet<Part> = parts.iter().map(|(_, part)| *part).collect();
        let others: Vec<&PathBuf> =
            self.all.iter().filter(|path| parts.iter().all(|(p, _)| p != path)).collect();
        let beside = others.iter().any(|path| holds_pictures(path));
        let has_train = parts.iter().any(|(path, part)| *part == Part::Train && has_folders(path));
        let is_split = match kinds.len() {
            0 => return Ok(false),
            // `train` with folders in it beside other folders may be a class of its own (of railways, say).
            1 if beside => self.same_classes(parts, &others)?,
            1 => parts.len() > 1 || parts.iter().any(|(path, _)| has_folders(path)),
            _ if kinds.contains(&Part::Train) => has_train || !beside,
            _ => !beside,
        };
        if !is_split && kinds.len() > 1 {
            let (root, names) = (shown(&self.root), quoted(&names(parts)));
            notes.push(format!(
                "{root}: {names} are taken for classes, since they hold pictures like the others"
            ));
        }
        Ok(is_split)
    }

    /// The folders to train and to validate with.
    fn choose(&self, parts: &[(&PathBuf, Part)], notes: &mut Vec<String>) -> Result<Kind, FolderError> {
        let flat = |folders| FolderError::FlatParts { path: self.root.clone(), folders };
        if !parts.iter().any(|(path, _)| has_folders(path)) {
            return Err(flat(names(parts)));
        }
        let of = |part| parts.iter().filter(move |(_, p)| *p == part).map(|(path, _)| *path);
        let train = self.only(of(Part::Train), "train")?;
        let mut val = self.only(of(Part::Val), "val")?;
        if let Some(path) = [train, val].into_iter().flatten().find(|path| !has_folders(path)) {
            return Err(flat(vec![name(path)]));
        }
        if val.is_none() {
            val = self.only(of(Part::Test).filter(|path| has_folders(path)), "test")?;
            if let (Some(test), Some(_)) = (val, train) {
                let (root, test) = (shown(&self.root), name(test));
                notes.push(format!(
                    "{root}: no folder of validation pictures, so `{test}` is taken for them; a model whose best epoch was \
                     chosen by them is to be measured on other pictures"
                ));
            }
        }
        let left = self.all.iter().filter(|path| ![train, val].contains(&Some(path)));
        let left: Vec<String> = left.map(|path| name(path)).collect();
        if !left.is_empty() {
            notes.push(format!("{}: not used: {}", shown(&self.root), quoted(&left)));
        }
        Ok(Kind::Split { train: train.cloned(), val: val.cloned() })
    }

    /// The one folder of a part, or the one among several that has the part's plain name.
    fn only<'a>(
        &self,
        candidates: impl Iterator<Item = &'a PathBuf>,
        plain: &str,
    ) -> Result<Option<&'a PathBuf>, FolderError> {
        let all: Vec<&PathBuf> = candidates.collect();
        match all[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => match all.iter().find(|path| name(path) == plain) {
                Some(one) => Ok(Some(one)),
                None => Err(FolderError::SeveralParts {
                    path: self.root.clone(),
                    folders: all.iter().map(|path| name(path)).collect(),
                    plain: plain.to_owned(),
                }),
            },
        }
    }

    /// Whether a part and another folder hold the same class folders; that is an error, since the other is a part then whose
    /// name says nothing.
    fn same_classes(&self, parts: &[(&PathBuf, Part)], others: &[&PathBuf]) -> Result<bool, FolderError> {
        for (part, _) in parts {
            let classes = names_in(part);
            if let Some(other) =
                others.iter().find(|other| names_in(other).intersection(&classes).count() >= 2)
            {
                let folders = [name(part), name(other)];
                return Err(FolderError::UnknownPart { path: self.root.clone(), folders });
            }
        }
        Ok(false)
    }
}

fn has_folders(path: &Path) -> bool {
    Folders::of(path).is_ok_and(|folders| !folders.all.is_empty())
}

fn names(parts: &[(&PathBuf, Part)]) -> Vec<String> {
    parts.iter().map(|(path, _)| name(path)).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `a`, `b` and 3 more.
fn quoted(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(10).map(|name| format!("`{}`", escaped(name))).collect();
    match names.len().saturating_sub(10) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Names of the folders in a folder.
fn names_in(path: &Path) -> BTreeSet<String> {
    Folders::of(path).map(|folders| folders.all.iter().map(|path| name(path)).collect()).unwrap_or_default()
}

/// An error where what stands in the place of classes holds the data set, or its parts.
fn check_nesting(root: &Path, classes: &ClassFolders) -> Result<(), FolderError> {
    let mut nested = Vec::new();
    for (class, path) in classes {
        let folders = Folders::of(path)?;
        let found = parts(&folders.all);
        let train = found.iter().find(|(_, part)| *part == Part::Train);
        let other = found.iter().find(|(_, part)| *part != Part::Train);
        if let (Some((train, _)), Some((other, _))) = (train, other) {
            nested.push((class, path, [name(train), name(other)]));
        }
    }
    match &nested[..] {
        [] => {}
        [(_, path, parts)] => {
            return Err(FolderError::Nested { path: path.to_path_buf(), parts: parts.clone() });
        }
        [(class, _, parts), ..] => {
            let (path, class) = (root.to_owned(), class.to_string());
            return Err(FolderError::PartsInClasses { path, class, parts: parts.clone() });
        }
    }
    if let Some((class, path)) = classes.first_key_value().filter(|_| classes.len() == 1)
        && let Some(inner) = with_several(path)
    {
        return Err(FolderError::OneFolder { path: root.to_owned(), class: class.clone(), inner });
    }
    Ok(())
}

/// The first folder with several folders, down from `path`, as long as there is one only.
fn with_several(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    // Links may lead in a circle.
    for _ in 0..16 {
        let mut folders = Folders::of(&path).ok()?.all;
        match folders.len() {
            0 => return None,
            1 => path = folders.remove(0),
            _ => return Some(path),
        }
    }
    None
}

/// A note where all classes hold the same folders and no pictures of their own: they may be parts with names of their own.
fn like_parts(root: &Path, classes: &ClassFolders) -> Option<String> {
    let mut inner = classes.values().map(|path| names_in(path));
    let first = inner.next().filter(|first| classes.len() >= 2 && first.len() >= 2)?;
    let same = inner.all(|names| names == first) && classes.values().all(|path| pictures_in(path) == 0);
    let (names, first): (Vec<String>, Vec<String>) =
        (classes.keys().cloned().collect(), first.into_iter().collect());
    same.then(|| {
        format!(
            "{}: {} are taken for classes, and each holds the folders {}; if those are the classes, name the folders \
             `train` and `val`",
            shown(root),
            quoted(&names),
            quoted(&first)
        )
    })
}

/// A note where the names of classes differ by upper and lower case only.
fn differ_by_case(root: &Path, classes: &ClassFolders) -> Option<String> {
    let mut by_case: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for class in classes.keys() {
        by_case.entry(class.to_lowercase()).or_default().push(class.clone());
    }
    let same: Vec<String> = by_case.into_values().filter(|names| names.len() > 1).flatten().collect();
    (!same.is_empty()).then(|| {
        format!(
            "{}: {} are classes of their own and differ by upper and lower case only; if they are one class, put their \
             pictures into one folder",
            shown(root),
            listed(&same)
        )
    })
}
