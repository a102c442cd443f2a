//! The table of addresses, and what happens to every request: an id, a time limit, a line in the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::classify::classify;
use crate::failure::Failure;
use crate::shared::Shared;
use crate::v2;

/// Names a request in the log and in the answer.
const ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id of a client.
const LONGEST_ID: usize = 128;

/// The longest message of an error, in bytes.
const LONGEST_MESSAGE: usize = 4096;

/// The page, which needs nothing from elsewhere and talks to this server alone.
const PAGE: &str = include_str!("page.html");
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
    img-src blob:; media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(description))
        .route("/v1/models", get(models))
        .route("/v1/models/{target}", post(classify))
        .merge(v2::routes())
        .fallback(async || {
            Failure::new(StatusCode::NOT_FOUND, "no such address; GET /openapi.json lists them")
        })
        .method_not_allowed_fallback(async || {
            Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this address has other methods; see the header Allow",
            )
        })
        // Bodies are read by `Bodies`, which has the limit.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&shared), every_request))
        .with_state(shared)
}

/// What happens to every request.
async fn every_request(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = id_of(&request, &shared);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match foreign(&request) {
        true => Failure::new(StatusCode::FORBIDDEN, "pages of other origins may not use this server")
            .into_response(),
        false => within_time(&shared, request, next).await,
    };
    shared.metrics.http(response.status().as_u16());
    let (status, ms) = (response.status().as_u16(), start.elapsed().as_secs_f64() * 1e3);
    tracing::info!(request = ?id, %method, ?path, status, ms, "answered");
    response.headers_mut().insert(ID, id);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn within_time(shared: &Shared, request: Request, next: Next) -> Response {
    let limit = shared.limits.time;
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => with_json(response).await,
        Err(_) => {
            let message = format!("the request took longer than the limit of {} s", limit.as_secs_f64());
            Failure::new(StatusCode::REQUEST_TIMEOUT, message).into_response()
        }
    }
}

/// Errors that are found before a handler is called are texts; all others are JSON.
async fn with_json(response: Response) -> Response {
    let is_text = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/plain");
    let text = response.headers().get(header::CONTENT_TYPE).is_some_and(is_text);
    if !(text && response.status().is_client_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let message = to_bytes(body, LONGEST_MESSAGE).await.unwrap_or_default();
    Failure::new(parts.status, String::from_utf8_lossy(&message)).into_response()
}

/// The client's own id where it is plain, or one of ours.
fn id_of(request: &Request, shared: &Shared) -> HeaderValue {
    let plain = |id: &&HeaderValue| {
        let is_plain = |&c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b':');
        (1..=LONGEST_ID).contains(&id.len()) && id.as_bytes().iter().all(is_plain)
    };
    let own = request.headers().get(ID).filter(plain).cloned();
    own.unwrap_or_else(|| HeaderValue::from(shared.requests.fetch_add(1, Ordering::Relaxed) + 1))
}

/// Whether a page of another origin sends it: a browser lets any page send requests to a server on the same machine.
fn foreign(request: &Request<Body>) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return false };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
    origin.is_none() || origin != host
}

async fn page() -> Response {
    let mut response = Html(PAGE).into_response();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    response
}

async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, Json<Value>) {
    let ready = !shared.draining.load(Ordering::SeqCst);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": ready})))
}

/// The addresses, for programs.
const DESCRIPTION: &str = include_str!("openapi.json");
/// What Prometheus reads.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let loaded = shared.models.all().filter_map(|(_, served)| served);
    let waiting = loaded.map(|served| (served.of.clone(), served.batcher.waiting()));
    ([(header::CONTENT_TYPE, OPENMETRICS)], shared.metrics.text(waiting)).into_response()
}

async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}

async fn models(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let models = shared.models.all().map(|(name, served)| match served {
        Some(served) => json!({
            "name": name,
            "version": served.version.to_string(),
            "ready": true,
            "classes": served.classifier.classes().len(),
            "size": served.classifier.preprocessing().size,
            "waiting": served.batcher.waiting(),
        }),
        None => json!({"name": name, "ready": false}),
    });
    Json(json!({"models": models.collect::<Vec<_>>()}))
}
