//! Applies the commands about roots: commits and mounts, copies that are new, given up or lost.
//!
//! What lacks copies for its project is refused with the roots it lacks them of, so that the proposer can have them
//! made and propose again.

use clawhub_policy::{complete, satisfied};
use clawhub_types::{Digest, NodeId, Receipt, RepoName, Root};

use super::bind::{add, bind};
use super::link::{link, renew, unlink};
use super::records::{LinkRecord, RootRecord};
use super::roots::{judge, known, mark, review, store};
use super::{BlobCmd, BlobEvent, BlobRejected, BlobReply, keys};
use crate::cluster;
use crate::fault::Fault;
use crate::outbox;
use crate::project::{ProjectRejected, RepoRef, ensure_repo};
use crate::reply::Reply;
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// Roots looked at together while a node's copies are forgotten.
const PAGE: usize = 256;

impl BlobCmd {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>, cx: &mut ApplyContext) -> Result<Reply, Stop> {
        match self {
            BlobCmd::Commit { repo, digest, receipts } => commit(tx, cx, repo, digest, receipts),
            BlobCmd::Mount { from, to, digest } => mount(tx, cx, from, to, digest),
            BlobCmd::Unlink { repo, digest } => remove_link(tx, cx, repo, digest),
            BlobCmd::Renew { repo, digest } => {
                let (at, link) = linked(tx, repo, digest)?;
                renew(tx, cx, at, link);
                Ok(Reply::Done)
            }
            BlobCmd::Hold { receipts } | BlobCmd::Ensured { receipts, .. } => hold(tx, cx, receipts),
            BlobCmd::Release { node, roots } => release(tx, cx, *node, roots),
            BlobCmd::Lost { node, roots } => lost(tx, cx, *node, roots),
            BlobCmd::Review { roots } => review(tx, cx, roots),
            BlobCmd::Epoch { node, epoch } => cluster::raise_epoch(tx, *node, *epoch),
        }
    }
}

fn commit(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    repo: &RepoName,
    digest: &Digest,
    receipts: &[Receipt],
) -> Result<Reply, Stop> {
    let Some(first) = receipts.first() else { return Err(BlobRejected::BadReceipt.into()) };
    let root = first.root;
    let record = bind(tx, cx, root, receipts)?;
    if !record.digests.contains(digest) {
        return Err(BlobRejected::BadReceipt.into());
    }
    check_policy(tx, repo, root, &record)?;
    let at = ensure_repo(tx, cx, repo)?;
    link(tx, cx, at, root)?;
    Ok(BlobReply::Linked { root, size: record.size }.into())
}

/// Refuses while the votes, or a root's holders, do not satisfy a repository's policy.
fn check_policy(tx: &Tx<'_>, repo: &RepoName, root: Root, record: &RootRecord) -> Result<(), Stop> {
    let view = tx.view();
    let policy = view.project().policy_of(repo)?;
    cluster::check_votes(tx, policy.durability)?;
    if satisfied(&policy, &view.cluster().layout()?, &record.holders) {
        Ok(())
    } else {
        Err(BlobRejected::NeedCopies(vec![root]).into())
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
    let Some(LinkRecord { root, .. }) = source else { return Ok(BlobReply::NotMounted.into()) };
    let record = known(tx, &root)?;
    // The client has the bytes, and nobody else: it is to upload them.
    if record.holders.is_empty() {
        return Ok(BlobReply::NotMounted.into());
    }
    check_policy(tx, to, root, &record)?;
    let at = ensure_repo(tx, cx, to)?;
    link(tx, cx, at, root)?;
    Ok(BlobReply::Linked { root, size: record.size }.into())
}

fn remove_link(
    tx: &mut Tx<'_>,
    cx: &mut ApplyContext,
    repo: &RepoName,
    digest: &Digest,
) -> Result<Reply, Stop> {
    let (at, link) = linked(tx, repo, digest)?;
    if let Some(manifest) = tx.view().blob().referenced_by(&at, &link.root)? {
        return Err(BlobRejected::BlobReferenced(manifest).into());
    }
    unlink(tx, cx, at, link.root)?;
    let event = BlobEvent::BlobUnlinked { repo: repo.clone(), digest: digest.clone() };
    outbox::emit(tx, cx, event)?;
    Ok(Reply::Done)
}

/// A repository and its link to a blob, which must be there.
fn linked(tx: &Tx<'_>, repo: &RepoName, digest: &Digest) -> Result<(RepoRef, LinkRecord), Stop> {
    let at = tx.view().project().repo(repo)?.ok_or(ProjectRejected::NameUnknown)?;
    let link = tx.view().blob().link(&at, digest)?.ok_or(BlobRejected::BlobUnknown)?;
    Ok((at, link))
}

fn hold(tx: &mut Tx<'_>, cx: &ApplyContext, receipts: &[Receipt]) -> Result<Reply, Stop> {
    let layout = tx.view().cluster().layout()?;
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
        // One more copy makes no root short that was not.
        if record.short_since.is_some() {
            judge(tx, cx, &layout, &receipt.root, &mut record)?;
        }
        store(tx, &receipt.root, &record)?;
    }
    Ok(BlobReply::Count(added).into())
}

fn release(tx: &mut Tx<'_>, cx: &ApplyContext, node: NodeId, roots: &[Root]) -> Result<Reply, Stop> {
    let layout = tx.view().cluster().layout()?;
    let mut released = 0;
    for root in roots {
        let Some(mut record) = tx.view().blob().root(root)? else { continue };
        let others = without(&record, node);
        // The last copy of an unlinked root goes by collection, not by release.
        if others.len() == record.holders.len() || others.is_empty() {
            continue;
        }
        if complete(&tx.view().blob().policies(root)?, &layout, &others) {
            mark(&mut record, cx, false);
            drop_holder(tx, root, record, node)?;
            released += 1;
        }
    }
    Ok(BlobReply::Count(released).into())
}

fn lost(tx: &mut Tx<'_>, cx: &ApplyContext, node: NodeId, roots: &[Root]) -> Result<Reply, Stop> {
    let layout = tx.view().cluster().layout()?;
    let mut dropped = 0;
    for root in roots {
        let Some(mut record) = tx.view().blob().root(root)? else { continue };
        if !record.holders.contains(&node) {
            continue;
        }
        // One copy less makes no root complete that was not.
        if record.short_since.is_none() {
            let others = without(&record, node);
            let short =
                record.projects > JUDGED || !complete(&tx.view().blob().policies(root)?, &layout, &others);
            mark(&mut record, cx, short);
        }
        drop_holder(tx, root, record, node)?;
        dropped += 1;
    }
    Ok(BlobReply::Count(dropped).into())
}

/// A lost copy must go through at once, so what asks many projects is left to a review: until then a root that more
/// projects link than this counts as short of copies, which is the safe side.
const JUDGED: u64 = 64;

/// Drops a leaving node from the holders of every root.
///
/// `BlobRejected::RootShort` if a linked root would be left with less than its projects ask for, unless forced.
pub(crate) fn forget_holder(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    node: NodeId,
    force: bool,
) -> Result<(), Stop> {
    let layout = tx.view().cluster().layout()?.without(node);
    let mut after = None;
    loop {
        let page = tx.view().blob().held_by(node, after, PAGE)?;
        for root in &page {
            let mut record = known(tx, root)?;
            let others = without(&record, node);
            let enough = complete(&tx.view().blob().policies(root)?, &layout, &others);
            if !(force || enough) {
                return Err(BlobRejected::RootShort { root: *root, node }.into());
            }
            mark(&mut record, cx, !enough);
            drop_holder(tx, root, record, node)?;
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

fn drop_holder(tx: &mut Tx<'_>, root: &Root, mut record: RootRecord, node: NodeId) -> Result<(), Fault> {
    record.holders.retain(|holder| *holder != node);
    tx.delete(keys::holder(node, root));
    store(tx, root, &record)
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
