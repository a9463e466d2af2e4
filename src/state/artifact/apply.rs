//! Applies the commands about manifests and tags: decides whether one may be stored, moved or deleted, and moves
//! every row that follows from it.

use std::collections::BTreeSet;

use clawhub_mutant::Mutant;
use clawhub_policy::satisfied;
use clawhub_types::{Digest, RepoName, Root, Tag};

use super::records::{BodyRef, ManifestRecord, TagRecord};
use super::{
    ArtifactCmd, ArtifactEvent, ArtifactRejected, ArtifactReply, Body, Condition, ManifestFacts, Ref,
    RefKind, history, keys, stage,
};
use crate::blob::{self, BlobRejected, LinkRecord, StoredBytes};
use crate::cluster;
use crate::fault::Fault;
use crate::outbox;
use crate::project::{self, Delta, ProjectRejected, RepoRef, ensure_repo};
use crate::reply::Reply;
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// So many things that lack are named in a refusal, which is kept with the answers.
const LISTED: usize = 1000;

impl ArtifactCmd {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>, cx: &mut ApplyContext) -> Result<Reply, Stop> {
        match self {
            ArtifactCmd::Stage { repo, digest, part, refs } => {
                stage::stage(tx, cx, repo, digest, *part, refs)
            }
            ArtifactCmd::Put { repo, digest, facts, body, tags, condition } => {
                put(tx, cx, &Put { repo, digest, facts, body, tags, condition })
            }
            ArtifactCmd::Delete { repo, digest } => delete(tx, cx, repo, digest),
            ArtifactCmd::Untag { repo, tag, condition } => untag(tx, cx, repo, tag, condition),
        }
    }
}

/// [`ArtifactCmd::Put`], borrowed.
struct Put<'c> {
    repo: &'c RepoName,
    digest: &'c Digest,
    facts: &'c ManifestFacts,
    body: &'c Body,
    tags: &'c [Tag],
    condition: &'c Condition,
}

fn put(tx: &mut Tx<'_>, cx: &mut ApplyContext, put: &Put<'_>) -> Result<Reply, Stop> {
    let at = ensure_repo(tx, cx, put.repo)?;
    for tag in put.tags {
        check(put.condition, tx.view().artifact().tag(&at, tag)?.map(|tag| tag.digest))?;
    }
    let refs = stage::refs_of(tx, at, put.digest, put.facts)?;
    let mut links = references(tx, at, &refs)?;
    let before = tx.view().artifact().manifest(&at, put.digest)?;
    let body = place_body(tx, cx, at, put, before.as_ref())?;
    if let BodyRef::Stored(root) = body {
        let link = tx.view().blob().link_to(&at, &root)?;
        links.push(Link::needed(link.ok_or_else(|| corrupt(put.digest, "its bytes are not linked"))?));
    }
    check_policy(tx, put.repo, &links, &refs, at)?;

    let parts_before = before.as_ref().map_or(0, |before| before.facts.parts);
    match before {
        Some(before) => replace(tx, cx, at, put, &before, &links)?,
        None => insert(tx, at, put)?,
    }
    stage::claim(tx, at, put.digest, put.facts.parts, parts_before)?;
    for link in links {
        blob::hold(tx, at, link.record, put.digest);
    }
    let record = ManifestRecord { facts: put.facts.clone(), body, pushed_at: cx.at };
    tx.put(keys::manifest(at, put.digest), &record);
    for tag in put.tags {
        move_tag(tx, cx, at, tag, put.digest)?;
    }
    outbox::emit(
        tx,
        cx,
        ArtifactEvent::ManifestPut {
            repo: put.repo.clone(),
            digest: put.digest.clone(),
            media_type: put.facts.media_type.clone(),
            tags: put.tags.to_vec(),
        },
    )?;
    Ok(ArtifactReply::Stored { digest: put.digest.clone(), tags: put.tags.to_vec() }.into())
}

/// Refuses if a condition does not hold for what a tag names now.
fn check(condition: &Condition, now: Option<Digest>) -> Result<(), ArtifactRejected> {
    if condition.holds(now.as_ref()) || Mutant::UncheckedConditions.breaks() {
        Ok(())
    } else {
        Err(ArtifactRejected::PreconditionFailed(now))
    }
}

/// A link that a manifest is to hold.
struct Link {
    record: LinkRecord,
    /// Whether its root must have the copies that the project asks for.
    needed: bool,
}

impl Link {
    fn needed(record: LinkRecord) -> Link {
        Link { record, needed: true }
    }
}

/// The links that a manifest's references stand for. A child that is a manifest needs none, and an optional
/// reference may have none. One whose last copy is gone is held as well: a push of its bytes brings it back.
///
/// `ArtifactRejected::ReferencesUnknown` lists what the repository lacks.
fn references(tx: &Tx<'_>, at: RepoRef, refs: &[Ref]) -> Result<Vec<Link>, Stop> {
    let view = tx.view();
    let mut links = Vec::new();
    let mut unknown = Vec::new();
    for reference in refs {
        let is_child = reference.kind == RefKind::Child;
        if is_child && view.read().has(&keys::manifest(at, &reference.digest))? {
            continue;
        }
        match (view.blob().link(&at, &reference.digest)?, reference.kind) {
            (Some(record), RefKind::Optional) => {
                // Nobody could make copies of what nobody has.
                let needed = !blob::known(tx, &record.root)?.holders.is_empty();
                links.push(Link { record, needed });
            }
            (Some(record), RefKind::Blob | RefKind::Child) => links.push(Link::needed(record)),
            (None, RefKind::Optional) => {}
            (None, _) if Mutant::UncheckedLinks.breaks() => {}
            (None, RefKind::Blob | RefKind::Child) => unknown.push(reference.digest.clone()),
        }
    }
    unknown.truncate(LISTED);
    if unknown.is_empty() { Ok(links) } else { Err(ArtifactRejected::ReferencesUnknown(unknown).into()) }
}

/// Where the manifest's bytes are from now on. The same digest is the same bytes, so they stay where they are; but
/// new copies of them count, since every one that was known may be gone.
fn place_body(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    at: RepoRef,
    put: &Put<'_>,
    before: Option<&ManifestRecord>,
) -> Result<BodyRef, Stop> {
    match (before.map(|before| before.body), put.body) {
        (None, Body::Inline(_)) => Ok(BodyRef::Inline),
        (None | Some(BodyRef::Stored(_)), Body::Stored(stored)) => {
            Ok(BodyRef::Stored(bind_body(tx, cx, at, put.digest, stored)?))
        }
        (Some(stays), _) => Ok(stays),
    }
}

/// Binds and links the bytes of a large manifest. Receipts prove the bytes; that the digest is theirs is
/// the proposer's word, as it is for bytes in the log.
fn bind_body(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    at: RepoRef,
    digest: &Digest,
    stored: &StoredBytes,
) -> Result<Root, Stop> {
    let record = blob::bind(tx, cx, stored.root, &stored.receipts)?;
    if !stored.digests.contains(digest) || stored.digests.sha256 != record.digests.sha256 {
        return Err(BlobRejected::BadReceipt.into());
    }
    blob::link(tx, cx, at, stored.root)?;
    Ok(stored.root)
}

/// Refuses while the votes do not satisfy the repository's policy, or a root that the manifest needs has too few
/// copies for it: those it links, and the bytes of child manifests that are not in the log.
fn check_policy(tx: &Tx<'_>, repo: &RepoName, links: &[Link], refs: &[Ref], at: RepoRef) -> Result<(), Stop> {
    let view = tx.view();
    let needed = links.iter().filter(|link| link.needed);
    let mut roots: BTreeSet<Root> = needed.map(|link| link.record.root).collect();
    for child in refs.iter().filter(|reference| reference.kind == RefKind::Child) {
        if let Some(ManifestRecord { body: BodyRef::Stored(root), .. }) =
            view.artifact().manifest(&at, &child.digest)?
        {
            roots.insert(root);
        }
    }
    let policy = view.project().policy_of(repo)?;
    cluster::check_votes(tx, policy.durability)?;
    let layout = view.cluster().layout()?;
    let mut short = Vec::new();
    for root in roots {
        if short.len() < LISTED && !satisfied(&policy, &layout, &blob::known(tx, &root)?.holders) {
            short.push(root);
        }
    }
    if short.is_empty() { Ok(()) } else { Err(BlobRejected::NeedCopies(short).into()) }
}

/// The parts of a new manifest that no later push of the same bytes changes.
fn insert(tx: &mut Tx<'_>, at: RepoRef, put: &Put<'_>) -> Result<(), Stop> {
    let mut bytes = 0;
    if let Body::Inline(body) = put.body {
        bytes = length(body);
        tx.put_raw(keys::inline(at, put.digest), body.clone());
    }
    if let Some(subject) = &put.facts.subject {
        tx.put_raw(keys::referrer(at, subject, put.digest), Vec::new());
    }
    project::count(tx, at.project, Delta { bytes, manifests: 1, tags: 0 })?;
    Ok(())
}

/// Brings along what a second push of the same bytes, under another media type, says otherwise.
fn replace(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    at: RepoRef,
    put: &Put<'_>,
    before: &ManifestRecord,
    links: &[Link],
) -> Result<(), Stop> {
    let held: BTreeSet<Root> = links.iter().map(|link| link.record.root).collect();
    for root in roots_of(tx, at, put.digest, before)?.difference(&held) {
        blob::release(tx, cx, at, *root, put.digest)?;
    }
    if before.facts.subject != put.facts.subject {
        if let Some(subject) = &before.facts.subject {
            tx.delete(keys::referrer(at, subject, put.digest));
        }
        if let Some(subject) = &put.facts.subject {
            tx.put_raw(keys::referrer(at, subject, put.digest), Vec::new());
        }
    }
    Ok(())
}

/// Every root that a stored manifest may hold a link to.
fn roots_of(
    tx: &Tx<'_>,
    at: RepoRef,
    digest: &Digest,
    manifest: &ManifestRecord,
) -> Result<BTreeSet<Root>, Fault> {
    let mut roots = BTreeSet::new();
    for reference in stage::refs_of_stored(tx, at, digest, manifest)? {
        roots.extend(tx.view().blob().root_of(&reference.digest)?);
    }
    if let BodyRef::Stored(root) = manifest.body {
        roots.insert(root);
    }
    Ok(roots)
}

fn move_tag(tx: &mut Tx<'_>, cx: &ApplyContext, at: RepoRef, tag: &Tag, digest: &Digest) -> Result<(), Stop> {
    let before = tx.view().artifact().tag(&at, tag)?.map(|before| before.digest);
    match &before {
        Some(before) => tx.delete(keys::tag_on(at, before, tag.as_str())),
        None => project::count(tx, at.project, Delta { tags: 1, ..Delta::default() })?,
    }
    if before.as_ref() != Some(digest) {
        history::note(tx, cx, at, tag, Some(digest))?;
    }
    let record = TagRecord { digest: digest.clone(), at: cx.at, index: cx.index };
    tx.put(keys::tag(at, tag.as_str()), &record);
    tx.put_raw(keys::tag_on(at, digest, tag.as_str()), Vec::new());
    Ok(())
}

fn drop_tag(tx: &mut Tx<'_>, cx: &ApplyContext, at: RepoRef, tag: &Tag, digest: &Digest) -> Result<(), Stop> {
    tx.delete(keys::tag(at, tag.as_str()));
    tx.delete(keys::tag_on(at, digest, tag.as_str()));
    history::note(tx, cx, at, tag, None)?;
    project::count(tx, at.project, Delta { tags: -1, ..Delta::default() })?;
    Ok(())
}

fn delete(tx: &mut Tx<'_>, cx: &mut ApplyContext, repo: &RepoName, digest: &Digest) -> Result<Reply, Stop> {
    let at = tx.view().project().repo(repo)?.ok_or(ProjectRejected::NameUnknown)?;
    let record = tx.view().artifact().manifest(&at, digest)?.ok_or(ArtifactRejected::ManifestUnknown)?;
    let tags = tx.view().artifact().tags_on(&at, digest)?;
    for tag in &tags {
        drop_tag(tx, cx, at, tag, digest)?;
    }
    let mut bytes = 0;
    if let Some(body) = tx.view().artifact().manifest_bytes(&at, digest)? {
        bytes = -length(&body);
        tx.delete(keys::inline(at, digest));
    }
    if let Some(subject) = &record.facts.subject {
        tx.delete(keys::referrer(at, subject, digest));
    }
    for root in roots_of(tx, at, digest, &record)? {
        blob::release(tx, cx, at, root, digest)?;
    }
    stage::forget(tx, at, digest)?;
    tx.delete(keys::manifest(at, digest));
    project::count(tx, at.project, Delta { bytes, manifests: -1, tags: 0 })?;
    let event = ArtifactEvent::ManifestDeleted { repo: repo.clone(), digest: digest.clone(), tags };
    outbox::emit(tx, cx, event)?;
    Ok(Reply::Done)
}

fn untag(
    tx: &mut Tx<'_>,
    cx: &mut ApplyContext,
    repo: &RepoName,
    tag: &Tag,
    condition: &Condition,
) -> Result<Reply, Stop> {
    let at = tx.view().project().repo(repo)?.ok_or(ProjectRejected::NameUnknown)?;
    let now = tx.view().artifact().tag(&at, tag)?.map(|tag| tag.digest);
    check(condition, now.clone())?;
    let digest = now.ok_or(ArtifactRejected::ManifestUnknown)?;
    drop_tag(tx, cx, at, tag, &digest)?;
    let event = ArtifactEvent::TagDeleted { repo: repo.clone(), tag: tag.clone(), digest };
    outbox::emit(tx, cx, event)?;
    Ok(Reply::Done)
}

/// What a manifest in the log counts for. Taken from the bytes, not from the proposer's facts, so that
/// what is subtracted is what was added.
fn length(body: &[u8]) -> i128 {
    i128::try_from(body.len()).expect("a length fits 128 bits")
}

fn corrupt(digest: &Digest, why: &str) -> Fault {
    Fault::Corrupt { what: "manifest", why: format!("{digest}: {why}") }
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
