//! TensorRT engines and model repositories for Triton, both from an ONNX file that is proven first.

use std::path::{Path, PathBuf};
use std::process::Command;

use offshoot_files::stem;
use offshoot_formats::onnx::Options as OnnxOptions;
use offshoot_formats::tensorrt::{self, EnginePrecision, Profile};
use offshoot_formats::triton;
use offshoot_graph::Model;
use offshoot_graph::remedy::OUT;
use offshoot_graph::text::{path_text, shown};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::export::{Exported, Proof, export_onnx_with};
use crate::integers::is_quantized;
use crate::staging::{MadeFolders, SideFile, check_replaceable};

const ONNX: &str = "model.onnx";
const ENGINE: &str = "model.engine";
const SCRIPT: &str = "build-engine.sh";

/// The most lines of what `trtexec` said that an error repeats.
const LAST_LINES: usize = 20;

/// How an engine is built.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorRtOptions {
    /// The type that it may compute in.
    pub precision: EnginePrecision,
    /// The batches that it takes.
    pub profile: Profile,
    /// The program `trtexec`; without it the one on `PATH` is taken, if there is one.
    pub trtexec: Option<PathBuf>,
}

/// What [`export_tensorrt`] left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorRtExport {
    /// The ONNX file and its proof. The proof does not cover the engine.
    #[serde(flatten)]
    pub file: Exported,
    /// The engine; `None` where there is no `trtexec`.
    #[serde(serialize_with = "lossy_option")]
    pub engine: Option<PathBuf>,
    /// What builds the engine, in the file's folder.
    pub command: String,
}

fn lossy_option<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.serialize_some(&path_text(path)),
        None => serializer.serialize_none(),
    }
}

/// Writes `model` into `folder` for TensorRT: `model.onnx`, proven as by [`crate::export_onnx`], and `build-engine.sh`, which
/// builds `model.engine` with an optimization profile for the batches that `options` names. Where `trtexec` is found the
/// engine is built at once.
///
/// For [`EnginePrecision::Int8`], `model` is one that [`crate::quantize_static`] made under [`offshoot_quant::Scheme::tensorrt`].
///
/// # Errors
/// Those of [`crate::export_onnx`]; when a model for int8 is not quantized; when the profile is not in order, or `trtexec` fails: with the end of what it said.
pub fn export_tensorrt(
    model: &Model,
    folder: &Path,
    options: &TensorRtOptions,
    proof: Proof<'_>,
) -> Result<TensorRtExport> {
    let trtexec = options.trtexec.as_deref().map(trtexec_program).transpose()?.or_else(on_path);
    let (file, arguments) = tensorrt_folder(model, folder, options, proof)?;
    let words = std::iter::once("trtexec").chain(arguments.iter().map(String::as_str));
    let command = words.map(tensorrt::quoted).collect::<Vec<_>>().join(" ");
    let engine = match trtexec {
        Some(trtexec) => Some(build(&trtexec, folder, &arguments)?),
        None => None,
    };
    Ok(TensorRtExport { file, engine, command })
}

/// All of [`export_tensorrt`] but the engine: the ONNX file, and what `trtexec` is to be asked.
pub(crate) fn tensorrt_folder(
    model: &Model,
    folder: &Path,
    options: &TensorRtOptions,
    proof: Proof<'_>,
) -> Result<(Exported, Vec<String>)> {
    if !options.profile.is_valid() {
        let Profile { min, opt, max } = options.profile;
        let text =
            format!("the batches {min}, {opt} and {max} are not in order: give 1 <= min <= opt <= max");
        return Err(Error::Input(text));
    }
    if options.precision == EnginePrecision::Int8 && !is_quantized(model) {
        return Err(Error::Input(
            "an engine in int8 is made of a model that is quantized for TensorRT".into(),
        ));
    }
    let size = model.metadata.preprocessing.size;
    let arguments = tensorrt::arguments(ONNX, ENGINE, size, options.profile, options.precision);
    let onnx = folder.join(ONNX);
    let script = SideFile {
        path: folder.join(SCRIPT),
        name: SCRIPT.into(),
        text: tensorrt::script(&arguments),
        executable: true,
    };
    script.check(&onnx)?;
    check_engine(&onnx, &folder.join(ENGINE))?;
    let _made = MadeFolders::new(folder)?;
    let file = export_onnx_with(model, &onnx, OnnxOptions::default(), proof, &[script])?;
    Ok((Exported { format: "tensorrt", ..file }, arguments))
}

/// Checks that an engine which stands beside `onnx` is one that was built of an export of ours.
fn check_engine(onnx: &Path, engine: &Path) -> Result<()> {
    let Ok(found) = engine.symlink_metadata() else { return Ok(()) };
    let exported = onnx.exists() && check_replaceable(onnx).is_ok();
    match found.is_file() && exported {
        true => Ok(()),
        false => Err(Error::advice(format_args!(
            "{}: there is something already that was not built of an export of offshoot, and it would be lost; move or remove it, \
             or write elsewhere with {OUT}",
            shown(engine)
        ))),
    }
}

/// The program at `trtexec`, a path of the user's and not one of the folder that it runs in.
///
/// # Errors
/// When there is none.
pub fn trtexec_program(trtexec: &Path) -> Result<PathBuf> {
    let io = |source| Error::Io { path: trtexec.to_owned(), action: "find", source };
    let program = trtexec.canonicalize().map_err(io)?;
    match program.is_file() {
        true => Ok(program),
        false => Err(io(std::io::Error::other("it is no program"))),
    }
}

/// Runs `trtexec` in `folder`.
fn build(trtexec: &Path, folder: &Path, arguments: &[String]) -> Result<PathBuf> {
    let io = |source| Error::Io { path: trtexec.to_owned(), action: "run", source };
    let output = Command::new(trtexec).args(arguments).current_dir(folder).output().map_err(io)?;
    let engine = folder.join(ENGINE);
    if output.status.success() && engine.is_file() {
        return Ok(engine);
    }
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let lines: Vec<&str> = said.lines().collect();
    let end = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    let what = match output.status.success() {
        true => "left no engine".to_owned(),
        false => format!("failed ({})", output.status),
    };
    Err(Error::advice(format_args!(
        "{} {what}; {} and {SCRIPT} stay in {}. It said:\n{end}",
        shown(trtexec),
        ONNX,
        shown(folder)
    )))
}

fn on_path() -> Option<PathBuf> {
    let name = format!("trtexec{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(&name)).find(|p| p.is_file())
}

/// Writes `model` as a repository for Triton Inference Server into the folder `repository`: `NAME/config.pbtxt` with dynamic
/// batching, `NAME/labels.txt`, and `NAME/1/model.onnx`, which is proven as by [`crate::export_onnx`]. Of `name` only what a file can
/// be called by is taken ([`stem`]).
///
/// # Errors
/// Those of [`crate::export_onnx`], and when two classes would have the same label.
pub fn export_triton(
    model: &Model,
    repository: &Path,
    name: &str,
    max_batch: usize,
    proof: Proof<'_>,
) -> Result<Exported> {
    let name = &*stem(name);
    let folder = repository.join(name);
    let (metadata, onnx) = (&model.metadata, folder.join("1").join(ONNX));
    let labels = triton::labels(&metadata.classes).map_err(|problem| problem.at(&folder))?;
    let config = triton::config(name, metadata, max_batch);
    let side = |file: &str, text: String| SideFile {
        path: folder.join(file),
        name: format!("../{file}"),
        text,
        executable: false,
    };
    let side = [side(triton::LABELS, labels), side("config.pbtxt", config)];
    side.iter().try_for_each(|file| file.check(&onnx))?;
    let _made = MadeFolders::new(&folder.join("1"))?;
    let file = export_onnx_with(model, &onnx, OnnxOptions::default(), proof, &side)?;
    Ok(Exported { format: "triton", ..file })
}
