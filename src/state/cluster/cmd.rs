//! Commands about membership, identity, tokens and sessions.

use clawhub_types::{Action, ClusterId, Durability, Location, NodeId, Resource, Roles, SessionId, Touched};
use serde::{Deserialize, Serialize};

use crate::position::LogMark;
use crate::proposers::{Members, Proposers};

/// What a node says of itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Unique among members, except those that drain.
    pub name: String,
    /// Failure domains.
    pub location: Location,
    /// Voter, storage.
    pub roles: Roles,
    /// Where peers reach it, `host:port`, TCP and UDP.
    pub peer_addr: String,
    /// Where clients reach it, `host:port`; informative.
    pub http_addr: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its key.
    pub spki: [u8; 32],
}

/// What one start of a node acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The node.
    pub node: NodeId,
    /// Its boot counter.
    pub boot: u64,
    /// The last log entry that it has durably.
    pub index: u64,
}

/// A command about the cluster, its members, join tokens and proposer sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterCmd {
    /// The first command of a cluster's life: who it is, its CA, its default policy, its first node
    /// (which gets node id 1). `RequestRejected::WrongPhase` if applied twice.
    Init {
        /// Random.
        cluster: ClusterId,
        /// The CA certificate, DER.
        ca_cert: Vec<u8>,
        /// The CA's private key, sealed under the cluster key that nodes keep outside the state.
        ca_key_sealed: Vec<u8>,
        /// The durability of projects that say nothing else.
        durability: Durability,
        /// The first node.
        node: NodeSpec,
    },
    /// Registers a one-time join token by its SHA-256.
    TokenCreate {
        /// SHA-256 of the token's secret.
        hash: [u8; 32],
        /// Expires this many ticks (ms) after apply.
        ttl: u64,
    },
    /// Consumes a token and admits a node: `ClusterReply::Joined`. The same token and the same key again
    /// answer the same id, so a join whose answer was lost can be repeated.
    Join {
        /// SHA-256 of the token's secret.
        token: [u8; 32],
        /// The node.
        node: NodeSpec,
    },
    /// A node started: its boot counter must be above the logged one, and its addresses may have moved.
    /// The same boot with the same nonce again is `Reply::Done`, with another `ClusterRejected::StaleBoot`. A node whose
    /// log and vote do not cover what it is known to have acknowledged before is `ClusterRejected::Forgetful`: its disk is
    /// an old one.
    Boot {
        /// The node.
        node: NodeId,
        /// Its fsynced boot counter.
        boot: u64,
        /// Drawn at random when the process started: tells a repetition from a twin.
        nonce: u64,
        /// Where peers reach it now.
        peer_addr: String,
        /// Where clients reach it now.
        http_addr: String,
        /// What it found on its disk when it started.
        found: LogMark,
        /// What earlier starts of it acknowledged to the leader, which writes that here itself. It counts if the entry
        /// is of the same term.
        acknowledged: Option<LogMark>,
        /// Public half of a key that this start alone has, in memory: secrets for the node are sealed to it.
        start_key: Vec<u8>,
    },
    /// Keeps what nodes have acknowledged to the leader that proposes this, so that the next one can judge a disk by it.
    /// Without effect under another leader, and for starts that are not the logged ones.
    Acknowledged {
        /// The leader's term.
        term: u64,
        /// By node.
        nodes: Vec<Acknowledgement>,
    },
    /// Opens a proposer session for an ingress boot: `ClusterReply::Session`, its id the log index. Earlier
    /// sessions of the node with a lower boot are closed. The same boot with the same nonce again answers
    /// the same session, with another, or a boot below the logged one, `ClusterRejected::StaleBoot`.
    SessionOpen {
        /// The ingress node.
        node: NodeId,
        /// Its boot counter.
        boot: u64,
        /// As in `Boot`.
        nonce: u64,
    },
    /// Closes a session.
    SessionClose {
        /// The session.
        session: SessionId,
    },
    /// Raises a session's floor: answers below are forgotten.
    SessionFloor {
        /// The session.
        session: SessionId,
        /// The lowest sequence that may still be asked for; ignored unless above the present one.
        floor: u64,
    },
    /// Begins or calls off a node's leaving: its copies serve as sources and no longer count, it is given
    /// no new ones, the others make up for them, and a node of its name may join in its place.
    /// `ClusterRejected::TooFewDomains` if without it the cluster could not keep its own durability;
    /// `ClusterRejected::NameTaken` when it is called off after somebody took the name.
    Drain {
        /// The node.
        node: NodeId,
        /// Begin.
        on: bool,
    },
    /// A node's storage fails: its copies serve as sources where they can still be read and no longer count,
    /// it is given no new ones, the others make up for them. Its next start ends that. Never refused, since
    /// it says what is; without effect if the node has started again since.
    Failing {
        /// The node.
        node: NodeId,
        /// The start that found it.
        boot: u64,
    },
    /// A step of a rotation of the cluster's keys.
    Rotation(RotationCmd),
}

impl ClusterCmd {
    pub(crate) fn resource(&self) -> Touched {
        Resource::Cluster.into()
    }

    /// None: members and operators propose these, on no permit.
    pub(crate) fn action(&self) -> Option<Action> {
        None
    }

    /// Who proposes it. What a node says of itself is for that node alone; a join is proposed by the member that was
    /// asked, on the authority of the token in it.
    pub(crate) fn proposers(&self) -> Proposers {
        match self {
            // By a leader: one that is alone, and one that knows what it was told.
            ClusterCmd::Init { .. } | ClusterCmd::Acknowledged { .. } => Proposers::members(Members::Nobody),
            ClusterCmd::TokenCreate { .. } | ClusterCmd::Drain { .. } => Proposers::OPERATORS,
            ClusterCmd::Join { .. } => Proposers::members(Members::Any),
            ClusterCmd::Boot { node, .. }
            | ClusterCmd::SessionOpen { node, .. }
            | ClusterCmd::Failing { node, .. } => Proposers::members(Members::Only(*node)),
            ClusterCmd::SessionClose { session } | ClusterCmd::SessionFloor { session, .. } => {
                Proposers::members(Members::OwnerOf(*session))
            }
            ClusterCmd::Rotation(step) => step.proposers(),
        }
    }

    /// Whether it may not be applied twice.
    pub(crate) fn needs_identity(&self) -> bool {
        match self {
            ClusterCmd::Rotation(step) => step.needs_identity(),
            _ => matches!(self, ClusterCmd::Drain { .. }),
        }
    }
}

/// The next cluster key, sealed to one start of a member: only that process opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The member.
    pub node: NodeId,
    /// The start that it is for.
    pub boot: u64,
    /// The sealed key.
    pub sealed: Vec<u8>,
}

/// A step of a rotation. One that names a generation which is not at that step is `ClusterRejected::WrongStep`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RotationCmd {
    /// Asks for a rotation that begins after this entry. Answers its generation, `ClusterReply::Generation`. One that
    /// is under way waits no longer than this for members that are away, either.
    Ask {
        /// How long it waits for members that are away, in ticks.
        wait: u64,
    },
    /// Begins one that was asked for. From here on the next CA is believed beside the present one. It may take the place
    /// of one that has waited long enough and was not confirmed by a majority of the voters.
    Begin {
        /// Its number, the first that was not given yet.
        generation: u64,
        /// The certificate of the next CA, DER.
        ca_cert: Vec<u8>,
        /// Its private key, sealed under the next cluster key.
        ca_key_sealed: Vec<u8>,
        /// The next cluster key, for each start that is known.
        envelopes: Vec<Envelope>,
    },
    /// Seals the next cluster key to a later start of a member.
    Seal {
        /// The rotation's.
        generation: u64,
        /// For one start.
        envelope: Envelope,
    },
    /// A member keeps the next keys, durably. From here on both of its own keys count.
    Confirm {
        /// The rotation's.
        generation: u64,
        /// The member.
        node: NodeId,
        /// SHA-256 of the SubjectPublicKeyInfo of its next key.
        spki: [u8; 32],
    },
    /// From here on new keys are shown. `ClusterRejected::NotConfirmed` while members are waited for.
    Switch {
        /// The rotation's.
        generation: u64,
    },
    /// The old keys and join tokens are good no more. `ClusterRejected::WrongStep` before its time.
    Finish {
        /// The rotation's.
        generation: u64,
    },
}

impl RotationCmd {
    /// Who proposes it. The leader alone takes the steps of all, each member confirms for itself.
    pub(crate) fn proposers(&self) -> Proposers {
        match self {
            RotationCmd::Ask { .. } => Proposers::OPERATORS,
            RotationCmd::Begin { .. } | RotationCmd::Switch { .. } | RotationCmd::Finish { .. } => {
                Proposers::members(Members::Nobody)
            }
            RotationCmd::Seal { .. } => Proposers::members(Members::Any),
            RotationCmd::Confirm { node, .. } => Proposers::members(Members::Only(*node)),
        }
    }

    /// Whether it may not be applied twice.
    pub(crate) fn needs_identity(&self) -> bool {
        matches!(self, RotationCmd::Ask { .. })
    }
}
