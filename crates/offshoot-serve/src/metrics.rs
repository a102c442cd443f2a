//! What is counted: for Prometheus, and for the statistics of the Open Inference Protocol.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use serde_json::{Value, json};

/// A model that was asked for and is there: what clients send makes no series.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Of {
    model: String,
    version: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    model: String,
    version: u64,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Stage {
    model: String,
    version: u64,
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Http {
    code: u16,
}

/// Where the time of a request went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) decode: Duration,
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
}

impl Times {
    /// As browsers show it.
    pub(crate) fn header(&self) -> String {
        let parts = [("decode", self.decode), ("queue", self.queue), ("compute", self.compute)];
        let parts = parts.map(|(name, time)| format!("{name};dur={:.3}", time.as_secs_f64() * 1e3));
        parts.join(", ")
    }
}

/// All counters of a server.
pub(crate) struct Metrics {
    registry: Registry,
    http: Family<Http, Counter>,
    requests: Family<Request, Counter>,
    errors: Family<Request, Counter>,
    waiting: Family<Of, Gauge>,
    batches: Family<Of, Histogram>,
    latency: Family<Stage, Histogram>,
}

/// 1, 2, 4 ... 1024 pictures.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11))
}

/// 0.1 ms to 26 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 19))
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::with_prefix("offshoot");
        let http = Family::default();
        let requests = Family::default();
        let errors = Family::default();
        let waiting = Family::default();
        let batches = Family::new_with_constructor(sizes as fn() -> Histogram);
        let latency = Family::new_with_constructor(seconds as fn() -> Histogram);
        registry.register("http_requests", "Requests of every address", http.clone());
        registry.register("requests", "Requests of a model", requests.clone());
        registry.register("errors", "Requests of a model that failed", errors.clone());
        registry.register("queue_pictures", "Pictures that have a place in the queue", waiting.clone());
        registry.register(
            "batch_pictures",
            "Pictures that went through the network together",
            batches.clone(),
        );
        let help = "Time of a request: decoding, waiting, computing, and all of it";
        registry.register_with_unit("latency", help, Unit::Seconds, latency.clone());
        Metrics { registry, http, requests, errors, waiting, batches, latency }
    }

    pub(crate) fn http(&self, code: u16) {
        self.http.get_or_create(&Http { code }).inc();
    }

    /// A request of a model has ended.
    pub(crate) fn request(&self, of: &Of, code: u16, total: Duration) {
        let Of { model, version } = of.clone();
        let request = Request { model, version, code };
        self.requests.get_or_create(&request).inc();
        if code >= 400 {
            self.errors.get_or_create(&request).inc();
        }
        self.stage(of, "total", total);
    }

    pub(crate) fn times(&self, of: &Of, times: &Times) {
        for (stage, time) in [("decode", times.decode), ("queue", times.queue), ("compute", times.compute)] {
            self.stage(of, stage, time);
        }
    }

    fn stage(&self, Of { model, version }: &Of, stage: &'static str, time: Duration) {
        let stage = Stage { model: model.clone(), version: *version, stage };
        self.latency.get_or_create(&stage).observe(time.as_secs_f64());
    }

    pub(crate) fn batch(&self, of: &Of, pictures: usize) {
        self.batches.get_or_create(of).observe(pictures as f64);
    }

    /// The text that Prometheus reads, where as many pictures are `waiting` for models.
    pub(crate) fn text(&self, waiting: impl Iterator<Item = (Of, usize)>) -> String {
        self.waiting.clear();
        for (of, pictures) in waiting {
            self.waiting.get_or_create(&of).set(i64::try_from(pictures).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        // Nothing fails that writes to a text.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Of {
    pub(crate) fn new(model: &str, version: u64) -> Of {
        Of { model: model.to_owned(), version }
    }
}

/// Counts and sums of times, in nanoseconds, of a model.
#[derive(Default)]
pub(crate) struct Statistics {
    pictures: AtomicU64,
    batches: AtomicU64,
    success: Sum,
    fail: Sum,
    queue: Sum,
    decode: Sum,
    compute: Sum,
}

#[derive(Default)]
struct Sum {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Sum {
    fn add(&self, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn json(&self) -> Value {
        json!({"count": self.count.load(Ordering::Relaxed), "ns": self.nanoseconds.load(Ordering::Relaxed)})
    }
}

impl Statistics {
    pub(crate) fn request(&self, success: bool, total: Duration) {
        if success { &self.success } else { &self.fail }.add(total);
    }

    pub(crate) fn times(&self, times: &Times) {
        self.decode.add(times.decode);
        self.queue.add(times.queue);
        self.compute.add(times.compute);
    }

    pub(crate) fn batch(&self, pictures: usize) {
        self.pictures.fetch_add(pictures as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    /// As the statistics extension of the protocol has it.
    pub(crate) fn json(&self, name: &str, version: u64) -> Value {
        json!({
            "name": name,
            "version": version.to_string(),
            "inference_count": self.pictures.load(Ordering::Relaxed),
            "execution_count": self.batches.load(Ordering::Relaxed),
            "inference_stats": {
                "success": self.success.json(),
                "fail": self.fail.json(),
                "queue": self.queue.json(),
                "compute_input": self.decode.json(),
                "compute_infer": self.compute.json(),
            },
        })
    }
}
