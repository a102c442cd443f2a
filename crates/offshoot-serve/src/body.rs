//! Bodies of requests: read within limits, and what is in them.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use offshoot_graph::text::{escaped, shortened};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::Failure;

/// Bodies of this many times the size of the largest one are in memory at the same time.
const TOGETHER: usize = 8;
/// What memory for bodies is counted in.
const UNIT: usize = 1 << 10;
/// The longest name of a picture that is repeated to the client.
const LONGEST: usize = 200;

/// What bodies may take.
pub(crate) struct Bodies {
    most: usize,
    memory: Arc<Semaphore>,
}

/// A body and its part of the memory for bodies.
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    _memory: OwnedSemaphorePermit,
}

/// A picture as it was sent.
pub(crate) struct Sent {
    /// What it is called: `-` for one that has no name.
    pub(crate) name: String,
    pub(crate) file: Bytes,
}

impl Bodies {
    pub(crate) fn new(most: usize) -> Bodies {
        let units = units(most).saturating_mul(TOGETHER).min(Semaphore::MAX_PERMITS);
        Bodies { most, memory: Arc::new(Semaphore::new(units)) }
    }

    /// Reads a body. Where its length is not known before, it may take as much as the largest.
    ///
    /// # Errors
    /// When it is too large, compressed or broken, or too many are read at the moment.
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Whole, Failure> {
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|&e| e != "identity") {
            let encoding = escaped(&String::from_utf8_lossy(encoding.as_bytes()));
            return Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!(
                    "Content-Encoding `{}` is not read; send the body as it is",
                    shortened(&encoding, 40)
                ),
            ));
        }
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length: usize = length.unwrap_or(self.most);
        if length > self.most {
            return Err(self.too_large());
        }
        let wanted = u32::try_from(units(length)).ok();
        let memory = wanted.and_then(|wanted| Arc::clone(&self.memory).try_acquire_many_owned(wanted).ok());
        let memory =
            memory.ok_or_else(|| Failure::busy("too many large requests at once; try again later"))?;
        match Limited::new(body, self.most).collect().await {
            Ok(whole) => Ok(Whole { bytes: whole.to_bytes(), _memory: memory }),
            Err(error) if error.is::<LengthLimitError>() => Err(self.too_large()),
            Err(error) => Err(Failure::bad(format!("the body cannot be read: {error}"))),
        }
    }

    fn too_large(&self) -> Failure {
        let message = format!("the body has more than the limit of {} bytes; send less at once", self.most);
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

/// The pictures in a body: one, several as multipart, or a JSON list of base64. The boolean is whether it can hold several.
///
/// # Errors
/// When the body is none of these.
pub(crate) async fn pictures(parts: &Parts, body: Bytes) -> Result<(Vec<Sent>, bool), Failure> {
    let kind = match parts.headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str()) {
        None => "",
        Some(Ok(kind)) => kind.split(';').next().unwrap_or_default().trim(),
        Some(Err(_)) => return Err(Failure::bad("the Content-Type is not ASCII")),
    };
    match kind.to_ascii_lowercase().as_str() {
        "multipart/form-data" => Ok((multipart(parts, body).await?, true)),
        "application/json" => Ok((list(&body)?, true)),
        "" | "application/octet-stream" | "application/x-www-form-urlencoded" => Ok((one(body), false)),
        image if image.starts_with("image/") => Ok((one(body), false)),
        other => {
            let other = escaped(other);
            let message = format!(
                "Content-Type `{}` is not read; send a picture (image/*), multipart/form-data, or application/json: a list of base64",
                shortened(&other, 100)
            );
            Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
    }
}

fn one(file: Bytes) -> Vec<Sent> {
    vec![Sent { name: "-".into(), file }]
}

async fn multipart(parts: &Parts, body: Bytes) -> Result<Vec<Sent>, Failure> {
    let mut request = Request::new(Body::from(body));
    *request.headers_mut() = parts.headers.clone();
    let failed = |e: &dyn std::fmt::Display| Failure::bad(format!("the multipart body is damaged: {e}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|e| failed(&e))?;
    let mut found = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|e| failed(&e.body_text()))? {
        let name = field.file_name().or(field.name()).unwrap_or("-");
        let name = shortened(name, LONGEST).into_owned();
        let file = field.bytes().await.map_err(|e| failed(&e.body_text()))?;
        found.push(Sent { name, file });
    }
    if found.is_empty() {
        return Err(Failure::bad("the multipart body has no parts; send one for each picture"));
    }
    Ok(found)
}

fn list(body: &[u8]) -> Result<Vec<Sent>, Failure> {
    let texts: Vec<String> = serde_json::from_slice(body)
        .map_err(|e| Failure::bad(format!("not a JSON list of pictures in base64: {e}")))?;
    if texts.is_empty() {
        return Err(Failure::bad("the list is empty; send at least one picture"));
    }
    let decoded = texts.iter().enumerate().map(|(index, text)| match STANDARD.decode(text) {
        Ok(file) => Ok(Sent { name: index.to_string(), file: file.into() }),
        Err(error) => Err(Failure::bad(format!("picture {index}: not base64: {error}"))),
    });
    decoded.collect()
}
