//! `offshoot pull`

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use offshoot::{HUB, PullOptions, Pulled, PulledFile, PulledFolder, pull, pull_folder};
use serde::Serialize;

use super::{Outcome, print};
use offshoot_graph::text::shown;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Architecture, for its best weights, or with their version, as in resnet50.IMAGENET1K_V1 or resnet50.V1; `offshoot
    /// models` lists them. Or hf:OWNER/NAME or hf:OWNER/NAME@REVISION, a repository of the Hugging Face hub.
    name: String,
    /// File to write, or folder for a repository [default: the published name, in the current folder]. A download in progress ends
    /// in .part, and is resumed from there.
    #[arg(long, help_heading = "Output", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Download from this URL instead of the authors' servers or the hub. A name and password in it are sent and never printed.
    #[arg(
        long,
        help_heading = "Model",
        value_name = "URL",
        env = "OFFSHOOT_WEIGHTS_URL",
        hide_env_values = true
    )]
    base_url: Option<String>,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let options = PullOptions { out: self.out, base_url: self.base_url };
        let mut bar: Option<ProgressBar> = None;
        let mut progress = |done: u64, total: Option<u64>| {
            let bar = bar.get_or_insert_with(|| print::bar(total.unwrap_or(0) >> 10, "KiB"));
            // Not known as long as another process downloads the file.
            total.inspect(|total| bar.set_length(total >> 10));
            bar.set_position(done >> 10);
        };
        let result = match self.name.starts_with(HUB) {
            true => pull_folder(&self.name, &options, &mut progress).map(Came::Folder),
            false => pull(&self.name, &options, &mut progress).map(Came::File),
        };
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let came = result?;
        match &came {
            _ if self.json => print::json(&came),
            Came::File(file) => print::line(&text(file)),
            Came::Folder(folder) => print::line(&folder_text(folder)),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Came {
    File(Pulled),
    Folder(PulledFolder),
}

fn folder_text(folder: &PulledFolder) -> String {
    let line = |file: &PulledFile| {
        let how = if file.downloaded { "downloaded" } else { "was there" };
        format!("{} {how}: {} bytes, SHA-256 {}", shown(folder.path.join(file.name)), file.bytes, file.sha256)
    };
    let lines: Vec<String> = folder.files.iter().map(line).collect();
    format!("{}\nrevision {}; the hashes are those of the hub", lines.join("\n"), folder.revision)
}

fn text(pulled: &Pulled) -> String {
    let Pulled { path, bytes, sha256, pinned_digits, downloaded } = pulled;
    let how = if *downloaded { "downloaded" } else { "was there" };
    let pinned = match pinned_digits {
        64 => "as pinned".to_owned(),
        digits => format!("its first {digits} digits as pinned: the authors publish no more"),
    };
    format!("{} {how}: {bytes} bytes, SHA-256 {sha256} ({pinned})", shown(path))
}
