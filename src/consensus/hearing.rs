//! When this node last had word of a quorum: whether it is cut off, and whether it may lack what the others know.
//!
//! Owns the last time a leader spoke, in memory. A node that starts has heard of nobody.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::{AsyncRuntime, Instant, WatchReceiver};
use openraft_rt_tokio::TokioRuntime;
use parking_lot::Mutex;

use crate::core::Core;
use crate::types::{Metrics, MetricsReceiver};

/// When leaders spoke to this node.
pub(crate) struct Heard<R: AsyncRuntime> {
    /// Any leader; the start of the node before that.
    any: R::Instant,
    /// One that the state knows as a member; `None` before the first.
    member: Option<R::Instant>,
    /// There was one of those, or a quorum answered this node as the leader.
    once: bool,
}

impl<R: AsyncRuntime> Heard<R> {
    pub(crate) fn new() -> Arc<Mutex<Heard<R>>> {
        Arc::new(Mutex::new(Heard { any: R::Instant::now(), member: None, once: false }))
    }

    /// A leader spoke, a member or not as far as this node knows.
    pub(crate) fn spoke(&mut self, member: bool) {
        self.any = R::Instant::now();
        if member {
            self.member = Some(self.any);
            self.once = true;
        }
    }

    /// How long there has been no sign of a quorum, once that is longer than an election may take.
    pub(crate) fn cut_off(&mut self, metrics: &Metrics<R>, lease: Duration) -> Option<Duration> {
        if leads_alone::<R>(metrics) {
            self.once = true;
            return None;
        }
        // Kept for when it ceases to lead: it heard of no other leader for as long as it did.
        self.any = metrics.last_quorum_acked.map_or(self.any, |at| at.into_inner().max(self.any));
        self.once |= metrics.last_quorum_acked.is_some();
        let age = self.any.elapsed();
        (age > lease).then_some(age)
    }

    /// Whether there was a sign of a quorum since the node started, as of the last look at how long there was none: from a
    /// leader that is a member by the state here, or to this node as the leader.
    pub(crate) fn once(&self) -> bool {
        self.once
    }
}

/// Tells whether this node may lack what the others know. Keeps nothing of the node open.
pub struct Hearing<R: AsyncRuntime = TokioRuntime> {
    heard: Arc<Mutex<Heard<R>>>,
    metrics: MetricsReceiver<R>,
    lease: Duration,
}

impl<R: AsyncRuntime> Hearing<R> {
    pub(crate) fn new(core: &Core<R>, heard: &Arc<Mutex<Heard<R>>>) -> Hearing<R> {
        let lease = core.settings.profile.lease();
        Hearing { heard: Arc::clone(heard), metrics: core.raft.metrics(), lease }
    }

    /// Whether there was no word of a quorum since the node started, or none for as long as an election takes: no
    /// acknowledgement if this node leads, nothing from a leader that is a member by the state here if it follows.
    /// Then who is a member by that state may be out of date.
    pub fn is_behind(&self) -> bool {
        let metrics = self.metrics.borrow_watched();
        if leads_alone::<R>(&metrics) {
            return false;
        }
        let acked = metrics.last_quorum_acked.map(|at| at.into_inner());
        let last = acked.max(self.heard.lock().member);
        last.is_none_or(|at| at.elapsed() > self.lease)
    }
}

fn leads_alone<R: AsyncRuntime>(metrics: &Metrics<R>) -> bool {
    let alone = metrics.membership_config.membership().voter_ids().eq([metrics.id]);
    alone && metrics.state == ServerState::Leader
}
