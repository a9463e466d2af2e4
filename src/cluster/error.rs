//! Why something that was asked of the cluster was not done.

use clawhub_consensus::{ChangeError, ConsensusError, ProposeError, Unavailable};
use clawhub_peer::{CallCode, KeyError, PeerError};
use clawhub_state::{Fault, Rejected};
use clawhub_types::NodeId;

/// A use case could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The log refused it, on every node alike.
    #[error(transparent)]
    Rejected(Rejected),
    /// It does not fit what the cluster or the node is now. Asking again is of no use until that changes.
    #[error("{0}")]
    Precondition(String),
    /// It was not done, or is not known to be. Asking again may help.
    #[error("{0}")]
    Unavailable(String),
    /// A member that was asked to let this node in refused, in these words.
    #[error("{text}")]
    Member {
        /// The kind of its answer.
        code: CallCode,
        /// Its words.
        text: String,
    },
    /// A removal failed half-way.
    #[error("{cause}; node {node} drains now: remove it again, or `clawhub cluster drain {node} --undo`")]
    StillDraining {
        /// What went wrong.
        cause: Box<ClusterError>,
        /// The node that was to be removed.
        node: NodeId,
    },
    /// The replicated state cannot be read.
    #[error(transparent)]
    State(#[from] Fault),
    /// A key or certificate cannot be made, read or used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Consensus has stopped.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// This node's fault.
    #[error("{0}")]
    Internal(String),
}

impl ClusterError {
    /// The request makes no sense, for this reason.
    pub fn invalid(reason: impl std::fmt::Display) -> ClusterError {
        ClusterError::Invalid(reason.to_string())
    }

    /// This node cannot do it, for this reason.
    pub fn internal(reason: impl std::fmt::Display) -> ClusterError {
        ClusterError::Internal(reason.to_string())
    }
}

impl From<PeerError> for ClusterError {
    fn from(error: PeerError) -> ClusterError {
        ClusterError::Unavailable(error.to_string())
    }
}

impl From<Unavailable> for ClusterError {
    fn from(unavailable: Unavailable) -> ClusterError {
        ClusterError::Unavailable(unavailable.reason)
    }
}

impl From<ProposeError> for ClusterError {
    fn from(error: ProposeError) -> ClusterError {
        match error {
            ProposeError::Rejected(rejected) => ClusterError::Rejected(rejected),
            ProposeError::Unavailable(unavailable) => unavailable.into(),
            other => ClusterError::Unavailable(other.to_string()),
        }
    }
}

impl From<ChangeError> for ClusterError {
    fn from(error: ChangeError) -> ClusterError {
        match error {
            ChangeError::Refused(reason) => ClusterError::Precondition(reason),
            ChangeError::Unavailable(unavailable) => unavailable.into(),
            ChangeError::Unknown(reason) => {
                ClusterError::Unavailable(format!("the outcome is unknown: {reason}"))
            }
        }
    }
}
