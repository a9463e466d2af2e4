//! What clients may take of a listener. Plain data.

use std::time::Duration;

use crate::pace::Slowest;

/// What clients may take of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, each of [`H1_MEMORY`](crate::H1_MEMORY). For a further one the quietest without a request is
    /// closed; while there is none, it waits, and is refused.
    pub connections: usize,
    /// Request line and headers together, in bytes. A client that wants a thousand ranges of a layer
    /// names them all in one header.
    pub header_bytes: usize,
    /// How long a connection may be open without a complete request head: before the first request,
    /// within a head, between two requests.
    pub quiet: Duration,
    /// The period that `min_rate` is an average over. A body that stands still for so long is given up. There is no
    /// limit on the whole.
    pub idle: Duration,
    /// Bytes a second that a body must move, in either direction, while this side waits for the client.
    pub min_rate: u64,
    /// How long a drain waits for the requests in flight.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1024,
            header_bytes: 64 * 1024,
            quiet: Duration::from_secs(75),
            idle: Duration::from_secs(60),
            min_rate: 1024,
            drain: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// The slowest that a client may be.
    pub(crate) fn slowest(&self) -> Slowest {
        Slowest::new(self.idle, self.min_rate)
    }
}
