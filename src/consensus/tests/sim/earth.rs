//! Long ways: leadership stays where it is for as long as a profile says that it does, and reads take what the way
//! takes.

use std::sync::Arc;
use std::time::Duration;

use clawhub_consensus::{Profile, Who};
use clawhub_state::{Command, cluster::ClusterCmd};
use openraft::async_runtime::{AsyncRuntime, Instant};
use openraft_rt_sim::{SimInstant, SimRuntime};
use rand::RngExt;

use crate::cluster::{Cluster, NODES};
use crate::net::{Distance, Node};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// 400 ms there and back, 80 more or less.
const FAR: Distance = Distance { delay: ms(200), jitter: ms(40), loss: None };
const LIMIT: Duration = ms(30_000);

async fn form(profile: Profile, distance: Distance) -> Arc<Cluster> {
    let cluster = Cluster::of(profile, 100_000);
    cluster.form().await;
    cluster.net.spread(distance);
    // What the near network still carried.
    SimRuntime::sleep(ms(5_000)).await;
    cluster
}

/// Writes every so often; the error of the first that was not acknowledged.
async fn write(node: Node, rounds: u32, pause: Duration) -> Result<(), String> {
    for round in 0..rounds {
        SimRuntime::sleep(pause).await;
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&round.to_be_bytes());
        hash[4] = u8::try_from(node.node().0).unwrap();
        let cmd = Command::Cluster(ClusterCmd::TokenCreate { hash, ttl: 1 });
        node.propose(cmd, Who::operator(), LIMIT).await.map_err(|e| format!("write {round}: {e}"))?;
    }
    Ok(())
}

/// Reads at times of its own; how long the slowest read took.
async fn read(node: Node, rounds: u32, pause: Duration) -> Result<Duration, String> {
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let at = SimRuntime::thread_rng().random_range(0.5..1.5_f64);
        SimRuntime::sleep(pause.mul_f64(at)).await;
        let asked = SimInstant::now();
        node.barrier().await.map_err(|e| format!("read {round}: {e}"))?;
        slowest = slowest.max(asked.elapsed());
    }
    Ok(slowest)
}

/// Half an hour of writes and reads on every node: one term, and nothing refused.
async fn half_an_hour(profile: Profile, distance: Distance) {
    let cluster = form(profile, distance).await;
    let nodes: Vec<Node> = NODES.iter().map(|id| cluster.node(*id).unwrap()).collect();
    let before = nodes[0].status();
    let writers: Vec<_> =
        nodes.iter().map(|node| SimRuntime::spawn(write(node.clone(), 300, ms(6_000)))).collect();
    let readers: Vec<_> =
        nodes.iter().map(|node| SimRuntime::spawn(read(node.clone(), 900, ms(2_000)))).collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
    let after = nodes[0].status();
    assert_eq!((after.term, after.leader), (before.term, before.leader));
    for node in nodes {
        node.shutdown().await;
    }
}

#[test]
fn wan_holds_a_round_trip_of_400_ms_for_half_an_hour() {
    for seed in 0..3 {
        let lossy = Distance { loss: Some(100), ..FAR };
        SimRuntime::with_seed(seed).block_on(half_an_hour(Profile::Wan, lossy));
    }
}

#[test]
fn lan_holds_a_round_trip_of_50_ms_for_half_an_hour() {
    for seed in 0..3 {
        let lossy = Distance { delay: ms(25), jitter: ms(5), loss: Some(100) };
        SimRuntime::with_seed(seed).block_on(half_an_hour(Profile::Lan, lossy));
    }
}

/// With three voters a read is one question to the leader. Who comes while one is on its way waits for a quarter of
/// it at most, however many come.
#[test]
fn a_read_over_a_long_way_takes_little_more_than_the_way() {
    SimRuntime::with_seed(1).block_on(async {
        let cluster = form(Profile::Wan, FAR).await;
        let leader = cluster.leader().unwrap();
        let follower = cluster.node(*NODES.iter().find(|id| **id != leader).unwrap()).unwrap();
        // The first one is measured.
        follower.barrier().await.unwrap();
        let readers: Vec<_> =
            (0..20).map(|_| SimRuntime::spawn(read(follower.clone(), 30, ms(300)))).collect();
        let mut slowest = Duration::ZERO;
        for reader in readers {
            slowest = slowest.max(reader.await.unwrap().unwrap());
        }
        // 480 ms at most, a quarter of that, and a moment; one after the other it would be up to 960.
        assert!(slowest <= ms(480 + 120 + 20), "{slowest:?}");
        for id in NODES {
            cluster.node(id).unwrap().shutdown().await;
        }
    });
}
