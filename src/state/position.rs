//! Where in the log something stands, and the last membership that was applied.

use clawhub_types::NodeId;
use serde::{Deserialize, Serialize};

use crate::record::record;

/// The position of a log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPos {
    /// The leader's term.
    pub term: u64,
    /// The leader's node id.
    pub node: u64,
    /// Counts up by one from entry to entry.
    pub index: u64,
}
record!(LogPos, 0x0003, "log position");

/// How far a node's vote and log have come. Neither ever goes back, unless the device under them does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    /// The term of its vote.
    pub term: u64,
    /// The last entry of its log that is settled: one that it acknowledged to a leader whose entries have been applied
    /// since, or that its log ends with.
    pub index: u64,
}

impl LogMark {
    /// Whether nothing of `other` is missing here.
    pub fn covers(&self, other: &LogMark) -> bool {
        self.term >= other.term && self.index >= other.index
    }

    /// What covers both.
    #[must_use]
    pub fn join(&self, other: &LogMark) -> LogMark {
        LogMark { term: self.term.max(other.term), index: self.index.max(other.index) }
    }
}

/// Who takes part in consensus, as an entry of the log has set it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The voters, ascending. Two sets while they change: then each must agree by a majority of its own.
    pub configs: Vec<Vec<NodeId>>,
    /// Voters and learners, ascending.
    pub nodes: Vec<NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipRecord {
    pub(crate) pos: LogPos,
    pub(crate) membership: Membership,
}
record!(MembershipRecord, 0x0004, "membership");
