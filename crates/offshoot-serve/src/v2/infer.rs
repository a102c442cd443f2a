//! `POST /v2/models/NAME/infer`: inputs that are prepared already, and the outputs as they are.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Request;
use axum::response::Response;
use offshoot::Prepared;

use super::tensors::{Asked, Ends};
use super::{Target, version_of};
use crate::failure::Failure;
use crate::measure::measured;
use crate::metrics::Times;
use crate::models::Served;
use crate::shared::Shared;

pub(super) async fn infer(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let served = shared.models.get(&name)?;
    measured(&shared, &served, answer(&shared, &name, &served, request)).await
}

pub(super) async fn infer_version(
    State(shared): State<Arc<Shared>>,
    Path((name, version)): Target,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let served = version_of(&shared, &name, &version)?;
    measured(&shared, &served, answer(&shared, &name, &served, request)).await
}

impl Served {
    fn ends(&self) -> Ends<'_> {
        Ends { input: &self.input, output: &self.output, size: self.classifier.preprocessing().size }
    }
}

async fn answer(
    shared: &Shared,
    name: &str,
    served: &Arc<Served>,
    request: Request<Body>,
) -> Result<(Response, Times), Failure> {
    let (parts, body) = request.into_parts();
    let body = shared.bodies.read(&parts.headers, body).await?;
    let start = Instant::now();
    let reading = Arc::clone(served);
    // JSON of some megabytes takes a while.
    let read = tokio::task::spawn_blocking(move || {
        let asked = Asked::read(&parts.headers, &body.bytes, &reading.ends())?;
        let rows = rows(&reading, &asked)?;
        Ok::<_, Failure>((asked, rows))
    });
    let (asked, rows) = read.await.map_err(|_| Failure::broken("reading stopped at an inconsistency"))??;
    let places = served.batcher.reserve(rows.len())?;
    let mut times = Times { decode: start.elapsed(), ..Times::default() };
    let mut outputs = Vec::new();
    for (index, answer) in served.batcher.classify(rows, places).await?.into_iter().enumerate() {
        times.queue = times.queue.max(answer.queued);
        times.compute = times.compute.max(answer.computed);
        let found = answer.result.map_err(|failure| failure.of(&format!("picture {index}")))?;
        outputs.extend_from_slice(found.outputs());
    }
    Ok((asked.answer((name, served.version), &served.ends(), &outputs)?, times))
}

/// The input of each picture.
fn rows(served: &Served, asked: &Asked) -> Result<Vec<Prepared>, Failure> {
    let rows = asked.numbers.chunks((asked.numbers.len() / asked.count).max(1)).enumerate();
    let prepared = rows.map(|(index, row)| {
        let row = served.classifier.prepared(row.to_vec());
        row.map_err(|error| Failure::from(error).of(&format!("picture {index}")))
    });
    prepared.collect()
}
