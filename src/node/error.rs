//! Why a node cannot start, or cannot go on, and whether that is damage that must keep it from starting again.

use std::io;
use std::path::PathBuf;

use clawhub_blobs::BlobError;
use clawhub_cluster::ClusterError;
use clawhub_kv::KvError;
use clawhub_peer::{KeyError, PeerError};
use clawhub_state::Fault;

use crate::data_dir::DataDirError;
use crate::node_store::NodeStoreError;

/// A node could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The data directory is not for it.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Kv(#[from] KvError),
    /// What the node alone knows cannot be read or kept.
    #[error(transparent)]
    Store(#[from] NodeStoreError),
    /// The replicated state cannot be read.
    #[error(transparent)]
    State(#[from] Fault),
    /// A key file is missing, unreadable or wrong.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The peer endpoint cannot be made, or a join failed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Consensus(#[from] clawhub_consensus::ConsensusError),
    /// The blob store cannot be opened.
    #[error(transparent)]
    Blobs(Box<BlobError>),
    /// An address cannot be listened on.
    #[error("cannot listen for {what} at {at}: {source}")]
    Listen { what: &'static str, at: String, source: io::Error },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// The data directory contradicts itself.
    #[error("the data directory does not fit together: {0}; nothing is guessed or repaired")]
    Inconsistent(String),
    /// The cluster refused this data at an earlier start.
    #[error(
        "the cluster has refused this data directory: {0}; replace the node: drain it, and join anew with an \
         empty data directory"
    )]
    Refused(String),
    /// It is no member any more.
    #[error(
        "this node was removed from the cluster; to take part again, it joins anew with an empty data directory"
    )]
    Removed,
    /// The node ran and cannot go on.
    #[error("{0}")]
    Fault(String),
    /// The node ran and found a database of its own to be damaged.
    #[error("{0}")]
    Damaged(String),
}

impl From<ClusterError> for NodeError {
    fn from(error: ClusterError) -> NodeError {
        match error {
            ClusterError::State(fault) => NodeError::State(fault),
            ClusterError::Consensus(error) => NodeError::Consensus(error),
            ClusterError::Key(error) => NodeError::Key(error),
            other => NodeError::Fault(other.to_string()),
        }
    }
}

impl From<BlobError> for NodeError {
    fn from(error: BlobError) -> NodeError {
        NodeError::Blobs(Box::new(error))
    }
}

impl NodeError {
    /// Whether a database of the node is damaged, wherever that was noticed.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            NodeError::Kv(error) | NodeError::Store(NodeStoreError::Kv(error)) => error.is_corrupt(),
            NodeError::State(Fault::Kv(error)) => error.is_corrupt(),
            NodeError::Consensus(error) => error.is_corrupt(),
            NodeError::Blobs(error) => matches!(&**error, BlobError::Index(error) if error.is_corrupt()),
            NodeError::Io { source, .. } => KvError::within(source).is_some_and(KvError::is_corrupt),
            NodeError::Damaged(_) => true,
            // What `DataDir` says of damage was said before.
            NodeError::DataDir(_)
            | NodeError::Store(_)
            | NodeError::State(_)
            | NodeError::Key(_)
            | NodeError::Peer(_)
            | NodeError::Listen { .. }
            | NodeError::Inconsistent(_)
            | NodeError::Refused(_)
            | NodeError::Removed
            | NodeError::Fault(_) => false,
        }
    }

    /// Whether a further life may do better: a device comes and goes, or a thread of the life before still waits
    /// for it and holds a lock. A fault that no device caused is met again.
    pub(crate) fn may_pass(&self) -> bool {
        let for_good = matches!(
            self,
            NodeError::Removed
                | NodeError::Refused(_)
                | NodeError::Fault(_)
                | NodeError::DataDir(
                    DataDirError::Foreign(_)
                        | DataDirError::Newer { .. }
                        | DataDirError::Quarantined { .. }
                        | DataDirError::OtherOwner { .. }
                )
        );
        !for_good && !self.is_damage()
    }
}
