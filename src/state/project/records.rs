//! Records of the project domain.

use clawhub_types::{ProjectId, ProjectName, RepoId, RepoName};
use serde::{Deserialize, Serialize};

use super::ProjectPolicy;
use crate::record::record;

/// A project and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRecord {
    /// Its id: the prefix of the keys of all its data.
    pub id: ProjectId,
    /// Its name.
    pub name: ProjectName,
    /// Where and how durably its blobs are kept.
    pub policy: ProjectPolicy,
    /// Moves when rights shrink.
    pub access_rev: u64,
    /// Bytes it keeps: every root it links once, and the manifests that travelled in the log.
    pub bytes: u64,
    /// Manifests in its repositories.
    pub manifests: u64,
    /// Tags in its repositories.
    pub tags: u64,
    /// The id its next repository gets.
    pub next_repo: u64,
}
record!(ProjectRecord, 0x0200, "project");

/// The id behind a project's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProjectIdRecord(pub(crate) ProjectId);
record!(ProjectIdRecord, 0x0201, "project id");

/// Where a repository's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RepoRef {
    /// Its project.
    pub project: ProjectId,
    /// Its number within the project.
    pub repo: RepoId,
}
record!(RepoRef, 0x0202, "repository reference");

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoRecord {
    /// Its full name.
    pub name: RepoName,
    /// Wall time of its creation, Unix milliseconds.
    pub created_at: u64,
}
record!(RepoRecord, 0x0203, "repository");
