//! Commands about roots, holders and links.

use clawhub_types::{Action, Digest, Digests, NodeId, Receipt, RepoName, Resource, Root, Touched};
use serde::{Deserialize, Serialize};

use crate::proposers::{Members, Proposers};

/// Roots that one `Review` looks at.
pub const REVIEW: usize = 512;

/// A command about roots, their holders, or the links to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobCmd {
    /// Binds `digest` (and the other digests the receipts agree on) to `root`, records the receipts'
    /// nodes as holders, and links the blob in `repo` under a lease: `BlobReply::Linked`. The project and
    /// repository are created by first use. `BlobRejected::NeedCopies` while the holders do not satisfy the
    /// project's policy; `BlobRejected::BadReceipt` if receipts disagree with each other or the record.
    Commit {
        /// The repository uploaded to.
        repo: RepoName,
        /// The digest the client named.
        digest: Digest,
        /// Receipts of at least the nodes the policy asks for.
        receipts: Vec<Receipt>,
    },
    /// Links a blob of `from` in `to` under a lease: `BlobReply::Linked`, or `BlobReply::NotMounted` if `from`
    /// has no live link to it, or nobody holds it any more. `BlobRejected::NeedCopies` if `to`'s policy asks for more copies.
    Mount {
        /// The source.
        from: RepoName,
        /// The target, created by first use.
        to: RepoName,
        /// The blob.
        digest: Digest,
    },
    /// Removes a repository's link (DELETE blob). `BlobRejected::BlobReferenced` names a manifest that holds
    /// it; `BlobRejected::BlobUnknown` if there is no link.
    Unlink {
        /// The repository.
        repo: RepoName,
        /// The blob.
        digest: Digest,
    },
    /// Extends the lease of a link no manifest holds (a HEAD past half-life).
    Renew {
        /// The repository.
        repo: RepoName,
        /// The blob.
        digest: Digest,
    },
    /// A node says which further copies it holds: `BlobReply::Count`. Receipts for unknown roots are skipped, bad
    /// ones too.
    Hold {
        /// The new copies, all of one node.
        receipts: Vec<Receipt>,
    },
    /// A node asks to give up copies; applied for each root whose other holders are complete for every
    /// linking project (`policy::complete`): `BlobReply::Count`. The last copy is never given up.
    Release {
        /// The holder.
        node: NodeId,
        /// What it wants to delete.
        roots: Vec<Root>,
    },
    /// A node found its copies gone or corrupt. Always applied.
    Lost {
        /// The former holder.
        node: NodeId,
        /// What it lost.
        roots: Vec<Root>,
    },
    /// Looks anew at whether these roots, at most [`REVIEW`] of them, have the copies that their projects ask
    /// for, after the layout or a policy changed: `BlobReply::Count`. Idempotent; the further ones and unknown
    /// ones are skipped.
    Review {
        /// The roots.
        roots: Vec<Root>,
    },
    /// A node is about to delete bytes that receipts may cover: receipts of older epochs are void.
    Epoch {
        /// The node.
        node: NodeId,
        /// Its new epoch; ignored unless above the logged one.
        epoch: u64,
    },
    /// Records further holders, as `Hold` does, of blobs that a push into `repo` needs and of which its ingress node
    /// had copies made elsewhere. In the client's name, as the receipts of its other commands are.
    Ensured {
        /// What is pushed into.
        repo: RepoName,
        /// The new copies.
        receipts: Vec<Receipt>,
    },
}

impl BlobCmd {
    /// What it touches. Copies are the cluster's, links a repository's.
    pub(crate) fn resource(&self) -> Touched {
        match self {
            BlobCmd::Commit { repo, .. }
            | BlobCmd::Ensured { repo, .. }
            | BlobCmd::Unlink { repo, .. }
            | BlobCmd::Renew { repo, .. } => Resource::Repository(repo.clone()).into(),
            BlobCmd::Mount { from, to, .. } => Touched {
                target: Resource::Repository(to.clone()),
                source: Some(Resource::Repository(from.clone())),
            },
            BlobCmd::Hold { .. }
            | BlobCmd::Release { .. }
            | BlobCmd::Lost { .. }
            | BlobCmd::Review { .. }
            | BlobCmd::Epoch { .. } => Resource::Cluster.into(),
        }
    }

    /// What a client must be permitted to do; copies are the cluster's own business.
    pub(crate) fn action(&self) -> Option<Action> {
        match self {
            BlobCmd::Commit { .. } | BlobCmd::Ensured { .. } | BlobCmd::Mount { .. } => Some(Action::Push),
            BlobCmd::Unlink { .. } => Some(Action::Delete),
            // A HEAD of who may pull: its answer promises that a push can go on to rely on the blob.
            BlobCmd::Renew { .. } => Some(Action::Pull),
            BlobCmd::Hold { .. }
            | BlobCmd::Release { .. }
            | BlobCmd::Lost { .. }
            | BlobCmd::Review { .. }
            | BlobCmd::Epoch { .. } => None,
        }
    }

    /// Who proposes it, besides clients. A node says for itself what it holds, lost and gives up, and operators say
    /// the latter two for one that leaves.
    pub(crate) fn proposers(&self) -> Proposers {
        match self {
            BlobCmd::Commit { .. }
            | BlobCmd::Ensured { .. }
            | BlobCmd::Mount { .. }
            | BlobCmd::Unlink { .. }
            | BlobCmd::Renew { .. } => Proposers::CLIENTS,
            BlobCmd::Hold { receipts } => Proposers::members(of_one_node(receipts)),
            BlobCmd::Review { .. } => Proposers::members(Members::Any),
            BlobCmd::Release { node, .. } | BlobCmd::Lost { node, .. } => {
                Proposers::operators_and(Members::Only(*node))
            }
            BlobCmd::Epoch { node, .. } => Proposers::members(Members::Only(*node)),
        }
    }

    /// Whether it may not be applied twice.
    pub(crate) fn needs_identity(&self) -> bool {
        !matches!(self, BlobCmd::Review { .. } | BlobCmd::Epoch { .. })
    }
}

/// The one node that all of these are of; who says nothing speaks for nobody.
fn of_one_node(receipts: &[Receipt]) -> Members {
    match receipts {
        [first, others @ ..] if others.iter().all(|other| other.node == first.node) => {
            Members::Only(first.node)
        }
        _ => Members::Nobody,
    }
}

/// Where a manifest's bytes are, when they do not travel in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBytes {
    /// The root of the bytes.
    pub root: Root,
    /// Their digests as the proposer computed them, the manifest's own among them. The SHA-256 must be
    /// the one that the receipts prove.
    pub digests: Digests,
    /// Receipts that, with the holders known already, satisfy the project's policy.
    pub receipts: Vec<Receipt>,
}
