//! What a client is told when its request fails.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use offshoot::{DecodeError, Error};
use serde_json::json;

/// A status and a message, which is sent as `{"error": message}`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Failure {
        Failure { status, message: message.into() }
    }

    /// A request that cannot be understood.
    pub(crate) fn bad(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, message)
    }

    /// More than fits at the moment.
    pub(crate) fn busy(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// Something of ours that broke.
    pub(crate) fn broken(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The same about one of several things.
    pub(crate) fn of(self, what: &str) -> Failure {
        Failure { message: format!("{what}: {}", self.message), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match &error {
            Error::Decode(error) => of_picture(error),
            Error::Input(_) => StatusCode::BAD_REQUEST,
            // NaN and infinities are the model's answer to what it was given.
            Error::Network(_) if !error.is_of_network() => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure::new(status, error.to_string())
    }
}

/// The status for a picture that cannot be used.
fn of_picture(error: &DecodeError) -> StatusCode {
    match error {
        DecodeError::Empty => StatusCode::BAD_REQUEST,
        DecodeError::FileTooLarge { .. }
        | DecodeError::TooLarge { .. }
        | DecodeError::TooLong { .. }
        | DecodeError::TooManyScans { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        DecodeError::NotAPicture
        | DecodeError::UnsupportedFormat { .. }
        | DecodeError::UnsupportedFeature { .. }
        | DecodeError::LeftOut { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({"error": self.message}))).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
