//! The Open Inference Protocol v2 over HTTP, with its extensions for binary tensors, statistics and the repository.

mod infer;
mod numbers;
mod tensors;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::models::Served;
use crate::shared::Shared;

/// The name of a model, and the version that was asked for.
type Target = Path<(String, String)>;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(async || StatusCode::OK))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/stats", get(all_statistics))
        .route("/v2/models/{name}", get(metadata))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/v2/models/{name}/stats", get(statistics))
        .route("/v2/models/{name}/infer", post(infer::infer))
        .route("/v2/models/{name}/versions/{version}", get(metadata_of_version))
        .route("/v2/models/{name}/versions/{version}/ready", get(version_ready))
        .route("/v2/models/{name}/versions/{version}/stats", get(statistics_of_version))
        .route("/v2/models/{name}/versions/{version}/infer", post(infer::infer_version))
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{name}/load", post(load))
        .route("/v2/repository/models/{name}/unload", post(unload))
}

/// A model, of which only the version that was loaded last is there.
fn version_of(shared: &Shared, name: &str, version: &str) -> Result<Arc<Served>, Failure> {
    let served = shared.models.get(name)?;
    if served.version.to_string() == version {
        return Ok(served);
    }
    let message = format!("the model `{name}` has no such version; its version is {}", served.version);
    Err(Failure::new(StatusCode::NOT_FOUND, message))
}

async fn server() -> Json<Value> {
    Json(json!({
        "name": "offshoot",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "model_repository", "statistics"],
    }))
}

async fn ready(State(shared): State<Arc<Shared>>) -> StatusCode {
    match shared.draining.load(Ordering::SeqCst) {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::OK,
    }
}

async fn metadata(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Failure> {
    Ok(described(&name, &*shared.models.get(&name)?))
}

async fn metadata_of_version(
    State(shared): State<Arc<Shared>>,
    Path((name, version)): Target,
) -> Result<Json<Value>, Failure> {
    Ok(described(&name, &*version_of(&shared, &name, &version)?))
}

fn described(name: &str, served: &Served) -> Json<Value> {
    let size = served.classifier.preprocessing().size;
    Json(json!({
        "name": name,
        "versions": [served.version.to_string()],
        "platform": "offshoot",
        "inputs": [{"name": served.input, "datatype": "FP32", "shape": [-1, 3, size, size]}],
        "outputs": [{"name": served.output, "datatype": "FP32", "shape": [-1, served.classifier.classes().len()]}],
    }))
}

async fn model_ready(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Failure> {
    shared.models.get(&name).map(|_| StatusCode::OK)
}

async fn version_ready(
    State(shared): State<Arc<Shared>>,
    Path((name, version)): Target,
) -> Result<StatusCode, Failure> {
    version_of(&shared, &name, &version).map(|_| StatusCode::OK)
}

async fn all_statistics(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let loaded = shared.models.all().filter_map(|(name, served)| Some((name, served?)));
    let models = loaded.map(|(name, served)| served.statistics.json(name, served.version));
    Json(json!({"model_stats": models.collect::<Vec<_>>()}))
}

async fn statistics(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Failure> {
    let served = shared.models.get(&name)?;
    Ok(Json(json!({"model_stats": [served.statistics.json(&name, served.version)]})))
}

async fn statistics_of_version(
    State(shared): State<Arc<Shared>>,
    Path((name, version)): Target,
) -> Result<Json<Value>, Failure> {
    let served = version_of(&shared, &name, &version)?;
    Ok(Json(json!({"model_stats": [served.statistics.json(&name, served.version)]})))
}

async fn index(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let models = shared.models.all().map(|(name, served)| match served {
        Some(served) => {
            json!({"name": name, "version": served.version.to_string(), "state": "READY", "reason": ""})
        }
        None => json!({"name": name, "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}),
    });
    Json(Value::Array(models.collect()))
}

/// Reads the file of a model again. What a client sends names the model, and no file.
async fn load(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Json<Value>, Failure> {
    shared.models.check(&name)?;
    let loading = tokio::task::spawn_blocking(move || shared.models.load(&name));
    let loaded =
        loading.await.map_err(|_| Failure::broken("reading the model stopped at an inconsistency"))?;
    loaded.map_err(|error| Failure::broken(format!("the model cannot be loaded: {error}")))?;
    Ok(Json(json!({})))
}

async fn unload(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Json<Value>, Failure> {
    shared.models.check(&name)?;
    let unloading = tokio::task::spawn_blocking(move || shared.models.unload(&name));
    unloading.await.map_err(|_| Failure::broken("unloading stopped at an inconsistency"))??;
    Ok(Json(json!({})))
}
