//! Three members with everything real: RocksDB, the flush thread, mutual TLS, gRPC.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "these tests run on tokio")]

mod far;
mod node;

use std::time::{Duration, Instant};

use clawhub_consensus::{ProposeError, Role};
use clawhub_state::cluster::ClusterCmd;
use clawhub_state::{Command, Entry, LifecycleCmd, View, encode_entry};
use clawhub_types::{AccessRevisions, Actor, NodeId, RequestId};
use clawhub_wire::peer;
use clawhub_wire::peer::raft_client::RaftClient;
use tonic::Code;

use node::{Cluster, Member, SOON, client, digest, put};

fn leader(members: &[Member]) -> usize {
    members.iter().position(|m| m.consensus.status().role == Role::Leader).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_wrote_every_node_reads() {
    let cluster = Cluster::new(10_000);
    let members = cluster.form().await;
    let begun = Instant::now();
    for version in 0..300 {
        let (writer, reader) = (&members[version % 3], &members[(version + 1) % 3]);
        let version = version as u64;
        writer.propose(put("latest", version, 100)).await;
        reader.consensus.barrier().await.unwrap();
        assert_eq!(reader.look("latest"), Some(digest(version)));
    }
    println!("300 writes, each read elsewhere: {:?}", begun.elapsed());

    let begun = Instant::now();
    let writes = (0..2_000).map(|i| members[i % 3].propose(put("many", 1_000 + i as u64, 1_000)));
    futures::future::join_all(writes).await;
    println!("2000 concurrent writes: {:?}", begun.elapsed());

    let begun = Instant::now();
    let barriers = (0..10_000).map(|i| members[i % 3].consensus.barrier());
    assert!(futures::future::join_all(barriers).await.iter().all(Result::is_ok));
    println!("10000 concurrent barriers: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_and_comes_back() {
    let cluster = Cluster::new(10_000);
    let mut members = cluster.form().await;
    for version in 0..20 {
        members[2].propose(put("latest", version, 100)).await;
    }
    let at = leader(&members);
    let dead = members.remove(at);
    let id = dead.consensus.node();
    dead.stop().await;
    let begun = Instant::now();
    members[0].propose(put("latest", 100, 100)).await;
    let outage = begun.elapsed();
    println!("writes went on after {outage:?}");
    assert!(outage < Duration::from_secs(3), "{outage:?}");

    let back = cluster.start(id.0).await;
    let index = members[1].propose(put("latest", 101, 100)).await;
    assert!(back.consensus.wait_applied(index, SOON).await);
    assert_eq!(back.look("latest"), Some(digest(101)));
    assert_eq!(back.propose(put("latest", 102, 100)).await, index + 2, "its session, then the write");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_refuses_and_says_so() {
    let cluster = Cluster::new(10_000);
    let mut members = cluster.form().await;
    members[0].propose(put("latest", 1, 100)).await;
    let alone = members.remove(0);
    for other in members {
        other.stop().await;
    }
    assert!(alone.consensus.barrier().await.is_err());
    let wait = Duration::from_secs(2);
    match alone.consensus.propose(put("latest", 2, 100), client(), wait).await {
        Err(ProposeError::Unavailable(_) | ProposeError::Unknown) => {}
        other => panic!("{other:?}"),
    }
    let status = alone.consensus.status();
    assert!(status.cut_off.is_some_and(|age| age > Duration::from_secs(2)), "{status:?}");
    assert_eq!(alone.look("latest"), Some(digest(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fell_far_behind_gets_a_snapshot() {
    let cluster = Cluster::new(50);
    let mut members = cluster.form().await;
    members.remove(2).stop().await;
    // Bodies large enough for several files and batches.
    for round in 0..10 {
        let writes = (0..60).map(|i| members[0].propose(put("latest", round * 60 + i, 20_000)));
        futures::future::join_all(writes).await;
    }
    // Snapshots are made, and the log purged, beside the writes.
    let until = Instant::now() + SOON;
    while members[0].consensus.status().purged.is_none_or(|index| index <= 200) {
        assert!(Instant::now() < until, "{:?}", members[0].consensus.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let back = cluster.start(3).await;
    let index = members[0].propose(put("latest", 5_000, 100)).await;
    assert!(back.consensus.wait_applied(index, SOON).await);
    let current = std::fs::read_to_string(cluster.state_dir(3).join("CURRENT")).unwrap();
    assert_ne!(current, "1\n", "it caught up without a snapshot");
    let until = Instant::now() + SOON;
    while back.hash() != members[0].hash() {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // What was installed is still there after a restart.
    let before = back.hash();
    back.stop().await;
    let again = cluster.start(3).await;
    assert!(again.consensus.wait_applied(before.0, SOON).await);
    assert_eq!(again.look("latest"), Some(digest(5_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_and_members_leave() {
    let cluster = Cluster::new(10_000);
    let members = cluster.form().await;
    let follower = (leader(&members) + 1) % 3;
    let to = members[follower].consensus.node();
    let other = &members[(follower + 1) % 3].consensus;
    other.membership().transfer_leader(Some(to), SOON).await.unwrap();
    assert_eq!(members[follower].consensus.status().role, Role::Leader);
    assert!(other.membership().transfer_leader(Some(NodeId(9)), SOON).await.is_err());
    members[follower].consensus.membership().transfer_leader(None, SOON).await.unwrap();
    members[follower].propose(put("latest", 1, 100)).await;

    let gone = members[leader(&members)].consensus.node();
    members[follower].consensus.membership().remove_member(gone, SOON).await.unwrap();
    members[follower].consensus.membership().remove_member(gone, SOON).await.unwrap();
    members[follower].propose(put("latest", 2, 100)).await;
    let status = members[follower].consensus.status();
    assert_eq!((status.voters.len(), status.learners.len(), status.changing), (2, 0, false));
    assert!(!status.voters.contains(&gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_votes_in_anothers_name() {
    let cluster = Cluster::new(10_000);
    let members = cluster.form().await;
    let mut client = RaftClient::new(members[1].endpoint.channel(NodeId(1)));
    let vote = |node| peer::Vote { term: 1_000, node, committed: false };
    for (node, code) in [(3, Code::PermissionDenied), (1, Code::PermissionDenied)] {
        let request = peer::VoteRequest { vote: Some(vote(node)), last_log: None, leadership_transfer: true };
        assert_eq!(client.vote(request).await.unwrap_err().code(), code);
    }
    let missing = peer::VoteRequest::default();
    assert_eq!(client.vote(missing).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_forwards_only_what_is_its_to_say() {
    let cluster = Cluster::new(10_000);
    let members = cluster.form().await;
    let lead = leader(&members);
    let from = &members[(lead + 1) % 3];
    let own = from.consensus.node();
    let other = members[(lead + 2) % 3].consensus.node();
    // Each has its session.
    for member in &members {
        member.propose(put("latest", 1, 100)).await;
    }
    let sessions = View::new(&*members[lead].consensus.state()).cluster().sessions().unwrap();
    let session = |node| sessions.iter().find(|(_, session)| session.node == node).unwrap().0;
    let remove = || Command::from(LifecycleCmd::RemoveNode { node: other, force: true });
    let failing = |node| Command::from(ClusterCmd::Failing { node, boot: 1 });
    let token = || Command::from(ClusterCmd::TokenCreate { hash: [9; 32], ttl: 1 });
    for (cmd, actor, session, taken) in [
        (remove(), Actor::system(), Some(session(own)), false),
        (remove(), Actor::anonymous(), Some(session(own)), false),
        (remove(), Actor::operator(), Some(session(other)), false),
        (put("latest", 2, 10), Actor::operator(), Some(session(own)), false),
        (put("latest", 2, 10), Actor::anonymous(), Some(session(other)), false),
        (put("latest", 2, 10), Actor::anonymous(), Some(session(own)), true),
        (failing(other), Actor::system(), None, false),
        (failing(own), Actor::system(), None, true),
        (token(), Actor::system(), None, false),
        (token(), Actor::operator(), None, true),
    ] {
        let told = format!("{cmd:?} by {actor} in {session:?}");
        let request = session.map(|session| RequestId { session, seq: 1 << 40 });
        let access = AccessRevisions::default();
        let entry = Entry { tick: 0, at: 0, actor, access, request, deadline: None, cmd };
        let request = peer::ProposeRequest { entry: encode_entry(&entry).into(), ttl_ms: 20_000 };
        let channel = from.endpoint.channel(members[lead].consensus.node());
        let reply = RaftClient::new(channel).propose(request).await.unwrap().into_inner();
        match reply.result.unwrap() {
            peer::propose_reply::Result::Committed(_) => assert!(taken, "{told}"),
            peer::propose_reply::Result::Refused(_) => assert!(!taken, "{told}"),
            other => panic!("{told}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_too_large_is_refused_before_it_is_proposed() {
    let cluster = Cluster::new(10_000);
    let one = cluster.start(1).await;
    one.consensus.initialize().await.unwrap();
    let large = one.consensus.propose(put("latest", 1, 128 << 10), client(), SOON).await;
    assert!(matches!(large, Err(ProposeError::TooLarge { .. })), "{large:?}");
}
