//! What goes wrong, as gRPC says it to operators and joining nodes.
//!
//! `UNAVAILABLE` is worth trying again and may have happened; `FAILED_PRECONDITION` and the like are
//! decisions; `INTERNAL` is this node's fault, with the details in its log.

use std::fmt::Display;
use std::time::Duration;

use clawhub_consensus::{ChangeError, ProposeError};
use clawhub_state::{Fault, Rejected};
use tonic::Status;

/// How long an administrative write may wait for the cluster.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A request that makes no sense.
pub(crate) fn invalid(error: impl Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// This node's fault.
pub(crate) fn internal(error: impl Display) -> Status {
    tracing::error!(%error, "an administrative request failed");
    Status::internal(error.to_string())
}

/// The state cannot be read.
pub(crate) fn fault(fault: Fault) -> Status {
    internal(fault)
}

/// A use case that could not be carried out; trying again may help.
pub(crate) fn unavailable(error: clawhub_registry::Error) -> Status {
    Status::unavailable(error.message)
}

/// A proposal that was not applied, or is not known to be.
pub(crate) fn proposal(error: ProposeError) -> Status {
    match error {
        ProposeError::Rejected(rejected) => rejection(&rejected),
        ProposeError::Unavailable(unavailable) => Status::unavailable(unavailable.reason),
        other => Status::unavailable(other.to_string()),
    }
}

fn rejection(rejected: &Rejected) -> Status {
    let text = rejected.to_string();
    match rejected {
        Rejected::TokenInvalid => Status::permission_denied(text),
        Rejected::NameTaken => Status::already_exists(text),
        Rejected::NodeUnknown(_) => Status::not_found(text),
        Rejected::SessionGone | Rejected::DeadlinePassed | Rejected::StalePermit => Status::unavailable(text),
        _ => Status::failed_precondition(text),
    }
}

/// A change of membership that was not made, or is not known to be.
pub(crate) fn change(error: ChangeError) -> Status {
    match error {
        ChangeError::Refused(reason) => Status::failed_precondition(reason),
        ChangeError::Unavailable(unavailable) => Status::unavailable(unavailable.reason),
        ChangeError::Unknown(reason) => Status::unavailable(format!("the outcome is unknown: {reason}")),
    }
}
