//! What a leader that was deposed, and does not know, answers to a question for a read position: the
//! asker's vote decides. And what becomes of a proposal that reaches a leader after its caller gave up.

use std::time::Duration;

use clawhub_consensus::transport::{Ballot, ReadIndexReply, ReadIndexRequest};
use clawhub_consensus::{ProposeError, Who};
use clawhub_state::View;
use clawhub_state::cluster::{ClusterCmd, TokenStanding};
use clawhub_types::NodeId;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use crate::cluster::{Cluster, NODES};
use crate::net::Node;

/// Less than an election takes: nobody gets heartbeats answered in a cut-off node's place.
const TTL: Duration = Duration::from_millis(60);

async fn ready(leader: &Node, from: NodeId, vote: Option<Ballot>) -> bool {
    let reply = leader.rpc().read_index(from, ReadIndexRequest { vote, ttl: TTL }).await;
    matches!(reply, ReadIndexReply::Ready { .. })
}

/// The vote of a node that follows a leader.
fn vote(node: &Node) -> Ballot {
    let status = node.status();
    Ballot { term: status.term, node: status.leader.unwrap().0, committed: true }
}

#[test]
fn a_deposed_leader_is_confirmed_by_nobody_who_knows_better() {
    SimRuntime::with_seed(1).block_on(async {
        let cluster = Cluster::new(1_000);
        cluster.form().await;
        let (old, others) = (NODES[0], [NODES[1], NODES[2]]);
        let leader = cluster.node(old).unwrap();
        let before = vote(&leader);
        assert_eq!(before.node, old.0, "the first node leads");
        for other in others {
            cluster.net.cut(old, other);
        }

        // Until somebody else leads, the old one is right to answer those who have promised nothing new.
        assert!(ready(&leader, others[0], Some(before)).await);
        assert!(!ready(&leader, old, Some(before)).await, "one of three is no quorum");
        assert!(!ready(&leader, NodeId(9), Some(before)).await, "who has no vote confirms nothing");
        assert!(!ready(&leader, others[0], None).await);

        let new = loop {
            let elected =
                others.into_iter().find(|id| cluster.node(*id).unwrap().status().leader == Some(*id));
            match elected {
                Some(new) => break new,
                None => SimRuntime::sleep(Duration::from_millis(1)).await,
            }
        };
        assert_eq!(leader.status().leader, Some(old), "the old one has not heard");
        let voted = others.into_iter().find(|id| *id != new).unwrap();
        let after = Ballot { node: new.0, ..vote(&cluster.node(new).unwrap()) };
        assert!(after.term > before.term);
        assert!(!ready(&leader, voted, Some(after)).await, "a promise to another leader");
        assert!(!ready(&leader, new, Some(after)).await, "the other leader itself");

        cluster.net.heal();
        for id in NODES {
            cluster.node(id).unwrap().shutdown().await;
        }
    });
}

#[test]
fn a_proposal_that_comes_late_is_not_applied() {
    SimRuntime::with_seed(2).block_on(async {
        let cluster = Cluster::new(1_000);
        cluster.form().await;
        let (leader, follower) = (cluster.node(NODES[0]).unwrap(), cluster.node(NODES[1]).unwrap());
        assert_eq!(follower.status().leader, Some(NODES[0]), "the first node leads");
        let token = |hash: u8| ClusterCmd::TokenCreate { hash: [hash; 32], ttl: 60_000 };
        let propose = async |hash: u8, wait: u64| {
            follower.propose(token(hash).into(), Who::operator(), Duration::from_millis(wait)).await
        };
        let before = propose(1, 500).await.unwrap();
        cluster.net.hold(Some(NODES[1]));
        let given_up = propose(2, 500).await.unwrap_err();
        assert_eq!(given_up, ProposeError::Unknown);
        SimRuntime::sleep(Duration::from_millis(200)).await;
        cluster.net.hold(None);

        // It gets there now, and changes nothing any more.
        while leader.status().applied == before.index {
            SimRuntime::sleep(Duration::from_millis(1)).await;
        }
        let after = propose(3, 500).await.unwrap();
        assert!(leader.wait_applied(after.index, Duration::from_secs(1)).await);
        let state = leader.state();
        let tokens = View::new(&*state);
        let known = |hash: u8| tokens.cluster().token(&[hash; 32]).unwrap() == TokenStanding::Good;
        assert!(after.index > before.index + 1, "the late one is in the log");
        assert_eq!([1, 2, 3].map(known), [true, false, true]);
        for id in NODES {
            cluster.node(id).unwrap().shutdown().await;
        }
    });
}
