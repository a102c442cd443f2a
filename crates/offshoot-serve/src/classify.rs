//! `POST /v1/models/NAME:classify`: encoded pictures in, the JSON of `offshoot predict` out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use offshoot::{Classification, Prediction, Prepared, Threshold};
use serde::{Deserialize, Serialize};

use crate::body::{Sent, pictures};
use crate::failure::Failure;
use crate::measure::measured;
use crate::metrics::Times;
use crate::models::Served;
use crate::shared::Shared;

/// What follows the name of a model.
const ACTION: &str = ":classify";

/// What may stand behind the `?`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// Number of classes, as `--top`.
    #[serde(default = "five")]
    top: usize,
    /// As `--logits`.
    #[serde(default)]
    logits: bool,
    /// As `--threshold`: auto, or a probability.
    #[serde(default)]
    threshold: Option<String>,
}

/// What an answer has.
struct Wanted {
    top: usize,
    logits: bool,
    threshold: Option<Threshold>,
}

fn five() -> usize {
    5
}

/// Predictions of several pictures.
#[derive(Serialize)]
struct Predictions {
    predictions: Vec<Prediction>,
}

pub(crate) async fn classify(
    State(shared): State<Arc<Shared>>,
    Path(target): Path<String>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let Some(name) = target.strip_suffix(ACTION) else {
        let message = "no such address; POST pictures to /v1/models/NAME:classify";
        return Err(Failure::new(StatusCode::NOT_FOUND, message));
    };
    let served = shared.models.get(name)?;
    let Query(asked) = asked
        .map_err(|e| Failure::bad(format!("{}; there are `top`, `logits` and `threshold`", e.body_text())))?;
    if asked.top == 0 {
        return Err(Failure::bad("top=0: give a number, at least 1"));
    }
    let threshold = asked.threshold.as_deref().map(str::parse::<Threshold>).transpose();
    let threshold = threshold.map_err(|wanted| Failure::bad(format!("threshold: {wanted}")))?;
    if let Some(threshold) = threshold {
        served.classifier.check_threshold(threshold).map_err(|error| Failure::bad(error.to_string()))?;
    }
    let asked = Wanted { top: asked.top, logits: asked.logits, threshold };
    measured(&shared, &served, answer(&shared, &served, &asked, request)).await
}

async fn answer(
    shared: &Shared,
    served: &Arc<Served>,
    asked: &Wanted,
    request: Request<Body>,
) -> Result<(Response, Times), Failure> {
    let (parts, body) = request.into_parts();
    let body = shared.bodies.read(&parts.headers, body).await?;
    let (sent, several) = pictures(&parts, body.bytes.clone()).await?;
    let places = served.batcher.reserve(sent.len())?;
    let start = Instant::now();
    let (names, prepared) = prepare(served, sent).await?;
    let mut times = Times { decode: start.elapsed(), ..Times::default() };
    let answers = served.batcher.classify(prepared, places).await?;
    let mut predictions = Vec::with_capacity(answers.len());
    for (name, answer) in names.into_iter().zip(answers) {
        times.queue = times.queue.max(answer.queued);
        times.compute = times.compute.max(answer.computed);
        let found = answer.result.map_err(|failure| named(failure, &name, several))?;
        predictions.push(prediction(name, &found, asked));
    }
    let response = match (several, predictions.pop()) {
        (false, Some(only)) => Json(only).into_response(),
        (_, last) => {
            predictions.extend(last);
            Json(Predictions { predictions }).into_response()
        }
    };
    Ok((response, times))
}

/// Decodes pictures on threads for that. Nothing more is decoded once the client is gone.
async fn prepare(served: &Arc<Served>, sent: Vec<Sent>) -> Result<(Vec<String>, Vec<Prepared>), Failure> {
    let several = sent.len() > 1;
    let here = Here(Arc::default());
    let mut decoding = Vec::with_capacity(sent.len());
    let mut names = Vec::with_capacity(sent.len());
    for Sent { name, file } in sent {
        names.push(name);
        let (gone, served) = (Arc::clone(&here.0), Arc::clone(served));
        decoding.push(tokio::task::spawn_blocking(move || {
            let is_here = !gone.load(Ordering::Relaxed);
            is_here.then(|| served.classifier.prepare(&file).map_err(Failure::from))
        }));
    }
    let mut prepared = Vec::with_capacity(decoding.len());
    for (decoding, name) in decoding.into_iter().zip(&names) {
        let found = decoding.await.map_err(|_| Failure::broken("a decoder stopped at an inconsistency"))?;
        let found = found.unwrap_or_else(|| Err(Failure::broken("the client went away")));
        prepared.push(found.map_err(|failure| named(failure, name, several))?);
    }
    Ok((names, prepared))
}

/// As long as it lives, somebody waits.
struct Here(Arc<AtomicBool>);

impl Drop for Here {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn named(failure: Failure, name: &str, several: bool) -> Failure {
    if several { failure.of(&format!("picture {}", offshoot_graph::text::escaped(name))) } else { failure }
}

fn prediction(name: String, found: &Classification, asked: &Wanted) -> Prediction {
    let logits = asked.logits.then(|| found.outputs().to_vec());
    let labels = match asked.threshold {
        Some(Threshold::Of(probability)) => found.labels_from(probability),
        Some(Threshold::Auto) | None => found.labels(),
    };
    let rejected = asked.threshold.and_then(|threshold| found.rejected(threshold));
    Prediction {
        path: name.into(),
        top: found.top(asked.top),
        values: found.values(),
        labels,
        rejected,
        logits,
    }
}
