//! What goes wrong, as gRPC says it to operators and joining nodes.
//!
//! `UNAVAILABLE` is worth trying again and may have happened; `FAILED_PRECONDITION` and the like are
//! decisions; `INTERNAL` is this node's fault, with the details in its log.

use clawhub_state::cluster::ClusterRejected;
use clawhub_state::{Rejected, RequestRejected};
use tonic::Status;

use crate::ClusterError;

impl From<ClusterError> for Status {
    fn from(error: ClusterError) -> Status {
        let text = error.to_string();
        match error {
            ClusterError::Invalid(_) => Status::invalid_argument(text),
            ClusterError::Rejected(rejected) => rejection(&rejected),
            ClusterError::Precondition(_) => Status::failed_precondition(text),
            ClusterError::Unavailable(_) => Status::unavailable(text),
            ClusterError::Member(status) => *status,
            ClusterError::StillDraining { cause, .. } => Status::new(Status::from(*cause).code(), text),
            ClusterError::State(_)
            | ClusterError::Key(_)
            | ClusterError::Consensus(_)
            | ClusterError::Internal(_) => {
                tracing::error!(error = %text, "an administrative request failed");
                Status::internal(text)
            }
        }
    }
}

fn rejection(rejected: &Rejected) -> Status {
    let text = rejected.to_string();
    match rejected {
        Rejected::Cluster(ClusterRejected::TokenInvalid) => Status::permission_denied(text),
        Rejected::Cluster(ClusterRejected::NameTaken) => Status::already_exists(text),
        Rejected::Cluster(ClusterRejected::NodeUnknown(_)) => Status::not_found(text),
        Rejected::Request(
            RequestRejected::SessionGone | RequestRejected::DeadlinePassed | RequestRejected::StalePermit,
        ) => Status::unavailable(text),
        _ => Status::failed_precondition(text),
    }
}

#[cfg(test)]
mod tests {
    use clawhub_types::NodeId;
    use tonic::Code;

    use super::*;

    #[test]
    fn a_removal_that_failed_half_way_keeps_the_code_of_what_went_wrong() {
        let left = |cause| {
            let error = ClusterError::StillDraining { cause: Box::new(cause), node: NodeId(3) };
            let status = Status::from(error);
            assert!(status.message().ends_with("`cluster drain 3 --undo`"), "{status}");
            status.code()
        };
        assert_eq!(left(ClusterError::Unavailable("no leader".into())), Code::Unavailable);
        assert_eq!(
            left(ClusterError::Rejected(Rejected::Cluster(ClusterRejected::NodeUnknown(NodeId(3))))),
            Code::NotFound
        );
    }
}
