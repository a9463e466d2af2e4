//! Records of the cluster domain.

use clawhub_types::{ClusterId, Durability, NodeId};
use serde::{Deserialize, Serialize};

use super::NodeSpec;
use crate::position::LogMark;
use crate::record::record;
use crate::reply::Outcome;

/// The cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its name for ever.
    pub id: ClusterId,
    /// Counts forced recoveries; part of every peer handshake. Begins at 1.
    pub epoch: u64,
    /// The CA certificate, DER.
    pub ca_cert: Vec<u8>,
    /// The CA's private key, sealed under the cluster key.
    pub ca_key_sealed: Vec<u8>,
    /// The durability of projects that say nothing else.
    pub durability: Durability,
    /// Moves when rights over the whole cluster shrink. Begins at 0.
    pub access_rev: u64,
    /// The level of behaviour all members support. Begins at 1.
    pub level: u32,
}
record!(ClusterRecord, 0x0100, "cluster");

/// A node, a member until it is removed. Its id is never used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id.
    pub id: NodeId,
    /// What it said of itself, with the addresses of its last boot.
    pub spec: NodeSpec,
    /// Its last logged boot; 0 before the first.
    pub boot: u64,
    /// The random number that this boot was logged with.
    pub nonce: u64,
    /// What it is known to have acknowledged, up to its last logged boot; it may have acknowledged more.
    pub acknowledged: LogMark,
    /// Its deletion epoch: receipts of older ones are void.
    pub epoch: u64,
    /// Whether it is about to leave: its copies serve as sources and no longer count.
    pub draining: bool,
    /// The start that found its storage failing, if one did.
    pub failing: Option<u64>,
    /// Whether it left.
    pub removed: bool,
}
record!(NodeRecord, 0x0101, "node");

impl NodeRecord {
    /// Whether its storage has failed in its present life: its copies count no more than while it drains. What
    /// an earlier start said is over, what one says that is not logged yet holds already.
    pub fn is_failing(&self) -> bool {
        self.failing.is_some_and(|boot| boot >= self.boot)
    }
}

/// A join token, known by the hash of its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    /// The tick it expires at.
    pub(crate) expires: u64,
    /// The node that used it up.
    pub(crate) used: Option<NodeId>,
}
record!(TokenRecord, 0x0102, "join token");

/// A proposer session: one ingress node, one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The ingress node.
    pub node: NodeId,
    /// Its boot.
    pub boot: u64,
    /// The boot's random number: a retry has the same, a twin another.
    pub nonce: u64,
    /// The lowest sequence that may still be asked for.
    pub floor: u64,
}
record!(SessionRecord, 0x0103, "session");

/// The final answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnswerRecord {
    /// The log index of the entry that was answered so.
    pub(crate) index: u64,
    pub(crate) outcome: Outcome,
}
record!(AnswerRecord, 0x0104, "answer");

/// The ids handed out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdsRecord {
    pub(crate) node: u64,
    pub(crate) project: u64,
}
record!(IdsRecord, 0x0105, "next ids");
