//! Queries about projects, repositories and their policies.

use clawhub_policy::Policy;
use clawhub_types::{Durability, ProjectId, ProjectName, RepoName};

use super::ProjectPolicy;
use super::keys;
use super::records::{ProjectIdRecord, ProjectRecord, RepoRecord, RepoRef};
use crate::fault::Fault;
use crate::view::{View, page};

/// What holds before a cluster is initialised and says otherwise.
const UNINITIALISED: Durability = Durability::Zone;

/// What the state says of projects, repositories and their policies.
#[derive(Clone, Copy)]
pub struct ProjectView<'a>(View<'a>);

impl<'a> From<View<'a>> for ProjectView<'a> {
    fn from(view: View<'a>) -> Self {
        ProjectView(view)
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
        let rows = self.0.rows(&table, &start, limit.saturating_add(1))?;
        let names = rows.iter().map(|row| {
            let name = row.parts()?.text()?;
            name.parse().map_err(|e| Fault::Corrupt { what: "catalog", why: format!("{name:?}: {e}") })
        });
        Ok(page(names.collect::<Result<_, Fault>>()?, limit))
    }

    /// The policy that a repository's blobs are kept under: its project's, else the cluster's.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn policy_of(&self, name: &RepoName) -> Result<Policy, Fault> {
        let project = self.by_name(&name.project())?;
        self.resolve(project.map(|project| project.policy))
    }

    /// A project's policy with the cluster's defaults filled in.
    pub(crate) fn resolve(&self, policy: Option<ProjectPolicy>) -> Result<Policy, Fault> {
        let cluster = self.0.cluster().record()?.map_or(UNINITIALISED, |cluster| cluster.durability);
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
