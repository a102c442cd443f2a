//! `offshoot report`

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::Error;
use offshoot::jobs::{self, writable_file};
use offshoot_graph::Executor as _;
use offshoot_graph::text::{path_text, shown};
use offshoot_train::report::{EXPLANATIONS_FILE, REPORT_FILE, write};
use offshoot_train::results::begins_as_results;
use offshoot_train::run::RESULTS_FILE;
use serde_json::json;

use super::arguments::Processor;
use super::{Failure, Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Run directory.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Explain the predictions for the pictures with the highest loss and for the most confused classes, and show these explanations in the
    /// report. They are kept in explanations.json of the run.
    #[arg(long, help_heading = "Output")]
    explain: bool,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        check_results(&self.run)?;
        writable_file(&self.run.join(REPORT_FILE))?;
        let device = self.processor.device()?;
        if self.explain {
            writable_file(&self.run.join(EXPLANATIONS_FILE))?;
            jobs::explain_run(&self.run, &device)?;
        }
        let damaged = write(&self.run, &device.describe())?;
        damaged.iter().for_each(|text| print::warning(text));
        let path = self.run.join(REPORT_FILE);
        match self.json {
            true => print::json(&json!({"path": path_text(path)})),
            false => print::line(&shown(path)),
        }
    }
}

/// An error where the folder has no table of finished epochs to report on.
fn check_results(run: &Path) -> Result<(), Failure> {
    match begins_as_results(run) {
        Ok(true) => Ok(()),
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(Error::Io { path: run.join(RESULTS_FILE), action: "read", source }.into())
        }
        _ => {
            let run = shown(run);
            Err(Error::Input(format!(
                "{run}: no {RESULTS_FILE} of a run in this folder; is it a run of `offshoot train` with a finished epoch?"
            ))
            .into())
        }
    }
}
