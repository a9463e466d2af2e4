//! The kinds of traffic between members, and the interface of whoever serves their streams.

use futures::future::BoxFuture;
use quinn::{RecvStream, SendStream};

use crate::identity::Caller;

/// Kinds of traffic. Each has connections of its own, so that none queues behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Consensus and other small messages that must not wait.
    Control,
    /// Somebody is waiting for these bytes.
    Foreground,
    /// Nobody is: repair, scrub, snapshots.
    Background,
}

/// Serves QUIC streams that members open.
pub trait StreamHandler: Send + Sync + 'static {
    /// Serves one stream to its end. `from` is proved. Runs as a task of its own; the handler limits how
    /// long it waits for the peer.
    fn handle(&self, from: Caller, send: SendStream, recv: RecvStream) -> BoxFuture<'_, ()>;
}
