//! Who takes part, changed one step at a time, by the leader. Any node passes a wish on to it.
//!
//! Owns nothing: the membership is in the log. A leader that dies in the middle of a change leaves it half-way,
//! and the next one ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clawhub_types::NodeId;
use openraft::async_runtime::{AsyncRuntime, Select2, WatchReceiver};
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode, Instant, Precondition, ServerState};
use openraft_rt_tokio::TokioRuntime;

use crate::core::Core;
use crate::error::Unavailable;
use crate::record;
use crate::transport::{Change, ChangeReply, Transport};
use crate::types::Metrics;

/// A learner that lacks at most this many entries may vote, and one that has all that there was when it was asked: over
/// a long way, under load, more than this is always on its way.
const CAUGHT_UP: u64 = 256;

/// Why a change of membership was not made, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It cannot be made; the text says why.
    #[error("{0}")]
    Refused(String),
    /// Not begun.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// It may have been made, or be made yet.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// Who takes part, as a handle to change it; see the [module](self).
pub struct Membership<R: AsyncRuntime = TokioRuntime> {
    core: Arc<Core<R>>,
    transport: Arc<dyn Transport>,
    /// Held while membership changes.
    changing: futures::lock::Mutex<()>,
}

impl<R: AsyncRuntime> Membership<R> {
    pub(crate) fn new(core: Arc<Core<R>>, transport: Arc<dyn Transport>) -> Arc<Membership<R>> {
        Arc::new(Membership { core, transport, changing: futures::lock::Mutex::default() })
    }

    /// Replicates to a node from now on, without giving it a vote. One that takes part already is left
    /// as it is.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_learner(&self, node: NodeId, wait: Duration) -> Result<(), ChangeError> {
        self.change(Change::AddLearner(node), wait).await
    }

    /// Gives a learner a vote once it has caught up.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] if the node is no member or does not catch up within `wait`.
    pub async fn promote(&self, node: NodeId, wait: Duration) -> Result<(), ChangeError> {
        self.change(Change::Promote(node), wait).await
    }

    /// Ends a node's part; it gets neither entries nor a vote any more. One that has none is fine.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] for the last voter.
    pub async fn remove_member(&self, node: NodeId, wait: Duration) -> Result<(), ChangeError> {
        self.change(Change::Remove(node), wait).await
    }

    /// Hands leadership to a voter, to the most advanced one if none is named.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] if that is no other voter, or if it did not take over within `wait`.
    pub async fn transfer_leader(&self, to: Option<NodeId>, wait: Duration) -> Result<(), ChangeError> {
        self.change(Change::Transfer(to), wait).await
    }

    /// Makes a change at the leader, wherever that is. Each is idempotent, so it is asked for until it is
    /// answered.
    async fn change(&self, change: Change, wait: Duration) -> Result<(), ChangeError> {
        let deadline = R::Instant::now() + wait;
        let mut doubt = None;
        let mut reason = "there is no leader".to_owned();
        while R::Instant::now() < deadline {
            let leader = self.core.leader();
            let ttl = deadline.saturating_duration_since(R::Instant::now());
            let reply = match leader {
                None => ChangeReply::NotLeader(None),
                Some(node) if node == self.core.node() => self.make(change, ttl).await,
                Some(node) => {
                    let reply = R::timeout(ttl, self.transport.change(node, change, ttl)).await;
                    let reply = reply.map_err(|_| "the leader did not answer in time".to_owned());
                    reply.and_then(|r| r.map_err(|e| e.to_string())).unwrap_or_else(ChangeReply::Unknown)
                }
            };
            match reply {
                ChangeReply::Done => return Ok(()),
                ChangeReply::Refused(why) => return Err(ChangeError::Refused(why)),
                ChangeReply::Unknown(why) => doubt = Some(why),
                ChangeReply::Busy(why) => reason = why,
                ChangeReply::NotLeader(_) => {}
            }
            self.core.pause(leader, deadline).await;
        }
        match doubt {
            Some(why) => Err(ChangeError::Unknown(why)),
            None => Err(self.core.unavailable(reason).into()),
        }
    }

    async fn add(&self, node: NodeId) -> ChangeReply {
        if members(&self.metrics()).contains(&node.0) {
            return ChangeReply::Done;
        }
        self.write(ChangeMembers::AddNodes(BTreeMap::from([(node.0, record::node())])), true).await
    }

    async fn make_voter(&self, node: NodeId, ttl: Duration) -> ChangeReply {
        let metrics = self.metrics();
        if voters(&metrics).contains(&node.0) {
            return ChangeReply::Done;
        }
        if !members(&metrics).contains(&node.0) {
            return ChangeReply::Refused(format!("node {node} is not a learner"));
        }
        // Most of the time is for catching up, some for the change itself.
        if R::timeout(ttl / 2, self.caught_up(node)).await.is_err() {
            let behind = lag(&self.metrics(), node);
            return ChangeReply::Refused(match behind {
                Some(entries) => format!("node {node} is {entries} entries behind"),
                None => format!("node {node} does not follow"),
            });
        }
        let add = ChangeMembers::AddVoterIds(BTreeSet::from([node.0]));
        self.write(add, true).await
    }

    async fn remove(&self, node: NodeId) -> ChangeReply {
        let metrics = self.metrics();
        let voters = voters(&metrics);
        let gone = BTreeSet::from([node.0]);
        if !members(&metrics).contains(&node.0) {
            return ChangeReply::Done;
        }
        if voters == gone {
            return ChangeReply::Refused("the last voter cannot be removed".to_owned());
        }
        if node == self.core.node() {
            // Leadership moves first and the new leader removes this node: a leader outside of its own
            // membership is a state that nothing needs and openraft does not survive every request in.
            return match self.hand_over(None).await {
                ChangeReply::Done => ChangeReply::NotLeader(self.core.leader()),
                other => other,
            };
        }
        let remove = match voters.contains(&node.0) {
            true => ChangeMembers::RemoveVoters(gone),
            false => ChangeMembers::RemoveNodes(gone),
        };
        self.write(remove, false).await
    }

    async fn hand_over(&self, to: Option<NodeId>) -> ChangeReply {
        let metrics = self.metrics();
        let me = self.core.node();
        if to == Some(me) {
            return ChangeReply::Done;
        }
        let others: Vec<_> = voters(&metrics).into_iter().map(NodeId).filter(|n| *n != me).collect();
        let to = match to {
            Some(to) if others.contains(&to) => to,
            Some(to) => return ChangeReply::Refused(format!("node {to} is no voter")),
            None => match others.into_iter().min_by_key(|n| lag(&metrics, *n).unwrap_or(u64::MAX)) {
                Some(to) => to,
                None => return ChangeReply::Refused("there is no other voter".to_owned()),
            },
        };
        if let Err(e) = self.core.raft.trigger().transfer_leader(to.0).await {
            return ChangeReply::Refused(e.to_string());
        }
        let limit = R::sleep(self.core.settings.profile.wait());
        match R::select2(self.core.leader_other_than(Some(me)), limit).await {
            Select2::First(_) => ChangeReply::Done,
            Select2::Second(()) => ChangeReply::Refused(format!("node {to} did not take over")),
        }
    }

    /// Ends a change that somebody began and did not end. Leaves a settled membership alone.
    async fn settled(&self) -> ChangeReply {
        if self.metrics().membership_config.membership().get_joint_config().len() < 2 {
            return ChangeReply::Done;
        }
        let nothing_new = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.write(nothing_new, true).await
    }

    /// Makes a change from the membership this node sees, as the leader it now is, or not at all. Without
    /// these conditions a leader that was removed in between would be asked to change a membership that
    /// it is no part of, which openraft asserts never happens.
    async fn write(&self, change: ChangeMembers<u64, EmptyNode>, retain: bool) -> ChangeReply {
        let seen = self.core.raft.server_metrics().borrow_watched().clone();
        let member = seen.membership_config.get_node(&self.core.node().0).is_some();
        if seen.state != ServerState::Leader || !member {
            return ChangeReply::NotLeader(None);
        }
        let conditions = [
            Precondition::CommittedLeaderId { committed_leader_id: seen.vote.leader_id },
            Precondition::LastMembershipLogId { last_membership_log_id: *seen.membership_config.log_id() },
        ];
        match self.core.raft.change_membership_if(change, retain, conditions).await {
            Ok(_) => ChangeReply::Done,
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                ChangeReply::NotLeader(to.leader_id.map(NodeId))
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(e))) => match e {
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
                    ChangeReply::Busy(e.to_string())
                }
                _ => ChangeReply::Refused(e.to_string()),
            },
            // A failed condition too: it may be that of the second of two steps.
            Err(e) => ChangeReply::Unknown(e.to_string()),
        }
    }

    fn metrics(&self) -> Metrics<R> {
        self.core.raft.metrics().borrow_watched().clone()
    }

    async fn caught_up(&self, node: NodeId) {
        let mut metrics = self.core.raft.metrics();
        let asked = metrics.borrow_watched().last_log_index.unwrap_or(0);
        let lacks = |now: &Metrics<R>| {
            let since = now.last_log_index.unwrap_or(0).saturating_sub(asked);
            lag(now, node).is_none_or(|lag| lag > CAUGHT_UP.max(since))
        };
        while lacks(&metrics.borrow_and_update()) {
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// As leader: makes a change, after the one before it has ended.
    pub(crate) async fn make(&self, change: Change, ttl: Duration) -> ChangeReply {
        if self.core.leading().is_none() {
            return ChangeReply::NotLeader(self.core.other_leader());
        }
        let work = async {
            let _one_at_a_time = self.changing.lock().await;
            if !matches!(change, Change::Transfer(_)) {
                // On top of an unfinished change another one could leave this leader out, half-way.
                match self.settled().await {
                    ChangeReply::Done => {}
                    other => return other,
                }
            }
            match change {
                Change::AddLearner(node) => self.add(node).await,
                Change::Promote(node) => self.make_voter(node, ttl).await,
                Change::Remove(node) => self.remove(node).await,
                Change::Transfer(to) => self.hand_over(to).await,
            }
        };
        match R::timeout(ttl, work).await {
            Ok(reply) => reply,
            Err(_) => ChangeReply::Unknown("the change was not finished in time".to_owned()),
        }
    }

    /// While this node leads: ends changes that were interrupted. Runs until the node stops.
    pub(crate) async fn end_interrupted(self: Arc<Self>) {
        let mut metrics = self.core.raft.server_metrics();
        loop {
            let interrupted = {
                let now = metrics.borrow_and_update();
                let joint = now.membership_config.membership().get_joint_config().len() > 1;
                joint && now.state == ServerState::Leader
            };
            let changed = metrics.changed();
            if !interrupted {
                match changed.await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            }
            // Who makes a change holds the lock: only one that nobody makes any more is ended here.
            let pause = R::sleep(self.core.settings.profile.lease());
            match R::select2(changed, pause).await {
                Select2::First(Ok(())) => {}
                Select2::First(Err(_)) => return,
                Select2::Second(()) => {
                    if let Some(_nobody_else) = self.changing.try_lock() {
                        let reply = self.settled().await;
                        tracing::info!(?reply, "ended an interrupted change of membership");
                    }
                }
            }
        }
    }
}

fn voters<R: AsyncRuntime>(metrics: &Metrics<R>) -> BTreeSet<u64> {
    metrics.membership_config.voter_ids().collect()
}

fn members<R: AsyncRuntime>(metrics: &Metrics<R>) -> BTreeSet<u64> {
    metrics.membership_config.nodes().map(|(id, _)| *id).collect()
}

/// Entries that a member lacks; `None` while nothing is known of it.
fn lag<R: AsyncRuntime>(metrics: &Metrics<R>, node: NodeId) -> Option<u64> {
    let matched = metrics.replication.as_ref()?.get(&node.0)?.as_ref()?;
    Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matched.index))
}
