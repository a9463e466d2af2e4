//! Tests of the rows that follow from a root's record.

use clawhub_policy::complete;
use clawhub_types::{Durability, NodeId};

use super::*;
use crate::blob::{BlobCmd, UnderTarget};
use crate::project::ProjectCmd;
use crate::testing::{World, commit, digest, policy, receipt, repo, root};
use crate::{LifecycleCmd, Rejected};

fn review(roots: &[u64]) -> BlobCmd {
    BlobCmd::Review { roots: roots.iter().map(|n| root(*n)).collect() }
}

/// Copies left and root of every row, in order.
fn under_target(world: &World) -> Vec<(u8, Root)> {
    let rows = world.view().blob().under_target(None, 100).unwrap();
    let mut after: Option<UnderTarget> = None;
    for row in &rows {
        let next = world.view().blob().under_target(after.as_ref(), 1).unwrap();
        assert_eq!(next, [*row], "page by page");
        after = Some(*row);
    }
    rows.into_iter().map(|row| (row.copies, row.root)).collect()
}

/// The same, by looking at everything.
fn slowly(world: &World) -> Vec<(u8, Root)> {
    let view = world.view();
    let layout = view.cluster().layout().unwrap();
    let mut found = Vec::new();
    for (root, record) in view.blob().roots(None, usize::MAX).unwrap() {
        let policies = view.blob().policies(&root).unwrap();
        if record.links > 0 && !complete(&policies, &layout, &record.holders) {
            found.push((u8::try_from(record.holders.len()).unwrap(), record.short_since.unwrap(), root));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(copies, _, root)| (copies, root)).collect()
}

#[test]
fn roots_that_lack_copies_are_listed_fewest_first_then_the_oldest() {
    let mut world = World::three();
    assert_eq!(under_target(&world), []);
    for n in [1, 2, 3] {
        world.tick += 10;
        world.ok(commit("a/b", n, &[1, 2]));
    }
    // In the order in which they came to lack the copy in the third region, not in that of their names.
    assert_eq!(under_target(&world), [(2, root(1)), (2, root(2)), (2, root(3))]);
    world.tick += 10;
    let lost = BlobCmd::Lost { node: NodeId(2), roots: vec![root(3)] };
    world.ok(lost);
    assert_eq!(under_target(&world), [(1, root(3)), (2, root(1)), (2, root(2))]);
    world.ok(BlobCmd::Hold { receipts: vec![receipt(3, 1), receipt(3, 3)] });
    assert_eq!(under_target(&world), [(2, root(2)), (2, root(3))], "1 is complete");
    world.ok(BlobCmd::Hold { receipts: vec![receipt(2, 3)] });
    assert_eq!(under_target(&world), [(2, root(2))]);
    world.ok(BlobCmd::Unlink { repo: repo("a/b"), digest: digest(2) });
    assert_eq!(under_target(&world), [], "what nobody links lacks nothing");
    assert_eq!(slowly(&world), []);
}

#[test]
fn a_root_stays_short_since_it_was() {
    let mut world = World::three();
    world.tick = 5000;
    world.ok(commit("a/b", 1, &[1, 2]));
    world.tick = 6000;
    world.ok(commit("c/d", 1, &[1, 2]));
    world.ok(BlobCmd::Lost { node: NodeId(2), roots: vec![root(1)] });
    let rows = world.view().blob().under_target(None, 9).unwrap();
    assert_eq!(rows, [UnderTarget { copies: 1, since: 5000, root: root(1) }]);
}

#[test]
fn a_project_that_asks_for_more_makes_a_root_short() {
    let mut world = World::three();
    let set = |name: &str, durability, regions: &[&str]| ProjectCmd::SetPolicy {
        name: name.parse().unwrap(),
        policy: policy(Some(durability), Some(regions), false),
    };
    world.ok(set("small", Durability::Local, &["eu"]));
    world.ok(commit("small/x", 1, &[1]));
    assert_eq!(under_target(&world), []);
    world.ok(BlobCmd::Hold { receipts: vec![receipt(2, 1)] });
    world.ok(BlobCmd::Mount { from: repo("small/x"), to: repo("large/y"), digest: digest(1) });
    assert_eq!(under_target(&world), [(2, root(1))], "it wants one in each region");
    world.ok(BlobCmd::Unlink { repo: repo("large/y"), digest: digest(1) });
    assert_eq!(under_target(&world), []);

    // A change of a policy shows once somebody has looked.
    world.ok(set("small", Durability::Local, &["ap"]));
    assert_eq!(under_target(&world), []);
    assert_eq!(world.ok(review(&[1, 77])), BlobReply::Count(1).into());
    assert_eq!(under_target(&world), [(2, root(1))]);
    assert_eq!(world.ok(review(&[1])), BlobReply::Count(0).into(), "it is so already");
    world.ok(set("small", Durability::Local, &["us"]));
    assert_eq!(world.ok(review(&[1])), BlobReply::Count(1).into());
    assert_eq!(under_target(&world), []);
}

#[test]
fn a_removed_holder_leaves_rows_behind_for_what_it_held_alone() {
    let mut world = World::new(Durability::Local, &["eu/a", "eu/b", "eu/c"]);
    world.ok(commit("a/b", 1, &[2]));
    world.ok(commit("a/b", 2, &[2, 3]));
    let remove = |force| LifecycleCmd::RemoveNode { node: NodeId(2), force };
    assert!(matches!(world.refused(remove(false)), Rejected::Blob(_)));
    world.ok(remove(true));
    assert_eq!(under_target(&world), [(0, root(1))]);
    assert_eq!(slowly(&world), [(0, root(1))]);
}

#[test]
fn a_review_is_bounded() {
    let mut world = World::three();
    world.ok(commit("a/b", 1, &[1, 2, 3]));
    world.ok(ProjectCmd::SetPolicy {
        name: "a".parse().unwrap(),
        policy: policy(Some(Durability::Zone), None, false),
    });
    let mut record = world.view().blob().root(&root(1)).unwrap().unwrap();
    record.short_since = Some(1);
    let mut batch = clawhub_kv::Batch::default();
    batch.put(keys::root(&root(1)).into_bytes(), crate::record::Record::encode(&record));
    world.machine.kv().write(batch).unwrap();
    let mut roots = vec![root(99); REVIEW];
    roots.push(root(1));
    assert_eq!(world.ok(BlobCmd::Review { roots: roots.clone() }), BlobReply::Count(0).into());
    roots.remove(0);
    assert_eq!(world.ok(BlobCmd::Review { roots }), BlobReply::Count(1).into());
}

#[test]
fn unlinked_roots_are_listed_oldest_first() {
    let mut world = World::three();
    for n in [1, 2, 3] {
        world.ok(commit("a/b", n, &[1, 2]));
    }
    assert_eq!(world.view().blob().unlinked(None, 9).unwrap(), []);
    for n in [3, 1] {
        world.tick += 10;
        world.ok(BlobCmd::Unlink { repo: repo("a/b"), digest: digest(n) });
    }
    let rows = world.view().blob().unlinked(None, 9).unwrap();
    assert_eq!(rows, [(world.tick - 10, root(3)), (world.tick, root(1))]);
    assert_eq!(world.view().blob().unlinked(Some(rows[0]), 9).unwrap(), rows[1..]);
    assert_eq!(world.view().blob().unlinked(None, 1).unwrap(), rows[..1]);
    world.ok(commit("a/b", 3, &[1, 2]));
    assert_eq!(world.view().blob().unlinked(None, 9).unwrap(), rows[1..], "linked again");
}
