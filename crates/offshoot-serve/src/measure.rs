//! Requests of a model are counted, also those that nobody waits for any more.

use std::time::Instant;

use axum::http::HeaderValue;
use axum::response::Response;

use crate::failure::Failure;
use crate::metrics::Times;
use crate::models::Served;
use crate::shared::Shared;

/// The code of a request that ended before its answer: the client went away, or its time was over.
const ENDED: u16 = 499;

/// A request that is counted when it ends.
struct Counted<'a> {
    shared: &'a Shared,
    served: &'a Served,
    start: Instant,
    code: u16,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let total = self.start.elapsed();
        self.shared.metrics.request(&self.served.of, self.code, total);
        self.served.statistics.request(self.code < 400, total);
    }
}

/// Answers a request of a model, and counts it.
pub(crate) async fn measured(
    shared: &Shared,
    served: &Served,
    answer: impl Future<Output = Result<(Response, Times), Failure>>,
) -> Result<Response, Failure> {
    let mut counted = Counted { shared, served, start: Instant::now(), code: ENDED };
    match answer.await {
        Ok((mut response, times)) => {
            counted.code = response.status().as_u16();
            shared.metrics.times(&served.of, &times);
            served.statistics.times(&times);
            if let Ok(timing) = HeaderValue::from_str(&times.header()) {
                response.headers_mut().insert("server-timing", timing);
            }
            Ok(response)
        }
        Err(failure) => {
            counted.code = failure.status.as_u16();
            Err(failure)
        }
    }
}
