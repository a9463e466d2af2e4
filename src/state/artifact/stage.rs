//! References of a manifest that are too many for one entry.
//!
//! The facts of a manifest hold the first [`PART`] of them. The others come before it, part by part, each with an
//! entry of its own, and lie beside where its record will be; the entry that stores the manifest says how many parts
//! there are, and is refused while one lacks. The same bytes have the same references, so two pushes of one manifest
//! stage the same, and a part that a stored manifest has stays as it is.
//!
//! Parts that no manifest came for are forgotten by whoever stages after an hour, so they need no reconciler, and
//! what is left lying about is what was staged last. The proposer looks at the references before it stages any, so that
//! there are few: those of pushes that nodes died in, or whose blobs were deleted meanwhile.

use clawhub_types::{Digest, ProjectId, RepoId, RepoName};

use super::records::{ManifestRecord, PartRecord, StagedRecord};
use super::{ArtifactRejected, ManifestFacts, Ref, keys};
use crate::fault::Fault;
use crate::project::{ProjectRejected, RepoRef};
use crate::reply::Reply;
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// References in one part: at most 67 KiB of an entry's 128.
pub const PART: usize = 1024;
/// How long a part waits for its manifest, in ticks (ms).
const LIFE: u64 = 60 * 60 * 1000;
/// Manifests whose parts are forgotten by one entry, at most. More than one, so that they become fewer while others
/// are staged.
const SWEPT: usize = 4;

pub(super) fn stage(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    repo: &RepoName,
    digest: &Digest,
    part: u32,
    refs: &[Ref],
) -> Result<Reply, Stop> {
    sweep(tx, cx)?;
    let at = tx.view().project().repo(repo)?.ok_or(ProjectRejected::NameUnknown)?;
    let stored = tx.view().artifact().manifest(&at, digest)?;
    if stored.is_some_and(|stored| stored.facts.parts >= part) {
        return Ok(Reply::Done);
    }
    unmark(tx, at, digest)?;
    tx.put(keys::part(at, digest, part), &PartRecord(refs.to_vec()));
    tx.put(keys::staged(at, digest), &StagedRecord(cx.tick));
    tx.put_raw(keys::staged_since(cx.tick, at, digest), Vec::new());
    Ok(Reply::Done)
}

/// All references of a manifest.
///
/// `ArtifactRejected::PartsMissing` if some of them are not here.
pub(super) fn refs_of(
    tx: &Tx<'_>,
    at: RepoRef,
    digest: &Digest,
    facts: &ManifestFacts,
) -> Result<Vec<Ref>, Stop> {
    let mut refs = facts.refs.clone();
    for part in 1..=facts.parts {
        let record: Option<PartRecord> = tx.record(&keys::part(at, digest, part))?;
        refs.extend(record.ok_or(ArtifactRejected::PartsMissing)?.0);
    }
    Ok(refs)
}

/// All references of a manifest that is stored.
pub(super) fn refs_of_stored(
    tx: &Tx<'_>,
    at: RepoRef,
    digest: &Digest,
    stored: &ManifestRecord,
) -> Result<Vec<Ref>, Fault> {
    refs_of(tx, at, digest, &stored.facts).map_err(|stop| match stop {
        Stop::Fault(fault) => fault,
        Stop::Rejected(_) => {
            Fault::Corrupt { what: "manifest", why: format!("{digest}: references are missing") }
        }
    })
}

/// So many parts are a stored manifest's from now on, and those beyond them, staged or stored `before`, are nobody's.
pub(super) fn claim(
    tx: &mut Tx<'_>,
    at: RepoRef,
    digest: &Digest,
    parts: u32,
    before: u32,
) -> Result<(), Fault> {
    if unmark(tx, at, digest)? || before > parts {
        forget_beyond(tx, at, digest, parts)?;
    }
    Ok(())
}

/// Forgets the parts of a manifest, stored or not.
pub(super) fn forget(tx: &mut Tx<'_>, at: RepoRef, digest: &Digest) -> Result<(), Fault> {
    unmark(tx, at, digest)?;
    forget_beyond(tx, at, digest, 0)
}

fn forget_beyond(tx: &mut Tx<'_>, at: RepoRef, digest: &Digest, parts: u32) -> Result<(), Fault> {
    for row in tx.view().read().all(&keys::parts(at, digest))? {
        if row.parts()?.number()? > u64::from(parts) {
            tx.delete(row.key());
        }
    }
    Ok(())
}

/// Whether parts were staged that no manifest had come for.
fn unmark(tx: &mut Tx<'_>, at: RepoRef, digest: &Digest) -> Result<bool, Fault> {
    let marked: Option<StagedRecord> = tx.record(&keys::staged(at, digest))?;
    if let Some(StagedRecord(since)) = marked {
        tx.delete(keys::staged_since(since, at, digest));
        tx.delete(keys::staged(at, digest));
    }
    Ok(marked.is_some())
}

/// Forgets the parts that have waited longest, if that is too long.
fn sweep(tx: &mut Tx<'_>, cx: &ApplyContext) -> Result<(), Fault> {
    let table = keys::all_staged();
    for row in tx.view().read().rows(&table, &table, SWEPT)? {
        let mut parts = row.parts()?;
        let since = parts.number()?;
        if since.saturating_add(LIFE) > cx.tick {
            break;
        }
        let at = RepoRef { project: ProjectId(parts.number()?), repo: RepoId(parts.number()?) };
        let digest = parts.digest()?;
        // A manifest that was stored with fewer parts keeps those it has.
        let kept = tx.view().artifact().manifest(&at, &digest)?.map_or(0, |stored| stored.facts.parts);
        unmark(tx, at, &digest)?;
        forget_beyond(tx, at, &digest, kept)?;
    }
    Ok(())
}
