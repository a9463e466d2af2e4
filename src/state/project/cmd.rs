//! Commands about projects.

use clawhub_types::{Action, Durability, ProjectName, Resource, Touched};
use serde::{Deserialize, Serialize};

use crate::proposers::Proposers;

/// Where and how durably a project's blobs are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectPolicy {
    /// Copies before a push is acknowledged; `None` follows the cluster's default.
    pub durability: Option<Durability>,
    /// The regions that keep a copy afterwards; `None` is every region with storage.
    pub regions: Option<Vec<String>>,
    /// Whether nodes outside `regions` may neither store nor cache the project's bytes.
    pub confined: bool,
}

/// A command about a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProjectCmd {
    /// Sets a project's policy, creating the project if needed: `ProjectReply::Project`. Refused with
    /// `ProjectRejected::TooFewDomains` where the layout of nodes cannot satisfy it.
    SetPolicy {
        /// The project.
        name: ProjectName,
        /// Its policy.
        policy: ProjectPolicy,
    },
}

impl ProjectCmd {
    pub(crate) fn resource(&self) -> Touched {
        let ProjectCmd::SetPolicy { name, .. } = self;
        Resource::Project(name.clone()).into()
    }

    /// None: only operators set a policy, on no permit.
    pub(crate) fn action(&self) -> Option<Action> {
        None
    }

    /// Who proposes it.
    pub(crate) fn proposers(&self) -> Proposers {
        let ProjectCmd::SetPolicy { .. } = self;
        Proposers::OPERATORS
    }

    /// Whether it may not be applied twice.
    pub(crate) fn needs_identity(&self) -> bool {
        true
    }
}
