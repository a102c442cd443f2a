//! `offshoot report`

use std::path::PathBuf;

use clap::Args;
use offshoot::Error;
use offshoot_graph::Executor as _;
use offshoot_graph::text::{path_text, shown};
use offshoot_train::report::{REPORT_FILE, write};
use offshoot_train::run::{RESULTS_FILE, has_results};
use serde_json::json;

use super::arguments::Processor;
use super::destination::writable_file;
use super::{Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Run directory.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        if !has_results(&self.run) {
            let run = shown(&self.run);
            return Err(Error::Input(format!(
                "{run}: no {RESULTS_FILE} of a run in this folder; is it a run of `offshoot train` with a finished epoch?"
            ))
            .into());
        }
        writable_file(&self.run.join(REPORT_FILE))?;
        write(&self.run, &self.processor.executor()?.describe())?;
        let path = self.run.join(REPORT_FILE);
        match self.json {
            true => print::json(&json!({"path": path_text(path)})),
            false => print::line(&shown(path)),
        }
    }
}
