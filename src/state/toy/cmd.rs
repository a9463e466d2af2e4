//! Commands about bells.

use clawhub_types::{RepoName, Resource, Touched};
use serde::{Deserialize, Serialize};

/// See the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToyCmd {
    /// Rings the bell of a repository: `ToyReply::Rung`.
    Ring {
        /// The repository.
        repo: RepoName,
    },
}

impl ToyCmd {
    /// What it touches.
    pub(crate) fn resource(&self) -> Touched {
        let ToyCmd::Ring { repo } = self;
        Resource::Repository(repo.clone()).into()
    }

    /// Whether it may not be applied twice.
    pub(crate) fn needs_identity(&self) -> bool {
        true
    }
}
