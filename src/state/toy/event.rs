//! What happens to bells.

use clawhub_types::RepoName;
use serde::{Deserialize, Serialize};

/// See the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToyEvent {
    /// A bell was rung.
    Rung {
        /// The repository.
        repo: RepoName,
    },
}
