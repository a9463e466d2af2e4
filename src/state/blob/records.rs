//! Records of the blob domain.

use clawhub_types::{Digests, NodeId, Root};
use serde::{Deserialize, Serialize};

use crate::record::record;

/// A root: some bytes, wherever they are linked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// Length in bytes.
    pub size: u64,
    /// Counts revivals after collection; receipts are for one generation. Begins at 1.
    pub generation: u64,
    /// The names clients know it by.
    pub digests: Digests,
    /// The members that proved a durable copy, ascending.
    pub holders: Vec<NodeId>,
    /// Projects that link it.
    pub projects: u64,
    /// Repositories that link it.
    pub links: u64,
    /// The tick at which the last link went; `None` while there is one. Collection waits from here.
    pub unlinked_since: Option<u64>,
    /// The tick since which, linked as it is, it has had fewer copies than its projects ask for, as of the last
    /// look at it; `None` while it has enough.
    pub short_since: Option<u64>,
}
record!(RootRecord, 0x0300, "root");

/// The root behind a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DigestRecord(pub(crate) Root);
record!(DigestRecord, 0x0301, "digest");

/// How many repositories of a project link a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkCountRecord(pub(crate) u64);
record!(LinkCountRecord, 0x0302, "link count");

/// A repository's link to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// The blob.
    pub root: Root,
    /// Its length in bytes.
    pub size: u64,
    /// The tick until which no collector may take the link; `None` while a manifest holds it. A link
    /// past its lease stays good for every use until it is collected.
    pub lease_until: Option<u64>,
}
record!(LinkRecord, 0x0303, "link");
