//! What goes on in a connection, as those see it who decide over its end.
//!
//! In memory, and gone with the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::pace::Slowest;

/// What goes on in a connection.
#[derive(Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) in_flight: usize,
    pub(crate) multiplexed: bool,
    /// When the last request ended, or the connection began.
    quiet_since: Instant,
}

impl Traffic {
    /// A connection that begins.
    pub(crate) fn new() -> Traffic {
        Traffic { in_flight: 0, multiplexed: false, quiet_since: Instant::now() }
    }

    pub(crate) fn begin(&mut self) {
        self.in_flight += 1;
    }

    pub(crate) fn end(&mut self) {
        self.in_flight -= 1;
        self.quiet_since = Instant::now();
    }

    /// Since when there has been no request, if there is none.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.in_flight == 0).then_some(self.quiet_since)
    }

    /// Whether asking hyper to shut down gracefully would hurt nobody.
    pub(crate) fn may_close(&self) -> bool {
        self.in_flight == 0 || !self.multiplexed
    }

    /// When to look again, or `None` if nothing has gone on for `limit`.
    pub(crate) fn next_check(&self, limit: Duration) -> Option<Instant> {
        let now = Instant::now();
        if self.in_flight > 0 {
            Some(now + limit)
        } else {
            Some(self.quiet_since + limit).filter(|at| *at > now)
        }
    }
}

/// What answers do on a connection that several of them share: there the socket does not tell that one stands still.
#[derive(Default)]
pub(crate) struct Meter {
    /// Answers with a piece that the client has not taken.
    offered: AtomicUsize,
    /// Bytes of pieces.
    bytes: AtomicU64,
}

impl Meter {
    /// A piece waits for the client.
    pub(crate) fn offer(&self, bytes: usize) {
        self.offered.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The client took it, or left.
    pub(crate) fn taken(&self) {
        self.offered.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes so far, if any wait for the client.
    fn waiting(&self) -> Option<u64> {
        (self.offered.load(Ordering::Relaxed) > 0).then(|| self.bytes.load(Ordering::Relaxed))
    }
}

/// Looks at a [`Meter`] once in a period.
pub(crate) struct Stall {
    pub(crate) meter: Arc<Meter>,
    pub(crate) slowest: Slowest,
    pub(crate) before: Option<u64>,
}

impl Stall {
    /// Whether something has waited for the client since the last look, and too little moved.
    pub(crate) fn look(&mut self) -> bool {
        let now = self.meter.waiting();
        let before = std::mem::replace(&mut self.before, now);
        before.zip(now).is_some_and(|(before, now)| now.saturating_sub(before) < self.slowest.bytes)
    }
}
