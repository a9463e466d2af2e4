//! Whether the rights that an entry was proposed under still hold when it is applied: the revisions that its permit
//! was judged at are compared with those of now.

use clawhub_types::{Principal, ProjectId, Resource};

use crate::entry::Entry;
use crate::fault::Fault;
use crate::reply::RequestRejected;
use crate::stop::Stop;
use crate::tx::Tx;

/// Refuses an entry whose permit was given before rights shrank. The system and the operator act on no permit.
pub(crate) fn check(tx: &Tx<'_>, entry: &Entry) -> Result<(), Stop> {
    if matches!(entry.actor.principal, Principal::System | Principal::Operator) {
        return Ok(());
    }
    let judged = &entry.access;
    let touched = entry.cmd.resource();
    let cluster = tx.view().cluster().record()?.map_or(0, |cluster| cluster.access_rev);
    // No principal has a record yet, so that there is no revision to compare `judged.principal` with.
    let fresh = judged.cluster >= cluster
        && holds(tx, Some(&touched.target), judged.project)?
        && holds(tx, touched.source.as_ref(), judged.source)?;
    if fresh { Ok(()) } else { Err(RequestRejected::StalePermit.into()) }
}

/// Whether what was judged about the project of a resource is still so.
fn holds(tx: &Tx<'_>, resource: Option<&Resource>, judged: Option<(ProjectId, u64)>) -> Result<bool, Fault> {
    let Some(name) = resource.and_then(Resource::project) else { return Ok(true) };
    Ok(match (judged, tx.view().project().by_name(&name)?) {
        // Judged about a project that is there: the same one, at a revision that still holds.
        (Some((id, revision)), Some(project)) => id == project.id && revision >= project.access_rev,
        // Judged before the project came to be: good while nothing was taken away since.
        (None, Some(project)) => project.access_rev == 0,
        // About a project that is gone.
        (Some(_), None) => false,
        (None, None) => true,
    })
}

#[cfg(test)]
#[path = "access_test.rs"]
mod tests;
