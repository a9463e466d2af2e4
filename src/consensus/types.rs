//! The types this crate runs openraft with, generic over the async runtime so that the same code runs
//! on tokio and in simulation.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use clawhub_state::{self as state, LogPos, Outcome};
use clawhub_types::NodeId;
use openraft::async_runtime::{AsyncRuntime, Watch};
use openraft::impls::{InlineBatch, ProgressResponder, leader_id_adv};
use openraft::{EmptyNode, EntryPayload, RaftTypeConfig};
use serde::{Deserialize, Serialize};

use crate::fatal::Cause;

/// openraft's view of this crate on runtime `R`.
///
/// Several leaders per term are allowed (a leader is named by term *and* node), which is why a
/// [`LogPos`] carries the node. Node ids are bare numbers: addresses come from the peer directory.
pub struct Types<R>(PhantomData<fn() -> R>);

pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Membership = openraft::Membership<u64, EmptyNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, EmptyNode>;
pub(crate) type Payload = EntryPayload<Proposal, u64, EmptyNode>;
pub(crate) type RaftEntry = openraft::Entry<LeaderId, Payload>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, EmptyNode>;
pub(crate) type Metrics<R> = openraft::RaftMetrics<Types<R>>;
pub(crate) type MetricsReceiver<R> = <<R as AsyncRuntime>::Watch as Watch>::Receiver<Metrics<R>>;

impl<R: AsyncRuntime> RaftTypeConfig for Types<R> {
    type D = Proposal;
    type R = Applied;
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = RaftEntry;
    type AsyncRuntime = R;
    type Responder<T>
        = ProgressResponder<Self, T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = Cause;
}

/// The traits openraft asks of a type config, none of which may depend on `R` having them.
mod config_traits {
    use std::cmp::Ordering;

    use super::*;

    impl<R> fmt::Debug for Types<R> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Types")
        }
    }
    impl<R> Clone for Types<R> {
        fn clone(&self) -> Self {
            *self
        }
    }
    impl<R> Copy for Types<R> {}
    impl<R> Default for Types<R> {
        fn default() -> Self {
            Types(PhantomData)
        }
    }
    impl<R> PartialEq for Types<R> {
        fn eq(&self, _: &Self) -> bool {
            true
        }
    }
    impl<R> Eq for Types<R> {}
    impl<R> PartialOrd for Types<R> {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }
    impl<R> Ord for Types<R> {
        fn cmp(&self, _: &Self) -> Ordering {
            Ordering::Equal
        }
    }
}

/// An encoded [`clawhub_state::Entry`], decoded only where it is applied. (The serde form serves
/// openraft's bounds; it is never written or sent.)
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying a log entry answered; nothing for entries of consensus itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Applied(pub Option<Outcome>);

/// Whom a node follows or votes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The term.
    pub term: u64,
    /// The candidate or leader.
    pub node: u64,
    /// A quorum granted it: `node` leads.
    pub committed: bool,
}

pub(crate) fn log_id(pos: LogPos) -> LogId {
    LogId::new(LeaderId { term: pos.term, node_id: pos.node }, pos.index)
}

pub(crate) fn log_pos(id: &LogId) -> LogPos {
    LogPos { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

/// A membership as the state keeps it.
pub(crate) fn members(of: &Membership) -> state::Membership {
    let voters = |config: &std::collections::BTreeSet<u64>| config.iter().copied().map(NodeId).collect();
    state::Membership {
        configs: of.get_joint_config().iter().map(voters).collect(),
        nodes: of.nodes().map(|(id, _)| NodeId(*id)).collect(),
    }
}

/// The same as openraft has it, by the constructor that checks nothing: what is kept was agreed upon.
pub(crate) fn membership(of: state::Membership) -> Membership {
    let voters = |config: Vec<NodeId>| config.into_iter().map(|id| id.0).collect();
    let nodes = of.nodes.into_iter().map(|id| id.0);
    Membership::new_with_defaults(of.configs.into_iter().map(voters).collect(), nodes)
}

pub(crate) fn vote(ballot: Ballot) -> Vote {
    let leader_id = LeaderId { term: ballot.term, node_id: ballot.node };
    Vote { leader_id, committed: ballot.committed }
}

pub(crate) fn ballot(vote: &Vote) -> Ballot {
    Ballot { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}
