//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::body::Bodies;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::options::Limits;

/// The models, the limits and the counters of a server.
pub(crate) struct Shared {
    pub(crate) models: Models,
    pub(crate) limits: Limits,
    pub(crate) bodies: Bodies,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) draining: AtomicBool,
    /// Requests without an id of their own.
    pub(crate) requests: AtomicU64,
}
