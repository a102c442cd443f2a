//! Pictures that a model was trained on.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use blake3::Hash;
use offshoot_data::{Sample, picture_file};
use rayon::prelude::*;

use crate::fingerprint;
use crate::picture_files::PictureFile;

/// How many of `samples` a model has been trained with, if that was done with the pictures `trained`: those with the same bytes, and
/// where a training picture is no longer there, those with the same name in a folder of the same name. A picture that is there several
/// times counts as often.
pub fn familiar(trained: &[Sample], samples: &[Sample]) -> usize {
    familiar_to(trained, &[], samples)
}

/// The same, where it is known what the files of some of the `trained` pictures were: those bytes count then, whatever has become of
/// the files.
pub(crate) fn familiar_to(trained: &[Sample], files: &[PictureFile], samples: &[Sample]) -> usize {
    let size = |sample: &Sample| picture_file(&sample.path).map(|(_, bytes)| bytes).ok();
    let sizes: Vec<Option<u64>> = samples.iter().map(size).collect();
    // Files of other sizes have other bytes, and need not be read.
    let wanted: HashSet<u64> = sizes.iter().copied().flatten().collect();
    let mut gone = HashSet::new();
    let mut alike = HashMap::new();
    let mut known = HashSet::new();
    for (place, sample) in trained.iter().enumerate() {
        if let Some((size, hash)) = files.get(place).and_then(PictureFile::identity) {
            alike.entry(size).or_insert_with(Vec::new);
            known.insert(hash);
            continue;
        }
        match size(sample) {
            None => {
                gone.extend(ends(&sample.path));
            }
            Some(size) if wanted.contains(&size) => {
                alike.entry(size).or_insert_with(Vec::new).push(sample.clone());
            }
            Some(_) => {}
        }
    }
    let unknown: Vec<Sample> = alike.values().flatten().cloned().collect();
    known.extend(fingerprint::pictures(&unknown));
    let maybe = |(sample, size): (&Sample, &Option<u64>)| {
        size.is_some_and(|size| alike.contains_key(&size)).then(|| sample.clone())
    };
    let maybe: Vec<Sample> = samples.iter().zip(&sizes).filter_map(maybe).collect();
    let seen = fingerprint::pictures(&maybe);
    let seen: HashMap<&Path, bool> =
        maybe.iter().zip(seen).map(|(sample, hash)| (&*sample.path, known.contains(&hash))).collect();
    let by_name = |sample: &Sample| ends(&sample.path).is_some_and(|name| gone.contains(&name));
    samples.iter().filter(|sample| seen.get(&*sample.path) == Some(&true) || by_name(sample)).count()
}

/// For each of `pictures` one of `others` with the same bytes, where there is one. Those that cannot be read have none.
pub fn copies<'a>(pictures: &[&Path], others: &[&'a Path]) -> Vec<Option<&'a Path>> {
    let size = |path: &&Path| picture_file(path).map(|(_, bytes)| bytes).ok();
    let [sizes, other_sizes] = [pictures, others].map(|paths| paths.iter().map(size).collect::<Vec<_>>());
    let known: HashSet<u64> = sizes.iter().copied().flatten().collect();
    let both: HashSet<u64> =
        other_sizes.iter().copied().flatten().filter(|size| known.contains(size)).collect();
    // Files of other sizes have other bytes, and need not be read.
    let hash = |(path, size): (&&Path, &Option<u64>)| {
        let read = size.is_some_and(|size| both.contains(&size));
        if read { fingerprint::content(path).ok() } else { None }
    };
    let hashes: Vec<Option<Hash>> = others.par_iter().zip(&other_sizes).map(hash).collect();
    let found: HashMap<Hash, &'a Path> =
        hashes.into_iter().zip(others).rev().filter_map(|(hash, path)| Some((hash?, *path))).collect();
    pictures.par_iter().zip(&sizes).map(|picture| found.get(&hash(picture)?).copied()).collect()
}

/// The names of a picture and its folder.
fn ends(path: &Path) -> Option<(String, String)> {
    let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    Some((text(path.parent()?.file_name()?), text(path.file_name()?)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn copies_are_found_by_their_bytes() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &str| {
            let path = root.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let all =
            [file("a", "one"), file("b", "two"), file("c", "one"), file("d", "three"), root.path().join("e")];
        let [a, b, c, d, e] = all.each_ref().map(|path| path.as_path());
        assert_eq!(copies(&[a, b, d, e], &[c, b, e]), [Some(c), Some(b), None, None]);
        assert_eq!(copies(&[], &[a]), []);
    }

    #[test]
    fn pictures_are_known_by_their_bytes_and_lost_ones_by_their_names() {
        let root = tempfile::tempdir().unwrap();
        let sample = |name: &str, bytes: Option<&str>| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            bytes.iter().for_each(|bytes| fs::write(&path, bytes).unwrap());
            Sample::new(path, 0)
        };
        let trained = [sample("t/a/1", Some("one")), sample("t/a/2", Some("other")), sample("t/a/3", None)];
        let copy = sample("d/b/x", Some("one"));
        let same_size = sample("d/b/y", Some("two"));
        let moved = sample("d/a/3", Some("moved"));
        let namesake = sample("d/a/1", Some("new bytes"));
        let all = [copy.clone(), same_size.clone(), moved, namesake.clone(), trained[1].clone()];
        assert_eq!(familiar(&trained, &all), 3);
        assert_eq!(familiar(&trained, &[same_size, namesake]), 0);
        assert_eq!(familiar(&[], &[copy]), 0);
    }
}
