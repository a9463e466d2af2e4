//! What a member says of itself when it is asked whether it is there.

use std::collections::BTreeSet;

use clawhub_types::{NodeId, StatePoint};

use crate::clock::ClockReading;

/// A member's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether it takes uploads and copies.
    pub accepts: bool,
    /// Whether its storage is sound enough to lead.
    pub eligible: bool,
    /// How far it takes its own wall clock to be ahead of where it should be, milliseconds; `None` if the clock is
    /// right, or the member does not know.
    pub clock_skew_ms: Option<i64>,
    /// The members that it heard lately, itself among them.
    pub reaches: BTreeSet<NodeId>,
    /// Its state at some of the last indices at which all nodes note theirs, latest first.
    pub points: Vec<StatePoint>,
    /// Its wall clock against this node's.
    pub(crate) clock: ClockReading,
}

/// What this node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnReport {
    /// See [`Report::accepts`].
    pub(crate) accepts: bool,
    /// See [`Report::eligible`].
    pub(crate) eligible: bool,
    /// See [`Report::clock_skew_ms`].
    pub(crate) clock_skew_ms: Option<i64>,
    /// See [`Report::reaches`].
    pub(crate) reaches: BTreeSet<NodeId>,
    /// See [`Report::points`].
    pub(crate) points: Vec<StatePoint>,
}
