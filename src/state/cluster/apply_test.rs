//! Tests of the cluster domain's commands.

use clawhub_types::{Durability, NodeId, SessionId};

use super::super::TokenStanding;
use super::*;
use crate::LifecycleCmd;
use crate::Rejected;
use crate::blob::BlobRejected;
use crate::blob::BlobReply;
use crate::outbox::OutboxCmd;
use crate::project::ProjectCmd;
use crate::testing::{HOUR, World, commit, digest, init, policy, put, receipt, receipts, repo, root, spec};
use crate::{LogMark, Membership, Payload, artifact::ArtifactCmd, blob::BlobCmd};

#[test]
fn init_comes_first_and_once() {
    let mut world = World::blank();
    let early: Vec<Command> = vec![
        ClusterCmd::TokenCreate { hash: [1; 32], ttl: 1 }.into(),
        ClusterCmd::SessionOpen { node: NodeId(1), boot: 1, nonce: 1 }.into(),
        BlobCmd::Epoch { node: NodeId(1), epoch: 1 }.into(),
    ];
    for cmd in early {
        assert_eq!(world.refused(cmd), Rejected::Request(RequestRejected::WrongPhase));
    }
    assert_eq!(world.view().cluster().record().unwrap(), None);
    assert_eq!(
        world.ok(init(Durability::Zone, spec(1, "eu/a"))),
        Reply::Cluster(ClusterReply::Joined(NodeId(1)))
    );
    let cluster = world.view().cluster().record().unwrap().unwrap();
    assert_eq!((cluster.epoch, cluster.level, cluster.durability), (1, 1, Durability::Zone));
    assert_eq!(cluster.ca_key_sealed, b"sealed");
    assert_eq!(
        world.refused(init(Durability::Local, spec(2, "eu/a"))),
        Rejected::Request(RequestRejected::WrongPhase)
    );
}

#[test]
fn a_token_admits_one_node_once() {
    let mut world = World::new(Durability::Zone, &["eu/a"]);
    let token = [9; 32];
    assert_eq!(world.view().cluster().token(&token).unwrap(), TokenStanding::Unknown);
    world.ok(ClusterCmd::TokenCreate { hash: token, ttl: HOUR });
    assert_eq!(world.view().cluster().token(&token).unwrap(), TokenStanding::Good);
    let join = |n| ClusterCmd::Join { token, node: spec(n, "eu/b") };
    assert_eq!(world.ok(join(2)), Reply::Cluster(ClusterReply::Joined(NodeId(2))));
    assert_eq!(world.view().cluster().token(&token).unwrap(), TokenStanding::Used(NodeId(2)));
    assert_eq!(world.ok(join(2)), Reply::Cluster(ClusterReply::Joined(NodeId(2))), "the answer was lost");
    assert_eq!(world.refused(join(3)), Rejected::Cluster(ClusterRejected::TokenInvalid), "another key");

    world.ok(ClusterCmd::TokenCreate { hash: token, ttl: HOUR });
    assert_eq!(
        world.view().cluster().token(&token).unwrap(),
        TokenStanding::Used(NodeId(2)),
        "a used token stays used"
    );
    assert_eq!(
        world.refused(ClusterCmd::Join { token: [8; 32], node: spec(3, "eu/b") }),
        Rejected::Cluster(ClusterRejected::TokenInvalid)
    );
    assert_eq!(world.view().cluster().nodes().unwrap().len(), 2);

    world.tick += 2 * HOUR;
    assert_eq!(world.ok(join(2)), Reply::Cluster(ClusterReply::Joined(NodeId(2))), "even after it expired");
    world.ok(LifecycleCmd::RemoveNode { node: NodeId(2), force: false });
    assert_eq!(
        world.refused(join(2)),
        Rejected::Cluster(ClusterRejected::TokenInvalid),
        "but not once removed"
    );
}

#[test]
fn tokens_expire_and_are_forgotten() {
    let mut world = World::new(Durability::Zone, &["eu/a"]);
    let token = [9; 32];
    world.ok(ClusterCmd::TokenCreate { hash: token, ttl: HOUR });
    world.tick += HOUR - 1;
    world.ok(ClusterCmd::TokenCreate { hash: token, ttl: HOUR });
    assert_eq!(world.view().cluster().token(&token).unwrap(), TokenStanding::Good);
    world.tick += 1;
    let join = ClusterCmd::Join { token, node: spec(2, "eu/b") };
    assert_eq!(
        world.refused(join.clone()),
        Rejected::Cluster(ClusterRejected::TokenInvalid),
        "creating it again prolongs nothing"
    );
    assert_eq!(world.view().cluster().token(&token).unwrap(), TokenStanding::Expired);

    world.tick += TOKEN_KEPT;
    world.ok(ClusterCmd::TokenCreate { hash: [10; 32], ttl: HOUR });
    assert_eq!(world.view().read().all(&keys::tokens()).unwrap().len(), 1);
}

#[test]
fn a_blank_secret_grants_nothing() {
    let mut world = World::new(Durability::Zone, &["eu/a"]);
    for hash in [BLANK, [0; 32]] {
        assert_eq!(
            world.refused(ClusterCmd::TokenCreate { hash, ttl: HOUR }),
            Rejected::Cluster(ClusterRejected::TokenInvalid)
        );
    }
}

#[test]
fn names_and_keys_are_unique() {
    let mut world = World::new(Durability::Zone, &["eu/a", "eu/b"]);
    let join = |world: &mut World, token: u8, node: NodeSpec| {
        world.ok(ClusterCmd::TokenCreate { hash: [token; 32], ttl: HOUR });
        world.run(ClusterCmd::Join { token: [token; 32], node })
    };
    let same_name = NodeSpec { spki: [99; 32], ..spec(2, "eu/c") };
    assert_eq!(join(&mut world, 50, same_name.clone()), Err(Rejected::Cluster(ClusterRejected::NameTaken)));
    let same_key = NodeSpec { name: "other".into(), ..spec(2, "eu/c") };
    assert_eq!(
        join(&mut world, 51, same_key.clone()),
        Err(Rejected::Cluster(ClusterRejected::KeyTaken(NodeId(2))))
    );

    world.ok(LifecycleCmd::RemoveNode { node: NodeId(2), force: false });
    assert_eq!(
        join(&mut world, 52, same_key),
        Err(Rejected::Cluster(ClusterRejected::KeyTaken(NodeId(2)))),
        "gone for good"
    );
    assert_eq!(
        join(&mut world, 50, same_name),
        Ok(Reply::Cluster(ClusterReply::Joined(NodeId(3)))),
        "ids are never reused, names are"
    );
}

#[test]
fn boots_only_rise() {
    let mut world = World::three();
    let boot = |boot, nonce, addr: &str| ClusterCmd::Boot {
        node: NodeId(2),
        boot,
        nonce,
        peer_addr: addr.into(),
        http_addr: "h:1".into(),
        found: LogMark::default(),
        acknowledged: None,
        start_key: Vec::new(),
    };
    world.ok(boot(5, 1, "moved:1"));
    let node = world.view().cluster().node(NodeId(2)).unwrap().unwrap();
    assert_eq!(
        (node.boot, node.spec.peer_addr.as_str(), node.spec.http_addr.as_str()),
        (5, "moved:1", "h:1")
    );
    assert_eq!(world.ok(boot(5, 1, "moved:1")), Reply::Done, "repeated");
    let stale = |boot| Rejected::Cluster(ClusterRejected::StaleBoot { node: NodeId(2), boot, logged: 5 });
    assert_eq!(world.refused(boot(5, 2, "twin:1")), stale(5));
    assert_eq!(world.refused(boot(4, 1, "old:1")), stale(4));
    world.ok(boot(6, 2, "moved:2"));
    let unknown = ClusterCmd::Boot {
        node: NodeId(9),
        boot: 1,
        nonce: 1,
        peer_addr: String::new(),
        http_addr: String::new(),
        found: LogMark::default(),
        acknowledged: None,
        start_key: Vec::new(),
    };
    assert_eq!(world.refused(unknown), Rejected::Cluster(ClusterRejected::NodeUnknown(NodeId(9))));
}

#[test]
fn a_removed_node_is_gone_from_holders_layout_and_sessions() {
    let mut world = World::three();
    for n in 0..600 {
        world.blob("a/b", n, &[1, 2, 3]);
    }
    let session = match world.ok(ClusterCmd::SessionOpen { node: NodeId(3), boot: 1, nonce: 3 }) {
        Reply::Cluster(ClusterReply::Session(id)) => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(world.view().blob().held_by(NodeId(3), None, 1000).unwrap().len(), 600);
    assert_eq!(world.ok(LifecycleCmd::RemoveNode { node: NodeId(3), force: false }), Reply::Done);

    let view = world.view();
    assert!(view.cluster().node(NodeId(3)).unwrap().unwrap().removed);
    assert_eq!(view.cluster().layout().unwrap().nodes.iter().map(|n| n.id.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(view.blob().held_by(NodeId(3), None, 1000).unwrap(), []);
    for (_, record) in view.blob().roots(None, 1000).unwrap() {
        assert_eq!(record.holders, [NodeId(1), NodeId(2)]);
    }
    assert_eq!(view.cluster().session(session).unwrap(), None);
    assert_eq!(view.cluster().sessions().unwrap().len(), 1);

    let again = LifecycleCmd::RemoveNode { node: NodeId(3), force: true };
    assert_eq!(world.refused(again), Rejected::Cluster(ClusterRejected::NodeUnknown(NodeId(3))));
    let open = ClusterCmd::SessionOpen { node: NodeId(3), boot: 2, nonce: 4 };
    assert_eq!(world.refused(open), Rejected::Cluster(ClusterRejected::NodeUnknown(NodeId(3))));
    let hold = BlobCmd::Hold { receipts: vec![receipt(3, 0)] };
    assert_eq!(world.ok(hold), Reply::Blob(BlobReply::Count(0)), "its receipts are void");
}

#[test]
fn a_node_whose_copies_are_needed_stays_unless_forced() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    let remove = |node, force| LifecycleCmd::RemoveNode { node: NodeId(node), force };
    match world.refused(remove(2, false)) {
        Rejected::Blob(BlobRejected::RootShort { root: short, .. }) => assert_eq!(short, root(1)),
        other => panic!("{other:?}"),
    }
    world.ok(BlobCmd::Hold { receipts: vec![receipt(3, 1)] });
    assert_eq!(world.ok(remove(2, false)), Reply::Done);
    assert!(matches!(world.refused(remove(3, false)), Rejected::Blob(BlobRejected::RootShort { .. })));
    assert_eq!(world.ok(remove(3, true)), Reply::Done);
    assert_eq!(world.view().blob().root(&root(1)).unwrap().unwrap().holders, [NodeId(1)]);
    assert_eq!(
        world.refused(remove(1, true)),
        Rejected::Cluster(ClusterRejected::LastMember),
        "the last one"
    );
}

#[test]
fn a_draining_nodes_copies_do_not_count_until_that_is_called_off() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    let drain = |node, on| ClusterCmd::Drain { node: NodeId(node), on };
    assert_eq!(world.ok(drain(2, true)), Reply::Done);
    assert_eq!(world.ok(drain(2, true)), Reply::Done, "once more");
    assert!(matches!(world.refused(commit("a/b", 2, &[1, 2])), Rejected::Blob(BlobRejected::NeedCopies(_))));
    world.ok(commit("a/b", 3, &[1, 3]));
    let release = || BlobCmd::Release { node: NodeId(2), roots: vec![root(1)] };
    assert_eq!(world.ok(release()), Reply::Blob(BlobReply::Count(0)), "the others are not enough yet");
    world.ok(BlobCmd::Hold { receipts: vec![receipt(3, 1)] });
    assert_eq!(world.ok(release()), Reply::Blob(BlobReply::Count(1)));

    assert!(
        matches!(world.refused(drain(3, true)), Rejected::Cluster(ClusterRejected::TooFewDomains(_))),
        "one node could keep nothing"
    );
    assert_eq!(world.ok(drain(2, false)), Reply::Done);
    world.ok(commit("a/b", 2, &[1, 2]));
    assert_eq!(world.refused(drain(9, true)), Rejected::Cluster(ClusterRejected::NodeUnknown(NodeId(9))));
}

#[test]
fn a_draining_node_lends_its_name() {
    let mut world = World::three();
    let name = world.view().cluster().node(NodeId(2)).unwrap().unwrap().spec.name;
    let join = |token: u8| ClusterCmd::Join {
        token: [token; 32],
        node: NodeSpec { name: name.clone(), ..spec(9, "us/a") },
    };
    let drain = |on| ClusterCmd::Drain { node: NodeId(2), on };
    world.ok(ClusterCmd::TokenCreate { hash: [7; 32], ttl: 1_000_000 });
    assert_eq!(world.refused(join(7)), Rejected::Cluster(ClusterRejected::NameTaken));
    world.ok(drain(true));
    assert_eq!(world.ok(join(7)), Reply::Cluster(ClusterReply::Joined(NodeId(4))));
    assert_eq!(world.refused(drain(false)), Rejected::Cluster(ClusterRejected::NameTaken));
    world.ok(LifecycleCmd::RemoveNode { node: NodeId(2), force: false });
}

#[test]
fn a_failing_nodes_copies_do_not_count_until_it_starts_again() {
    let mut world = World::three();
    let boot = |boot| ClusterCmd::Boot {
        node: NodeId(2),
        boot,
        nonce: boot,
        peer_addr: "p:1".into(),
        http_addr: "h:1".into(),
        found: LogMark::default(),
        acknowledged: None,
        start_key: Vec::new(),
    };
    let failing = |boot| ClusterCmd::Failing { node: NodeId(2), boot };
    world.ok(boot(5));
    assert_eq!(world.ok(failing(4)), Reply::Done, "said by an earlier start, it means nothing now");
    world.ok(commit("a/b", 1, &[1, 2]));
    assert_eq!(world.ok(failing(5)), Reply::Done);
    assert_eq!(world.ok(failing(5)), Reply::Done, "once more");
    assert!(matches!(world.refused(commit("a/b", 2, &[1, 2])), Rejected::Blob(BlobRejected::NeedCopies(_))));
    world.ok(boot(5));
    assert!(
        matches!(world.refused(commit("a/b", 2, &[1, 2])), Rejected::Blob(BlobRejected::NeedCopies(_))),
        "no new start"
    );
    world.ok(boot(6));
    world.ok(commit("a/b", 2, &[1, 2]));
    world.ok(failing(7));
    world.ok(boot(7));
    assert!(
        matches!(world.refused(commit("a/b", 3, &[1, 2])), Rejected::Blob(BlobRejected::NeedCopies(_))),
        "said before its boot"
    );
    assert!(matches!(
        world.refused(ClusterCmd::Failing { node: NodeId(9), boot: 1 }),
        Rejected::Cluster(ClusterRejected::NodeUnknown(_))
    ));
}

#[test]
fn a_failing_node_may_leave_too_few() {
    let mut world = World::three();
    for node in [2, 3] {
        assert_eq!(world.ok(ClusterCmd::Failing { node: NodeId(node), boot: 0 }), Reply::Done);
    }
    assert!(matches!(world.refused(commit("a/b", 1, &[1, 2])), Rejected::Blob(BlobRejected::NeedCopies(_))));
}

#[test]
fn roots_that_nobody_links_keep_no_node() {
    let mut world = World::three();
    world.blob("a/b", 1, &[1, 2]);
    world.ok(BlobCmd::Unlink { repo: repo("a/b"), digest: digest(1) });
    assert_eq!(world.ok(LifecycleCmd::RemoveNode { node: NodeId(2), force: false }), Reply::Done);
}

#[test]
fn deletion_epochs_void_older_receipts() {
    let mut world = World::three();
    world.ok(BlobCmd::Epoch { node: NodeId(2), epoch: 3 });
    world.ok(BlobCmd::Epoch { node: NodeId(2), epoch: 2 });
    assert_eq!(world.view().cluster().node(NodeId(2)).unwrap().unwrap().epoch, 3);
    assert_eq!(world.refused(commit("a/b", 1, &[1, 2])), Rejected::Blob(BlobRejected::BadReceipt));
    let mut receipts = receipts(&[1, 2], 1);
    receipts[1].epoch = 3;
    world.ok(BlobCmd::Commit { repo: repo("a/b"), digest: digest(1), receipts });
    let unknown = BlobCmd::Epoch { node: NodeId(9), epoch: 1 };
    assert_eq!(world.refused(unknown), Rejected::Cluster(ClusterRejected::NodeUnknown(NodeId(9))));
}

#[test]
fn the_clock_never_goes_back() {
    let mut world = World::three();
    world.tick = 50_000;
    world.ok(ClusterCmd::TokenCreate { hash: [77; 32], ttl: 1000 });
    world.tick = 10;
    world.ok(ClusterCmd::TokenCreate { hash: [78; 32], ttl: 1000 });
    assert_eq!(world.view().cluster().tick().unwrap(), 50_000);
    let token: TokenRecord = world.view().read().get(&keys::token(&[78; 32])).unwrap().unwrap();
    assert_eq!(token.expires, 51_000);
}

#[test]
fn blanks_and_memberships_move_the_position() {
    let mut world = World::three();
    let some = Membership { configs: vec![vec![NodeId(1)]], nodes: vec![NodeId(1), NodeId(2)] };
    let items = [world.item(Payload::Blank), world.item(Payload::Membership(some.clone()))];
    assert_eq!(world.machine.apply(&items).unwrap(), [None, None]);
    let (applied, membership) = world.machine.applied().unwrap();
    assert_eq!(applied, Some(items[1].pos));
    assert_eq!(membership, Some((items[1].pos, some.clone())));
    let blank = world.item(Payload::Blank);
    world.machine.apply(&[blank]).unwrap();
    assert_eq!(world.machine.applied().unwrap().1, Some((items[1].pos, some)));
}

#[test]
fn every_command_that_must_not_repeat_says_so() {
    let needy: Vec<Command> = vec![
        LifecycleCmd::RemoveNode { node: NodeId(1), force: true }.into(),
        OutboxCmd::Cursor { reader: "r".into(), done: None }.into(),
        ProjectCmd::SetPolicy { name: "a".parse().unwrap(), policy: policy(None, None, false) }.into(),
        commit("a/b", 1, &[1]).into(),
        BlobCmd::Hold { receipts: vec![] }.into(),
        put("a/b", 1, &[], &[]).into(),
        ArtifactCmd::Delete { repo: repo("a/b"), digest: digest(1) }.into(),
    ];
    for cmd in needy {
        let mut world = World::three();
        assert!(cmd.needs_identity(), "{cmd:?}");
        let mut entry = world.entry(cmd);
        entry.request = None;
        assert_eq!(world.apply(entry), Err(Rejected::Request(RequestRejected::SessionGone)));
    }
    let free = ClusterCmd::SessionClose { session: SessionId(1) };
    assert!(!free.needs_identity());
}

/// A boot of node 2 that found this much, and that the leader knows to have acknowledged that much.
fn boot(boot: u64, found: (u64, u64), acknowledged: Option<(u64, u64)>) -> ClusterCmd {
    let mark = |(term, index)| LogMark { term, index };
    ClusterCmd::Boot {
        node: NodeId(2),
        boot,
        nonce: boot,
        peer_addr: "p:1".into(),
        http_addr: "h:1".into(),
        found: mark(found),
        acknowledged: acknowledged.map(mark),
        start_key: Vec::new(),
    }
}

fn forgetful(rejected: Rejected, expected: (u64, u64)) {
    match rejected {
        Rejected::Cluster(ClusterRejected::Forgetful { acknowledged, .. }) => {
            assert_eq!((acknowledged.term, acknowledged.index), expected);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_disk_that_lacks_what_its_node_acknowledged_is_refused() {
    let mut world = World::three();
    // All entries here are of term 1.
    world.ok(boot(1, (0, 0), None));
    let note = |term, boot, index| ClusterCmd::Acknowledged {
        term,
        nodes: vec![Acknowledgement { node: NodeId(2), boot, index }],
    };
    let noted = |world: &World| world.view().cluster().node(NodeId(2)).unwrap().unwrap().acknowledged;
    for ignored in [note(2, 1, 3), note(0, 1, 3), note(1, 2, 3), note(1, 0, 3), note(1, 1, 1000)] {
        world.ok(ignored);
        assert_eq!(noted(&world), LogMark::default(), "another leader's, another start's, or not settled");
    }
    world.ok(note(1, 1, 5));
    world.ok(note(1, 1, 4));
    assert_eq!(noted(&world), LogMark { term: 1, index: 5 });

    forgetful(world.refused(boot(2, (1, 4), None)), (1, 5));
    forgetful(world.refused(boot(2, (0, 9), None)), (1, 5));
    forgetful(world.refused(boot(2, (1, 5), Some((1, 6)))), (1, 6));
    world.ok(boot(1, (0, 0), None));
    world.ok(boot(2, (1, 5), Some((3, 9))));
    assert_eq!(
        noted(&world),
        LogMark { term: 1, index: 5 },
        "what another term's leader says is not settled"
    );
    world.ok(boot(3, (1, 6), Some((1, 6))));
    assert_eq!(noted(&world), LogMark { term: 1, index: 6 });
    world.ok(note(1, 3, 8));
    world.ok(boot(3, (1, 6), Some((1, 6))));
    forgetful(world.refused(boot(4, (1, 7), None)), (1, 8));
}
