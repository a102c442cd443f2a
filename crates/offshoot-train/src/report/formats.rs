//! What `offshoot bench formats` has measured, and its part of the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use offshoot_files::{Kind, read_text};
use offshoot_graph::Task;
use offshoot_graph::text::quoted;
use serde::{Deserialize, Serialize};

use super::chart::{Bars, bars};
use super::page::{escaped, isolated, table};
use super::percent;

/// The name of the measurements in a run directory.
pub const FORMATS_FILE: &str = "formats.json";

/// The heads of a table of targets, for [`FormatRow::cells`].
pub const FORMAT_COLUMNS: [&str; 10] = [
    "target",
    "batch",
    "images/s",
    "p50 ms",
    "p95 ms",
    "speed",
    "MB",
    "accuracy",
    "difference",
    "top-1 same",
];

/// One model on every target, measured side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FormatsReport {
    /// A row for each target and batch; for a target that was not run one row.
    pub rows: Vec<FormatRow>,
    /// The processor's name.
    pub cpu: String,
    /// Its instructions that matter here, by their usual names (`avx2`, `avx512vnni`).
    pub cpu_features: Vec<String>,
    /// The SIMD path of offshoot's own runtime.
    pub isa: String,
    /// The threads of every target.
    pub threads: usize,
    /// Steps before those that are timed.
    pub warm_up: usize,
    /// Timed steps of each target at each batch.
    pub runs: usize,
    /// Pictures that accuracy was measured on; 0 where there were none, and differences are those on built-in pictures.
    pub pictures: u64,
    /// How many of those the model was trained with, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<usize>,
    /// What pictures have: of any number of classes the mean average precision, of numbers R^2 stands in the place of the accuracy.
    #[serde(default, skip_serializing_if = "Task::is_single")]
    pub task: Task,
    /// The versions of the runtimes, by name.
    pub versions: BTreeMap<String, String>,
}

/// Whether a target was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FormatStatus {
    /// It was.
    #[serde(rename = "ran")]
    Ran,
    /// It was not; the row has the reason.
    #[serde(rename = "not run")]
    NotRun,
}

/// A target at a batch. What was not measured is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FormatRow {
    /// Runtime and type, as in `onnxruntime-int8-static`.
    pub target: String,
    /// Batch size.
    pub batch: Option<usize>,
    /// Whether it was run.
    pub status: FormatStatus,
    /// Why it was not.
    pub reason: Option<String>,
    /// Pictures a second, at the median step.
    pub images_per_second: Option<f64>,
    /// The median step, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The step that 95 in 100 are not slower than, in milliseconds.
    pub p95_ms: Option<f64>,
    /// The size of the file or folder that is shipped.
    pub bytes: Option<u64>,
    /// The fraction of the pictures whose class is right; of several labels, the mean average precision; of numbers, the mean R^2.
    pub accuracy: Option<f64>,
    /// Pictures a second over those of offshoot in f32, at the same batch.
    pub speedup: Option<f64>,
    /// The largest difference of a logit from offshoot's in f32.
    pub max_abs_diff: Option<f64>,
    /// The same relative to the largest logit.
    pub max_rel_diff: Option<f64>,
    /// The fraction of the pictures whose best class is that of offshoot in f32.
    pub top1_agreement: Option<f64>,
}

impl FormatsReport {
    /// The heads of a table of targets, for [`FormatRow::cells`].
    pub fn columns(&self) -> [&'static str; 10] {
        FORMAT_COLUMNS.map(|name| if name == "accuracy" { self.figure() } else { name })
    }

    /// What is measured on pictures, in words.
    pub fn figure(&self) -> &'static str {
        match self.task {
            Task::Single => "accuracy",
            Task::Multi => "mAP",
            Task::Regression => "R^2",
        }
    }

    /// Reads the measurements in the folder `run`. `None` where there are none.
    ///
    /// # Errors
    /// When the file cannot be read, or is not one of measurements.
    pub fn read(run: &Path) -> io::Result<Option<FormatsReport>> {
        let text = match read_text(&run.join(FORMATS_FILE), Kind::MEASUREMENTS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let wrong = |error: serde_json::Error| {
            io::Error::new(io::ErrorKind::InvalidData, quoted(&error.to_string()).into_owned())
        };
        serde_json::from_str(&text).map(Some).map_err(wrong)
    }

    /// The machine and how was measured, in words.
    pub fn conditions(&self) -> String {
        let FormatsReport { cpu, cpu_features, isa, threads, warm_up, runs, .. } = self;
        let versions: Vec<String> =
            self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        format!(
            "{cpu} ({}); path {isa}; {threads} {}; {warm_up} steps to warm up, {runs} timed, alternately; {}",
            cpu_features.join(" "),
            if *threads == 1 { "thread" } else { "threads" },
            versions.join(", ")
        )
    }

    /// The batches that were run, in their order.
    fn batches(&self) -> Vec<usize> {
        let mut batches = Vec::new();
        for batch in self.rows.iter().filter_map(|row| row.batch) {
            if !batches.contains(&batch) {
                batches.push(batch);
            }
        }
        batches
    }

    /// The part of the page: a chart, a table, and what was not run.
    pub(super) fn section(&self) -> String {
        let pictures = match self.pictures {
            0 => {
                "There were no pictures with classes: differences are those on pictures that offshoot makes."
                    .to_owned()
            }
            n => {
                let figure = if self.task.is_single() { "Accuracy" } else { self.figure() };
                format!("{figure} and differences are those on {n} pictures.")
            }
        };
        let mut html = format!(
            "<p>{}. {pictures} Speed and difference are relative to offshoot in f32; a difference is relative to the \
             largest logit.</p>",
            escaped(&self.conditions())
        );
        html += &self.chart();
        let rows: Vec<Vec<String>> = self.ran().map(FormatRow::cells).collect();
        html += &table(&self.columns(), &rows, 1);
        if self.not_run().next().is_some() {
            html += "<h3>Not run</h3>";
        }
        for row in self.not_run() {
            let (target, size, reason) = (&row.target, megabytes(row.bytes), row.reason.as_deref());
            let text = isolated(&format!("{target}, {size} MB: {}", reason.unwrap_or_default()));
            let _ = write!(html, "<p>{text}</p>");
        }
        html
    }

    /// The rows of targets that were run.
    pub fn ran(&self) -> impl Iterator<Item = &FormatRow> {
        self.rows.iter().filter(|row| row.status == FormatStatus::Ran)
    }

    /// The rows of those that were not.
    pub fn not_run(&self) -> impl Iterator<Item = &FormatRow> {
        self.rows.iter().filter(|row| row.status == FormatStatus::NotRun)
    }

    /// Pictures a second by target, a bar for each batch.
    fn chart(&self) -> String {
        let batches = self.batches();
        let speed = |target: &str, batch: usize| {
            let row = self.rows.iter().find(|row| row.target == target && row.batch == Some(batch));
            row.and_then(|row| row.images_per_second)
        };
        let mut groups: Vec<(String, Vec<Option<f64>>)> = Vec::new();
        for row in self.ran() {
            if groups.iter().all(|(target, _)| *target != row.target) {
                groups.push((row.target.clone(), batches.iter().map(|&n| speed(&row.target, n)).collect()));
            }
        }
        let series = batches.iter().map(|n| format!("batch {n}")).collect();
        let chart = bars("Pictures per second", &Bars { series, groups });
        if chart.is_empty() { chart } else { format!("<div class=\"charts\">{chart}</div>") }
    }
}

impl FormatRow {
    /// The row as text, a cell for each of [`FORMAT_COLUMNS`]. The difference is the one relative to the largest logit.
    pub fn cells(&self) -> Vec<String> {
        let number = |x: Option<f64>, digits: usize| x.map_or("-".into(), |x| format!("{x:.digits$}"));
        let part = |x: Option<f64>| x.map_or("-".into(), percent);
        let difference = |x: f64| if x == 0.0 { "0".into() } else { format!("{x:.1e}") };
        vec![
            self.target.clone(),
            self.batch.map_or("-".into(), |n| n.to_string()),
            number(self.images_per_second, 1),
            number(self.p50_ms, 2),
            number(self.p95_ms, 2),
            number(self.speedup, 2),
            megabytes(self.bytes),
            part(self.accuracy),
            self.max_rel_diff.map_or("-".into(), difference),
            part(self.top1_agreement),
        ]
    }
}

fn megabytes(bytes: Option<u64>) -> String {
    bytes.map_or("-".into(), |n| format!("{:.1}", n as f64 / 1e6))
}
