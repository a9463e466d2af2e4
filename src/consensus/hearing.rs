//! When this node last had word of a quorum: whether it is cut off, and whether it may lack what the others know.
//!
//! Owns the last time a leader spoke, in memory. A node that starts has heard of nobody.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::{AsyncRuntime, Instant, WatchReceiver};
use openraft_rt_tokio::TokioRuntime;
use parking_lot::Mutex;

use crate::Consensus;
use crate::status::MetricsReceiver;
use crate::types::Metrics;

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
}

/// Tells whether this node may lack what the others know. Keeps nothing of the node open.
pub struct Hearing<R: AsyncRuntime = TokioRuntime> {
    heard: Arc<Mutex<Heard<R>>>,
    metrics: MetricsReceiver<R>,
    lease: Duration,
}

impl<R: AsyncRuntime> Hearing<R> {
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

impl<R: AsyncRuntime> Consensus<R> {
    /// A handle that tells whether this node may lack what the others know.
    pub fn hearing(&self) -> Hearing<R> {
        Hearing {
            heard: Arc::clone(&self.shared.heard),
            metrics: self.shared.raft.metrics(),
            lease: self.shared.settings.profile.lease(),
        }
    }

    /// How long there has been no sign of a quorum, once that is longer than an election may take.
    pub(crate) fn cut_off(&self, metrics: &Metrics<R>) -> Option<Duration> {
        let mut heard = self.shared.heard.lock();
        if leads_alone::<R>(metrics) {
            heard.once = true;
            return None;
        }
        // Kept for when it ceases to lead: it heard of no other leader for as long as it did.
        heard.any = metrics.last_quorum_acked.map_or(heard.any, |at| at.into_inner().max(heard.any));
        heard.once |= metrics.last_quorum_acked.is_some();
        let age = heard.any.elapsed();
        (age > self.shared.settings.profile.lease()).then_some(age)
    }

    /// Whether there was a sign of a quorum since the node started, as of the last look at how long there was none: from a
    /// leader that is a member by the state here, or to this node as the leader.
    pub(crate) fn has_heard(&self) -> bool {
        self.shared.heard.lock().once
    }
}
