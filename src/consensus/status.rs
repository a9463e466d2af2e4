//! What a node knows about its cluster: who leads, who votes, how far the log is applied. It can be looked at and
//! waited for. Everything here is read from openraft's metrics; nothing is kept.

use std::sync::Arc;
use std::time::Duration;

use clawhub_types::NodeId;
use openraft::ServerState;
use openraft::async_runtime::{AsyncRuntime, WatchReceiver};
use openraft_rt_tokio::TokioRuntime;
use parking_lot::Mutex;

use crate::core::Core;
use crate::fatal::Failure;
use crate::hearing::Heard;
use crate::types::{LogId, Metrics, MetricsReceiver};

/// The part a node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Has the full state and no vote.
    Learner,
    /// Votes and follows.
    Follower,
    /// Wants to lead.
    Candidate,
    /// Leads.
    Leader,
    /// Stopped.
    Stopped,
}

/// A node's view of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its part.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The term of its vote.
    pub term: u64,
    /// Index of the last entry in its log.
    pub last_log: Option<u64>,
    /// Index of the last entry it knows to be committed.
    pub committed: Option<u64>,
    /// Index of the last entry it has applied; 0 before the first.
    pub applied: u64,
    /// Index of the last entry its snapshot covers.
    pub snapshot: Option<u64>,
    /// Index of the last entry purged from its log.
    pub purged: Option<u64>,
    /// Those who vote; of both configurations while membership changes.
    pub voters: Vec<NodeId>,
    /// Those who follow without a vote.
    pub learners: Vec<NodeId>,
    /// A change of voters was begun and not ended.
    pub changing: bool,
    /// How long there has been no sign of a quorum: no acknowledgement if this node leads, no word of a
    /// leader if it follows. `None` while there is one within the longest election time-out.
    pub cut_off: Option<Duration>,
    /// Whether there was such a sign at all since the node started.
    pub heard: bool,
    /// As leader: how far each other member has followed.
    pub matched: Vec<(NodeId, Option<u64>)>,
    /// Why the node stopped, unless it was told to.
    pub fault: Option<Failure>,
}

fn role<R: AsyncRuntime>(metrics: &Metrics<R>) -> Role {
    match metrics.state {
        _ if metrics.running_state.is_err() => Role::Stopped,
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
        ServerState::Shutdown => Role::Stopped,
    }
}

/// Tells of changes of a node's [`Status`].
pub struct Watcher<R: AsyncRuntime = TokioRuntime> {
    core: Arc<Core<R>>,
    heard: Arc<Mutex<Heard<R>>>,
    metrics: MetricsReceiver<R>,
}

impl<R: AsyncRuntime> Watcher<R> {
    pub(crate) fn new(core: &Arc<Core<R>>, heard: &Arc<Mutex<Heard<R>>>) -> Watcher<R> {
        Watcher { core: Arc::clone(core), heard: Arc::clone(heard), metrics: core.raft.metrics() }
    }

    /// Returns at once with the present status, then at each call after a change; changes that follow
    /// each other quickly are told as one. `None` when the node has stopped.
    pub async fn changed(&mut self) -> Option<Status> {
        self.metrics.changed().await.ok()?;
        let metrics = self.metrics.borrow_and_update();
        Some(describe(&self.core, &self.heard, &metrics))
    }

    /// The present status.
    pub fn status(&self) -> Status {
        describe(&self.core, &self.heard, &self.metrics.borrow_watched())
    }
}

fn describe<R: AsyncRuntime>(core: &Core<R>, heard: &Mutex<Heard<R>>, metrics: &Metrics<R>) -> Status {
    let membership = metrics.membership_config.membership();
    let replication = metrics.replication.iter().flatten();
    let index = |id: &Option<LogId>| id.map(|id| id.index);
    let lease = core.settings.profile.lease();
    let mut heard = heard.lock();
    Status {
        node: NodeId(metrics.id),
        role: role(metrics),
        // One that stopped hears of no other, and may have been it.
        leader: metrics.current_leader.filter(|_| metrics.running_state.is_ok()).map(NodeId),
        term: metrics.current_term,
        last_log: metrics.last_log_index,
        committed: index(&metrics.local_committed),
        applied: metrics.last_applied.map_or(0, |id| id.index),
        snapshot: index(&metrics.snapshot),
        purged: index(&metrics.purged),
        voters: membership.voter_ids().map(NodeId).collect(),
        learners: membership.learner_ids().map(NodeId).collect(),
        changing: membership.get_joint_config().len() > 1,
        cut_off: heard.cut_off(metrics, lease),
        heard: heard.once(),
        matched: replication.map(|(node, id)| (NodeId(*node), index(id))).collect(),
        fault: metrics.running_state.as_ref().err().and_then(|fatal| core.failure(fatal)),
    }
}
