//! Whether a state agrees with itself: every derived record against what it is derived from.

use std::collections::{BTreeMap, BTreeSet};

use clawhub_types::{Digest, ProjectId, Root};

use crate::artifact::records::{PartRecord, StagedRecord};
use crate::artifact::{BodyRef, ManifestRecord, Ref, RefKind, keys};
use crate::project::RepoRef;
use crate::view::View;

/// What a repository's rows say, for [`audit`].
#[derive(Default)]
struct Found {
    /// Per project: manifests, tags, bytes in the log.
    counts: BTreeMap<ProjectId, (u64, u64, u64)>,
    /// Repositories that link a root.
    links: BTreeMap<Root, BTreeSet<RepoRef>>,
}

/// Checks every derived record against what it is derived from.
pub(super) fn audit(view: &View<'_>) {
    let mut found = Found::default();
    audit_names(view);
    for name in view.project().catalog(None, usize::MAX).unwrap().0 {
        let at = view.project().repo(&name).unwrap().unwrap();
        assert_eq!(view.project().repo_record(&at).unwrap().unwrap().name, name);
        audit_repo(view, at, &mut found);
    }
    for (id, (manifests, tags, inline)) in &found.counts {
        let project = view.project().by_id(*id).unwrap().unwrap();
        assert_eq!((project.manifests, project.tags), (*manifests, *tags), "project {id}");
        let linked = found.links.iter().filter(|(_, repos)| repos.iter().any(|at| at.project == *id));
        let stored: u64 = linked.map(|(root, _)| view.blob().root(root).unwrap().unwrap().size).sum();
        assert_eq!(project.bytes, stored + inline, "project {id}");
    }
    audit_roots(view, &found);
}

/// The names of each project are those of the catalog that lie in it.
fn audit_names(view: &View<'_>) {
    let all = view.project().catalog(None, usize::MAX).unwrap().0;
    let mut named = 0;
    for id in 1..=3 {
        let id = ProjectId(id);
        let Some(project) = view.project().by_id(id).unwrap() else { continue };
        let names = view.project().repos(id, None, usize::MAX).unwrap().0;
        let expected: Vec<_> = all.iter().filter(|name| name.project() == project.name).cloned().collect();
        assert_eq!(names, expected);
        named += names.len();
    }
    assert_eq!(named, all.len());
}

fn audit_repo(view: &View<'_>, at: RepoRef, found: &mut Found) {
    let rows = |kind: u8| view.read().all(&crate::project::keys::table(at, kind)).unwrap();
    let counts = found.counts.entry(at.project).or_default();
    // What manifests may hold, and of that what they must.
    let (mut held, mut must) = (BTreeSet::new(), BTreeSet::new());
    let mut subjects = BTreeSet::new();
    for row in rows(b'm') {
        let digest = row.parts().unwrap().digest().unwrap();
        let record: crate::artifact::ManifestRecord = row.record().unwrap();
        let inline = view.artifact().manifest_bytes(&at, &digest).unwrap();
        assert_eq!(inline.is_some(), record.body == BodyRef::Inline, "{digest}");
        counts.0 += 1;
        counts.2 += inline.map_or(0, |bytes| bytes.len() as u64);
        if let BodyRef::Stored(root) = record.body {
            held.insert((root, digest.clone()));
            must.insert((root, digest.clone()));
        }
        for reference in audit_parts(view, at, &digest, &record) {
            match view.blob().link(&at, &reference.digest).unwrap() {
                Some(link) => {
                    held.insert((link.root, digest.clone()));
                    if reference.kind == RefKind::Blob {
                        must.insert((link.root, digest.clone()));
                    }
                }
                None => assert_ne!(reference.kind, RefKind::Blob, "{digest} lost {}", reference.digest),
            }
        }
        subjects.extend(record.facts.subject.map(|subject| (subject, digest)));
    }
    let uses: BTreeSet<_> = rows(b'u')
        .iter()
        .map(|row| {
            let mut parts = row.parts().unwrap();
            (parts.root().unwrap(), parts.digest().unwrap())
        })
        .collect();
    // A child that is a manifest and a linked blob at once is not held.
    assert!(uses.is_subset(&held), "{uses:?} beyond {held:?}");
    assert!(uses.is_superset(&must), "{uses:?} lacks some of {must:?}");
    for row in rows(b'l') {
        let link: crate::blob::LinkRecord = row.record().unwrap();
        let used = uses.iter().any(|(root, _)| *root == link.root);
        assert_eq!(link.lease_until.is_none(), used, "{:?}", link.root);
        found.links.entry(link.root).or_default().insert(at);
    }
    for (root, manifest) in &uses {
        assert!(
            view.blob().link_to(&at, root).unwrap().is_some(),
            "{manifest} holds {root:?}, which is not linked"
        );
    }
    let listed: BTreeSet<_> = rows(b's')
        .iter()
        .map(|row| {
            let mut parts = row.parts().unwrap();
            (parts.digest().unwrap(), parts.digest().unwrap())
        })
        .collect();
    assert_eq!(listed, subjects);
    audit_staged(view, at);
    let tags = audit_tags(view, at);
    counts.1 += tags;
    assert_eq!(rows(b'v').len() as u64, tags);
}

/// All references of a manifest: every part of them is there.
fn audit_parts(view: &View<'_>, at: RepoRef, digest: &Digest, record: &ManifestRecord) -> Vec<Ref> {
    let mut refs = record.facts.refs.clone();
    for part in 1..=record.facts.parts {
        let part: Option<PartRecord> = view.read().get(&keys::part(at, digest, part)).unwrap();
        refs.extend(part.expect("a part is there").0);
    }
    refs
}

/// What is staged is marked, once, and what is neither marked nor stored is not there.
fn audit_staged(view: &View<'_>, at: RepoRef) {
    for row in view.read().all(&crate::project::keys::table(at, b'p')).unwrap() {
        let mut parts = row.parts().unwrap();
        let (digest, part) = (parts.digest().unwrap(), parts.number().unwrap());
        let stored = view.artifact().manifest(&at, &digest).unwrap().map_or(0, |stored| stored.facts.parts);
        let marked: Option<StagedRecord> = view.read().get(&keys::staged(at, &digest)).unwrap();
        assert!(part <= u64::from(stored) || marked.is_some(), "{digest}: part {part} is nobody's");
    }
    for row in view.read().all(&crate::project::keys::table(at, b'e')).unwrap() {
        let digest = row.parts().unwrap().digest().unwrap();
        let StagedRecord(since) = row.record().unwrap();
        assert!(view.read().has(&keys::staged_since(since, at, &digest)).unwrap());
    }
}

/// Every tag names a manifest and has its newest row; how many there are.
fn audit_tags(view: &View<'_>, at: RepoRef) -> u64 {
    let tags = view.artifact().tags(&at, None, usize::MAX).unwrap().0;
    for tag in &tags {
        let record = view.artifact().tag(&at, tag).unwrap().unwrap();
        let newest = view.artifact().tag_history(&at, tag, 1).unwrap().remove(0);
        assert_eq!(newest.digest, Some(record.digest.clone()), "{tag}");
        assert!(newest.index <= record.index, "{tag}");
        assert!(view.artifact().manifest(&at, &record.digest).unwrap().is_some(), "{tag} names nothing");
        assert!(view.artifact().tags_on(&at, &record.digest).unwrap().contains(tag));
    }
    tags.len() as u64
}

fn audit_roots(view: &View<'_>, found: &Found) {
    let mut holders = BTreeSet::new();
    let mut unlinked = BTreeSet::new();
    let mut short = BTreeSet::new();
    for (root, record) in view.blob().roots(None, usize::MAX).unwrap() {
        let repos = found.links.get(&root).cloned().unwrap_or_default();
        let projects: BTreeSet<_> = repos.iter().map(|at| at.project).collect();
        assert_eq!((record.links, record.projects), (repos.len() as u64, projects.len() as u64));
        assert_eq!(record.unlinked_since.is_none(), record.links > 0);
        assert!(record.links > 0 || record.short_since.is_none(), "what nobody links lacks nothing");
        unlinked.extend(record.unlinked_since.map(|since| (since, root)));
        short.extend(record.short_since.map(|since| (record.holders.len(), since, root)));
        assert!(record.holders.is_sorted());
        for digest in record.digests.iter() {
            assert_eq!(view.blob().root_of(&digest).unwrap(), Some(root));
        }
        for node in record.holders {
            assert!(!view.cluster().node(node).unwrap().unwrap().removed, "{node} left");
            holders.insert((node, root));
        }
    }
    let rows: Vec<_> = view.blob().unlinked(None, usize::MAX).unwrap();
    assert_eq!(rows, Vec::from_iter(unlinked));
    let rows = view.blob().under_target(None, usize::MAX).unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (usize::from(row.copies), row.since, row.root)).collect();
    assert_eq!(rows, Vec::from_iter(short));
    assert!(found.links.keys().all(|root| view.blob().root(root).unwrap().is_some()));
    let listed: BTreeSet<_> = view
        .cluster()
        .nodes()
        .unwrap()
        .iter()
        .flat_map(|node| {
            let roots = view.blob().held_by(node.id, None, usize::MAX).unwrap();
            roots.into_iter().map(|root| (node.id, root))
        })
        .collect();
    assert_eq!(listed, holders);
}
