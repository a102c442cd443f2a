//! What stands beside each exported file: its hash, where it came from, and how it was proven.

mod check;
mod others;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use offshoot_files::{Kind, read_text};
use offshoot_formats::atomic::write_atomically;
use offshoot_graph::text::shown;
use serde::{Deserialize, Serialize};

use crate::compare::Comparison;
use crate::error::{Error, Result};
use crate::hash::{sha256, sha256_of_text};

pub(crate) use check::MOST_TOLERANCE;
pub use check::{origin, origins};
pub use others::exports_of_others;

/// The manifest of an export. The same export of the same model gives the same manifest: it holds no time, path or host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of offshoot that wrote the files.
    pub offshoot: String,
    /// The format's name on the command line.
    pub format: String,
    /// The files, by name.
    pub files: Vec<ManifestFile>,
    /// Texts that go with them as they were written, such as a script or a configuration: they may be edited, and one that was is
    /// not replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub side_files: Vec<ManifestFile>,
    /// SHA-256 of the checkpoint that the files were made of, where there was one; see [`origin`].
    pub source_sha256: Option<String>,
    /// How the files were compared with the model that was exported; those in int8, with the float model.
    pub proof: ManifestProof,
}

/// A file of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Its path from the manifest's folder, with `/` between names. Of a side file that may begin with `../`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// How an export was proven.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestProof {
    /// `read back`: the files were read again and run beside the model.
    pub kind: String,
    /// The largest difference that was accepted, relative to the largest logit. `offshoot verify` accepts the same.
    pub tolerance: Option<f64>,
    /// As in [`Comparison`].
    pub max_abs_diff: Option<f64>,
    /// As in [`Comparison`].
    pub max_rel_diff: Option<f64>,
    /// As in [`Comparison`].
    pub cosine: Option<f64>,
    /// As in [`Comparison`].
    pub top1_agreement: Option<f64>,
    /// The sizes of the batches that were run.
    pub batches: Vec<usize>,
    /// How many pictures were compared.
    pub pictures: usize,
    /// How near a file that prepares its pictures itself comes to our pixels. Others leave that to who gives them pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparation: Option<ManifestPreparation>,
}

/// How near the pixels that a file prepares are to ours, on pictures of unusual sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestPreparation {
    /// `computed` when the nodes of the file were computed by their definition, `stated` when what is said was measured beforehand
    /// in the format's own runtime and not on this file.
    pub kind: String,
    /// How many pictures were prepared.
    pub pictures: usize,
    /// The most that a pixel differs by, in levels of 255: measured, or the bound where it is stated.
    pub max_levels: f64,
    /// The most that the pixels of a picture differ by in the mean; the same.
    pub mean_levels: f64,
    /// The largest difference of a logit, relative to the largest: that of the file beginning with bytes, from the model on our
    /// pixels.
    pub max_rel_diff: Option<f64>,
}

impl ManifestFile {
    /// Of a text.
    pub(crate) fn of_text(name: &str, text: &str) -> ManifestFile {
        let sha256 = sha256_of_text(text);
        ManifestFile { name: name.into(), bytes: text.len() as u64, sha256 }
    }

    /// How the regular file at `path` differs from this one, in words.
    fn difference(&self, path: &Path) -> Result<Option<String>> {
        let failed = |source| Error::Io { path: path.to_owned(), action: "read", source };
        let bytes = fs::metadata(path).map_err(failed)?.len();
        if bytes != self.bytes {
            return Ok(Some(format!("it has {bytes} bytes, not {}", self.bytes)));
        }
        let same = sha256(path)?.eq_ignore_ascii_case(&self.sha256);
        Ok((!same).then(|| "its SHA-256 differs".to_owned()))
    }
}

impl ManifestProof {
    /// Of files that were read again and compared.
    pub fn compared(comparison: &Comparison, tolerance: f64, pictures: usize) -> ManifestProof {
        ManifestProof {
            kind: "read back".into(),
            tolerance: Some(tolerance),
            max_abs_diff: Some(comparison.max_abs_diff),
            max_rel_diff: Some(comparison.max_rel_diff),
            cosine: Some(comparison.cosine),
            top1_agreement: Some(comparison.top1_agreement),
            batches: comparison.batches.clone(),
            pictures,
            preparation: None,
        }
    }
}

impl Manifest {
    /// The manifest of `paths`, files or folders that stand side by side.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn of(
        format: &str,
        paths: &[PathBuf],
        source_sha256: Option<String>,
        proof: ManifestProof,
    ) -> Result<Manifest> {
        let mut files = Vec::new();
        for path in paths {
            walk(path, &name(path), &mut |path, relative| {
                let failed = |source| Error::Io { path: path.to_owned(), action: "read", source };
                let bytes = fs::metadata(path).map_err(failed)?.len();
                files.push(ManifestFile { name: relative.into(), bytes, sha256: sha256(path)? });
                Ok(())
            })?;
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let offshoot = env!("CARGO_PKG_VERSION").into();
        Ok(Manifest { offshoot, format: format.into(), files, side_files: Vec::new(), source_sha256, proof })
    }

    /// The manifest's place beside an exported file or folder: its name with `.manifest.json` at the end.
    pub fn beside(path: &Path) -> PathBuf {
        path.with_file_name(format!("{}.manifest.json", name(path)))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::Input(e.to_string()))?;
        Ok(write_atomically(path, |file| writeln!(file, "{json}"))?)
    }

    /// Whether the file at `path`, or each file in the folder there, stands in this manifest as it is. Links do not. `relative` is
    /// its path from the manifest's folder.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn owns(&self, path: &Path, relative: &str) -> Result<bool> {
        let failed = |source| Error::Io { path: path.to_owned(), action: "read", source };
        let found = path.symlink_metadata().map_err(failed)?;
        if !found.is_dir() {
            let listed = self.files.iter().chain(&self.side_files).find(|file| file.name == relative);
            let listed = listed.filter(|_| found.is_file());
            return listed.map_or(Ok(false), |file| Ok(file.difference(path)?.is_none()));
        }
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let below = format!("{relative}/{}", entry.file_name().to_string_lossy());
            if !self.owns(&entry.path(), &below)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the manifest beside `path`; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_beside(path: &Path) -> Result<Option<Manifest>> {
        let manifest = Manifest::beside(path);
        let text = match read_text(&manifest, Kind::MANIFEST) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path: manifest, action: "read", source }),
        };
        let broken = |e| Error::Input(format!("{}: it is no manifest of offshoot: {e}", shown(&manifest)));
        serde_json::from_str(&text).map(Some).map_err(broken)
    }
}

pub(crate) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Hands each file at or below `path` to `found`, with its path from there, of which `relative` is the start.
fn walk(path: &Path, relative: &str, found: &mut dyn FnMut(&Path, &str) -> Result<()>) -> Result<()> {
    let failed = |source| Error::Io { path: path.to_owned(), action: "read", source };
    if !path.is_dir() {
        return found(path, relative);
    }
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let below = format!("{relative}/{}", entry.file_name().to_string_lossy());
        // A link to a folder is none: links may go round.
        match entry.file_type().map_err(failed)?.is_dir() {
            true => walk(&entry.path(), &below, found)?,
            false => found(&entry.path(), &below)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_files_and_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("m.package")).expect("a folder");
        fs::write(at("m.package/a"), b"abc").expect("a file");
        fs::write(at("m.data"), b"").expect("a file");
        let paths = [at("m.package"), at("m.data")];
        let proof = ManifestProof::compared(&Comparison::impossible(), 1e-4, 1);
        let proof = ManifestProof { max_abs_diff: Some(0.0), max_rel_diff: None, cosine: Some(1.0), ..proof };
        let manifest = Manifest::of("onnx", &paths, None, proof).expect("it is made");
        let names: Vec<&str> = manifest.files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["m.data", "m.package/a"]);
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((manifest.files[1].bytes, manifest.files[1].sha256.as_str()), (3, abc));
        manifest.write(&Manifest::beside(&at("m.package"))).expect("it is written");
        let read = Manifest::read_beside(&at("m.package")).expect("it is read").expect("it is there");
        assert_eq!(read, manifest);
        let owns = |name: &str| read.owns(&at(name), name).expect("it is looked at");
        assert!(owns("m.package") && owns("m.data"));
        fs::write(at("m.package/mine"), b"").expect("a file");
        assert!(!owns("m.package"));
        fs::remove_file(at("m.package/mine")).expect("it was there");
        assert!(owns("m.package"));
        fs::write(at("m.package/a"), b"abd").expect("a file");
        assert!(!owns("m.package"));
    }
}
