//! Exports of several models in one folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::Manifest;

/// What manifests are called after their file's name.
const ENDING: &str = ".manifest.json";
/// Folders that are exports themselves, with their manifests further down.
const FOLDERS: [&str; 2] = ["-tensorrt", "-triton"];
/// How far down: of a repository of Triton, `NAME-triton/NAME/1`.
const DEPTH: usize = 3;

/// The exports in `folder` that were made of another checkpoint than the one with this SHA-256, by name, with the SHA-256 of theirs.
/// What cannot be read is left out.
pub fn exports_of_others(folder: &Path, sha256: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    search(folder, 0, sha256, &mut found);
    found.sort();
    found
}

fn search(folder: &Path, depth: usize, sha256: &str, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && depth < DEPTH && (depth > 0 || FOLDERS.iter().any(|ending| name.ends_with(ending))) {
            search(&path, depth + 1, sha256, found);
        }
        let Some(exported) = name.strip_suffix(ENDING).filter(|_| !is_folder) else { continue };
        let exported = path.with_file_name(exported);
        let manifest = Manifest::read_beside(&exported).ok().flatten();
        let source = manifest.and_then(|manifest| manifest.source_sha256);
        found.extend(source.filter(|source| source != sha256).map(|source| (exported, source)));
    }
}
