//! What stands beside each exported file: its hash, where it came from, and how it was proven.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use offshoot_formats::atomic::write_atomically;
use offshoot_graph::text::shown;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::compare::Comparison;
use crate::error::{Error, Result};

/// More than any manifest takes, in bytes.
const MAX_BYTES: u64 = 1 << 24;

/// The manifest of an export. The same export of the same model gives the same manifest: it holds no time, path or host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of offshoot that wrote the files.
    pub offshoot: String,
    /// The format's name on the command line.
    pub format: String,
    /// The files, by name.
    pub files: Vec<ManifestFile>,
    /// SHA-256 of the checkpoint that was exported, where there was one file.
    pub source_sha256: Option<String>,
    /// How the files were compared with the model that was exported; those in int8, with the float model.
    pub proof: ManifestProof,
}

/// A file of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its path below the manifest's folder, with `/` between names.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// How an export was proven.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestProof {
    /// `read back` when the files were read again and run beside the model, `structure` when only their form was checked.
    pub kind: String,
    /// The largest difference that was accepted, in parts of the largest logit. `offshoot verify` accepts the same.
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

/// How near the pixels that a file prepares are to ours, on pictures of awkward sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The largest difference of a logit, in parts of the largest: that of the file beginning with bytes, from the model on our
    /// pixels.
    pub max_rel_diff: Option<f64>,
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

    /// Of files that cannot be read back here.
    pub fn structure() -> ManifestProof {
        ManifestProof {
            kind: "structure".into(),
            tolerance: None,
            max_abs_diff: None,
            max_rel_diff: None,
            cosine: None,
            top1_agreement: None,
            batches: Vec::new(),
            pictures: 0,
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
            collect(path, &name(path), &mut files)?;
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let offshoot = env!("CARGO_PKG_VERSION").into();
        Ok(Manifest { offshoot, format: format.into(), files, source_sha256, proof })
    }

    /// The manifest's place beside an exported file or folder: its name with `.manifest.json` at the end.
    pub fn beside(path: &Path) -> PathBuf {
        path.with_file_name(format!("{}.manifest.json", name(path)))
    }

    /// The difference that the files were proven to stay below, in parts of the largest logit.
    pub fn tolerance(&self) -> Option<f64> {
        self.proof.tolerance.filter(|x| x.is_finite() && *x > 0.0)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::Input(e.to_string()))?;
        Ok(write_atomically(path, |file| writeln!(file, "{json}"))?)
    }

    /// Reads the manifest beside `path`; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_beside(path: &Path) -> Result<Option<Manifest>> {
        let manifest = Manifest::beside(path);
        let mut text = String::new();
        match File::open(&manifest).and_then(|f| f.take(MAX_BYTES).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path: manifest, action: "read", source }),
        }
        let broken = |e| Error::Input(format!("{}: it is no manifest of offshoot: {e}", shown(&manifest)));
        serde_json::from_str(&text).map(Some).map_err(broken)
    }

    /// Whether the file at `path`, or each file in the folder there, stands in this manifest as it is. Links do not.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn owns(&self, path: &Path) -> Result<bool> {
        self.owns_under(path, &name(path))
    }

    fn owns_under(&self, path: &Path, relative: &str) -> Result<bool> {
        let failed = |source| Error::Io { path: path.to_owned(), action: "read", source };
        let found = path.symlink_metadata().map_err(failed)?;
        if !found.is_dir() {
            let listed = self.files.iter().find(|file| file.name == relative);
            let same_size = listed.filter(|file| found.is_file() && file.bytes == found.len());
            return same_size.map_or(Ok(false), |file| Ok(sha256(path)? == file.sha256));
        }
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let below = format!("{relative}/{}", entry.file_name().to_string_lossy());
            if !self.owns_under(&entry.path(), &below)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What does not hold of the files below `folder`, in words.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn check(&self, folder: &Path) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for file in &self.files {
            let below = Path::new(&file.name);
            let plain = below.components().all(|c| matches!(c, Component::Normal(_)));
            let path = folder.join(below);
            if !plain {
                found.push(format!("the manifest names `{}`, which is not below its folder", file.name));
            } else if !path.is_file() {
                found.push(format!("`{}`, which the manifest names, is missing", file.name));
            } else if sha256(&path)? != file.sha256 {
                found.push(format!(
                    "`{}` is not the file that the manifest describes: its SHA-256 differs",
                    file.name
                ));
            }
        }
        Ok(found)
    }
}

/// SHA-256 of the file at `path`, in hexadecimal digits.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let failed = |source| Error::Io { path: path.to_owned(), action: "read", source };
    sha256_of(&mut File::open(path).map_err(failed)?).map_err(failed)
}

/// SHA-256 of what is left to read of `source`, in hexadecimal digits.
pub(crate) fn sha256_of(source: &mut impl io::Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(source, &mut HashWriter(&mut hasher))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn collect(path: &Path, relative: &str, files: &mut Vec<ManifestFile>) -> Result<()> {
    let failed = |source| Error::Io { path: path.to_owned(), action: "read", source };
    if !path.is_dir() {
        let bytes = fs::metadata(path).map_err(failed)?.len();
        files.push(ManifestFile { name: relative.into(), bytes, sha256: sha256(path)? });
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let below = format!("{relative}/{}", entry.file_name().to_string_lossy());
        collect(&entry.path(), &below, files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_finds_what_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("m.package")).expect("a folder");
        fs::write(at("m.package/a"), b"abc").expect("a file");
        fs::write(at("m.data"), b"").expect("a file");
        let paths = [at("m.package"), at("m.data")];
        let manifest = Manifest::of("onnx", &paths, None, ManifestProof::structure()).expect("it is made");
        let names: Vec<&str> = manifest.files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["m.data", "m.package/a"]);
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((manifest.files[1].bytes, manifest.files[1].sha256.as_str()), (3, abc));
        manifest.write(&Manifest::beside(&at("m.package"))).expect("it is written");
        let read = Manifest::read_beside(&at("m.package")).expect("it is read").expect("it is there");
        assert_eq!(read, manifest);
        assert_eq!(read.check(folder.path()).expect("it is checked"), [""; 0]);
        let owns = |name: &str| read.owns(&at(name)).expect("it is looked at");
        assert!(owns("m.package") && owns("m.data"));
        fs::write(at("m.package/mine"), b"").expect("a file");
        assert!(!owns("m.package"));
        fs::remove_file(at("m.package/mine")).expect("it was there");
        assert!(owns("m.package"));
        fs::write(at("m.package/a"), b"abd").expect("a file");
        assert!(!owns("m.package"));
        fs::remove_file(at("m.data")).expect("it was there");
        let found = read.check(folder.path()).expect("it is checked");
        assert!(found[0].contains("missing") && found[1].contains("SHA-256"), "{found:?}");
    }

    #[test]
    fn a_manifest_does_not_lead_elsewhere() {
        let entry = |name: &str| ManifestFile { name: name.into(), bytes: 0, sha256: String::new() };
        let files = vec![entry("../secret"), entry("/etc/passwd")];
        let manifest = Manifest {
            offshoot: String::new(),
            format: String::new(),
            files,
            source_sha256: None,
            proof: ManifestProof::structure(),
        };
        let found = manifest.check(Path::new("/nowhere")).expect("nothing is opened");
        assert!(found.iter().all(|f| f.contains("not below its folder")) && found.len() == 2, "{found:?}");
    }
}
