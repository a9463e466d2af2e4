//! What happens in the project domain.

use clawhub_types::ProjectName;
use serde::{Deserialize, Serialize};

/// See the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProjectEvent {
    /// A project's policy was set.
    PolicySet {
        /// The project.
        project: ProjectName,
    },
}
