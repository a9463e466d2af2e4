//! A deterministic simulation: three to six nodes, the real log, apply, proposer and barrier; virtual time,
//! seeded delays; power cuts that take every unsynced write, partitions, questions that arrive twice, hand-overs,
//! snapshots, and votes that come and go.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod blobs;
mod cluster;
mod disk;
mod earth;
mod net;
mod questions;
mod surprises;
mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clawhub_consensus::{Profile, Who};
use clawhub_state::{Command, View, cluster::ClusterCmd};
use clawhub_types::NodeId;
use openraft::async_runtime::{AsyncRuntime, Instant};
use openraft_rt_sim::{SimInstant, SimRuntime};
use rand::RngExt;

use cluster::{Cluster, Shape};
use workload::{Workload, look, repo};

/// Virtual time of one run under faults.
const CHAOS: Duration = Duration::from_secs(20);
/// After everything was healed, this is enough for anything.
const CALM: Duration = Duration::from_secs(60);

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    acknowledged: u64,
    unknown: u64,
    uncovered: u64,
    reads: u64,
    index: u64,
    hash: [u8; 32],
    purged: u64,
    installed: u64,
    /// Blobs and manifests of them that were acknowledged, receipts that came too late, copies that were erased.
    blobs: [u64; 4],
    repeated: u64,
    broken: Vec<String>,
}

fn simulate(seed: u64) -> Run {
    let shape = Shape::ALL[usize::try_from(seed).unwrap() % Shape::ALL.len()];
    SimRuntime::with_seed(seed).block_on(async {
        let cluster = Cluster::shaped(shape, Profile::Lan, 100);
        cluster.form().await;
        cluster.net.repeat();
        let work = Workload::new(&cluster);
        let clients: Vec<_> = (0..4)
            .map(|writer| SimRuntime::spawn(work.clone().write(writer)))
            .chain((0..4).map(|_| SimRuntime::spawn(work.clone().read())))
            .chain((0..2).map(|_| SimRuntime::spawn(work.clone().push())))
            .chain([SimRuntime::spawn(work.clone().erase())])
            .collect();
        let hashes = SimRuntime::spawn(compare_hashes(work.clone()));
        chaos(&cluster).await;
        work.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        hashes.await.unwrap();
        let (index, hash) = settle(&cluster).await;
        check(&work);
        let run = concluded(&work, index, hash);
        cluster.shut_down().await;
        run
    })
}

fn concluded(work: &Workload, index: u64, hash: [u8; 32]) -> Run {
    let cluster = &work.cluster;
    let purged = cluster.ids.iter().filter_map(|id| cluster.node(*id)?.status().purged).max().unwrap_or(0);
    let history = std::mem::take(&mut *work.history.lock());
    let blobs = work.blobs.lock();
    Run {
        acknowledged: history.stored.len() as u64,
        unknown: history.unknown,
        uncovered: history.uncovered,
        reads: history.reads,
        index,
        hash,
        purged,
        installed: cluster.ids.iter().map(|id| cluster.installed(*id)).sum(),
        blobs: [blobs.committed.len() as u64, blobs.manifests.len() as u64, blobs.outdated, blobs.erased],
        repeated: cluster.net.repeated(),
        broken: history.broken,
    }
}

/// Faults, mostly against the leader; afterwards everything is whole again.
async fn chaos(cluster: &Arc<Cluster>) {
    let mut changes = Vec::new();
    let begin = SimInstant::now();
    let mut grown = false;
    while SimInstant::now() < begin + CHAOS {
        if !grown && SimInstant::now() >= begin + CHAOS / 4 {
            grown = true;
            let cluster = Arc::clone(cluster);
            changes.push(SimRuntime::spawn(async move { cluster.grow().await }));
        }
        let (what, ms) = {
            let mut rng = SimRuntime::thread_rng();
            (rng.random_range(0..100), rng.random_range(100..2_500))
        };
        changes.extend(fault(cluster, what));
        SimRuntime::sleep(Duration::from_millis(ms)).await;
        cluster.net.heal();
        // Mostly the dead come back at once, now and then they stay away and fall behind.
        for id in cluster.dead() {
            if what % 3 != 0 || cluster.dead().len() > cluster.spare() {
                cluster.start(id).await;
            }
        }
    }
    cluster.net.heal();
    for id in cluster.dead() {
        cluster.start(id).await;
    }
    for change in changes {
        change.await.unwrap();
    }
}

type Task = <SimRuntime as AsyncRuntime>::JoinHandle<()>;

/// One fault. One that takes its time is answered.
fn fault(cluster: &Arc<Cluster>, what: usize) -> Option<Task> {
    let ids = &cluster.ids;
    let some = ids[what % ids.len()];
    match (what, cluster.leader()) {
        (0..33, Some(leader)) => cluster.kill(leader),
        (33..43, _) => cluster.kill(some),
        (43..47, _) => ids.iter().for_each(|id| cluster.kill(*id)),
        (47..65, Some(leader)) => isolate(cluster, leader, what.is_multiple_of(2)),
        (65..73, _) => isolate(cluster, some, false),
        (73..80, _) => split(cluster, what % 2),
        (80..90, Some(leader)) => {
            let node = cluster.node(leader)?;
            drop(SimRuntime::spawn(async move { node.membership().transfer_leader(None, CALM).await }));
        }
        (90..100, _) => return Some(SimRuntime::spawn(leave_and_return(Arc::clone(cluster), some))),
        _ => {}
    }
    None
}

/// A node leaves and comes back. Whoever leads may die between any two steps of it.
async fn leave_and_return(cluster: Arc<Cluster>, id: NodeId) {
    let asked = cluster.running().into_iter().find(|other| *other != id);
    let Some(node) = asked.and_then(|asked| cluster.node(asked)) else { return };
    if node.membership().remove_member(id, CALM).await.is_ok() {
        SimRuntime::sleep(Duration::from_millis(300)).await;
        cluster.restore(id).await;
    }
}

/// Cuts a node off; half open, so that it can be heard and hears nothing, or altogether.
fn isolate(cluster: &Cluster, node: NodeId, one_other_only: bool) {
    let others = cluster.ids.iter().filter(|id| **id != node);
    for other in others.take(if one_other_only { 1 } else { usize::MAX }) {
        cluster.net.cut(node, *other);
    }
}

/// Every other node on one side, the rest on the other.
fn split(cluster: &Cluster, side: usize) {
    for (at, one) in cluster.ids.iter().enumerate().filter(|(at, _)| at % 2 == side) {
        for other in cluster.ids.iter().skip((at + 1) % 2).step_by(2) {
            cluster.net.cut(*one, *other);
        }
    }
}

/// While the clients work: equal states at equal indices.
async fn compare_hashes(work: Workload) {
    let mut seen: BTreeMap<u64, [u8; 32]> = BTreeMap::new();
    while !work.stop.load(Ordering::Relaxed) {
        for id in work.cluster.running() {
            let Some(node) = work.cluster.node(id) else { continue };
            let state = node.state();
            let Ok((index, hash)) = View::new(&*state).state_hash() else { continue };
            if *seen.entry(index).or_insert(hash) != hash {
                work.history.lock().broken.push(format!("node {id} differs at {index}"));
            }
        }
        SimRuntime::sleep(Duration::from_millis(7)).await;
    }
}

/// Liveness: without faults a write succeeds, every node applies it, and all are equal.
async fn settle(cluster: &Cluster) -> (u64, [u8; 32]) {
    for id in &cluster.ids {
        cluster.restore(*id).await;
    }
    let node = cluster.node(cluster.ids[1]).unwrap();
    let marker = ClusterCmd::TokenCreate { hash: [9; 32], ttl: 1 };
    let committed = node.propose(Command::Cluster(marker), Who::operator(), CALM).await.unwrap();
    for id in &cluster.ids {
        let node = cluster.node(*id).unwrap();
        assert!(node.wait_applied(committed.index, CALM).await, "node {id} does not catch up");
        let status = node.status();
        assert_eq!((&status.voters[..], status.changing), (cluster.voters(), false), "{status:?}");
        assert_eq!(status.fault, None);
    }
    let end = SimInstant::now() + CALM;
    loop {
        let states: Vec<_> = cluster.ids.iter().map(|id| cluster.node(*id).unwrap().state()).collect();
        let hashes: Vec<_> = states.iter().map(|s| View::new(&**s).state_hash().unwrap()).collect();
        if hashes.iter().all(|h| h.0 == hashes[0].0) {
            assert!(hashes.iter().all(|h| h == &hashes[0]), "states differ at equal index: {hashes:?}");
            for state in &states {
                assert_eq!(View::new(&**state).compute_state_hash().unwrap(), hashes[0].1);
            }
            return hashes[0];
        }
        assert!(SimInstant::now() < end, "the nodes do not come to rest");
        SimRuntime::sleep(Duration::from_millis(50)).await;
    }
}

/// Every promise, on every node.
fn check(work: &Workload) {
    for id in &work.cluster.ids {
        check_node(work, *id);
        work.check_blobs(*id);
    }
}

fn check_node(work: &Workload, id: NodeId) {
    let node = work.cluster.node(id).unwrap();
    let state = node.state();
    let view = View::new(&*state);
    let repo = view.project().repo(&repo()).unwrap();
    let stored =
        |digest| repo.as_ref().is_some_and(|r| view.artifact().manifest(r, digest).unwrap().is_some());
    let mut history = work.history.lock();
    let lost =
        history.stored.iter().filter(|(d, _)| !stored(d)).map(|(d, i)| format!("node {id} lost {d} of {i}"));
    let ghosts = history.refused.iter().filter(|d| stored(d)).map(|d| format!("node {id} has refused {d}"));
    let back = history.acknowledged.iter().filter_map(|(tag, version)| {
        let found = look(&node, tag).filter(|found| found < version)?;
        Some(format!("node {id} moved {tag} back from {version} to {found}"))
    });
    let broken: Vec<_> = lost.chain(ghosts).chain(back).collect();
    history.broken.extend(broken);
}

/// Seeds to run, of each shape the same number; `CLAWHUB_SIM_SEEDS=a..b` chooses others.
fn seeds() -> std::ops::Range<u64> {
    let chosen = std::env::var("CLAWHUB_SIM_SEEDS").ok();
    let chosen = chosen.as_deref().and_then(|s| s.split_once(".."));
    chosen.map_or(0..36, |(a, b)| a.parse().unwrap()..b.parse().unwrap())
}

/// Runs seeds on every core; each run has a thread to itself.
#[expect(clippy::print_stdout, reason = "a run that panics must have told its seed")]
fn simulate_all(seeds: std::ops::Range<u64>) -> Vec<(u64, Run)> {
    let left = parking_lot::Mutex::new(seeds);
    let runs = parking_lot::Mutex::new(Vec::new());
    let next = || left.lock().next();
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                while let Some(seed) = next() {
                    println!("seed {seed}");
                    let run = simulate(seed);
                    runs.lock().push((seed, run));
                }
            });
        }
    });
    runs.into_inner()
}

#[test]
fn every_seed_keeps_every_promise() {
    let runs = simulate_all(seeds());
    for (seed, run) in &runs {
        assert_eq!(run.broken, Vec::<String>::new(), "seed {seed}");
        assert!(run.acknowledged > 100, "seed {seed} did nearly nothing: {run:?}");
        assert!(run.blobs[0] > 10 && run.blobs[1] > 10, "seed {seed} pushed nearly nothing: {run:?}");
    }
    let sum = |of: fn(&Run) -> u64| runs.iter().map(|(_, run)| of(run)).sum::<u64>();
    let acknowledged = sum(|r| r.acknowledged);
    let unknown = sum(|r| r.unknown);
    let uncovered = sum(|r| r.uncovered);
    let reads = sum(|r| r.reads);
    let purged = sum(|r| u64::from(r.purged > 0));
    let installed = sum(|r| r.installed);
    let [blobs, manifests, outdated, erased] =
        [sum(|r| r.blobs[0]), sum(|r| r.blobs[1]), sum(|r| r.blobs[2]), sum(|r| r.blobs[3])];
    let repeated = sum(|r| r.repeated);
    println!(
        "{acknowledged} writes, {unknown} of unknown outcome, {uncovered} without enough votes, {reads} reads, \
         {repeated} questions twice"
    );
    println!(
        "{blobs} blobs, {manifests} manifests of them; {outdated} receipts outdated, {erased} copies erased"
    );
    println!("{purged} runs purged their log, {installed} snapshots were installed");
    assert!(unknown > 0, "the faults hit no write");
    assert!(uncovered > 0, "the votes were always spread");
    assert!(purged > 0 && installed > 0, "no node had to be brought back by a snapshot");
    assert!(outdated > 0 && erased > 0, "no receipt came after its node had erased something");
    assert!(repeated > 0, "nothing arrived twice");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 4, 5] {
        assert_eq!(simulate(seed), simulate(seed));
    }
}
