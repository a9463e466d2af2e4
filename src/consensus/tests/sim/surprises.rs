//! Two things that happen too seldom by chance to be left to it.

use std::time::Duration;

use clawhub_consensus::Who;
use clawhub_consensus::transport::{Ballot, VoteRequest};
use clawhub_state::{Command, LogPos, View, cluster::ClusterCmd};
use clawhub_types::NodeId;
use openraft::async_runtime::{AsyncRuntime, Instant};
use openraft_rt_sim::{SimInstant, SimRuntime};

use crate::cluster::Cluster;

const WAIT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(120);

/// Whether `voter` votes for `candidate`, whose log is ahead of everybody's.
async fn votes(cluster: &Cluster, voter: NodeId, candidate: NodeId, term: u64) -> bool {
    let request = VoteRequest {
        vote: Ballot { term, node: candidate.0, committed: false },
        last_log: Some(LogPos { term: term - 1, node: candidate.0, index: 1_000_000 }),
        transfer: true,
    };
    cluster.node(voter).unwrap().rpc().vote(request, false).await.unwrap().granted
}

#[test]
fn a_vote_outlives_a_power_cut() {
    SimRuntime::with_seed(1).block_on(async {
        let cluster = Cluster::new(1_000);
        cluster.form().await;
        let [one, two, voter] = [NodeId(1), NodeId(2), NodeId(3)];
        // Nothing else that it writes may bring the vote to the disk with it.
        cluster.net.cut(voter, one);
        cluster.net.cut(voter, two);
        let term = cluster.node(voter).unwrap().status().term + 5;
        assert!(votes(&cluster, voter, two, term).await);
        cluster.kill(voter);
        cluster.start(voter).await;
        assert!(!votes(&cluster, voter, one, term).await, "two votes of one node in term {term}");
        cluster.shut_down().await;
    });
}

#[test]
fn a_snapshot_that_is_damaged_on_its_way_is_sent_again() {
    SimRuntime::with_seed(2).block_on(async {
        let cluster = Cluster::new(100);
        cluster.form().await;
        let (leader, away) = (cluster.node(NodeId(1)).unwrap(), NodeId(3));
        let last = cluster.node(away).unwrap().status().applied;
        let installed = cluster.installed(away);
        cluster.kill(away);
        let end = SimInstant::now() + LONG;
        for number in 0_u64.. {
            let mut hash = [3; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            let cmd = Command::Cluster(ClusterCmd::TokenCreate { hash, ttl: 1 });
            leader.propose(cmd, Who::operator(), WAIT).await.unwrap();
            if leader.status().purged.is_some_and(|purged| purged > last) {
                break;
            }
            assert!(SimInstant::now() < end, "the log is not purged");
        }

        cluster.net.damage(1);
        cluster.start(away).await;
        let end = SimInstant::now() + LONG;
        while cluster.installed(away) == installed {
            let fault = cluster.node(away).unwrap().status().fault;
            assert!(fault.is_none(), "what was damaged on its way was taken in: {}", fault.unwrap());
            assert!(SimInstant::now() < end, "no snapshot was installed");
            SimRuntime::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(cluster.net.undamaged(), 0, "nothing was damaged");
        let state = cluster.node(away).unwrap().state();
        let view = View::new(&*state);
        let (promised, found) = (view.state_hash().unwrap().1, view.compute_state_hash().unwrap());
        assert_eq!(found, promised, "what was damaged on its way was taken in");
        let applied = leader.status().applied;
        assert!(cluster.node(away).unwrap().wait_applied(applied, LONG).await);
        cluster.shut_down().await;
    });
}
