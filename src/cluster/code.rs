//! Which kind of failure an error is. What that becomes in a protocol is said by the edges.

use clawhub_peer::CallCode;
use clawhub_state::cluster::ClusterRejected;
use clawhub_state::{Rejected, RequestRejected};

use crate::ClusterError;

impl ClusterError {
    /// What the caller can do about it: [`CallCode::Unavailable`] is worth trying again and may have happened,
    /// [`CallCode::Internal`] is this node's fault, anything else is a decision.
    pub fn code(&self) -> CallCode {
        match self {
            ClusterError::Invalid(_) => CallCode::Invalid,
            ClusterError::Rejected(rejected) => rejection(rejected),
            ClusterError::Precondition(_) => CallCode::Precondition,
            ClusterError::Unavailable(_) => CallCode::Unavailable,
            ClusterError::Member { code, .. } => *code,
            ClusterError::StillDraining { cause, .. } => cause.code(),
            ClusterError::State(_)
            | ClusterError::Key(_)
            | ClusterError::Consensus(_)
            | ClusterError::Internal(_) => CallCode::Internal,
        }
    }
}

fn rejection(rejected: &Rejected) -> CallCode {
    match rejected {
        Rejected::Cluster(ClusterRejected::TokenInvalid) => CallCode::Denied,
        Rejected::Cluster(ClusterRejected::NameTaken) => CallCode::Exists,
        Rejected::Cluster(ClusterRejected::NodeUnknown(_)) => CallCode::NotFound,
        Rejected::Cluster(ClusterRejected::KeysChange) => CallCode::Unavailable,
        // The request came too late, or under something outdated.
        Rejected::Request(
            RequestRejected::SessionGone | RequestRejected::DeadlinePassed | RequestRejected::StalePermit,
        ) => CallCode::Unavailable,
        _ => CallCode::Precondition,
    }
}

#[cfg(test)]
mod tests {
    use clawhub_types::NodeId;

    use super::*;

    #[test]
    fn a_removal_that_failed_half_way_keeps_the_code_of_what_went_wrong() {
        let left = |cause| {
            let error = ClusterError::StillDraining { cause: Box::new(cause), node: NodeId(3) };
            assert!(error.to_string().ends_with("`clawhub cluster drain 3 --undo`"), "{error}");
            error.code()
        };
        assert_eq!(left(ClusterError::Unavailable("no leader".into())), CallCode::Unavailable);
        assert_eq!(
            left(ClusterError::Rejected(Rejected::Cluster(ClusterRejected::NodeUnknown(NodeId(3))))),
            CallCode::NotFound
        );
    }
}
