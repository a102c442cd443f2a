//! `offshoot bench formats`

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use offshoot::jobs::{writable_file, writable_folder};
use offshoot::{
    Dataset, FormatsOptions, FormatsProgress, Model, QuantizePictures, RunPictures, Transform, bench_formats,
    check_formats, jobs, labelled, origin, write_formats,
};
use offshoot_graph::Executor as _;
use offshoot_train::report::{self, FORMATS_FILE, FormatRow, FormatsReport};
use offshoot_train::results::has_results;

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor, TableArguments, whole};
use super::{Failure, Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL: a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt, a .pt2 or a Hugging Face folder.
    #[arg(value_name = "MODEL")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// Folder of pictures with classes, as `train` takes it: the training pictures calibrate static int8, accuracy is
    /// measured on the validation pictures [default: the run's own].
    #[arg(long, help_heading = "Data", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Batch sizes; each is measured.
    #[arg(long, help_heading = "Data", value_name = "N,..", value_delimiter = ',', default_value = "1,16", value_parser = whole::<usize>("batch"))]
    batch: Vec<usize>,
    /// Number of timed steps of each target at each batch size.
    #[arg(long, help_heading = "Execution", value_name = "N", default_value_t = 20, value_parser = whole::<usize>("runs"))]
    runs: usize,
    /// Folder to keep the files of the targets and formats.json in [default: they are removed at the end].
    #[arg(long, help_heading = "Output", value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    table: TableArguments,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(mut self) -> Outcome {
        let named = self.pretrained.only_source(&self.paths)?;
        if let Some(out) = &self.out {
            writable_folder(out)?;
            check_formats(out)?;
        }
        let executor = self.processor.device()?;
        let source = jobs::checkpoint_of(&named, self.pretrained.last())?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let run = jobs::run_directory(&named);
        if let Some(run) = run {
            writable_file(&run.join(FORMATS_FILE))?;
            check_formats(run)?;
        }
        let pictures = pictures(&model, run, self.data.as_deref(), &self.table)?;
        let trained_on = match (run, &self.data) {
            (Some(run), Some(data)) => {
                let known = RunPictures::read(run, &model.metadata.classes)?.familiar(&pictures.measured);
                let text = jobs::familiar(known, data, pictures.measured.len());
                text.iter().for_each(|text| print::warning(text));
                Some(known)
            }
            _ => None,
        };
        let sha256 = origin(&source)?;
        if let Some(out) = &self.out {
            let others = jobs::mention_others(out, source.path(), &sha256);
            others.iter().for_each(|text| print::warning(text));
        }
        let options = FormatsOptions {
            batches: without_repeats(std::mem::take(&mut self.batch)),
            runs: self.runs,
            out: self.out.take(),
            source_sha256: Some(sha256),
            trained_on,
        };
        let mut shown = Shown::default();
        let measured =
            bench_formats(&model, &pictures, &options, &executor, &mut |progress| shown.show(progress));
        shown.clear();
        let measured = measured?;
        if let Some(run) = run {
            write_formats(run, &measured)?;
            if has_results(run) {
                let damaged = report::write(run, &executor.describe())?;
                damaged.iter().for_each(|text| print::warning(text));
            }
        }
        if self.json { print::json(&measured) } else { text(&measured) }
    }
}

/// Each number once.
fn without_repeats(numbers: Vec<usize>) -> Vec<usize> {
    let mut seen = HashSet::new();
    numbers.into_iter().filter(|&n| seen.insert(n)).collect()
}

/// The pictures to calibrate and to measure on: those of `data`, else those of the run. A run is calibrated on what it was
/// trained with in any case.
fn pictures(
    model: &Model,
    run: Option<&Path>,
    data: Option<&Path>,
    table: &TableArguments,
) -> Result<QuantizePictures, Failure> {
    let classes = &model.metadata.classes;
    let of_run = match run {
        Some(run) => RunPictures::read(run, classes)?,
        None => RunPictures::default(),
    };
    if data.is_none() {
        jobs::changed(&of_run).iter().for_each(|text| print::warning(text));
    }
    let (mut train, mut measured) = (of_run.train, of_run.val);
    if let Some(data) = data {
        let decode = Transform::new(&model.metadata.preprocessing)?.decode_options();
        let folder = table.options(decode, &model.metadata);
        // All of the folder, which also says which of its classes the model does not know.
        let found = labelled(data, classes, &folder)?;
        print::notes(&found.notes);
        print::skipped(&found.skipped);
        measured = found.samples;
        if run.is_none() {
            let split = Dataset::open(data, &folder)?;
            let kept: HashSet<PathBuf> = split.val.into_iter().map(|sample| sample.path).collect();
            measured.retain(|sample| kept.contains(&sample.path));
            train = split.train;
        }
    }
    let looked_at: HashSet<&Path> = measured.iter().map(|sample| &*sample.path).collect();
    let calibration = train.into_iter().map(|sample| sample.path);
    let calibration = calibration.filter(|path| !looked_at.contains(&**path)).collect();
    let mut pictures = QuantizePictures { calibration, measured, ..QuantizePictures::default() };
    if let Some(text) = pictures.leave_out_copies() {
        print::warning(&text);
    }
    Ok(pictures)
}

/// What is shown on standard error meanwhile: a line for each thing that is done, a bar for what is counted.
#[derive(Default)]
struct Shown(Option<(&'static str, ProgressBar)>);

impl Shown {
    fn show(&mut self, progress: FormatsProgress<'_>) {
        match progress {
            FormatsProgress::Doing(text) => print::aside(text),
            FormatsProgress::Counting { what, done, total } => {
                if self.0.as_ref().is_none_or(|(counted, _)| *counted != what) {
                    self.clear();
                    self.0 = Some((what, print::bar(total, what)));
                }
                if let Some((_, bar)) = &self.0 {
                    bar.set_position(done);
                }
            }
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// The table for people.
fn text(report: &FormatsReport) -> Outcome {
    let mut lines = vec![report.columns().map(str::to_owned).to_vec()];
    lines.extend(report.ran().map(FormatRow::cells));
    print::table(&lines, 1)?;
    let width = print::widest(lines.iter().map(|line| line[0].as_str()));
    for row in report.not_run() {
        let bytes = row.bytes.map_or(String::new(), |n| format!(", {}", print::bytes(n)));
        let reason = row.reason.as_deref().unwrap_or_default();
        print::line(&format!("{:<width$}  not run{bytes}: {reason}", row.target))?;
    }
    print::line(&match report.pictures {
        0 => "differences on built-in pictures; --data DIR measures accuracy".into(),
        n => {
            format!("{} and differences on {n} pictures", report.figure())
        }
    })?;
    print::line(&report.conditions())
}
