//! Proof of a decision.

use clawhub_types::{AccessRevisions, Action, Actor, RepoName, Resource};

/// One principal may do one thing to one scope, as judged at certain access revisions. Made by
/// [`crate::Authorizer::authorize`] and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    actor: Actor,
    action: Action,
    scope: Resource,
    access: AccessRevisions,
}

impl Permit {
    pub(crate) fn new(actor: Actor, action: Action, scope: Resource, access: AccessRevisions) -> Permit {
        Permit { actor, action, scope, access }
    }

    /// The permit that another member gave before it sent the request on to this node: pushing to
    /// `repo`. Only for requests that arrived over a member's authenticated connection; apply checks
    /// the revisions once more.
    pub fn vouched(actor: Actor, repo: RepoName, access: AccessRevisions) -> Permit {
        Permit::new(actor, Action::Push, Resource::Repository(repo), access)
    }

    /// Who asked; goes into the log entry.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// What was permitted.
    pub fn action(&self) -> Action {
        self.action
    }

    /// What it was permitted on.
    pub fn scope(&self) -> &Resource {
        &self.scope
    }

    /// The repository of the scope, unless the scope is the whole cluster.
    pub fn repo(&self) -> Option<&RepoName> {
        match &self.scope {
            Resource::Repository(repo) => Some(repo),
            Resource::Cluster | Resource::Project(_) => None,
        }
    }

    /// The revisions the decision was taken at; go into the log entry.
    pub fn access(&self) -> AccessRevisions {
        self.access
    }

    /// Whether this is a permit for exactly `action` on `repo`.
    pub fn allows(&self, action: Action, repo: &RepoName) -> bool {
        self.action == action && self.repo() == Some(repo)
    }
}
