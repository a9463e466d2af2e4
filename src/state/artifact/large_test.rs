//! Manifests that are too large for an entry.

use super::*;

#[test]
fn large_manifests_go_by_receipts() {
    let mut world = World::three();
    let large = |nodes: &[u64]| {
        let body = stored(10, nodes);
        with(put("a/b", 10, &[], &["t"]), |facts, place, _| {
            *place = body;
            facts.size = size(10);
        })
    };
    assert_eq!(world.refused(large(&[1])), Rejected::Blob(BlobRejected::NeedCopies(vec![root(10)])));
    assert_eq!(world.refused(large(&[])), Rejected::Blob(BlobRejected::BadReceipt));
    let other = with(put("a/b", 10, &[], &[]), |_, body, _| *body = stored(11, &[1, 2]));
    assert_eq!(
        world.refused(other),
        Rejected::Blob(BlobRejected::BadReceipt),
        "the bytes of another manifest"
    );
    let lie = with(large(&[1, 2]), |_, body, _| {
        if let Body::Stored(stored) = body {
            stored.receipts.iter_mut().for_each(|receipt| receipt.digests.sha256 = [5; 32]);
        }
    });
    assert_eq!(
        world.refused(lie),
        Rejected::Blob(BlobRejected::BadReceipt),
        "the receipts prove other bytes"
    );
    world.ok(large(&[1, 2]));
    let at = world.at("a/b");
    let record = world.view().artifact().manifest(&at, &digest(10)).unwrap().unwrap();
    assert_eq!(record.body, BodyRef::Stored(root(10)));
    assert_eq!(world.view().artifact().manifest_bytes(&at, &digest(10)).unwrap(), None);
    assert_eq!(lease(&world, 10), None, "its own bytes are held");
    assert_eq!(project(&world, "a").bytes, size(10));
    let unlink = BlobCmd::Unlink { repo: repo("a/b"), digest: digest(10) };
    assert_eq!(world.refused(unlink.clone()), Rejected::Blob(BlobRejected::BlobReferenced(digest(10))));

    // As a child its bytes must have their copies too.
    let index = with(put("a/b", 20, &[], &[]), |facts, _, _| {
        facts.refs = vec![Ref { digest: digest(10), kind: RefKind::Child }];
    });
    world.ok(BlobCmd::Lost { node: NodeId(2), roots: vec![root(10)] });
    assert_eq!(world.refused(index.clone()), Rejected::Blob(BlobRejected::NeedCopies(vec![root(10)])));
    world.ok(BlobCmd::Hold { receipts: vec![receipt(3, 10)] });
    world.ok(index);

    world.ok(delete_cmd(10));
    assert_eq!(lease(&world, 10), Some(world.tick + LEASE));
    world.ok(unlink);
    assert_eq!(project(&world, "a").bytes, 3, "the index is left");
}

#[test]
fn large_manifests_may_be_named_by_sha512() {
    let mut world = World::three();
    let Body::Stored(mut stored) = stored(10, &[1, 2]) else { unreachable!() };
    let put = |stored: &StoredBytes| ArtifactCmd::Put {
        repo: repo("a/b"),
        digest: digest512(10),
        facts: facts(&[]),
        body: Body::Stored(stored.clone()),
        tags: vec![],
        condition: Condition::Any,
    };
    assert_eq!(
        world.refused(put(&stored)),
        Rejected::Blob(BlobRejected::BadReceipt),
        "not among the digests"
    );
    stored.digests = receipt512(1, 10).digests;
    world.ok(put(&stored));
    assert!(world.view().artifact().manifest(&world.at("a/b"), &digest512(10)).unwrap().is_some());
}
