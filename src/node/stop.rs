//! Why and when the node stops: an operator's signal, or a fault that it must not go on with.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::logging;

/// What ends a node that nobody told to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fault(String),
    /// A database of its own is damaged.
    Damaged(String),
    /// It is no member any more.
    Removed,
    /// It shall begin anew, in the same process.
    Again,
}

/// Told once, heard by everybody. Cheap to clone. The process has one, and each life of its node another,
/// which ends with the process's.
#[derive(Clone, Default)]
pub(crate) struct Stop {
    told: CancellationToken,
    end: Arc<Mutex<Option<End>>>,
}

impl Stop {
    /// The stop of one life of the node.
    pub(crate) fn life(&self) -> Stop {
        Stop { told: self.told.child_token(), end: Arc::default() }
    }

    /// Asks the node to drain and end well.
    pub(crate) fn order(&self) {
        self.told.cancel();
    }

    /// Asks the node to end because it cannot go on. The first reason is kept.
    pub(crate) fn fault(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(%reason, "the node cannot go on");
        self.because(End::Fault(reason));
    }

    /// Asks the node to end because a database of its own is damaged, so that its data is set aside.
    pub(crate) fn damaged(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(%reason, "the node cannot go on");
        self.because(End::Damaged(reason));
    }

    /// Asks the node to end because the cluster removed it.
    pub(crate) fn removed(&self) {
        if !self.is_told() {
            tracing::error!("this node was removed from the cluster");
        }
        self.because(End::Removed);
    }

    /// Asks the node to begin anew.
    pub(crate) fn again(&self, reason: &str) {
        tracing::warn!(reason, "the node begins anew");
        self.because(End::Again);
    }

    fn because(&self, end: End) {
        self.end.lock().get_or_insert(end);
        self.told.cancel();
    }

    /// Completes when the node shall stop.
    pub(crate) async fn told(&self) {
        self.told.cancelled().await;
    }

    /// Whether the node shall stop.
    pub(crate) fn is_told(&self) -> bool {
        self.told.is_cancelled()
    }

    /// What ended the node, unless it was told to stop.
    pub(crate) fn end(&self) -> Option<End> {
        self.end.lock().clone()
    }

    /// Orders a stop at the first SIGTERM or SIGINT; the second one ends the process on the spot.
    ///
    /// # Errors
    /// If the process may not handle signals.
    pub(crate) fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if stop.is_told() {
                    tracing::warn!(signal = name, "a second signal: ending at once");
                    // What was acknowledged is durable; the rest is for the next start to clean up.
                    logging::flush();
                    std::process::exit(1);
                }
                tracing::info!(signal = name, "stopping");
                stop.order();
            }
        });
        Ok(())
    }
}
