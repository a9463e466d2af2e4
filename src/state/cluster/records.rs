//! Records of the cluster domain.

use clawhub_types::{ClusterId, Durability, NodeId};
use serde::{Deserialize, Serialize};

use super::cmd::{Envelope, NodeSpec};
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
    /// What the next cluster key can be sealed to, so that only the process of this boot opens it; empty before the first.
    pub start_key: Vec<u8>,
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
    /// The generation of its key.
    pub generation: u64,
    /// SHA-256 of the SubjectPublicKeyInfo of the key that it has confirmed for the rotation under way.
    pub next_spki: Option<[u8; 32]>,
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

/// Which keys of the cluster are in force, and the rotation that replaces them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRecord {
    /// The generation in force; its CA is in the cluster's record. Begins at 1.
    pub generation: u64,
    /// The last number that a rotation was given.
    pub last: u64,
    /// A rotation was asked for and has not begun; how long it is to wait for members that are away, in ticks.
    pub due: Option<u64>,
    /// The one under way.
    pub rotation: Option<Rotation>,
}
record!(KeysRecord, 0x0106, "keys");

impl Default for KeysRecord {
    fn default() -> KeysRecord {
        KeysRecord { generation: 1, last: 1, due: None, rotation: None }
    }
}

/// A rotation that has begun and is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Its number.
    pub generation: u64,
    /// The certificate of the next CA, DER.
    pub ca_cert: Vec<u8>,
    /// Its private key, sealed under the next cluster key.
    pub ca_key_sealed: Vec<u8>,
    /// The tick up to which members that are away are waited for.
    pub until: u64,
    /// The tick since which new keys are shown.
    pub switched: Option<u64>,
    /// The next cluster key, for the start of each member.
    pub envelopes: Vec<Envelope>,
}

impl Rotation {
    /// The next cluster key for this start of a member.
    pub fn envelope(&self, node: NodeId, boot: u64) -> Option<&[u8]> {
        let found = self.envelopes.iter().find(|envelope| (envelope.node, envelope.boot) == (node, boot));
        found.map(|envelope| envelope.sealed.as_slice())
    }

    /// Whether it has waited for long enough, and new keys are not shown yet.
    pub fn is_stuck(&self, tick: u64) -> bool {
        self.switched.is_none() && tick >= self.until
    }
}
