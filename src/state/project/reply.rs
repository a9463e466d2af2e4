//! What the project domain answers.

use clawhub_policy::Shortfall;
use clawhub_types::ProjectId;
use serde::{Deserialize, Serialize};

/// What a project command answers when it was not refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProjectReply {
    /// The project exists under this id.
    Project(ProjectId),
}

/// Why a command about a project or its repositories is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ProjectRejected {
    /// No such repository.
    #[error("the repository is unknown")]
    NameUnknown,
    /// The members, all of them alive, cannot satisfy the policy.
    #[error(transparent)]
    TooFewDomains(Shortfall),
}
