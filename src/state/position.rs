//! Where in the log something stands, and the last membership that was applied.

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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipRecord {
    pub(crate) pos: LogPos,
    pub(crate) bytes: Vec<u8>,
}
record!(MembershipRecord, 0x0004, "membership");
