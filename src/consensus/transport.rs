//! How nodes talk to each other, in this crate's own words. Two implementations exist: gRPC between
//! processes ([`crate::grpc`]) and channels between simulated nodes (in the tests).

use std::time::Duration;

use bytes::Bytes;
use clawhub_state::{LogPos, Outcome};
use clawhub_types::NodeId;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

pub use crate::record::FileEntry;
pub use crate::types::Ballot;

/// A log entry on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireEntry {
    /// Where it stands.
    pub pos: LogPos,
    /// This crate's record of its payload.
    pub payload: Bytes,
}

/// A step of replication; without entries a heartbeat.
#[derive(Clone, Debug)]
pub struct AppendRequest {
    /// The leader's vote.
    pub vote: Ballot,
    /// The entry right before the first one.
    pub prev: Option<LogPos>,
    /// At most [`crate::MAX_BATCH_BYTES`], or one entry.
    pub entries: Vec<WireEntry>,
    /// The last entry the leader knows to be committed.
    pub committed: Option<LogPos>,
    /// The leader's tick, milliseconds of the cluster clock, once it knows.
    pub tick: Option<u64>,
}

/// The answer to an [`AppendRequest`], and which start of the peer gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendAnswer {
    /// The peer's boot counter.
    pub boot: u64,
    /// What it says.
    pub reply: AppendReply,
}

/// What a node says to an [`AppendRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendReply {
    /// Everything up to here equals the leader's log and is durable.
    Matched(Option<LogPos>),
    /// The entry at `prev` is missing, or another one.
    Conflict(LogPos),
    /// The node has seen a higher vote.
    HigherVote(Ballot),
}

/// Asks for a vote, or whether it would be given.
#[derive(Clone, Debug)]
pub struct VoteRequest {
    /// The candidate's vote.
    pub vote: Ballot,
    /// The candidate's last entry.
    pub last_log: Option<LogPos>,
    /// The leader asked for this election.
    pub transfer: bool,
}

/// The answer to a [`VoteRequest`].
#[derive(Clone, Debug)]
pub struct VoteReply {
    /// The node's vote afterwards.
    pub vote: Ballot,
    /// Given, or would be.
    pub granted: bool,
    /// The node's last entry.
    pub last_log: Option<LogPos>,
}

/// The leader gives up in favour of a named node.
#[derive(Clone, Debug)]
pub struct TransferRequest {
    /// The vote of the leader that gives up.
    pub from: Ballot,
    /// Who shall lead.
    pub to: NodeId,
    /// What that node must hold before it campaigns.
    pub last_log: Option<LogPos>,
}

/// What a snapshot transfer is about.
#[derive(Clone, Debug)]
pub struct SnapshotHeader {
    /// The leader's vote.
    pub vote: Ballot,
    /// This crate's record of position and membership.
    pub meta: Bytes,
    /// Every file.
    pub files: Vec<FileEntry>,
    /// The missing files follow and the snapshot shall be installed. Otherwise: what is there already?
    pub transfer: bool,
}

/// A piece of a snapshot transfer: one header, then data.
#[derive(Clone, Debug)]
pub enum SnapshotPart {
    /// The first part, and only the first.
    Header(SnapshotHeader),
    /// Consecutive bytes of a file. Files come one after the other, each from its beginning.
    Data {
        /// Position in the header's list.
        file: u32,
        /// Where the bytes begin.
        offset: u64,
        /// At most [`crate::MAX_BATCH_BYTES`].
        bytes: Bytes,
    },
}

/// The answer to a snapshot transfer.
#[derive(Clone, Debug)]
pub struct SnapshotReply {
    /// The node's vote; higher than the leader's means refused.
    pub vote: Ballot,
    /// The snapshot is in force and durable, or the node has applied as much already.
    pub installed: bool,
    /// Positions in the header's list of files that are complete and checked.
    pub held: Vec<u32>,
    /// Why the node does not take the snapshot.
    pub refused: Option<SnapshotRefusal>,
}

/// Why a node does not take a snapshot. It has nothing of it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotRefusal {
    /// Its device has no room.
    NoRoom {
        /// Bytes that it would take, with what must stay free.
        needed: u64,
        /// Bytes that there are.
        room: u64,
    },
    /// A file is not what the header says, or the state in them not what it says it is.
    Damaged,
    /// Another attempt is under way there. What has arrived is kept.
    Busy,
}

impl SnapshotReply {
    /// Nothing is there, and nothing was done.
    pub(crate) fn new(vote: Ballot) -> SnapshotReply {
        SnapshotReply { vote, installed: false, held: Vec::new(), refused: None }
    }

    pub(crate) fn refused(vote: Ballot, why: SnapshotRefusal) -> SnapshotReply {
        SnapshotReply { refused: Some(why), ..SnapshotReply::new(vote) }
    }
}

/// A proposal handed to the leader.
#[derive(Clone, Debug)]
pub struct ForwardRequest {
    /// The encoded entry, not yet stamped.
    pub entry: Bytes,
    /// How long the caller waits.
    pub ttl: Duration,
}

/// What became of a forwarded proposal.
#[derive(Clone, Debug)]
pub enum ForwardReply {
    /// Committed and applied at this index.
    Applied(u64, Outcome),
    /// Not proposed: not the leader; who is, if known.
    NotLeader(Option<NodeId>),
    /// Not proposed: no new work now.
    Unavailable(String),
    /// Proposed; it may yet be applied.
    Unknown(String),
    /// Not proposed: it is not for the sender to say.
    Refused(String),
}

/// Asks for the position that a linearizable read must wait for.
#[derive(Clone, Copy, Debug)]
pub struct ReadIndexRequest {
    /// The asker's vote, taken after every read that waits for the answer had begun.
    pub vote: Option<Ballot>,
    /// How long the asker waits.
    pub ttl: Duration,
}

/// A position for a linearizable read.
#[derive(Clone, Debug)]
pub enum ReadIndexReply {
    /// A state that applied `pos` shows every write acknowledged before the question.
    Ready {
        /// The entry to wait for.
        pos: LogPos,
        /// The leader's tick, milliseconds of the cluster clock.
        tick: u64,
    },
    /// Not the leader; who is, if known.
    NotLeader(Option<NodeId>),
    /// Leads, perhaps, and cannot tell.
    Unavailable(String),
}

/// A change of who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replicate to a node that does not vote.
    AddLearner(NodeId),
    /// Let a caught-up learner vote.
    Promote(NodeId),
    /// Neither vote nor replicate.
    Remove(NodeId),
    /// Hand leadership over, to the most advanced voter if none is named.
    Transfer(Option<NodeId>),
}

/// What became of a [`Change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeReply {
    /// Committed; for a transfer: somebody else leads.
    Done,
    /// Not the leader; who is, if known.
    NotLeader(Option<NodeId>),
    /// Refused, and why.
    Refused(String),
    /// Not now: another change is not finished.
    Busy(String),
    /// It may yet happen.
    Unknown(String),
}

/// A message did not get there, or its answer did not get back: the outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// There is no connection; trying again at once is of no use.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The connection broke or the peer answered with an error.
    #[error("{0}")]
    Broken(String),
}

/// Which traffic a message belongs to. Each has a connection of its own: a snapshot must not delay
/// entries, and neither may delay the heartbeats without which the followers elect another leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Heartbeats, votes, read positions.
    Control,
    /// Log entries and forwarded proposals.
    Log,
    /// Snapshots.
    Snapshot,
}

/// An answer that is on its way.
pub type Reply<T> = BoxFuture<'static, Result<T, TransportError>>;

/// Carries messages to other members. Calls are bounded in time by their callers, who drop the future.
pub trait Transport: Send + Sync + 'static {
    /// Opens an ordered stream of appends; answers come in the order of the requests. The stream of
    /// answers ends with the requests, or with the first error.
    fn append(
        &self,
        to: NodeId,
        channel: Channel,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, Result<AppendAnswer, TransportError>>;

    /// Asks for a vote, or (`pre`) whether it would be given.
    fn vote(&self, to: NodeId, request: VoteRequest, pre: bool) -> Reply<VoteReply>;

    /// Tells that leadership moves. Answers whether the node took note.
    fn transfer(&self, to: NodeId, request: TransferRequest) -> Reply<bool>;

    /// Sends a snapshot, or asks about one.
    fn snapshot(&self, to: NodeId, parts: BoxStream<'static, SnapshotPart>) -> Reply<SnapshotReply>;

    /// Hands a proposal to the leader.
    fn forward(&self, to: NodeId, request: ForwardRequest) -> Reply<ForwardReply>;

    /// Asks the leader for a read position.
    fn read_index(&self, to: NodeId, request: ReadIndexRequest) -> Reply<ReadIndexReply>;

    /// Asks the leader for a change of membership.
    fn change(&self, to: NodeId, change: Change, ttl: Duration) -> Reply<ChangeReply>;
}
