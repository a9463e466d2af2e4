//! The cluster's clock as the parts of consensus ask for it: the leader's, and what a node knows of it.
//!
//! Owns nothing but the [`Clock`]. A new leader's begins at the last tick before it, which it knows once its own first
//! entry is applied.

use std::sync::Arc;

use clawhub_state::View;
use clawhub_types::NodeId;
use openraft::async_runtime::{AsyncRuntime, WatchReceiver};
use openraft::{Instant, ServerState};

use crate::clock::{Clock, millis};
use crate::core::Core;
use crate::store::StateStore;
use crate::types::LeaderId;

/// See the module.
pub(crate) struct Ticks<R: AsyncRuntime> {
    pub(crate) core: Arc<Core<R>>,
    pub(crate) clock: Arc<Clock<R>>,
    pub(crate) store: StateStore,
}

impl<R: AsyncRuntime> Ticks<R> {
    /// Notes what a leader told, and when that came.
    pub(crate) fn heard(&self, leader: LeaderId, tick: u64, at: R::Instant) {
        self.clock.heard(leader, tick, at);
    }

    /// The leader's tick, or the last one applied.
    pub(crate) fn now(&self) -> Option<u64> {
        self.core.leading().and_then(|leader| self.clock.now(leader)).or_else(|| self.last())
    }

    /// The tick now, if this node leads.
    pub(crate) fn leading(&self) -> Option<u64> {
        self.core.leading().and_then(|leader| self.clock.now(leader))
    }

    /// The tick under this leader at which a caller gives up; `None` as long as the leader has not told its tick.
    pub(crate) fn deadline_under(&self, leader: NodeId, deadline: R::Instant) -> Option<u64> {
        let own = self.core.leading().filter(|_| leader == self.core.node());
        let tick = own.map_or_else(|| self.clock.followed(leader), |own| self.clock.now(own))?;
        Some(tick.saturating_add(millis(deadline.saturating_duration_since(R::Instant::now()))))
    }

    /// The tick for an entry proposed now; `None` if this node does not lead, or does not get to know in
    /// time what the last leader's tick was.
    pub(crate) async fn stamp(&self, deadline: R::Instant) -> Option<u64> {
        let leader = self.core.leading()?;
        if let Some(tick) = self.clock.now(leader) {
            return Some(tick);
        }
        // Once this leader's first entry is applied, so are all ticks before it.
        R::timeout_at(deadline, self.first_applied(leader)).await.ok()??;
        self.clock.set(leader, self.last()?);
        self.clock.now(leader)
    }

    /// As a new leader, gets to know the tick at once, so that the others hear of it before they propose. Runs until
    /// the node stops.
    pub(crate) async fn follow_elections(self: Arc<Self>) {
        let mut metrics = self.core.raft.server_metrics();
        loop {
            let leader = {
                let now = metrics.borrow_and_update();
                (now.state == ServerState::Leader).then_some(now.vote.leader_id)
            };
            if leader.is_some_and(|leader| self.clock.elected(leader)) {
                let this = Arc::clone(&self);
                drop(R::spawn(async move {
                    let deadline = R::Instant::now() + this.core.settings.profile.wait();
                    this.stamp(deadline).await
                }));
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// The last tick applied.
    fn last(&self) -> Option<u64> {
        let state = self.store.kv();
        View::new(&*state).cluster().tick().ok()
    }

    async fn first_applied(&self, leader: LeaderId) -> Option<()> {
        let mut metrics = self.core.raft.metrics();
        loop {
            {
                let now = metrics.borrow_and_update();
                if now.last_applied.is_some_and(|id| id.leader_id == leader) {
                    return Some(());
                }
                if now.vote.leader_id != leader {
                    return None;
                }
            }
            metrics.changed().await.ok()?;
        }
    }
}
