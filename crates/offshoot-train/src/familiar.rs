//! Pictures that a model was trained on.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use offshoot_data::Sample;

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
    let size = |sample: &Sample| fs::metadata(&sample.path).map(|data| data.len()).ok();
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

/// The names of a picture and its folder.
fn ends(path: &Path) -> Option<(String, String)> {
    let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    Some((text(path.parent()?.file_name()?), text(path.file_name()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_known_by_their_bytes_and_lost_ones_by_their_names() {
        let root = tempfile::tempdir().unwrap();
        let sample = |name: &str, bytes: Option<&str>| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            bytes.iter().for_each(|bytes| fs::write(&path, bytes).unwrap());
            Sample { path, label: 0 }
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
