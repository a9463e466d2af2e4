//! What the cluster domain answers.

use clawhub_policy::{Shortfall, Uncovered};
use clawhub_types::{NodeId, SessionId};
use serde::{Deserialize, Serialize};

use crate::position::LogMark;

/// What a cluster command answers when it was not refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterReply {
    /// A node joined under this id.
    Joined(NodeId),
    /// A proposer session was opened.
    Session(SessionId),
    /// The keys of this generation are still to come.
    Generation(u64),
}

/// Why a command about the cluster is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ClusterRejected {
    /// The join token is unknown, used up or expired.
    #[error("the join token is unknown, used or expired")]
    TokenInvalid,
    /// No such node, or no longer a member.
    #[error("node {0} is not a member")]
    NodeUnknown(NodeId),
    /// A node of this name is a member already.
    #[error("a node of this name is a member already")]
    NameTaken,
    /// A node, member or removed, has this key already.
    #[error("node {0} has this key already")]
    KeyTaken(NodeId),
    /// The boot counter is not above the logged one: a stale disk or a twin.
    #[error("boot {boot} of node {node} is not above {logged}")]
    StaleBoot {
        /// The node.
        node: NodeId,
        /// What it claimed.
        boot: u64,
        /// What the log holds.
        logged: u64,
    },
    /// The node's disk lacks what the node has acknowledged: it is an old copy.
    #[error(
        "node {node} found entry {} and term {} on its disk, and has acknowledged entry {} in term {}",
        found.index, found.term, acknowledged.index, acknowledged.term
    )]
    Forgetful {
        /// The node.
        node: NodeId,
        /// What it found.
        found: LogMark,
        /// What it has acknowledged, at least.
        acknowledged: LogMark,
    },
    /// Without the node the cluster could not keep its own durability.
    #[error(transparent)]
    TooFewDomains(Shortfall),
    /// The votes would not outlive a failure domain that the project's durability is about.
    #[error(transparent)]
    Uncovered(Uncovered),
    /// Somebody must stay.
    #[error("the last member cannot be removed")]
    LastMember,
    /// The rotation of keys is not at this step.
    #[error("the rotation of keys is at another step")]
    WrongStep,
    /// The rotation of keys waits for members.
    #[error("the rotation of keys waits for {}", list(_0))]
    NotConfirmed(Vec<NodeId>),
    /// Nobody joins for a moment: the keys are about to change.
    #[error("the keys of the cluster are being replaced: join again in a moment, with a new token")]
    KeysChange,
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| format!("node {node}")).collect::<Vec<_>>().join(", ")
}
