//! Apply of the blob domain.

use clawhub_policy::{complete, satisfied};
use clawhub_types::{Digest, NodeId, Receipt, RepoName, Root};

use super::bind::{add, bind};
use super::link::{link, renew, unlink};
use super::records::{LinkRecord, RootRecord};
use super::{BlobCmd, keys};
use crate::cluster;
use crate::fault::{Fault, Stop};
use crate::outbox::{self, Event};
use crate::project::{RepoRef, ensure_repo};
use crate::reply::{Rejected, Reply};
use crate::tx::{ApplyContext, Tx};

/// Roots looked at together while a node's copies are forgotten.
const PAGE: usize = 256;

pub(crate) fn apply(tx: &mut Tx<'_>, cx: &mut ApplyContext, cmd: &BlobCmd) -> Result<Reply, Stop> {
    match cmd {
        BlobCmd::Commit { repo, digest, receipts } => commit(tx, cx, repo, digest, receipts),
        BlobCmd::Mount { from, to, digest } => mount(tx, cx, from, to, digest),
        BlobCmd::Unlink { repo, digest } => remove_link(tx, cx, repo, digest),
        BlobCmd::Renew { repo, digest } => {
            let (at, link) = linked(tx, repo, digest)?;
            renew(tx, cx, at, link);
            Ok(Reply::Done)
        }
        BlobCmd::Hold { receipts } => hold(tx, receipts),
        BlobCmd::Release { node, roots } => release(tx, *node, roots),
        BlobCmd::Lost { node, roots } => lost(tx, *node, roots),
        BlobCmd::Epoch { node, epoch } => cluster::raise_epoch(tx, *node, *epoch),
    }
}

fn commit(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    repo: &RepoName,
    digest: &Digest,
    receipts: &[Receipt],
) -> Result<Reply, Stop> {
    let Some(first) = receipts.first() else { return Err(Rejected::BadReceipt.into()) };
    let root = first.root;
    let record = bind(tx, cx, root, receipts)?;
    if !record.digests.contains(digest) {
        return Err(Rejected::BadReceipt.into());
    }
    check_copies(tx, repo, root, &record)?;
    let at = ensure_repo(tx, cx, repo)?;
    link(tx, cx, at, root)?;
    Ok(Reply::Linked { root, size: record.size })
}

/// Refuses while a root's holders do not satisfy a repository's policy.
fn check_copies(tx: &Tx<'_>, repo: &RepoName, root: Root, record: &RootRecord) -> Result<(), Stop> {
    let view = tx.view();
    if satisfied(&view.project().policy_of(repo)?, &view.cluster().layout()?, &record.holders) {
        Ok(())
    } else {
        Err(Rejected::NeedCopies(vec![root]).into())
    }
}

fn mount(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    from: &RepoName,
    to: &RepoName,
    digest: &Digest,
) -> Result<Reply, Stop> {
    let view = tx.view();
    let source = match view.project().repo(from)? {
        Some(at) => view.blob().link(&at, digest)?,
        None => None,
    };
    let Some(LinkRecord { root, .. }) = source else { return Ok(Reply::NotMounted) };
    let record = known(tx, &root)?;
    check_copies(tx, to, root, &record)?;
    let at = ensure_repo(tx, cx, to)?;
    link(tx, cx, at, root)?;
    Ok(Reply::Linked { root, size: record.size })
}

fn remove_link(
    tx: &mut Tx<'_>,
    cx: &mut ApplyContext,
    repo: &RepoName,
    digest: &Digest,
) -> Result<Reply, Stop> {
    let (at, link) = linked(tx, repo, digest)?;
    if let Some(manifest) = tx.view().blob().referenced_by(&at, &link.root)? {
        return Err(Rejected::BlobReferenced(manifest).into());
    }
    unlink(tx, cx, at, link.root)?;
    let event = Event::BlobUnlinked { repo: repo.clone(), digest: digest.clone() };
    outbox::emit(tx, cx, event)?;
    Ok(Reply::Done)
}

/// A repository and its link to a blob, which must be there.
fn linked(tx: &Tx<'_>, repo: &RepoName, digest: &Digest) -> Result<(RepoRef, LinkRecord), Stop> {
    let at = tx.view().project().repo(repo)?.ok_or(Rejected::NameUnknown)?;
    let link = tx.view().blob().link(&at, digest)?.ok_or(Rejected::BlobUnknown)?;
    Ok((at, link))
}

fn hold(tx: &mut Tx<'_>, receipts: &[Receipt]) -> Result<Reply, Stop> {
    let mut added = 0;
    for receipt in receipts {
        let Some(mut record) = tx.view().blob().root(&receipt.root)? else { continue };
        let before = record.holders.len();
        if !add(tx, &mut record, receipt)? {
            continue;
        }
        if record.holders.len() > before {
            added += 1;
        }
        tx.put(keys::root(&receipt.root), &record);
    }
    Ok(Reply::Count(added))
}

fn release(tx: &mut Tx<'_>, node: NodeId, roots: &[Root]) -> Result<Reply, Stop> {
    let layout = tx.view().cluster().layout()?;
    let mut released = 0;
    for root in roots {
        let Some(record) = tx.view().blob().root(root)? else { continue };
        let others = without(&record, node);
        // The last copy of an unlinked root goes by collection, not by release.
        if others.len() == record.holders.len() || others.is_empty() {
            continue;
        }
        if complete(&tx.view().blob().policies(root)?, &layout, &others) {
            drop_holder(tx, *root, record, node);
            released += 1;
        }
    }
    Ok(Reply::Count(released))
}

fn lost(tx: &mut Tx<'_>, node: NodeId, roots: &[Root]) -> Result<Reply, Stop> {
    let mut dropped = 0;
    for root in roots {
        if let Some(record) = tx.view().blob().root(root)?
            && record.holders.contains(&node)
        {
            drop_holder(tx, *root, record, node);
            dropped += 1;
        }
    }
    Ok(Reply::Count(dropped))
}

/// Drops a leaving node from the holders of every root.
///
/// `Rejected::Layout` if a linked root would be left with less than its projects ask for, unless forced.
pub(crate) fn forget_holder(tx: &mut Tx<'_>, node: NodeId, force: bool) -> Result<(), Stop> {
    let layout = tx.view().cluster().layout()?.without(node);
    let mut after = None;
    loop {
        let page = tx.view().blob().held_by(node, after, PAGE)?;
        for root in &page {
            let record = known(tx, root)?;
            let others = without(&record, node);
            if !force && !complete(&tx.view().blob().policies(root)?, &layout, &others) {
                let why = format!("root {root} would have too few copies without node {node}");
                return Err(Rejected::Layout(why).into());
            }
            drop_holder(tx, *root, record, node);
        }
        if page.len() < PAGE {
            return Ok(());
        }
        after = page.last().copied();
    }
}

fn without(record: &RootRecord, node: NodeId) -> Vec<NodeId> {
    record.holders.iter().copied().filter(|holder| *holder != node).collect()
}

fn drop_holder(tx: &mut Tx<'_>, root: Root, mut record: RootRecord, node: NodeId) {
    record.holders.retain(|holder| *holder != node);
    tx.delete(keys::holder(node, &root));
    tx.put(keys::root(&root), &record);
}

/// The record of a root that something refers to.
pub(crate) fn known(tx: &Tx<'_>, root: &Root) -> Result<RootRecord, Fault> {
    tx.view().blob().root(root)?.ok_or_else(|| Fault::Corrupt {
        what: "root",
        why: format!("{root} is linked or held, but has no record"),
    })
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
