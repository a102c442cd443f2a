//! What a server is told when it starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How a server listens, batches, and what it refuses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Where it listens: by default at port 8000 of this machine alone.
    pub listen: SocketAddr,
    /// How pictures are put together.
    pub batching: Batching,
    /// What is refused.
    pub limits: Limits,
}

/// How pictures that wait for the same model are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// The most pictures that go through a network together.
    pub max_batch: usize,
    /// How long a picture waits for others.
    pub max_delay: Duration,
    /// The most pictures that wait for a model.
    pub max_queue: usize,
    /// How many batches of a model are computed at the same time.
    pub workers: usize,
}

/// What a request, or all of them, may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a body.
    pub body_bytes: usize,
    /// The most bytes of a request's first line and headers.
    pub header_bytes: usize,
    /// The most connections.
    pub connections: usize,
    /// How long a request may take, its upload included.
    pub time: Duration,
}

impl Default for Options {
    fn default() -> Options {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000));
        Options { listen, batching: Batching::default(), limits: Limits::default() }
    }
}

impl Default for Batching {
    fn default() -> Batching {
        Batching { max_batch: 8, max_delay: Duration::from_millis(2), max_queue: 128, workers: 2 }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: 32 << 20,
            header_bytes: 16 << 10,
            connections: 256,
            time: Duration::from_secs(30),
        }
    }
}
