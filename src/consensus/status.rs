//! What a node knows about its cluster: who leads, who votes, how far the log is applied. It can be looked at and
//! waited for. Everything here is read from openraft's metrics; nothing is kept.

use std::time::Duration;

use clawhub_types::NodeId;
use openraft::ServerState;
use openraft::async_runtime::{AsyncRuntime, Watch, WatchReceiver};
use openraft::errors::Fatal;
use openraft_rt_tokio::TokioRuntime;

use crate::types::{Metrics, Types};
use crate::{Consensus, Failure};

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

pub(crate) type MetricsReceiver<R> = <<R as AsyncRuntime>::Watch as Watch>::Receiver<Metrics<R>>;

impl<R: AsyncRuntime> Consensus<R> {
    /// A look at the node now.
    pub fn status(&self) -> Status {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow_watched();
        self.describe(&metrics)
    }

    /// A handle that tells of changes.
    pub fn watch(&self) -> Watcher<R> {
        Watcher { consensus: self.clone(), metrics: self.shared.raft.metrics() }
    }

    /// Returns when the node has stopped: `None` if it was told to, else why. A stopped node takes part
    /// in nothing; its owner should close it.
    pub async fn stopped(&self) -> Option<Failure> {
        let mut metrics = self.shared.raft.metrics();
        loop {
            let state = metrics.borrow_and_update().running_state.clone();
            if let Err(fatal) = state {
                return self.failure(&fatal);
            }
            if metrics.changed().await.is_err() {
                return self.shared.gave_up.lock().clone();
            }
        }
    }

    fn failure(&self, fatal: &Fatal<Types<R>>) -> Option<Failure> {
        self.shared.gave_up.lock().clone().or_else(|| Failure::of(fatal))
    }

    fn describe(&self, metrics: &Metrics<R>) -> Status {
        let membership = metrics.membership_config.membership();
        let replication = metrics.replication.iter().flatten();
        let index = |id: &Option<crate::types::LogId>| id.map(|id| id.index);
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
            cut_off: self.cut_off(metrics),
            heard: self.has_heard(),
            matched: replication.map(|(node, id)| (NodeId(*node), index(id))).collect(),
            fault: metrics.running_state.as_ref().err().and_then(|fatal| self.failure(fatal)),
        }
    }
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
    consensus: Consensus<R>,
    metrics: MetricsReceiver<R>,
}

impl<R: AsyncRuntime> Watcher<R> {
    /// Returns at once with the present status, then at each call after a change; changes that follow
    /// each other quickly are told as one. `None` when the node has stopped.
    pub async fn changed(&mut self) -> Option<Status> {
        self.metrics.changed().await.ok()?;
        let metrics = self.metrics.borrow_and_update();
        Some(self.consensus.describe(&metrics))
    }

    /// The present status.
    pub fn status(&self) -> Status {
        self.consensus.describe(&self.metrics.borrow_watched())
    }
}
