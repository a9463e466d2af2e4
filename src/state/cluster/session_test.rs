//! Tests of proposer sessions.

use crate::LifecycleCmd;
use crate::RequestRejected;
use crate::artifact::ArtifactRejected;
use crate::artifact::ArtifactReply;
use crate::cluster::ClusterRejected;
use crate::cluster::ClusterReply;
use clawhub_types::{NodeId, RequestId, SessionId};

use crate::artifact::ArtifactCmd;
use crate::cluster::ClusterCmd;
use crate::testing::{World, digest, put, repo, tag};
use crate::{LogMark, Outcome, Rejected, Reply};

/// Answers kept for all sessions.
fn answers(world: &World) -> usize {
    world.machine.kv().scan(b"ca", b"cb", usize::MAX).unwrap().len()
}

fn floor(session: SessionId, floor: u64) -> ClusterCmd {
    ClusterCmd::SessionFloor { session, floor }
}

#[test]
fn a_repeated_request_applies_once_and_gets_the_first_answer() {
    let mut world = World::three();
    let old = world.entry(put("a/b", 1, &[], &["latest"]));
    let first = world.apply(old.clone());
    assert_eq!(
        first,
        Ok(Reply::Artifact(ArtifactReply::Stored { digest: digest(1), tags: vec![tag("latest")] }))
    );
    world.ok(put("a/b", 2, &[], &["latest"]));
    let before = world.view().artifact().tag(&world.at("a/b"), &tag("latest")).unwrap();

    // A late copy of the old move must not move the tag back.
    world.tick += 1000;
    let again = crate::Entry { tick: world.tick, deadline: Some(world.tick), ..old };
    assert_eq!(world.apply(again), first);
    assert_eq!(world.view().artifact().tag(&world.at("a/b"), &tag("latest")).unwrap(), before);
}

/// A tag is set, 10,000 later requests of the same session move it on, and the first comes once more, in
/// time. Checks that the copy changes nothing; answers what it was told, and what the first was.
fn repeated_late(floor_rises: bool) -> (Outcome, Outcome) {
    // How often a proposer raises the floor: to the lowest request that has not ended yet.
    const FLOOR_EVERY: u64 = 256;
    let mut world = World::three();
    let old = world.entry(put("a/b", 0, &[], &["latest"]));
    let RequestId { session, seq } = old.request.unwrap();
    let first = world.apply(old.clone());
    for n in 1..=10_000 {
        world.tick += 1;
        world.ok(put("a/b", n, &[], &["latest"]));
        if floor_rises && n % FLOOR_EVERY == 0 {
            world.ok(floor(session, seq + n + 1));
        }
    }
    // Everything but the position, and the hash that has it in it.
    let state = |world: &World| {
        let mut pairs = world.machine.kv().scan(b"", &[0xff], usize::MAX).unwrap();
        pairs.retain(|(key, _)| !key.starts_with(b"ma") && !key.starts_with(b"mh"));
        pairs
    };
    let before = state(&world);
    let again = world.apply(crate::Entry { tick: world.tick, deadline: Some(world.tick), ..old });
    assert!(state(&world) == before, "it changed something");
    let latest = world.view().artifact().tag(&world.at("a/b"), &tag("latest")).unwrap().unwrap();
    assert_eq!(latest.digest, digest(10_000));
    (again, first)
}

#[test]
fn a_request_repeated_after_ten_thousand_later_ones_moves_no_tag_back() {
    // The proposer has had its answer: a copy that was held up on the way.
    let (again, _) = repeated_late(true);
    assert_eq!(again, Err(Rejected::Request(RequestRejected::SessionGone)));
    // It has not, and no floor passes a request that it may still ask for.
    let (again, first) = repeated_late(false);
    assert_eq!(again, first);
}

#[test]
fn a_refusal_is_an_answer_too() {
    let mut world = World::three();
    let entry = world.entry(put("a/b", 1, &[7], &[]));
    let refused: Outcome = Err(Rejected::Artifact(ArtifactRejected::ReferencesUnknown(vec![digest(7)])));
    assert_eq!(world.apply(entry.clone()), refused);
    world.blob("a/b", 7, &[1, 2]);
    assert_eq!(world.apply(entry), refused, "the same identity, the same answer");
    assert!(world.run(put("a/b", 1, &[7], &[])).is_ok());
}

#[test]
fn deadlines_pass() {
    let mut world = World::three();
    let mut entry = world.entry(put("a/b", 1, &[], &[]));
    entry.deadline = Some(world.tick);
    assert!(world.apply(entry).is_ok(), "the deadline itself is in time");
    let mut late = world.entry(put("a/b", 2, &[], &[]));
    late.deadline = Some(world.tick - 1);
    assert_eq!(world.apply(late), Err(Rejected::Request(RequestRejected::DeadlinePassed)));
    // The clock is the cluster's: a leader whose tick lags cannot stretch a deadline.
    let mut lagging = world.entry(put("a/b", 3, &[], &[]));
    (lagging.tick, lagging.deadline) = (1, Some(2));
    assert_eq!(world.apply(lagging), Err(Rejected::Request(RequestRejected::DeadlinePassed)));
    assert_eq!(world.view().artifact().manifest(&world.at("a/b"), &digest(2)).unwrap(), None);
}

#[test]
fn unknown_and_closed_sessions_are_gone() {
    let mut world = World::three();
    let entry = world.entry(put("a/b", 1, &[], &[]));
    let session = entry.request.unwrap().session;
    let mut stranger = entry.clone();
    stranger.request = Some(RequestId { session: SessionId(9999), seq: 1 });
    assert_eq!(world.apply(stranger), Err(Rejected::Request(RequestRejected::SessionGone)));

    world.apply(entry.clone()).unwrap();
    assert_eq!(answers(&world), 1);
    world.ok(ClusterCmd::SessionClose { session });
    assert_eq!(
        world.apply(entry),
        Err(Rejected::Request(RequestRejected::SessionGone)),
        "never applied again"
    );
    assert_eq!(answers(&world), 0);
    assert_eq!(world.ok(ClusterCmd::SessionClose { session }), Reply::Done);
    assert_eq!(world.refused(floor(session, 3)), Rejected::Request(RequestRejected::SessionGone));
}

#[test]
fn the_floor_rises_and_forgets() {
    let mut world = World::three();
    let entries: Vec<_> = (0..6).map(|n| world.entry(put("a/b", n, &[], &[]))).collect();
    let session = entries[0].request.unwrap().session;
    for entry in &entries {
        world.apply(entry.clone()).unwrap();
    }
    assert_eq!(answers(&world), 6);
    let third = entries[3].request.unwrap().seq;
    world.ok(floor(session, third));
    assert_eq!(answers(&world), 3);
    assert_eq!(world.apply(entries[2].clone()), Err(Rejected::Request(RequestRejected::SessionGone)));
    assert!(world.apply(entries[3].clone()).is_ok(), "the floor itself is kept");
    world.ok(floor(session, 1));
    assert_eq!(world.view().cluster().session(session).unwrap().unwrap().floor, third, "it never sinks");
    // A sequence above the floor that was never seen is new, in whatever order it comes.
    world.ok(floor(session, third + 100));
    assert_eq!(answers(&world), 0);
    let mut fresh = world.entry(put("a/b", 9, &[], &[]));
    fresh.request = Some(RequestId { session, seq: third + 200 });
    world.apply(fresh.clone()).unwrap();
    fresh.request = Some(RequestId { session, seq: third + 150 });
    world.apply(fresh).unwrap();
}

#[test]
fn a_new_boot_closes_the_old_session() {
    let mut world = World::three();
    let open = |boot, nonce| ClusterCmd::SessionOpen { node: NodeId(2), boot, nonce };
    let Reply::Cluster(ClusterReply::Session(first)) = world.ok(open(3, 30)) else { panic!() };
    assert_eq!(world.ok(open(3, 30)), Reply::Cluster(ClusterReply::Session(first)), "repeated");
    let stale =
        |boot, logged| Rejected::Cluster(ClusterRejected::StaleBoot { node: NodeId(2), boot, logged });
    assert_eq!(world.refused(open(3, 31)), stale(3, 3), "a twin");
    assert_eq!(world.refused(open(2, 20)), stale(2, 3));
    let Reply::Cluster(ClusterReply::Session(second)) = world.ok(open(4, 40)) else { panic!() };
    assert_ne!(first, second);
    assert_eq!(world.view().cluster().session(first).unwrap(), None);

    world.ok(ClusterCmd::Boot {
        node: NodeId(2),
        boot: 6,
        nonce: 60,
        peer_addr: String::new(),
        http_addr: String::new(),
        found: LogMark::default(),
        acknowledged: None,
        start_key: Vec::new(),
    });
    assert_eq!(world.refused(open(5, 50)), stale(5, 6), "below the logged boot");
    assert_eq!(world.refused(open(6, 61)), stale(6, 6), "the logged boot's twin");
    assert!(world.run(open(6, 60)).is_ok());
    assert_eq!(world.view().cluster().sessions().unwrap().len(), 2, "one per node");
}

#[test]
fn a_command_may_close_its_own_session() {
    let mut world = World::three();
    world.open_session(NodeId(2), 1);
    let entry = world.entry(LifecycleCmd::RemoveNode { node: NodeId(2), force: true });
    assert_eq!(world.apply(entry), Ok(Reply::Done));
    assert_eq!(answers(&world), 0, "no answer is kept for a session that is gone");
}

#[test]
fn the_answer_outlives_what_it_says() {
    let mut world = World::three();
    let entry = world.entry(put("a/b", 1, &[], &["t"]));
    let answer = world.apply(entry.clone());
    world.ok(ArtifactCmd::Delete { repo: repo("a/b"), digest: digest(1) });
    assert_eq!(world.apply(entry), answer);
    assert_eq!(
        world.view().artifact().manifest(&world.at("a/b"), &digest(1)).unwrap(),
        None,
        "and it stays deleted"
    );
}
