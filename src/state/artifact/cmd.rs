//! Commands about manifests and tags.

use clawhub_types::{Action, Digest, MediaType, RepoName, Resource, Tag, Touched};
use serde::{Deserialize, Serialize};

use crate::blob::StoredBytes;
use crate::proposers::Proposers;

/// Where the manifest's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// In this entry: up to 64 KiB.
    Inline(Vec<u8>),
    /// In the blob stores, proven by receipts.
    Stored(StoredBytes),
}

/// What a reference of a manifest may point at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefKind {
    /// A config or layer: a blob linked in the repository.
    Blob,
    /// A child of an index: a manifest of the repository, or else a linked blob (BuildKit caches).
    Child,
    /// A layer with addresses of its own: a blob of the repository if it is there, and then held like any other.
    /// One that is not there, or whose last copy is gone, stops nothing.
    Optional,
}

/// A reference of a manifest, which must be present for it to be stored unless it is optional. `subject` is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// What is referenced.
    pub digest: Digest,
    /// What it may be.
    pub kind: RefKind,
}

impl Ref {
    /// Whether a manifest may be stored without what it references here.
    pub fn is_optional(&self) -> bool {
        self.kind == RefKind::Optional
    }
}

/// A condition on what the tag names, decided at apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// None.
    Any,
    /// `If-Match: *`: the tag exists.
    Exists,
    /// `If-Match: "<digest>", …`: the tag names one of these.
    Matches(Vec<Digest>),
    /// `If-None-Match: *`: the tag does not exist.
    Absent,
}

impl Condition {
    /// Whether it holds while the tag names this.
    pub fn holds(&self, now: Option<&Digest>) -> bool {
        match self {
            Condition::Any => true,
            Condition::Exists => now.is_some(),
            Condition::Matches(wanted) => now.is_some_and(|now| wanted.contains(now)),
            Condition::Absent => now.is_none(),
        }
    }
}

/// What the proposer extracted from a manifest. Apply parses nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFacts {
    /// As pushed.
    pub media_type: MediaType,
    /// Length in bytes.
    pub size: u64,
    /// What it references; duplicates removed. The first [`PART`](super::PART) of them.
    pub refs: Vec<Ref>,
    /// In how many further parts the others were staged before: [`ArtifactCmd::Stage`].
    pub parts: u32,
    /// The subject, if any; it need not exist.
    pub subject: Option<Digest>,
    /// The artifact type that the referrers API shows: the manifest's own, else its config's media
    /// type; for an index its own or nothing.
    pub artifact_type: Option<String>,
    /// Annotations for the referrers API, sorted by key. Only for manifests with a subject, and only
    /// where they fit an entry; `None` there means: render them from the bytes.
    pub annotations: Option<Vec<(String, String)>>,
}

/// A command about manifests and tags of one repository.
#[expect(
    clippy::large_enum_variant,
    reason = "one per log entry, handled by reference; a box would add an allocation"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArtifactCmd {
    /// Stages a part of the references of a manifest that has too many for one entry, before the entry that stores
    /// it. Idempotent, and without effect on a manifest that has this part already. Parts that no manifest comes for
    /// are forgotten after an hour of ticks.
    Stage {
        /// The repository, which exists: a push that is refused in the end is not to leave one behind.
        repo: RepoName,
        /// The manifest.
        digest: Digest,
        /// Which part, from 1 on.
        part: u32,
        /// At most [`PART`](super::PART) references.
        refs: Vec<Ref>,
    },
    /// Stores a manifest and moves tags to it, all or nothing: `ArtifactReply::Stored`.
    Put {
        /// The repository, created by first use.
        repo: RepoName,
        /// The digest it was pushed or is to be addressed by.
        digest: Digest,
        /// Extracted facts.
        facts: ManifestFacts,
        /// The bytes.
        body: Body,
        /// Tags to move, possibly none.
        tags: Vec<Tag>,
        /// Must hold for every tag named.
        condition: Condition,
    },
    /// Deletes a manifest and every tag on it. Its blobs' links get a fresh lease.
    Delete {
        /// The repository.
        repo: RepoName,
        /// The manifest.
        digest: Digest,
    },
    /// Deletes a tag and nothing else.
    Untag {
        /// The repository.
        repo: RepoName,
        /// The tag.
        tag: Tag,
        /// Must hold.
        condition: Condition,
    },
}

impl ArtifactCmd {
    pub(crate) fn resource(&self) -> Touched {
        match self {
            ArtifactCmd::Stage { repo, .. }
            | ArtifactCmd::Put { repo, .. }
            | ArtifactCmd::Delete { repo, .. }
            | ArtifactCmd::Untag { repo, .. } => Resource::Repository(repo.clone()).into(),
        }
    }

    /// What a client must be permitted to do.
    pub(crate) fn action(&self) -> Option<Action> {
        match self {
            ArtifactCmd::Stage { .. } | ArtifactCmd::Put { .. } => Some(Action::Push),
            ArtifactCmd::Delete { .. } | ArtifactCmd::Untag { .. } => Some(Action::Delete),
        }
    }

    /// Who proposes it, besides clients.
    pub(crate) fn proposers(&self) -> Proposers {
        match self {
            ArtifactCmd::Stage { .. }
            | ArtifactCmd::Put { .. }
            | ArtifactCmd::Delete { .. }
            | ArtifactCmd::Untag { .. } => Proposers::CLIENTS,
        }
    }

    /// Whether it may not be applied twice.
    pub(crate) fn needs_identity(&self) -> bool {
        !matches!(self, ArtifactCmd::Stage { .. })
    }
}
