//! Queries about projects, repositories and their policies.

use clawhub_policy::Policy;
use clawhub_types::{Durability, ProjectId, ProjectName, RepoName};

use super::ProjectPolicy;
use super::keys;
use super::records::{ProjectIdRecord, ProjectRecord, RepoRecord, RepoRef};
use crate::cluster::ClusterView;
use crate::fault::Fault;
use crate::read::{Reader, Row, page};

/// What holds before a cluster is initialised and says otherwise.
const UNINITIALISED: Durability = Durability::Zone;

/// What the state says of projects, repositories and their policies.
#[derive(Clone, Copy)]
pub struct ProjectView<'a>(Reader<'a>);

impl<'a> From<Reader<'a>> for ProjectView<'a> {
    fn from(read: Reader<'a>) -> Self {
        ProjectView(read)
    }
}

impl ProjectView<'_> {
    /// A project by name.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read; so for every query.
    pub fn by_name(&self, name: &ProjectName) -> Result<Option<ProjectRecord>, Fault> {
        match self.0.get::<ProjectIdRecord>(&keys::project_id(name.as_str()))? {
            Some(ProjectIdRecord(id)) => self.by_id(id),
            None => Ok(None),
        }
    }

    /// A project by id.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn by_id(&self, id: ProjectId) -> Result<Option<ProjectRecord>, Fault> {
        self.0.get(&keys::project(id))
    }

    /// Where a repository's data is, if it exists.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn repo(&self, name: &RepoName) -> Result<Option<RepoRef>, Fault> {
        self.0.get(&keys::name(name.as_str()))
    }

    /// A repository's own record.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn repo_record(&self, repo: &RepoRef) -> Result<Option<RepoRecord>, Fault> {
        self.0.get(&keys::repo(*repo))
    }

    /// At most `limit` repository names in byte order after `after`, which need not exist, over all
    /// projects; and whether there are more.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn catalog(&self, after: Option<&str>, limit: usize) -> Result<(Vec<RepoName>, bool), Fault> {
        let table = keys::names();
        let start = after.map_or_else(|| table.clone(), |name| keys::name(name).after());
        names(&self.0.rows(&table, &start, limit.saturating_add(1))?, limit)
    }

    /// At most `limit` repository names of one project in byte order after `after`, which need not exist; and
    /// whether there are more.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn repos(
        &self,
        project: ProjectId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<RepoName>, bool), Fault> {
        let table = keys::names_in(project);
        let start = after.map_or_else(|| table.clone(), |name| keys::name_in(project, name).after());
        names(&self.0.rows(&table, &start, limit.saturating_add(1))?, limit)
    }

    /// The policy that a repository's blobs are kept under: its project's, else the cluster's.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn policy_of(&self, name: &RepoName) -> Result<Policy, Fault> {
        let project = self.by_name(&name.project())?;
        self.resolve(project.map(|project| project.policy))
    }

    /// The policy that a project's blobs are kept under. The project exists.
    pub(crate) fn policy_by_id(&self, id: ProjectId) -> Result<Policy, Fault> {
        let project = self.by_id(id)?.ok_or_else(|| Fault::Corrupt {
            what: "project",
            why: format!("{id} is linked to, and does not exist"),
        })?;
        self.resolve(Some(project.policy))
    }

    /// A project's policy with the cluster's defaults filled in.
    pub(crate) fn resolve(&self, policy: Option<ProjectPolicy>) -> Result<Policy, Fault> {
        let cluster = ClusterView::from(self.0).record()?.map_or(UNINITIALISED, |cluster| cluster.durability);
        Ok(match policy {
            Some(policy) => Policy {
                durability: policy.durability.unwrap_or(cluster),
                regions: policy.regions,
                confined: policy.confined,
            },
            None => Policy { durability: cluster, regions: None, confined: false },
        })
    }
}

/// The names at the ends of the rows' keys, but for one row too many.
fn names(rows: &[Row], limit: usize) -> Result<(Vec<RepoName>, bool), Fault> {
    let names = rows.iter().map(|row| {
        let name = row.parts()?.text()?;
        name.parse().map_err(|e| Fault::Corrupt { what: "catalog", why: format!("{name:?}: {e}") })
    });
    Ok(page(names.collect::<Result<_, Fault>>()?, limit))
}
