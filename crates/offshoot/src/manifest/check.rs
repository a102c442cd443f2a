//! What of a manifest does not hold. Every field of it is looked at, and what it names is never believed to be a path that may
//! be opened.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use offshoot_formats::content::{self, Content};
use offshoot_formats::coreml;
use offshoot_graph::Model;
use offshoot_graph::text::{escaped, shown};

use super::{Manifest, ManifestFile, ManifestPreparation, name};
use crate::compare::{INT8_TOLERANCE, TOLERANCE};
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::integers::is_quantized;
use crate::source::{ModelSource, is_pt2};

/// No file that is further from its model is written: its outputs have nothing in common with the model's.
pub(crate) const MOST_TOLERANCE: f64 = 10.0;

/// Above 1 only by rounding.
const MOST_COSINE: f64 = 1.0 + 1e-6;

/// The formats that manifests name.
const FORMATS: [&str; 6] = ["onnx", "torchscript", "pt2", "coreml", "litert", "safetensors"];

impl Manifest {
    /// What does not hold of the file or package at `path`, which the manifest stands beside, in words.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn check(&self, path: &Path) -> Result<Vec<String>> {
        let mut found = self.check_words(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let files = self.under_its_name(path);
        let mut named = BTreeSet::new();
        for file in &files {
            match named.insert(&*file.name) {
                true => found.extend(check_file(folder, file)?),
                false => found.push(format!("the manifest names `{}` twice", escaped(&file.name))),
            }
        }
        found.extend(unnamed(path, &named)?);
        Ok(found)
    }

    /// Its files, where the one file of an export may have been given another name together with its manifest.
    fn under_its_name(&self, path: &Path) -> Vec<ManifestFile> {
        let plain = |file: &ManifestFile| {
            let mut parts = Path::new(&file.name).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
        };
        match &self.files[..] {
            [file] if path.is_file() && plain(file) && !file.name.contains('\\') => {
                vec![ManifestFile { name: name(path), ..file.clone() }]
            }
            files => files.to_vec(),
        }
    }

    /// Checks that the file or package at `path` is what the manifest beside it describes, where there is one: a damaged file
    /// would silently give other outputs.
    ///
    /// # Errors
    /// When it is another, or cannot be read.
    pub fn check_intact(path: &Path) -> Result<()> {
        // A manifest that cannot be read says nothing; `verify` says so.
        let Ok(Some(manifest)) = Manifest::read_beside(path) else { return Ok(()) };
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in manifest.under_its_name(path) {
            if let Some(what) = check_file(folder, &file)? {
                return Err(Error::Input(format!(
                    "{}: {what}; put back a copy that is whole, or export again; where it was changed on purpose, remove {}",
                    shown(path),
                    shown(Manifest::beside(path))
                )));
            }
        }
        Ok(())
    }

    /// Its words on the program and the format.
    fn check_words(&self, path: &Path) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let parts: Vec<&str> =
            self.offshoot.split(['-', '+']).next().unwrap_or_default().split('.').collect();
        if parts.len() != 3 || parts.iter().any(|part| part.parse::<u32>().is_err()) {
            found.push(format!(
                "the manifest's version of offshoot is `{}`, which is none",
                escaped(&self.offshoot)
            ));
        }
        let format = match () {
            () if coreml::is_package(path) => "coreml",
            () if path.is_dir() => "a folder",
            () => match content::of(path)? {
                Content::Onnx => "onnx",
                Content::LiteRt => "litert",
                Content::Safetensors => "safetensors",
                Content::Zip if is_pt2(path)? => "pt2",
                Content::Zip => "torchscript",
                Content::Pickle => "a pickle",
            },
        };
        if self.format != format || !FORMATS.contains(&format) {
            let stated = escaped(&self.format);
            found.push(format!("the manifest is of the format `{stated}`, and the file is {format}"));
        }
        Ok(found)
    }

    /// What does not hold of the proof of `model`, the model that the file holds, in words; and the tolerance that it may be
    /// checked with.
    pub fn check_proof(&self, model: &Model) -> (Vec<String>, f64) {
        let proof = &self.proof;
        let mut found = Vec::new();
        let mut wrong = |what: &str, value: Option<f64>| match value {
            Some(value) => found.push(format!("the manifest's proof is none: `{what}` is {value:e}")),
            None => found.push(format!("the manifest's proof is none: it has no `{what}` that could be")),
        };
        if proof.kind != "read back" {
            wrong("kind", None);
        }
        let known = |x: Option<f64>| x.filter(|x| x.is_finite()).unwrap_or(f64::NAN);
        let (rel, abs) = (known(proof.max_rel_diff), known(proof.max_abs_diff));
        let most = self.most_tolerance(model, rel);
        let tolerance = known(proof.tolerance);
        if !(tolerance > 0.0 && tolerance <= most) {
            wrong("tolerance", proof.tolerance);
        }
        if !(0.0..=most.min(if tolerance > 0.0 { tolerance } else { most })).contains(&rel) {
            wrong("max_rel_diff", proof.max_rel_diff);
        }
        if !(0.0..=f64::from(f32::MAX)).contains(&abs) || (abs == 0.0) != (rel == 0.0) {
            wrong("max_abs_diff", proof.max_abs_diff);
        }
        if !(-MOST_COSINE..=MOST_COSINE).contains(&known(proof.cosine)) {
            wrong("cosine", proof.cosine);
        }
        if !(0.0..=1.0).contains(&known(proof.top1_agreement)) {
            wrong("top1_agreement", proof.top1_agreement);
        }
        if proof.batches.is_empty() || proof.batches.iter().any(|n| !(1..=1 << 16).contains(n)) {
            wrong("batches", None);
        }
        if proof.pictures == 0 {
            wrong("pictures", None);
        }
        if proof.preparation.as_ref().is_some_and(|preparation| !preparation.is_possible()) {
            wrong("preparation", None);
        }
        let usable = tolerance > 0.0 && tolerance <= most;
        (found, if usable { tolerance } else { TOLERANCE })
    }

    /// The largest tolerance that an export of `model` states, where the largest difference was `found`.
    fn most_tolerance(&self, model: &Model, found: f64) -> f64 {
        match &*self.format {
            _ if is_quantized(model) => INT8_TOLERANCE.max(2.0 * found).min(MOST_TOLERANCE),
            // Weights that are stored in less are floats again when they are read.
            "coreml" | "litert" => INT8_TOLERANCE,
            _ => TOLERANCE,
        }
    }
}

impl ManifestPreparation {
    fn is_possible(&self) -> bool {
        let levels = |x: f64| (0.0..=255.0).contains(&x);
        let diff = self.max_rel_diff.is_none_or(|x| x.is_finite() && x >= 0.0);
        let pictures = match &*self.kind {
            "computed" => self.pictures > 0,
            "stated" => self.pictures == 0,
            _ => false,
        };
        pictures
            && levels(self.max_levels)
            && levels(self.mean_levels)
            && self.mean_levels <= self.max_levels
            && diff
    }
}

/// What does not hold of one file below `folder`.
fn check_file(folder: &Path, file: &ManifestFile) -> Result<Option<String>> {
    let (below, name) = (Path::new(&file.name), escaped(&file.name));
    let plain = below.components().all(|c| matches!(c, Component::Normal(_)));
    if file.name.is_empty() || !plain || file.name.contains('\\') {
        return Ok(Some(format!("the manifest names `{name}`, which is not below its folder")));
    }
    let path = folder.join(below);
    if !path.is_file() {
        return Ok(Some(format!("`{name}`, which the manifest names, is missing")));
    }
    let difference = file.difference(&path)?;
    Ok(difference.map(|how| format!("`{name}` is not the file that the manifest describes: {how}")))
}

/// What belongs to the file or package at `path` and is not among the `named` files.
fn unnamed(path: &Path, named: &BTreeSet<&str>) -> Result<Vec<String>> {
    let mut there = Vec::new();
    let beside = path.with_file_name(format!("{}.data", name(path)));
    for path in [path, &beside] {
        if path.exists() {
            super::walk(path, &name(path), &mut |_, relative| {
                there.push(relative.to_owned());
                Ok(())
            })?;
        }
    }
    let missing = there.into_iter().filter(|relative| !named.contains(&**relative));
    Ok(missing.map(|relative| format!("`{}` is not in the manifest", escaped(&relative))).collect())
}

/// [`origin`] of a model, after the SHA-256 of its own file.
///
/// # Errors
/// When the file cannot be read.
pub fn origins(source: &ModelSource) -> Result<[String; 2]> {
    let own = sha256(&source.checkpoint()?)?;
    let Ok(Some(manifest)) = Manifest::read_beside(source.path()) else { return Ok([own.clone(), own]) };
    let of_this = manifest.files.iter().any(|file| file.sha256 == own);
    let digits =
        |made_of: &String| made_of.len() == own.len() && made_of.bytes().all(|b| b.is_ascii_hexdigit());
    let made_of = manifest.source_sha256.filter(digits).filter(|_| of_this);
    Ok([own.clone(), made_of.unwrap_or(own)])
}

/// SHA-256 of the checkpoint that a model comes from: that of its own file, or, of a file of ours, the one that the manifest beside
/// it says it was made of.
///
/// # Errors
/// When the file cannot be read.
pub fn origin(source: &ModelSource) -> Result<String> {
    let [_, made_of] = origins(source)?;
    Ok(made_of)
}
