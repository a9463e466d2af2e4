//! Records of the artifact domain.

use clawhub_types::{Actor, Digest, Root};
use serde::{Deserialize, Serialize};

use super::{ManifestFacts, Ref};
use crate::record::record;

/// Where a stored manifest's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyRef {
    /// In the state, on every node.
    Inline,
    /// In the blob stores of this root's holders.
    Stored(Root),
}

/// A manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRecord {
    /// What its proposer extracted.
    pub facts: ManifestFacts,
    /// Where its bytes are.
    pub body: BodyRef,
    /// Wall time of the last push, Unix milliseconds.
    pub pushed_at: u64,
}
record!(ManifestRecord, 0x0400, "manifest");

/// A tag of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// The manifest it names.
    pub digest: Digest,
    /// Wall time of the move, Unix milliseconds.
    pub at: u64,
    /// Log index of the move.
    pub index: u64,
}
record!(TagRecord, 0x0401, "tag");

/// A change of what a tag names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagChange {
    /// Log index of the change.
    pub index: u64,
    /// The manifest it names from then on; `None` if it was deleted.
    pub digest: Option<Digest>,
    /// The cluster clock, milliseconds.
    pub tick: u64,
    /// Wall time, Unix milliseconds.
    pub at: u64,
    /// Who changed it.
    pub actor: Actor,
}
record!(TagChange, 0x0402, "tag change");

/// A part of a manifest's references, beyond those in its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartRecord(pub(crate) Vec<Ref>);
record!(PartRecord, 0x0403, "manifest part");

/// The tick at which a part of a manifest was last staged that is not stored yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedRecord(pub(crate) u64);
record!(StagedRecord, 0x0404, "staged manifest");
