//! `offshoot serve`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use offshoot::{Error, ModelSource};
use offshoot_serve::{Batching, Limits, ModelFile, Options, ServeError, Server};
use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use super::arguments::{PrecisionArgument, PreprocessingArguments, Processor};
use super::{Failure, Outcome, print, signals};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Models: run directories, .safetensors of ours, .onnx or TorchScript .pt. One is served by the name of its file or folder,
    /// without the extension, or by NAME=PATH.
    #[arg(value_name = "MODEL", required_unless_present = "model")]
    models: Vec<PathBuf>,
    /// One more model: an architecture, with --weights.
    #[arg(long, help_heading = "Model", value_name = "NAME", requires = "weights")]
    model: Option<String>,
    /// The weights of --model: a .pth, .safetensors or TorchScript .pt.
    #[arg(long, help_heading = "Model", value_name = "FILE", requires = "model")]
    weights: Option<PathBuf>,
    /// Where to listen. Port 0 is one that is free. Other machines reach 0.0.0.0:8000; there are no passwords and no encryption.
    #[arg(long, help_heading = "Server", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// The most pictures that go through a network together.
    #[arg(long, help_heading = "Server", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_batch: u16,
    /// How long a picture waits for others, in milliseconds.
    #[arg(long, help_heading = "Server", value_name = "X", default_value = "2", value_parser = milliseconds)]
    max_delay_ms: Duration,
    /// The most pictures that wait for a model; more are refused with status 429.
    #[arg(long, help_heading = "Server", value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_queue: u32,
    /// How many batches of a model are computed at the same time. They share the --threads and the weights.
    #[arg(long, help_heading = "Server", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// The largest body of a request, in MiB. Eight times as much is read at the same time.
    #[arg(long, help_heading = "Server", value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_body: u16,
    /// The most connections; more are refused with status 429.
    #[arg(long, help_heading = "Server", value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_connections: u32,
    /// The most seconds of a request, with its upload.
    #[arg(long, help_heading = "Server", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    max_time: u32,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    precision: PrecisionArgument,
    #[command(flatten)]
    processor: Processor,
    /// Log warnings only, and not every request.
    #[arg(long, help_heading = "Output")]
    quiet: bool,
    /// Print one JSON object on one line once it is ready: {"listening","models"}.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// The longest that a picture may wait for others, in milliseconds.
const LONGEST_DELAY: f64 = 60_000.0;

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|ms| (0.0..=LONGEST_DELAY).contains(ms));
    let number = number.ok_or_else(|| format!("give a number from 0 to {LONGEST_DELAY}"))?;
    Ok(Duration::from_secs_f64(number / 1e3))
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let device = self.precision.device(&self.processor)?;
        let models = self.models()?;
        log(self.quiet);
        let server = Server::start(models, device, self.options()).map_err(failed)?;
        let stop = signals::stop_after("the requests that have begun");
        let (listening, models) = (server.address(), server.models());
        if self.json {
            print::json(&json!({"listening": listening.to_string(), "models": models}))?;
        } else {
            print::line(&format!("listening at http://{listening}, models: {}", models.join(", ")))?;
        }
        server.run(|| stop.load(Ordering::SeqCst)).map_err(failed)
    }

    fn models(&self) -> Result<Vec<ModelFile>, Failure> {
        let bad = |error: offshoot_serve::NameError| Failure::from(Error::Input(error.to_string()));
        let overrides = self.preprocessing.overrides();
        let mut models = Vec::new();
        for given in &self.models {
            let whole = ModelFile::of(given, overrides);
            let pair = given.to_str().and_then(|text| text.split_once('='));
            // A file that is there is meant, whatever its name.
            models.push(match pair.filter(|_| !given.exists()) {
                Some((name, path)) => ModelFile::new(name, ModelSource::Path(path.into()), overrides),
                None => whole,
            });
        }
        if let (Some(architecture), Some(weights)) = (self.model.clone(), self.weights.clone()) {
            let source = ModelSource::Pretrained { architecture: architecture.clone(), weights };
            models.push(ModelFile::new(&architecture, source, overrides));
        }
        models.into_iter().map(|model| model.map_err(bad)).collect()
    }

    fn options(&self) -> Options {
        let batching = Batching {
            max_batch: self.max_batch.into(),
            max_delay: self.max_delay_ms,
            max_queue: self.max_queue as usize,
            workers: self.workers.into(),
        };
        let limits = Limits {
            body_bytes: usize::from(self.max_body) << 20,
            connections: self.max_connections as usize,
            time: Duration::from_secs(self.max_time.into()),
            ..Limits::default()
        };
        Options { listen: self.listen, batching, limits }
    }
}

fn failed(error: ServeError) -> Failure {
    match error {
        ServeError::Model(error) => error.into(),
        ServeError::Listen { .. } => Error::Input(format!("{error}; --listen gives another address")).into(),
        ServeError::Start(_) => Error::Input(error.to_string()).into(),
    }
}

/// Starts the log, on standard error: one line for each request, with its fields as `name=value`.
fn log(quiet: bool) {
    let level = if quiet { LevelFilter::WARN } else { LevelFilter::INFO };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    // A log that cannot be written is no reason to stop. (It is started once.)
    let _ = log.log_internal_errors(false).try_init();
}
