//! Tests of the blob domain's commands.

use clawhub_types::{Durability, NodeId};

use super::super::LEASE;
use super::*;
use crate::LifecycleCmd;
use crate::Rejected;
use crate::project::ProjectCmd;
use crate::testing::{
    HOUR, World, commit, digest, digest512, policy, put, receipt, receipt512, receipts, repo, root, size,
};

fn linked_as(n: u64) -> Reply {
    Reply::Blob(BlobReply::Linked { root: root(n), size: size(n) })
}

fn record(world: &World, n: u64) -> RootRecord {
    world.view().blob().root(&root(n)).unwrap().unwrap()
}

fn lease(world: &World, name: &str, n: u64) -> Option<Option<u64>> {
    world.view().blob().link(&world.at(name), &digest(n)).unwrap().map(|link| link.lease_until)
}

fn set_policy(world: &mut World, name: &str, policy: crate::project::ProjectPolicy) {
    world.ok(ProjectCmd::SetPolicy { name: name.parse().unwrap(), policy });
}

#[test]
fn a_commit_binds_and_links_under_a_lease() {
    let mut world = World::three();
    assert_eq!(world.blob("a/b", 1, &[2, 1]), linked_as(1));
    let expected = RootRecord {
        size: size(1),
        generation: 1,
        digests: receipt(1, 1).digests,
        holders: vec![NodeId(1), NodeId(2)],
        projects: 1,
        links: 1,
        unlinked_since: None,
        short_since: Some(world.tick),
    };
    assert_eq!(record(&world, 1), expected);
    let view = world.view();
    assert_eq!(view.blob().root_of(&digest(1)).unwrap(), Some(root(1)));
    assert_eq!(view.blob().root_of(&digest512(1)).unwrap(), None);
    let link = LinkRecord { root: root(1), size: size(1), lease_until: Some(world.tick + LEASE) };
    assert_eq!(view.blob().link(&world.at("a/b"), &digest(1)).unwrap(), Some(link));
    assert_eq!(LEASE, 24 * HOUR);
}

#[test]
fn a_second_commit_adds_holders_and_renews() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    world.tick += HOUR;
    // One receipt is enough now: the other copies are in the record.
    assert_eq!(world.blob("a/b", 1, &[3]), linked_as(1));
    assert_eq!(record(&world, 1).holders, [1, 2, 3].map(NodeId));
    assert_eq!(record(&world, 1).links, 1);
    assert_eq!(lease(&world, "a/b", 1), Some(Some(world.tick + LEASE)));
    world.blob("c/d", 1, &[1]);
    assert_eq!((record(&world, 1).links, record(&world, 1).projects), (2, 2));
}

#[test]
fn copies_must_satisfy_the_project() {
    let mut world = World::new(Durability::Zone, &["eu/a", "eu/b", "us/a", "eu/a", "us/w!", "ap/w!"]);
    world.votes(&[&[1, 3, 6]]);
    let short = |world: &mut World, name: &str, nodes: &[u64]| {
        assert_eq!(
            world.refused(commit(name, 1, nodes)),
            Rejected::Blob(BlobRejected::NeedCopies(vec![root(1)]))
        );
    };
    short(&mut world, "a/b", &[1]);
    short(&mut world, "a/b", &[1, 4]);
    assert_eq!(world.view().blob().root(&root(1)).unwrap(), None, "refused without a trace");
    set_policy(&mut world, "r", policy(Some(Durability::Region), None, false));
    set_policy(&mut world, "l", policy(Some(Durability::Local), None, false));
    set_policy(&mut world, "us", policy(Some(Durability::Local), Some(&["us"]), true));
    short(&mut world, "r/b", &[1, 2]);
    short(&mut world, "us/b", &[1, 2]);
    assert_eq!(world.blob("l/b", 1, &[1]), linked_as(1));
    assert_eq!(world.blob("a/b", 1, &[2]), linked_as(1), "1 holds it already");
    assert_eq!(world.blob("r/b", 1, &[3]), linked_as(1));
    assert_eq!(world.blob("us/b", 1, &[1]), linked_as(1), "3 in us does");
}

#[test]
fn void_receipts_are_refused() {
    let mut world = World::new(Durability::Zone, &["eu/a", "us/a", "ap/a", "us/w!"]);
    world.blob("a/b", 1, &[1, 2]);
    let mut cases: Vec<(&str, u64, Receipt)> = Vec::new();
    let mut case = |name, n, change: &dyn Fn(&mut Receipt)| {
        let mut bad = receipt(3, n);
        change(&mut bad);
        cases.push((name, n, bad));
    };
    for n in [1, 2] {
        case("another generation", n, &|r| r.generation = 2);
        case("generation 0", n, &|r| r.generation = 0);
        case("another size", n, &|r| r.size += 1);
        case("another sha256", n, &|r| r.digests.sha256[0] ^= 1);
        case("another root", n, &|r| r.root = root(99));
        case("a witness", n, &|r| r.node = NodeId(4));
        case("a stranger", n, &|r| r.node = NodeId(9));
    }
    for (name, n, bad) in cases {
        for (first, second) in [(receipt(1, n), bad.clone()), (bad.clone(), receipt(1, n))] {
            let receipts = vec![first, second, receipt(2, n)];
            let commit = BlobCmd::Commit { repo: repo("a/b"), digest: digest(n), receipts };
            assert_eq!(world.refused(commit), Rejected::Blob(BlobRejected::BadReceipt), "{name}, blob {n}");
        }
        let before = world.view().blob().root(&root(n)).unwrap();
        world.ok(BlobCmd::Hold { receipts: vec![bad] });
        assert_eq!(world.view().blob().root(&root(n)).unwrap(), before, "{name}, blob {n}");
    }
    let none = BlobCmd::Commit { repo: repo("a/b"), digest: digest(1), receipts: vec![] };
    assert_eq!(world.refused(none), Rejected::Blob(BlobRejected::BadReceipt));
    let other = BlobCmd::Commit { repo: repo("a/b"), digest: digest(5), receipts: receipts(&[1, 2], 1) };
    assert_eq!(
        world.refused(other),
        Rejected::Blob(BlobRejected::BadReceipt),
        "not the digest the client named"
    );
    // Another root under a digest that is taken: the bytes differ, one of them lies.
    let mut stolen = receipts(&[1, 2], 1);
    stolen.iter_mut().for_each(|receipt| receipt.root = root(50));
    let steal = BlobCmd::Commit { repo: repo("a/b"), digest: digest(1), receipts: stolen };
    assert_eq!(world.refused(steal), Rejected::Blob(BlobRejected::BadReceipt));
}

#[test]
fn a_second_name_joins_the_first() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    let commit512 = |nodes: [u64; 2]| BlobCmd::Commit {
        repo: repo("a/b"),
        digest: digest512(1),
        receipts: vec![receipt512(nodes[0], 1), receipt(nodes[1], 1)],
    };
    assert_eq!(world.ok(commit512([1, 2])), linked_as(1));
    assert_eq!(world.view().blob().root_of(&digest512(1)).unwrap(), Some(root(1)));
    assert_eq!(record(&world, 1).digests, receipt512(1, 1).digests);
    let at = world.at("a/b");
    let view = world.view();
    assert_eq!(view.blob().link(&at, &digest512(1)).unwrap(), view.blob().link(&at, &digest(1)).unwrap());
    assert_eq!(record(&world, 1).links, 1, "one root, one link");

    let mut lie = receipt512(3, 1);
    lie.digests.sha512 = Some([1; 64]);
    assert_eq!(world.ok(BlobCmd::Hold { receipts: vec![lie] }), Reply::Blob(BlobReply::Count(0)));
    world.ok(BlobCmd::Unlink { repo: repo("a/b"), digest: digest512(1) });
    assert_eq!(world.view().blob().link(&at, &digest(1)).unwrap(), None);
}

#[test]
fn mounts_need_a_link_and_enough_copies() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    let mount = |from: &str, to: &str| BlobCmd::Mount { from: repo(from), to: repo(to), digest: digest(1) };
    assert_eq!(world.ok(mount("no/where", "c/d")), Reply::Blob(BlobReply::NotMounted));
    assert_eq!(
        world.view().project().repo(&repo("c/d")).unwrap(),
        None,
        "a mount that fails creates nothing"
    );
    assert_eq!(world.ok(mount("a/b", "c/d")), linked_as(1));
    assert_eq!(lease(&world, "c/d", 1), Some(Some(world.tick + LEASE)));
    assert_eq!(world.view().blob().policies(&root(1)).unwrap().len(), 1, "both follow the default");

    world.ok(BlobCmd::Unlink { repo: repo("a/b"), digest: digest(1) });
    assert_eq!(world.ok(mount("a/b", "e/f")), Reply::Blob(BlobReply::NotMounted), "the link is gone");
    set_policy(&mut world, "ap", policy(Some(Durability::Local), Some(&["ap"]), true));
    assert_eq!(world.refused(mount("c/d", "ap/x")), Rejected::Blob(BlobRejected::NeedCopies(vec![root(1)])));
    world.ok(BlobCmd::Hold { receipts: vec![receipt(3, 1)] });
    assert_eq!(world.ok(mount("c/d", "ap/x")), linked_as(1));
    assert_eq!(world.view().blob().policies(&root(1)).unwrap().len(), 2);

    for node in [1, 2, 3] {
        world.ok(BlobCmd::Lost { node: NodeId(node), roots: vec![root(1)] });
    }
    assert_eq!(world.ok(mount("c/d", "g/h")), Reply::Blob(BlobReply::NotMounted), "nobody has it");
    world.ok(commit("g/h", 1, &[1, 3]));
    assert_eq!(world.ok(mount("g/h", "c/d")), linked_as(1));
}

#[test]
fn the_last_unlink_leaves_the_root_for_collection() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    world.blob("a/c", 1, &[1, 2]);
    let unlink = |name: &str| BlobCmd::Unlink { repo: repo(name), digest: digest(1) };
    world.tick += 5;
    world.ok(unlink("a/b"));
    assert_eq!((record(&world, 1).links, record(&world, 1).unlinked_since), (1, None));
    world.tick += 5;
    world.ok(unlink("a/c"));
    let left = record(&world, 1);
    assert_eq!((left.links, left.projects, left.unlinked_since), (0, 0, Some(world.tick)));
    assert_eq!(left.holders.len(), 2);
    assert_eq!(world.view().blob().policies(&root(1)).unwrap(), []);
    assert_eq!(world.refused(unlink("a/c")), Rejected::Blob(BlobRejected::BlobUnknown));
    assert_eq!(world.refused(unlink("z/z")), Rejected::Project(ProjectRejected::NameUnknown));
    world.blob("a/c", 1, &[1]);
    assert_eq!((record(&world, 1).links, record(&world, 1).unlinked_since), (1, None));
}

#[test]
fn leases_are_renewed_unless_a_manifest_holds_the_link() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    let renew = |n| BlobCmd::Renew { repo: repo("a/b"), digest: digest(n) };
    // Long past the lease, the link is good until something collects it.
    world.tick += 3 * LEASE;
    assert_eq!(world.ok(renew(1)), Reply::Done);
    assert_eq!(lease(&world, "a/b", 1), Some(Some(world.tick + LEASE)));
    world.ok(put("a/b", 10, &[1], &[]));
    assert_eq!(lease(&world, "a/b", 1), Some(None));
    world.ok(renew(1));
    world.blob("a/b", 1, &[1, 2]);
    world.ok(BlobCmd::Mount { from: repo("a/b"), to: repo("a/b"), digest: digest(1) });
    assert_eq!(lease(&world, "a/b", 1), Some(None), "held is held");
    assert_eq!(world.refused(renew(2)), Rejected::Blob(BlobRejected::BlobUnknown));
    let elsewhere = BlobCmd::Renew { repo: repo("x/y"), digest: digest(1) };
    assert_eq!(world.refused(elsewhere), Rejected::Project(ProjectRejected::NameUnknown));
}

#[test]
fn a_referenced_blob_is_not_unlinked() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    world.blob("a/c", 1, &[1, 2]);
    world.ok(put("a/b", 10, &[1], &[]));
    let unlink = |name: &str| BlobCmd::Unlink { repo: repo(name), digest: digest(1) };
    assert_eq!(world.refused(unlink("a/b")), Rejected::Blob(BlobRejected::BlobReferenced(digest(10))));
    assert_eq!(world.ok(unlink("a/c")), Reply::Done, "only that repository's manifests count");
}

#[test]
fn holders_are_added_one_by_one() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    let hold = |receipts| BlobCmd::Hold { receipts };
    let mut stale = receipt(3, 1);
    stale.generation = 7;
    assert_eq!(world.ok(hold(vec![stale, receipt(3, 99), receipt(2, 1)])), Reply::Blob(BlobReply::Count(0)));
    assert_eq!(world.ok(hold(vec![receipt(3, 1), receipt(3, 1)])), Reply::Blob(BlobReply::Count(1)));
    assert_eq!(record(&world, 1).holders, [1, 2, 3].map(NodeId));
    assert_eq!(world.ok(hold(vec![receipt512(3, 1)])), Reply::Blob(BlobReply::Count(0)), "no new holder");
    assert_eq!(world.view().blob().root_of(&digest512(1)).unwrap(), Some(root(1)), "but a new name");
}

#[test]
fn copies_are_released_only_while_the_rest_is_complete() {
    let mut world = World::new(Durability::Zone, &["eu/a", "eu/b", "us/a"]);
    world.blob("a/b", 1, &[1, 2, 3]);
    world.blob("a/b", 2, &[1, 2]);
    let release = |node, roots: &[u64]| BlobCmd::Release {
        node: NodeId(node),
        roots: roots.iter().map(|n| root(*n)).collect(),
    };
    assert_eq!(world.ok(release(3, &[1])), Reply::Blob(BlobReply::Count(0)), "us would have none");
    assert_eq!(
        world.ok(release(2, &[1, 2, 77])),
        Reply::Blob(BlobReply::Count(1)),
        "2 is durable only with both"
    );
    assert_eq!(record(&world, 1).holders, [1, 3].map(NodeId));
    assert_eq!(record(&world, 2).holders, [1, 2].map(NodeId));
    assert_eq!(world.ok(release(2, &[1])), Reply::Blob(BlobReply::Count(0)), "given up already");

    world.ok(BlobCmd::Unlink { repo: repo("a/b"), digest: digest(2) });
    assert_eq!(world.ok(release(2, &[2])), Reply::Blob(BlobReply::Count(1)), "nobody asks for it");
    assert_eq!(
        world.ok(release(1, &[2])),
        Reply::Blob(BlobReply::Count(0)),
        "the last copy goes by collection"
    );
}

#[test]
fn losses_are_always_recorded() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    let lost = |node, n| BlobCmd::Lost { node: NodeId(node), roots: vec![root(n), root(99)] };
    assert_eq!(world.ok(lost(1, 1)), Reply::Blob(BlobReply::Count(1)));
    assert_eq!(world.ok(lost(1, 1)), Reply::Blob(BlobReply::Count(0)));
    assert_eq!(world.ok(lost(2, 1)), Reply::Blob(BlobReply::Count(1)));
    assert_eq!(record(&world, 1).holders, []);
    assert_eq!(world.view().blob().held_by(NodeId(1), None, 9).unwrap(), []);
    assert_eq!(lease(&world, "a/b", 1), Some(Some(world.tick + LEASE)), "the link stays");
    assert_eq!(
        world.refused(put("a/b", 10, &[1], &[])),
        Rejected::Blob(BlobRejected::NeedCopies(vec![root(1)]))
    );
}

#[test]
fn roots_are_listed_in_pages() {
    let mut world = World::three();
    for n in 0..20 {
        world.blob("a/b", n, &[1, 2]);
    }
    let mut expected: Vec<_> = (0..20).map(root).collect();
    expected.sort();
    let view = world.view();
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = view.blob().roots(after, 7).unwrap();
        after = page.last().map(|(root, _)| *root);
        seen.extend(page.iter().map(|(root, _)| *root));
        if page.len() < 7 {
            break;
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(view.blob().held_by(NodeId(1), Some(expected[4]), 3).unwrap(), expected[5..8]);
    assert_eq!(view.blob().held_by(NodeId(3), None, 3).unwrap(), []);
}

#[test]
fn a_node_that_left_holds_nothing_new() {
    let mut world = World::three();
    world.ok(LifecycleCmd::RemoveNode { node: NodeId(3), force: false });
    assert_eq!(world.refused(commit("a/b", 1, &[1, 3])), Rejected::Blob(BlobRejected::BadReceipt));
}

fn uncovered(rejected: Rejected) -> bool {
    matches!(rejected, Rejected::Cluster(crate::cluster::ClusterRejected::Uncovered(_)))
}

#[test]
fn nothing_is_linked_while_the_votes_outlive_less_than_the_copies() {
    let mut world = World::new(Durability::Zone, &["eu/a", "eu/b", "eu/c", "eu/a"]);
    world.votes(&[&[1, 2, 3]]);
    set_policy(&mut world, "l", policy(Some(Durability::Local), None, false));
    world.blob("a/b", 1, &[1, 2]);
    let mount = || BlobCmd::Mount { from: repo("a/b"), to: repo("c/d"), digest: digest(1) };
    // One vote, two in one zone, an even number, and a change to or from any of them.
    let bad: [&[&[u64]]; 5] =
        [&[&[1]], &[&[1, 2, 4]], &[&[1, 2]], &[&[1, 2, 3], &[1, 2, 4]], &[&[1], &[1, 2, 3]]];
    for configs in bad {
        world.votes(configs);
        assert!(uncovered(world.refused(commit("a/b", 2, &[1, 2]))), "{configs:?}");
        assert!(uncovered(world.refused(mount())), "{configs:?}");
        assert!(uncovered(world.refused(put("a/b", 10, &[1], &["v1"]))), "{configs:?}");
        assert_eq!(world.blob("l/b", 2, &[1]), linked_as(2), "one copy asks for one vote");
    }
    world.votes(&[&[1, 2, 3]]);
    world.blob("a/b", 2, &[1, 2]);
    assert_eq!(world.ok(mount()), linked_as(1));
    world.ok(put("a/b", 10, &[1, 2], &["v1"]));
    // What was acknowledged is read and deleted all the same.
    world.votes(&[&[1]]);
    world.ok(BlobCmd::Unlink { repo: repo("c/d"), digest: digest(1) });
}

#[test]
fn votes_are_judged_as_of_the_entry() {
    let mut world = World::three();
    let membership = |ids: &[u64]| {
        let config = ids.iter().copied().map(NodeId).collect();
        crate::Payload::Membership(crate::Membership { configs: vec![config], nodes: Vec::new() })
    };
    let payloads = [
        membership(&[1]),
        crate::Payload::Entry(world.entry(commit("a/b", 1, &[1, 2]))),
        membership(&[1, 2, 3]),
        crate::Payload::Entry(world.entry(commit("a/b", 1, &[1, 2]))),
    ];
    // One batch: each is decided by what stands before it in the log, not by what the batch ends with.
    let items = payloads.map(|payload| world.item(payload));
    let outcomes = world.machine.apply(&items).unwrap();
    assert!(uncovered(outcomes[1].clone().unwrap().unwrap_err()));
    assert_eq!(outcomes[3], Some(Ok(linked_as(1))));
}
