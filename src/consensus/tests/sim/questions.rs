//! What a leader that was deposed, and does not know, answers to a question for a read position: the
//! asker's vote decides.

use std::time::Duration;

use clawhub_consensus::transport::{Ballot, ReadIndexReply, ReadIndexRequest};
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
#[cfg(not(feature = "unsafe-local-reads"))]
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
