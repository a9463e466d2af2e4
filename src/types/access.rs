//! What is done to what, and the revisions of the rights that allowed it. Until access control is configured
//! everybody may do everything, but each request already passes through these types.

use serde::{Deserialize, Serialize};

use crate::{PrincipalId, ProjectId, ProjectName, RepoName};

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
pub enum Resource {
    /// The cluster and all that is in it.
    Cluster,
    /// A project and its repositories.
    Project(ProjectName),
    /// One repository.
    Repository(RepoName),
}

impl Resource {
    /// Whether `other` is this resource or lies in it.
    pub fn contains(&self, other: &Resource) -> bool {
        match (self, other) {
            (Resource::Cluster, _) => true,
            (Resource::Project(project), Resource::Project(other)) => project == other,
            (Resource::Project(project), Resource::Repository(repo)) => *project == repo.project(),
            (Resource::Repository(repo), Resource::Repository(other)) => repo == other,
            (Resource::Project(_) | Resource::Repository(_), _) => false,
        }
    }

    /// The project it is or lies in; `None` for the cluster.
    pub fn project(&self) -> Option<ProjectName> {
        match self {
            Resource::Cluster => None,
            Resource::Project(project) => Some(project.clone()),
            Resource::Repository(repo) => Some(repo.project()),
        }
    }
}

/// What a command touches. A right to write the target says nothing about the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// What it changes.
    pub target: Resource,
    /// What it takes from, where that is something else: the repository that a blob is mounted from.
    pub source: Option<Resource>,
}

impl From<Resource> for Touched {
    fn from(target: Resource) -> Self {
        Touched { target, source: None }
    }
}

/// The revisions a decision was taken at. Each moves only when rights shrink; apply refuses a command whose
/// permit was judged at an older one. A project that did not exist yet has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRevisions {
    /// The cluster's: of rights that are given over everything.
    pub cluster: u64,
    /// The project that the command changes.
    pub project: Option<(ProjectId, u64)>,
    /// The project of the repository that a blob is mounted from.
    pub source: Option<(ProjectId, u64)>,
    /// The principal itself, with its groups and credentials.
    pub principal: Option<(PrincipalId, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_contains_itself_and_what_lies_in_it() {
        let cluster = Resource::Cluster;
        let project = |name: &str| Resource::Project(name.parse().unwrap());
        let repo = |name: &str| Resource::Repository(name.parse().unwrap());
        let all = [&cluster, &project("a"), &project("ab"), &repo("a/x"), &repo("a/x/y"), &repo("ab/x")];
        let inside = [
            (0, vec![0, 1, 2, 3, 4, 5]),
            (1, vec![1, 3, 4]),
            (2, vec![2, 5]),
            (3, vec![3]),
            (4, vec![4]),
            (5, vec![5]),
        ];
        for (outer, inner) in inside {
            for (place, other) in all.iter().enumerate() {
                assert_eq!(all[outer].contains(other), inner.contains(&place), "{outer} {place}");
            }
        }
        // A repository of one component lies in the default project.
        assert!(project("library").contains(&repo("alpine")));
        assert_eq!(repo("alpine").project(), Some("library".parse().unwrap()));
        assert_eq!(cluster.project(), None);
    }
}
