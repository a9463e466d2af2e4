//! Applies the command that sets a project's policy, lets projects and repositories come to be by their first use,
//! and keeps the counters that other domains report to.

use clawhub_policy::possible;
use clawhub_types::{NodeId, ProjectId, ProjectName, RepoId, RepoName};

use super::records::{ProjectIdRecord, ProjectRecord, RepoRecord, RepoRef};
use super::{ProjectCmd, ProjectEvent, ProjectPolicy, ProjectRejected, ProjectReply, keys};
use crate::cluster;
use crate::fault::Fault;
use crate::outbox;
use crate::reply::Reply;
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

impl ProjectCmd {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>, cx: &mut ApplyContext) -> Result<Reply, Stop> {
        match self {
            ProjectCmd::SetPolicy { name, policy } => set_policy(tx, cx, name, policy),
        }
    }
}

fn set_policy(
    tx: &mut Tx<'_>,
    cx: &mut ApplyContext,
    name: &ProjectName,
    policy: &ProjectPolicy,
) -> Result<Reply, Stop> {
    let layout = tx.view().cluster().layout()?;
    let everyone: Vec<NodeId> = layout.nodes.iter().map(|node| node.id).collect();
    let resolved = tx.view().project().resolve(Some(policy.clone()))?;
    possible(&resolved, &layout, &everyone).map_err(ProjectRejected::TooFewDomains)?;
    let mut project = ensure_project(tx, name)?;
    project.policy = policy.clone();
    tx.put(keys::project(project.id), &project);
    outbox::emit(tx, cx, ProjectEvent::PolicySet { project: name.clone() })?;
    Ok(ProjectReply::Project(project.id).into())
}

fn ensure_project(tx: &mut Tx<'_>, name: &ProjectName) -> Result<ProjectRecord, Fault> {
    if let Some(project) = tx.view().project().by_name(name)? {
        return Ok(project);
    }
    let id = cluster::next_project(tx)?;
    let project = ProjectRecord {
        id,
        name: name.clone(),
        policy: ProjectPolicy { durability: None, regions: None, confined: false },
        access_rev: 0,
        bytes: 0,
        manifests: 0,
        tags: 0,
        next_repo: 1,
    };
    tx.put(keys::project_id(name.as_str()), &ProjectIdRecord(id));
    tx.put(keys::project(id), &project);
    Ok(project)
}

/// A repository, created with its project by first use.
pub(crate) fn ensure_repo(tx: &mut Tx<'_>, cx: &ApplyContext, name: &RepoName) -> Result<RepoRef, Fault> {
    if let Some(repo) = tx.view().project().repo(name)? {
        return Ok(repo);
    }
    let mut project = ensure_project(tx, &name.project())?;
    let repo = RepoRef { project: project.id, repo: RepoId(project.next_repo) };
    project.next_repo += 1;
    tx.put(keys::project(project.id), &project);
    tx.put(keys::repo(repo), &RepoRecord { name: name.clone(), created_at: cx.at });
    tx.put(keys::name(name.as_str()), &repo);
    tx.put_raw(keys::name_in(project.id, name.as_str()), Vec::new());
    Ok(repo)
}

/// Changes of a project's counters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delta {
    pub(crate) bytes: i128,
    pub(crate) manifests: i64,
    pub(crate) tags: i64,
}

/// Brings a project's counters along.
pub(crate) fn count(tx: &mut Tx<'_>, id: ProjectId, delta: Delta) -> Result<(), Fault> {
    let corrupt = |why: &str| Fault::Corrupt { what: "project", why: format!("{id}: {why}") };
    let mut project = tx.view().project().by_id(id)?.ok_or_else(|| corrupt("it has data but no record"))?;
    let below = || corrupt("a counter would fall below zero");
    project.bytes = u64::try_from(i128::from(project.bytes) + delta.bytes).map_err(|_| below())?;
    project.manifests = project.manifests.checked_add_signed(delta.manifests).ok_or_else(below)?;
    project.tags = project.tags.checked_add_signed(delta.tags).ok_or_else(below)?;
    tx.put(keys::project(id), &project);
    Ok(())
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
