//! What every part of consensus asks: how the node is set up, who leads, how far it has applied, and whether it takes
//! part at all.
//!
//! Owns openraft's handle. In memory only: a node that starts again takes part, and campaigns until it is told otherwise.

use std::sync::atomic::{AtomicBool, Ordering};

use clawhub_types::NodeId;
use openraft::async_runtime::{AsyncRuntime, Select2, WatchReceiver};
use openraft::errors::Fatal;
use openraft::{Instant, ServerState};
use parking_lot::Mutex;

use crate::error::Unavailable;
use crate::fatal::Failure;
use crate::machine::StateMachine;
use crate::profile::Settings;
use crate::types::{LeaderId, LogId, Types};

pub(crate) type Raft<R> = openraft::Raft<Types<R>, StateMachine<R>>;

/// See the module.
pub(crate) struct Core<R: AsyncRuntime> {
    pub(crate) settings: Settings,
    pub(crate) raft: Raft<R>,
    stopping: AtomicBool,
    /// Why this node stopped, if that was not openraft's to say.
    gave_up: Mutex<Option<Failure>>,
}

impl<R: AsyncRuntime> Core<R> {
    pub(crate) fn new(settings: Settings, raft: Raft<R>) -> Core<R> {
        Core { settings, raft, stopping: AtomicBool::default(), gave_up: Mutex::default() }
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.settings.node
    }

    /// Who leads, as far as this node knows.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.raft.server_metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// Who leads, if it is another node.
    pub(crate) fn other_leader(&self) -> Option<NodeId> {
        self.leader().filter(|leader| *leader != self.node())
    }

    /// The term in which this node leads, with its id, if it does.
    pub(crate) fn leading(&self) -> Option<LeaderId> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader && metrics.vote.committed).then_some(metrics.vote.leader_id)
    }

    /// Waits until somebody leads who is not `old`.
    pub(crate) async fn leader_other_than(&self, old: Option<NodeId>) {
        let mut metrics = self.raft.server_metrics();
        let old = old.map(|node| node.0);
        loop {
            let now = metrics.borrow_and_update().current_leader;
            if now.is_some() && now != old {
                return;
            }
            if metrics.changed().await.is_err() {
                // The node is stopping; whoever waits has a limit of their own.
                return std::future::pending().await;
            }
        }
    }

    /// A moment between two attempts, cut short when leadership moves.
    pub(crate) async fn pause(&self, leader: Option<NodeId>, deadline: R::Instant) {
        let until = (R::Instant::now() + self.settings.profile.pause()).min(deadline);
        match R::select2(self.leader_other_than(leader), R::sleep_until(until)).await {
            Select2::First(()) | Select2::Second(()) => {}
        }
    }

    /// Index of the last entry that is applied here; 0 before the first.
    pub(crate) fn applied(&self) -> u64 {
        self.raft.metrics().borrow_watched().last_applied.map_or(0, |id| id.index)
    }

    /// Waits until an index is applied here and returns the one that is; `None` if the node stops.
    pub(crate) async fn reached(&self, index: u64) -> Option<u64> {
        let mut progress = self.raft.watch_apply_progress();
        let reached = progress.wait_until(|id: &Option<LogId>| id.is_some_and(|id| id.index >= index));
        reached.await.ok().flatten().map(|id| id.index)
    }

    /// Whether openraft is at work.
    pub(crate) fn runs(&self) -> bool {
        self.raft.metrics().borrow_watched().running_state.is_ok()
    }

    /// Whether the node takes part: it has not stopped, for whatever reason, and is not stopping. That may take
    /// for ever where a device does not answer.
    ///
    /// # Errors
    /// [`Unavailable`], at once: there is nothing to wait for.
    pub(crate) fn takes_part(&self) -> Result<(), Unavailable> {
        if self.runs() && !self.stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(self.unavailable("this node takes no part in the cluster for now".to_owned()))
    }

    pub(crate) fn unavailable(&self, reason: String) -> Unavailable {
        Unavailable { retry_after: self.settings.profile.retry_after(), reason }
    }

    pub(crate) async fn shutdown(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Err(e) = self.raft.shutdown().await {
            tracing::error!(error = %e, "raft did not stop cleanly");
        }
    }

    /// Ends this node's part for a reason that is not openraft's.
    pub(crate) async fn give_up(&self, failure: Failure) {
        {
            let mut gave_up = self.gave_up.lock();
            if gave_up.is_some() {
                return;
            }
            tracing::error!(reason = %failure, "consensus gives up");
            *gave_up = Some(failure);
        }
        self.shutdown().await;
    }

    /// Why the node stopped, unless it was told to. `fatal` is openraft's last word.
    pub(crate) fn failure(&self, fatal: &Fatal<Types<R>>) -> Option<Failure> {
        self.gave_up.lock().clone().or_else(|| Failure::of(fatal))
    }

    /// Returns when the node has stopped: `None` if it was told to, else why.
    pub(crate) async fn stopped(&self) -> Option<Failure> {
        let mut metrics = self.raft.metrics();
        loop {
            let state = metrics.borrow_and_update().running_state.clone();
            if let Err(fatal) = state {
                return self.failure(&fatal);
            }
            if metrics.changed().await.is_err() {
                return self.gave_up.lock().clone();
            }
        }
    }
}
