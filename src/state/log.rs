//! What consensus hands over, in terms of its own that no library's serde form leaks into.

use serde::{Deserialize, Serialize};

use crate::entry::Entry;
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

/// What a log entry carries.
#[expect(
    clippy::large_enum_variant,
    reason = "one per log entry, handled by reference; a box would add an allocation"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A command.
    Entry(Entry),
    /// A membership, as consensus' own opaque record.
    Membership(Vec<u8>),
}

/// A committed log entry, to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogItem {
    /// Where it stands.
    pub pos: LogPos,
    /// What it carries.
    pub payload: Payload,
}

/// The last membership applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipRecord {
    pub(crate) pos: LogPos,
    pub(crate) bytes: Vec<u8>,
}
record!(MembershipRecord, 0x0004, "membership");
