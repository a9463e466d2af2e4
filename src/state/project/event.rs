//! What happens in the project domain.

use clawhub_types::ProjectName;
use serde::{Deserialize, Serialize};

/// What an entry did to projects, for those who read events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProjectEvent {
    /// A project's policy was set.
    PolicySet {
        /// The project.
        project: ProjectName,
    },
}
