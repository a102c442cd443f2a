//! One request and its response, redirects followed.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use ureq::http::{Response, header};
use ureq::{Agent, Body, Timeout};

use super::address::Address;
use super::proxies::{Named, Proxies};
use crate::error::{Error, Result};

/// Redirects that are followed one after the other.
const MAX_REDIRECTS: usize = 10;

/// How long a download waits before it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, encryption included.
    pub connection: Duration,
    /// For the head of a response.
    pub answer: Duration,
    /// For the next bytes.
    pub idle: Duration,
    /// The time over which speed is measured.
    pub period: Duration,
    /// The fewest bytes in that time.
    pub bytes_per_period: u64,
}

impl Default for Patience {
    /// A minute with less than 1 KiB a second is too slow.
    fn default() -> Patience {
        let [connection, idle] = [Duration::from_secs(30); 2];
        let [answer, period] = [Duration::from_secs(60); 2];
        Patience { connection, answer, idle, period, bytes_per_period: 60 << 10 }
    }
}

impl Patience {
    /// For all of `bytes`. The body of a response may be sent so that none of it counts as bytes of the file.
    fn body(&self, bytes: u64) -> Duration {
        let periods = bytes / self.bytes_per_period.max(1) + 2;
        self.period.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX))
    }

    /// The longest time until a download that goes on has more bytes.
    pub(super) fn longest_pause(&self) -> Duration {
        (self.connection + self.answer).saturating_mul(MAX_REDIRECTS as u32).saturating_add(self.period)
    }
}

/// The response to a request.
pub(super) struct Answer {
    /// Who gave it, after redirects.
    pub(super) from: Address,
    response: Response<Body>,
    patience: Patience,
}

/// Asks for the file at `address` from byte `start` on, which has `most` bytes at most.
pub(super) fn get(
    address: &Address,
    start: u64,
    most: u64,
    proxies: &Proxies,
    patience: Patience,
) -> Result<Answer> {
    let mut from = address.clone();
    for _ in 0..=MAX_REDIRECTS {
        let response = request(&from, start, most, proxies, patience)?;
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        match (response.status().as_u16(), location) {
            (301 | 302 | 303 | 307 | 308, Some(location)) => {
                from = from.follow(location).map_err(|reason| Error::Input(format!("{from}: {reason}")))?;
            }
            _ => return Ok(Answer { from, response, patience }),
        }
    }
    Err(Error::Input(format!("{address}: the server redirects more than {MAX_REDIRECTS} times")))
}

fn request(
    address: &Address,
    start: u64,
    most: u64,
    proxies: &Proxies,
    patience: Patience,
) -> Result<Response<Body>> {
    let proxy = proxies.of(address);
    let agent: Agent = Agent::config_builder()
        .proxy(proxy.map(|named| named.proxy.clone()))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_resolve(Some(patience.connection))
        .timeout_connect(Some(patience.connection))
        .timeout_send_request(Some(patience.connection))
        .timeout_recv_response(Some(patience.answer))
        .timeout_per_read(Some(patience.idle))
        .timeout_recv_body(Some(patience.body(most)))
        .user_agent(concat!("offshoot/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut request = agent.get(address.request()).header(header::ACCEPT_ENCODING, "identity");
    if start > 0 {
        request = request.header(header::RANGE, format!("bytes={start}-"));
    }
    if let Some(authorization) = address.authorization() {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    request.call().map_err(|error| {
        let through = |named: &Named| {
            let Named { variable, proxy } = named;
            format!(" (through the proxy {}:{} of {variable})", proxy.host(), proxy.port())
        };
        let through = proxy.map_or(String::new(), through);
        Error::Input(format!("{address}: {}{through}", reason(&error, patience)))
    })
}

/// What an error says, without what may be secret.
fn reason(error: &ureq::Error, patience: Patience) -> String {
    match error {
        ureq::Error::Timeout(Timeout::PerRead) => {
            format!("the server has sent nothing for {} s", patience.idle.as_secs_f64())
        }
        ureq::Error::Timeout(Timeout::RecvResponse) => {
            format!("the server has not responded within {} s", patience.answer.as_secs_f64())
        }
        ureq::Error::Timeout(Timeout::RecvBody) => "the server takes far too long".to_owned(),
        ureq::Error::Timeout(_) => {
            format!("there is no connection to the server within {} s", patience.connection.as_secs_f64())
        }
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "there is no host of that name".to_owned(),
        ureq::Error::ConnectProxyFailed(reason) => reason.clone(),
        ureq::Error::BadUri(_) => "this is no URL that can be asked for".to_owned(),
        other => other.to_string(),
    }
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// Why the body is not the file, where the head says so.
    pub(super) fn is_no_file(&self) -> Option<String> {
        let kind = self.header(header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
        let encoding = self.header(header::CONTENT_ENCODING).unwrap_or("identity").trim();
        if kind.starts_with("text/html") {
            return Some("the server sent a web page, not the file; it may ask for a login".to_owned());
        }
        let plain = encoding.is_empty() || encoding.eq_ignore_ascii_case("identity");
        (!plain).then(|| "the server sends the file compressed, which it was not asked for".to_owned())
    }

    /// The bytes that the server promises to send.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// The first byte of the part of the file that is sent, and the size of the whole file where the server says it.
    pub(super) fn range(&self) -> Option<(u64, Option<u64>)> {
        let (range, total) =
            self.header(header::CONTENT_RANGE)?.trim().strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()))
    }

    /// Gives the bytes of the body to `take`. `None` when that was all of them, else why no more came.
    ///
    /// # Errors
    /// Those of `take`.
    pub(super) fn read(self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<Option<String>> {
        let Answer { response, patience, .. } = self;
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 1 << 16];
        let mut pace = Pace::new(patience);
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    take(&buffer[..count])?;
                    if let Some(reason) = pace.too_slow(count) {
                        return Ok(Some(reason));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Some(reason(&error.into(), patience))),
            }
        }
    }
}

/// How fast bytes come.
struct Pace {
    patience: Patience,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(patience: Patience) -> Pace {
        Pace { patience, since: Instant::now(), bytes: 0 }
    }

    /// Counts bytes that have come. At the end of a period: what there is to say of too few.
    fn too_slow(&mut self, count: usize) -> Option<String> {
        self.bytes += count as u64;
        let elapsed = self.since.elapsed();
        if elapsed < self.patience.period {
            return None;
        }
        let bytes = self.bytes;
        *self = Pace::new(self.patience);
        let seconds = elapsed.as_secs_f64().round();
        (bytes < self.patience.bytes_per_period)
            .then(|| format!("the server is too slow: {bytes} bytes in {seconds} s"))
    }
}
