//! Tests of the artifact domain's commands.

use clawhub_types::{Durability, NodeId};

use super::*;
use crate::Rejected;
use crate::blob::{BlobCmd, LEASE};
use crate::project::{ProjectCmd, ProjectRecord};
use crate::testing::{
    HOUR, World, digest, digest512, facts, policy, put, receipt, receipt512, receipts, repo, root, size, tag,
};

fn project(world: &World, name: &str) -> ProjectRecord {
    world.view().project().by_name(&name.parse().unwrap()).unwrap().unwrap()
}

fn lease(world: &World, n: u64) -> Option<u64> {
    world.view().blob().link(&world.at("a/b"), &digest(n)).unwrap().unwrap().lease_until
}

fn delete_cmd(n: u64) -> ArtifactCmd {
    ArtifactCmd::Delete { repo: repo("a/b"), digest: digest(n) }
}

fn tagged(world: &World, name: &str) -> Option<Digest> {
    world.view().artifact().tag(&world.at("a/b"), &tag(name)).unwrap().map(|record| record.digest)
}

/// A put of [`put`], changed.
fn with(cmd: ArtifactCmd, change: impl FnOnce(&mut ManifestFacts, &mut Body, &mut Condition)) -> ArtifactCmd {
    match cmd {
        ArtifactCmd::Put { repo, digest, mut facts, mut body, tags, mut condition } => {
            change(&mut facts, &mut body, &mut condition);
            ArtifactCmd::Put { repo, digest, facts, body, tags, condition }
        }
        other => other,
    }
}

/// A large manifest: its bytes are blob `n`.
fn stored(n: u64, nodes: &[u64]) -> Body {
    Body::Stored(StoredBytes { root: root(n), digests: receipt(1, n).digests, receipts: receipts(nodes, n) })
}

#[test]
fn a_manifest_comes_with_its_tags_and_holds_its_blobs() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    world.blob("a/b", 2, &[1, 2]);
    let reply = world.ok(put("a/b", 10, &[1, 2], &["latest", "v1"]));
    assert_eq!(
        reply,
        Reply::Artifact(ArtifactReply::Stored { digest: digest(10), tags: vec![tag("latest"), tag("v1")] })
    );
    let at = world.at("a/b");
    let view = world.view();
    let record = view.artifact().manifest(&at, &digest(10)).unwrap().unwrap();
    assert_eq!((record.facts, record.body), (facts(&[1, 2]), BodyRef::Inline));
    assert_eq!(view.artifact().manifest_bytes(&at, &digest(10)).unwrap().unwrap(), b"{ }");
    let (index, _) = view.state_hash().unwrap();
    let expected = TagRecord { digest: digest(10), at: record.pushed_at, index };
    assert_eq!(view.artifact().tag(&at, &tag("v1")).unwrap(), Some(expected));
    assert_eq!((lease(&world, 1), lease(&world, 2)), (None, None));
    let counted = project(&world, "a");
    assert_eq!((counted.manifests, counted.tags, counted.bytes), (1, 2, size(1) + size(2) + 3));
}

#[test]
fn references_must_be_linked_in_that_repository() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    world.blob("a/c", 2, &[1, 2]);
    let refused = world.refused(put("a/b", 10, &[1, 2, 3], &["t"]));
    assert_eq!(
        refused,
        Rejected::Artifact(ArtifactRejected::ReferencesUnknown(vec![digest(2), digest(3)])),
        "all of them at once"
    );
    assert_eq!(
        world.refused(put("x/y", 10, &[1], &[])),
        Rejected::Artifact(ArtifactRejected::ReferencesUnknown(vec![digest(1)]))
    );
    assert_eq!(world.view().project().repo(&repo("x/y")).unwrap(), None);
    assert_eq!(lease(&world, 1), Some(world.tick + LEASE));
}

#[test]
fn children_are_manifests_or_else_blobs() {
    let mut world = World::three();
    world.ok(put("a/b", 10, &[], &[]));
    world.blob("a/b", 1, &[1, 2]);
    let children = |kinds: &[(u64, RefKind)]| {
        let refs: Vec<_> = kinds.iter().map(|(n, kind)| Ref { digest: digest(*n), kind: *kind }).collect();
        with(put("a/b", 20, &[], &[]), |facts, _, _| facts.refs = refs)
    };
    assert_eq!(
        world.refused(children(&[(10, RefKind::Blob), (11, RefKind::Child)])),
        Rejected::Artifact(ArtifactRejected::ReferencesUnknown(vec![digest(10), digest(11)])),
        "a manifest is no blob"
    );
    world.ok(children(&[(10, RefKind::Child), (1, RefKind::Child)]));
    assert_eq!(lease(&world, 1), None, "a cache layer is held like any blob");
    world.ok(delete_cmd(20));
    assert_eq!(lease(&world, 1), Some(world.tick + LEASE));
}

#[test]
fn an_optional_layer_is_held_if_it_is_there_and_stops_nothing_if_it_is_not() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    let optional = |n: u64, blobs: &[u64]| {
        let refs: Vec<_> =
            blobs.iter().map(|n| Ref { digest: digest(*n), kind: RefKind::Optional }).collect();
        with(put("a/b", n, &[], &[]), |facts, _, _| facts.refs = refs)
    };
    world.ok(optional(10, &[1, 2]));
    assert_eq!(lease(&world, 1), None);
    let unlink = |n| BlobCmd::Unlink { repo: repo("a/b"), digest: digest(n) };
    assert_eq!(world.refused(unlink(1)), Rejected::Blob(BlobRejected::BlobReferenced(digest(10))));

    // It comes later, and is held from the next push on.
    world.blob("a/b", 2, &[1, 2]);
    assert_eq!(lease(&world, 2), Some(world.tick + LEASE));
    world.ok(optional(10, &[1, 2]));
    assert_eq!(lease(&world, 2), None);

    // One copy lacks: that is made. All copies lack: nobody can, and the layer stays held.
    world.ok(BlobCmd::Lost { node: NodeId(1), roots: vec![root(1)] });
    assert_eq!(world.refused(optional(11, &[1])), Rejected::Blob(BlobRejected::NeedCopies(vec![root(1)])));
    world.ok(BlobCmd::Lost { node: NodeId(2), roots: vec![root(1)] });
    world.ok(optional(11, &[1]));
    world.ok(optional(10, &[1, 2]));
    assert_eq!(
        world.refused(put("a/b", 12, &[1], &[])),
        Rejected::Blob(BlobRejected::NeedCopies(vec![root(1)])),
        "one that is needed is"
    );
    world.ok(delete_cmd(10));
    assert_eq!((lease(&world, 1), lease(&world, 2)), (None, Some(world.tick + LEASE)));
    world.ok(delete_cmd(11));
    assert_eq!(lease(&world, 1), Some(world.tick + LEASE));
}

fn stage_cmd(n: u64, part: u32, blobs: &[u64]) -> ArtifactCmd {
    let refs = blobs.iter().map(|n| Ref { digest: digest(*n), kind: RefKind::Blob }).collect();
    ArtifactCmd::Stage { repo: repo("a/b"), digest: digest(n), part, refs }
}

#[test]
fn references_that_are_too_many_for_an_entry_are_staged_before() {
    let mut world = World::three();
    for n in 1..=4 {
        world.blob("a/b", n, &[1, 2]);
    }
    let whole = with(put("a/b", 10, &[1], &["t"]), |facts, _, _| facts.parts = 2);
    let missing = Rejected::Artifact(ArtifactRejected::PartsMissing);
    assert_eq!(world.refused(whole.clone()), missing);
    world.ok(stage_cmd(10, 2, &[3, 5]));
    assert_eq!(world.refused(whole.clone()), missing);
    world.ok(stage_cmd(10, 1, &[2]));
    assert_eq!(
        world.refused(whole.clone()),
        Rejected::Artifact(ArtifactRejected::ReferencesUnknown(vec![digest(5)])),
        "staged references are looked at when the manifest comes"
    );
    world.ok(stage_cmd(10, 2, &[3, 4]));
    world.ok(whole.clone());
    for n in 1..=4 {
        assert_eq!(lease(&world, n), None, "blob {n} is held");
    }
    // What is stored stays as it is, and a second push finds it.
    world.ok(stage_cmd(10, 2, &[]));
    world.ok(whole.clone());
    world.ok(BlobCmd::Lost { node: NodeId(1), roots: vec![root(4)] });
    assert_eq!(world.refused(whole.clone()), Rejected::Blob(BlobRejected::NeedCopies(vec![root(4)])));
    world.ok(delete_cmd(10));
    for n in 1..=4 {
        assert_eq!(lease(&world, n), Some(world.tick + LEASE), "blob {n} is let go");
    }
    assert_eq!(world.refused(whole), missing, "its parts went with it");
}

#[test]
fn parts_that_no_manifest_comes_for_are_forgotten() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    let whole = |n| with(put("a/b", n, &[], &[]), |facts, _, _| facts.parts = 1);
    for n in [10, 11, 12] {
        world.ok(stage_cmd(n, 1, &[]));
    }
    world.ok(whole(11));
    world.tick += HOUR / 2;
    world.ok(stage_cmd(12, 1, &[]));
    world.tick += HOUR / 2;
    world.ok(stage_cmd(13, 1, &[]));
    let missing = Rejected::Artifact(ArtifactRejected::PartsMissing);
    assert_eq!(world.refused(whole(10)), missing);
    for n in [11, 12, 13] {
        world.ok(whole(n));
    }
    world.ok(delete_cmd(11));
    assert_eq!(world.refused(whole(11)), missing);
}

#[test]
fn parts_that_were_left_become_fewer_while_others_are_staged() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    for n in 10..20 {
        world.ok(stage_cmd(n, 1, &[]));
    }
    world.tick += HOUR;
    for n in 20..23 {
        world.ok(stage_cmd(n, 1, &[]));
    }
    let missing = Rejected::Artifact(ArtifactRejected::PartsMissing);
    for n in 10..20 {
        let whole = with(put("a/b", n, &[], &[]), |facts, _, _| facts.parts = 1);
        assert_eq!(world.refused(whole), missing, "{n}");
    }
}

#[test]
fn staging_creates_no_repository() {
    let mut world = World::three();
    assert_eq!(world.refused(stage_cmd(10, 1, &[2])), Rejected::Project(ProjectRejected::NameUnknown));
    assert!(world.view().project().by_name(&"a".parse().unwrap()).unwrap().is_none());
}

#[test]
fn a_repository_satisfies_what_it_has() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    world.ok(put("a/b", 10, &[1], &[]));
    let at = world.at("a/b");
    for (n, kind, has) in [
        (1, RefKind::Blob, true),
        (1, RefKind::Child, true),
        (10, RefKind::Child, true),
        (10, RefKind::Blob, false),
        (2, RefKind::Blob, false),
        (2, RefKind::Child, false),
        (2, RefKind::Optional, true),
    ] {
        let reference = Ref { digest: digest(n), kind };
        assert_eq!(world.view().artifact().satisfies(&at, &reference).unwrap(), has, "{reference:?}");
        let whole = with(put("a/b", 11, &[], &[]), |facts, _, _| facts.refs = vec![reference]);
        assert_eq!(world.run(whole).is_ok(), has, "apply says the same");
    }
}

#[test]
fn a_large_manifest_whose_bytes_are_gone_is_pushed_again() {
    let mut world = World::three();
    let large = |nodes: &[u64]| with(put("a/b", 10, &[], &["t"]), |_, body, _| *body = stored(10, nodes));
    world.ok(large(&[1, 2]));
    let counted = project(&world, "a");
    for node in [1, 2] {
        world.ok(BlobCmd::Lost { node: NodeId(node), roots: vec![root(10)] });
    }
    world.ok(large(&[2, 3]));
    let holders = world.view().blob().root(&root(10)).unwrap().unwrap().holders;
    assert_eq!(holders, [NodeId(2), NodeId(3)]);
    assert_eq!(project(&world, "a"), counted);
}

#[test]
fn blobs_need_the_copies_of_the_project_at_apply() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    world.blob("a/b", 2, &[1, 2]);
    world.ok(ProjectCmd::SetPolicy {
        name: "a".parse().unwrap(),
        policy: policy(Some(Durability::Local), Some(&["ap"]), true),
    });
    let mut short = vec![root(1), root(2)];
    short.sort();
    assert_eq!(world.refused(put("a/b", 10, &[1, 2], &[])), Rejected::Blob(BlobRejected::NeedCopies(short)));
    world.ok(BlobCmd::Hold { receipts: vec![receipt(3, 1)] });
    assert_eq!(
        world.refused(put("a/b", 10, &[1, 2], &[])),
        Rejected::Blob(BlobRejected::NeedCopies(vec![root(2)]))
    );
    world.ok(BlobCmd::Hold { receipts: vec![receipt(3, 2)] });
    world.ok(put("a/b", 10, &[1, 2], &[]));
}

#[test]
fn conditions_are_decided_at_apply_for_every_tag() {
    let on = |n: u64, tags: &[&str], wanted: Condition| with(put("a/b", n, &[], tags), |_, _, c| *c = wanted);
    let mut world = World::three();
    let failed = |now: Option<u64>| Rejected::Artifact(ArtifactRejected::PreconditionFailed(now.map(digest)));

    assert_eq!(world.refused(on(1, &["t"], Condition::Exists)), failed(None));
    assert_eq!(world.refused(on(1, &["t"], Condition::Matches(vec![digest(1)]))), failed(None));
    world.ok(on(1, &["t"], Condition::Absent));
    assert_eq!(world.refused(on(2, &["t"], Condition::Absent)), failed(Some(1)));
    assert_eq!(world.refused(on(1, &["t"], Condition::Absent)), failed(Some(1)), "even to the same digest");
    assert_eq!(world.refused(on(2, &["t"], Condition::Matches(vec![]))), failed(Some(1)));
    assert_eq!(world.refused(on(2, &["t"], Condition::Matches(vec![digest(2), digest(3)]))), failed(Some(1)));
    assert_eq!(
        world.view().artifact().manifest(&world.at("a/b"), &digest(2)).unwrap(),
        None,
        "all or nothing"
    );
    world.ok(on(2, &["t"], Condition::Matches(vec![digest(9), digest(1)])));
    assert_eq!(tagged(&world, "t"), Some(digest(2)));
    assert_eq!(
        world.refused(on(3, &["t"], Condition::Matches(vec![digest(1)]))),
        failed(Some(2)),
        "the loser"
    );

    // Every tag named must satisfy it.
    assert_eq!(world.refused(on(3, &["new", "t"], Condition::Absent)), failed(Some(2)));
    assert_eq!(tagged(&world, "new"), None);
    assert_eq!(world.refused(on(3, &["t", "new"], Condition::Exists)), failed(None));
    assert_eq!(world.refused(on(3, &["t", "new"], Condition::Matches(vec![digest(2)]))), failed(None));
    world.ok(on(3, &["new", "newer"], Condition::Absent));
    world.ok(on(4, &["new", "newer"], Condition::Matches(vec![digest(3)])));
    world.ok(on(5, &["new", "t"], Condition::Exists));
    world.ok(on(6, &[], Condition::Exists));
    assert_eq!(tagged(&world, "t"), Some(digest(5)));
}

#[test]
fn tags_move_and_are_counted_once() {
    let mut world = World::three();
    world.ok(put("a/b", 1, &[], &["t", "u"]));
    world.ok(put("a/b", 2, &[], &["t"]));
    world.ok(put("a/b", 2, &[], &["t", "t"]));
    assert_eq!((tagged(&world, "t"), tagged(&world, "u")), (Some(digest(2)), Some(digest(1))));
    let at = world.at("a/b");
    assert_eq!(world.view().artifact().tags_on(&at, &digest(1)).unwrap(), [tag("u")]);
    assert_eq!(world.view().artifact().tags_on(&at, &digest(2)).unwrap(), [tag("t")]);
    assert_eq!((project(&world, "a").tags, project(&world, "a").manifests), (2, 2));
}

#[test]
fn untagging_takes_the_tag_alone() {
    let mut world = World::three();
    world.ok(put("a/b", 1, &[], &["t", "u"]));
    let untag =
        |name: &str, t: &str, condition| ArtifactCmd::Untag { repo: repo(name), tag: tag(t), condition };
    assert_eq!(
        world.refused(untag("x/y", "t", Condition::Any)),
        Rejected::Project(ProjectRejected::NameUnknown)
    );
    assert_eq!(
        world.refused(untag("a/b", "none", Condition::Any)),
        Rejected::Artifact(ArtifactRejected::ManifestUnknown)
    );
    assert_eq!(
        world.refused(untag("a/b", "none", Condition::Exists)),
        Rejected::Artifact(ArtifactRejected::PreconditionFailed(None))
    );
    let wrong = Condition::Matches(vec![digest(2)]);
    assert_eq!(
        world.refused(untag("a/b", "t", wrong)),
        Rejected::Artifact(ArtifactRejected::PreconditionFailed(Some(digest(1))))
    );
    assert_eq!(world.ok(untag("a/b", "t", Condition::Matches(vec![digest(1)]))), Reply::Done);
    assert_eq!((tagged(&world, "t"), tagged(&world, "u")), (None, Some(digest(1))));
    assert!(world.view().artifact().manifest(&world.at("a/b"), &digest(1)).unwrap().is_some());
    assert_eq!(project(&world, "a").tags, 1);
}

#[test]
fn deleting_a_manifest_takes_its_tags_and_leases_its_blobs() {
    let mut world = World::three();
    for n in [1, 2] {
        world.blob("a/b", n, &[1, 2]);
    }
    world.ok(put("a/b", 10, &[1, 2], &["t", "u"]));
    world.ok(put("a/b", 11, &[2], &["v"]));
    world.tick += 100 * HOUR;
    assert_eq!(world.ok(delete_cmd(10)), Reply::Done);
    assert_eq!((tagged(&world, "t"), tagged(&world, "u")), (None, None));
    assert_eq!(tagged(&world, "v"), Some(digest(11)));
    assert_eq!(lease(&world, 1), Some(world.tick + LEASE), "nothing holds it now");
    assert_eq!(lease(&world, 2), None, "11 still does");
    let at = world.at("a/b");
    assert_eq!(world.view().artifact().manifest_bytes(&at, &digest(10)).unwrap(), None);
    let counted = project(&world, "a");
    assert_eq!((counted.manifests, counted.tags, counted.bytes), (1, 1, size(1) + size(2) + 3));
    assert_eq!(world.refused(delete_cmd(10)), Rejected::Artifact(ArtifactRejected::ManifestUnknown));
    let elsewhere = ArtifactCmd::Delete { repo: repo("x/y"), digest: digest(10) };
    assert_eq!(world.refused(elsewhere), Rejected::Project(ProjectRejected::NameUnknown));
    world.ok(BlobCmd::Unlink { repo: repo("a/b"), digest: digest(1) });
    world.ok(delete_cmd(11));
    world.ok(BlobCmd::Unlink { repo: repo("a/b"), digest: digest(2) });
    let counted = project(&world, "a");
    assert_eq!((counted.manifests, counted.tags, counted.bytes), (0, 0, 0));
}

#[test]
fn two_names_of_one_blob_are_held_and_released_together() {
    let mut world = World::three();
    let receipts = vec![receipt512(1, 1), receipt512(2, 1)];
    world.ok(BlobCmd::Commit { repo: repo("a/b"), digest: digest512(1), receipts });
    let both = with(put("a/b", 10, &[1], &[]), |facts, _, _| {
        facts.refs.push(Ref { digest: digest512(1), kind: RefKind::Blob });
    });
    world.ok(both);
    assert_eq!(lease(&world, 1), None);
    world.ok(delete_cmd(10));
    assert_eq!(lease(&world, 1), Some(world.tick + LEASE));
}

#[test]
fn manifests_may_be_named_by_sha512() {
    let mut world = World::three();
    let cmd = ArtifactCmd::Put {
        repo: repo("a/b"),
        digest: digest512(10),
        facts: facts(&[]),
        body: Body::Inline(b"{ }".to_vec()),
        tags: vec![tag("t")],
        condition: Condition::Absent,
    };
    world.ok(cmd);
    assert_eq!(tagged(&world, "t"), Some(digest512(10)));
    let at = world.at("a/b");
    assert_eq!(world.view().artifact().manifest_bytes(&at, &digest512(10)).unwrap().unwrap(), b"{ }");
    assert_eq!(world.view().artifact().tags_on(&at, &digest512(10)).unwrap(), [tag("t")]);
    let child = with(put("a/b", 20, &[], &[]), |facts, _, _| {
        facts.refs = vec![Ref { digest: digest512(10), kind: RefKind::Child }];
        facts.subject = Some(digest512(10));
    });
    world.ok(child);
    assert_eq!(world.view().artifact().referrers(&at, &digest512(10), None, 9).unwrap()[0].0, digest(20));
    world.ok(ArtifactCmd::Delete { repo: repo("a/b"), digest: digest512(10) });
    assert_eq!(tagged(&world, "t"), None);
}

#[test]
fn pushing_the_same_again_changes_what_it_says_and_no_count() {
    let mut world = World::three();
    for n in [1, 2] {
        world.blob("a/b", n, &[1, 2]);
    }
    let subject = |n| with(put("a/b", 10, &[], &[]), |facts, _, _| facts.subject = Some(digest(n)));
    world.ok(subject(7));
    let counted = project(&world, "a");
    world.ok(put("a/b", 10, &[1], &[]));
    assert_eq!(lease(&world, 1), None);
    world.ok(put("a/b", 10, &[2], &[]));
    assert_eq!((lease(&world, 1), lease(&world, 2)), (Some(world.tick + LEASE), None));
    let at = world.at("a/b");
    assert_eq!(world.view().artifact().referrers(&at, &digest(7), None, 9).unwrap(), []);
    world.ok(subject(8));
    assert_eq!(world.view().artifact().referrers(&at, &digest(8), None, 9).unwrap().len(), 1);

    // The bytes stay where they were first.
    world.ok(with(put("a/b", 10, &[], &[]), |_, body, _| *body = stored(10, &[1, 2])));
    let record = world.view().artifact().manifest(&at, &digest(10)).unwrap().unwrap();
    assert_eq!(record.body, BodyRef::Inline);
    assert_eq!(world.view().blob().root(&root(10)).unwrap(), None);
    let again = project(&world, "a");
    assert_eq!((again.manifests, again.bytes), (counted.manifests, counted.bytes));
    world.ok(delete_cmd(10));
    assert_eq!(project(&world, "a").manifests, 0);
    assert_eq!(world.view().artifact().referrers(&at, &digest(8), None, 9).unwrap(), []);
}

#[path = "lists_test.rs"]
mod lists;

#[path = "large_test.rs"]
mod large;
