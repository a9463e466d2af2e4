//! What consensus hands over, in terms of its own that no library's serde form leaks into.

use crate::entry::Entry;
use crate::position::{LogPos, Membership};

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
    /// Who takes part from this entry on.
    Membership(Membership),
}

/// A committed log entry, to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogItem {
    /// Where it stands.
    pub pos: LogPos,
    /// What it carries.
    pub payload: Payload,
}
