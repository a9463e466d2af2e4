//! Commands about bells.

use clawhub_types::{Action, RepoName, Resource, Touched};
use serde::{Deserialize, Serialize};

use crate::proposers::Proposers;

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

    /// What a client must be permitted to do.
    pub(crate) fn action(&self) -> Option<Action> {
        let ToyCmd::Ring { .. } = self;
        Some(Action::Push)
    }

    /// Who proposes it, besides clients.
    pub(crate) fn proposers(&self) -> Proposers {
        let ToyCmd::Ring { .. } = self;
        Proposers::CLIENTS
    }

    /// Whether it may not be applied twice.
    pub(crate) fn needs_identity(&self) -> bool {
        true
    }
}
