//! Who does what to what. Until access control is configured, every request is the anonymous
//! principal's, but each already passes through these types.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ProjectId, RepoName};

/// Who caused a log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// An unauthenticated client.
    Anonymous,
    /// The cluster itself: reconcilers, membership, sessions.
    System,
    /// A local operator, over the admin socket.
    Operator,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Actor::Anonymous => "anonymous",
            Actor::System => "system",
            Actor::Operator => "operator",
        })
    }
}

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read manifests, blobs, tags, referrers.
    Pull,
    /// Upload, mount, write manifests and tags.
    Push,
    /// Delete manifests, tags, blob links.
    Delete,
    /// List the repositories of the cluster.
    Catalog,
}

/// What a request touches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The whole cluster.
    Cluster,
    /// One repository.
    Repository(RepoName),
}

/// The revisions a decision was taken at. They move only when rights shrink; apply refuses a command
/// whose permit was judged at an older one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRevisions {
    /// The project the decision was about and its access revision, if it exists.
    pub project: Option<(ProjectId, u64)>,
    /// The principal's revision; 0 for anonymous.
    pub principal: u64,
}
