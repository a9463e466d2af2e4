//! Links of repositories to roots, their leases and their counts.

use clawhub_policy::complete;
use clawhub_types::{Digest, ProjectId, Root};

use super::keys;
use super::records::{LinkCountRecord, LinkRecord};
use super::roots::{judge, known, mark, store};
use crate::fault::Fault;
use crate::project::{self, Delta, RepoRef};
use crate::tx::{ApplyContext, Tx};

/// How long a link lasts without a manifest, in ticks (ms): 24 hours.
pub const LEASE: u64 = 24 * 60 * 60 * 1000;

fn lease(cx: &ApplyContext) -> Option<u64> {
    Some(cx.tick.saturating_add(LEASE))
}

/// Links a root in a repository under a fresh lease; a link that a manifest holds stays held.
pub(crate) fn link(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    repo: RepoRef,
    root: Root,
) -> Result<LinkRecord, Fault> {
    if let Some(mut link) = tx.view().blob().link_to(&repo, &root)? {
        if link.lease_until.is_some() {
            link.lease_until = lease(cx);
            tx.put(keys::link(repo, &root), &link);
        }
        return Ok(link);
    }
    let mut record = known(tx, &root)?;
    record.links += 1;
    record.unlinked_since = None;
    let count = links_of(tx, &root, repo.project)? + 1;
    if count == 1 {
        record.projects += 1;
        project::count(tx, repo.project, Delta { bytes: record.size.into(), ..Delta::default() })?;
        // One more project may ask for more; what the others ask for is judged already.
        if record.short_since.is_none() {
            let policy = tx.view().project().policy_by_id(repo.project)?;
            let layout = tx.view().cluster().layout()?;
            let short = !complete(&[policy], &layout, &record.holders);
            mark(&mut record, cx, short);
        }
    }
    tx.put(keys::link_count(&root, repo.project), &LinkCountRecord(count));
    store(tx, &root, &record)?;
    let link = LinkRecord { root, size: record.size, lease_until: lease(cx) };
    tx.put(keys::link(repo, &root), &link);
    Ok(link)
}

/// Removes a repository's link, which no manifest holds.
pub(super) fn unlink(tx: &mut Tx<'_>, cx: &ApplyContext, repo: RepoRef, root: Root) -> Result<(), Fault> {
    let mut record = known(tx, &root)?;
    record.links = record.links.checked_sub(1).ok_or_else(|| miscounted(&root))?;
    if record.links == 0 {
        record.unlinked_since = Some(cx.tick);
    }
    let count = links_of(tx, &root, repo.project)?.checked_sub(1).ok_or_else(|| miscounted(&root))?;
    if count == 0 {
        record.projects = record.projects.checked_sub(1).ok_or_else(|| miscounted(&root))?;
        project::count(tx, repo.project, Delta { bytes: -i128::from(record.size), ..Delta::default() })?;
        tx.delete(keys::link_count(&root, repo.project));
    } else {
        tx.put(keys::link_count(&root, repo.project), &LinkCountRecord(count));
    }
    if record.short_since.is_some() && count == 0 {
        let layout = tx.view().cluster().layout()?;
        judge(tx, cx, &layout, &root, &mut record)?;
    }
    store(tx, &root, &record)?;
    tx.delete(keys::link(repo, &root));
    Ok(())
}

/// Lets a manifest hold a link: no lease while it does.
pub(crate) fn hold(tx: &mut Tx<'_>, repo: RepoRef, mut link: LinkRecord, manifest: &Digest) {
    tx.put_raw(keys::use_by(repo, &link.root, manifest), Vec::new());
    link.lease_until = None;
    tx.put(keys::link(repo, &link.root), &link);
}

/// Lets a manifest go of a link, if it held it; the last one to go leaves a fresh lease behind.
pub(crate) fn release(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    repo: RepoRef,
    root: Root,
    manifest: &Digest,
) -> Result<(), Fault> {
    let held = keys::use_by(repo, &root, manifest);
    if !tx.view().read().has(&held)? {
        return Ok(());
    }
    tx.delete(held);
    if tx.view().blob().referenced_by(&repo, &root)?.is_none()
        && let Some(mut link) = tx.view().blob().link_to(&repo, &root)?
    {
        link.lease_until = lease(cx);
        tx.put(keys::link(repo, &root), &link);
    }
    Ok(())
}

/// Renews the lease of a link that no manifest holds.
pub(super) fn renew(tx: &mut Tx<'_>, cx: &ApplyContext, repo: RepoRef, mut link: LinkRecord) {
    if link.lease_until.is_some() {
        link.lease_until = lease(cx);
        tx.put(keys::link(repo, &link.root), &link);
    }
}

fn links_of(tx: &Tx<'_>, root: &Root, project: ProjectId) -> Result<u64, Fault> {
    let count: Option<LinkCountRecord> = tx.record(&keys::link_count(root, project))?;
    Ok(count.map_or(0, |count| count.0))
}

fn miscounted(root: &Root) -> Fault {
    Fault::Corrupt { what: "root", why: format!("{root} has more links than it counts") }
}
