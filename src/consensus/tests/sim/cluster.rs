//! Simulated nodes with everything real but clock, network and disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clawhub_consensus::{Consensus, Execution, Profile, Settings, StateStore, Who};
use clawhub_state::cluster::{ClusterCmd, ClusterReply, NodeSpec};
use clawhub_state::{Command, Reply};
use clawhub_types::{ClusterId, Durability, Location, NodeId, Roles};
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::disk::Disk;
use crate::net::{Net, Node};

/// The first three, which vote in every shape.
pub(crate) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const WAIT: Duration = Duration::from_secs(10);

/// Who takes part. All have the state and, so far as the cluster knows, blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Those that vote from the beginning, the first nodes.
    pub(crate) voters: usize,
    /// Those after them, which get a vote while faults go on.
    pub(crate) later: usize,
    /// The last ones, which never do.
    pub(crate) learners: usize,
    /// What is asked of votes and copies. Each node is in a zone of its own.
    pub(crate) durability: Durability,
}

impl Shape {
    /// Of three votes none may leave where the loss of a zone has to be outlived, so this one asks for nothing.
    pub(crate) const THREE: Shape = Shape { voters: 3, later: 0, learners: 0, durability: Durability::Local };
    pub(crate) const FIVE: Shape = Shape { voters: 5, later: 0, learners: 1, durability: Durability::Zone };
    pub(crate) const GROWING: Shape =
        Shape { voters: 3, later: 2, learners: 0, durability: Durability::Zone };
    pub(crate) const ALL: [Shape; 3] = [Shape::THREE, Shape::FIVE, Shape::GROWING];
}

pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    /// Every node, whether it runs or not.
    pub(crate) ids: Vec<NodeId>,
    shape: Shape,
    /// Whether those that get a vote later are to have it by now.
    grown: AtomicBool,
    dir: TempDir,
    disks: BTreeMap<NodeId, Arc<Disk>>,
    /// Those that run.
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    boots: Mutex<u64>,
    snapshot_interval: u64,
    profile: Profile,
}

fn spec(id: NodeId) -> NodeSpec {
    NodeSpec {
        name: format!("n{id}"),
        location: Location { region: format!("r{id}"), zone: "a".into() },
        roles: Roles { voter: true, storage: true },
        peer_addr: format!("n{id}:7000"),
        http_addr: format!("n{id}:5000"),
        spki: [u8::try_from(id.0).unwrap(); 32],
    }
}

impl Cluster {
    /// Three voters.
    pub(crate) fn new(snapshot_interval: u64) -> Arc<Cluster> {
        Cluster::of(Profile::Lan, snapshot_interval)
    }

    /// The same with another profile.
    pub(crate) fn of(profile: Profile, snapshot_interval: u64) -> Arc<Cluster> {
        Cluster::shaped(Shape::THREE, profile, snapshot_interval)
    }

    pub(crate) fn shaped(shape: Shape, profile: Profile, snapshot_interval: u64) -> Arc<Cluster> {
        let count = u64::try_from(shape.voters + shape.later + shape.learners).unwrap();
        let ids: Vec<NodeId> = (1..=count).map(NodeId).collect();
        Arc::new(Cluster {
            net: Arc::default(),
            shape,
            grown: AtomicBool::new(false),
            dir: tempfile::tempdir().unwrap(),
            disks: ids.iter().map(|id| (*id, Arc::default())).collect(),
            ids,
            nodes: Mutex::default(),
            boots: Mutex::new(0),
            snapshot_interval,
            profile,
        })
    }

    pub(crate) async fn start(&self, id: NodeId) {
        let boot = {
            let mut boots = self.boots.lock();
            *boots += 1;
            *boots
        };
        let link = self.net.link(id);
        let life = link.life();
        let disk = Arc::clone(&self.disks[&id]);
        let log = disk.log();
        let dir = self.dir.path().join(id.to_string());
        let store = StateStore::open(dir, move |at, purpose| disk.state(at, purpose)).unwrap();
        let settings = Settings {
            execution: Execution::Inline,
            snapshot_interval: self.snapshot_interval,
            wall: Arc::new(|| 1_700_000_000_000),
            ..Settings::new(id, boot, boot, self.profile)
        };
        let node = Consensus::<SimRuntime>::start(settings, log, store, Arc::new(link)).await.unwrap();
        self.net.join(life, node.clone());
        self.nodes.lock().insert(id, node);
    }

    /// Pulls the plug of a node.
    pub(crate) fn kill(&self, id: NodeId) {
        let Some(node) = self.nodes.lock().remove(&id) else { return };
        self.net.leave(id);
        self.disks[&id].cut();
        drop(SimRuntime::spawn(async move { node.shutdown().await }));
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<Node> {
        self.nodes.lock().get(&id).cloned()
    }

    pub(crate) fn running(&self) -> Vec<NodeId> {
        self.nodes.lock().keys().copied().collect()
    }

    pub(crate) fn dead(&self) -> Vec<NodeId> {
        self.ids.iter().copied().filter(|id| !self.nodes.lock().contains_key(id)).collect()
    }

    /// Whether the loss of a zone is to be outlived.
    pub(crate) fn outlives_zones(&self) -> bool {
        self.shape.durability == Durability::Zone
    }

    /// So many nodes may stay away, and the others still have a majority.
    pub(crate) fn spare(&self) -> usize {
        (self.shape.voters - 1) / 2
    }

    /// The node that runs, leads, and says so.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let nodes = self.nodes.lock();
        nodes.iter().find(|(id, node)| node.status().leader == Some(**id)).map(|(id, _)| *id)
    }

    /// Those that are to vote by now.
    pub(crate) fn voters(&self) -> &[NodeId] {
        let later = if self.grown.load(Ordering::Relaxed) { self.shape.later } else { 0 };
        &self.ids[..self.shape.voters + later]
    }

    /// One node, then all.
    pub(crate) async fn form(&self) {
        let first = self.ids[0];
        self.start(first).await;
        let node = self.node(first).unwrap();
        node.initialize().await.unwrap();
        let init = ClusterCmd::Init {
            cluster: ClusterId([7; 16]),
            ca_cert: vec![1],
            ca_key_sealed: vec![2],
            durability: self.shape.durability,
            node: spec(first),
        };
        let reply = self.system(&node, init).await;
        assert_eq!(reply, Reply::Cluster(ClusterReply::Joined(first)));
        for id in &self.ids[1..] {
            let token = [u8::try_from(id.0).unwrap() + 100; 32];
            self.system(&node, ClusterCmd::TokenCreate { hash: token, ttl: 60_000 }).await;
            let reply = self.system(&node, ClusterCmd::Join { token, node: spec(*id) }).await;
            assert_eq!(reply, Reply::Cluster(ClusterReply::Joined(*id)));
            self.start(*id).await;
            // Asked of the newcomer's neighbour or of the leader: any node passes it on.
            node.membership().add_learner(*id, WAIT).await.unwrap();
            if self.voters().contains(id) {
                node.membership().promote(*id, WAIT).await.unwrap();
            }
        }
    }

    /// Those that get a vote later get it now, one after the other, each by a joint change that anybody may have
    /// to end.
    pub(crate) async fn grow(&self) {
        self.grown.store(true, Ordering::Relaxed);
        for id in &self.ids[self.shape.voters..][..self.shape.later] {
            self.restore(*id).await;
        }
    }

    /// Gives a node that may have been removed its part again. Asked of another one: nobody tells the removed
    /// who leads.
    pub(crate) async fn restore(&self, id: NodeId) {
        for _ in 0..20 {
            let other = self.running().into_iter().find(|other| *other != id);
            let Some(node) = other.and_then(|other| self.node(other)) else {
                SimRuntime::sleep(Duration::from_millis(500)).await;
                continue;
            };
            if node.membership().add_learner(id, WAIT).await.is_ok()
                && (!self.voters().contains(&id) || node.membership().promote(id, WAIT).await.is_ok())
            {
                return;
            }
        }
    }

    /// How many snapshots a node has installed over all its lives.
    pub(crate) fn installed(&self, id: NodeId) -> u64 {
        let current = std::fs::read_to_string(self.dir.path().join(id.to_string()).join("CURRENT"));
        current.unwrap().trim().parse::<u64>().unwrap() - 1
    }

    /// Ends every node.
    pub(crate) async fn shut_down(&self) {
        for id in &self.ids {
            if let Some(node) = self.node(*id) {
                node.shutdown().await;
            }
        }
    }

    async fn system(&self, node: &Node, cmd: ClusterCmd) -> Reply {
        let who = match &cmd {
            ClusterCmd::TokenCreate { .. } => Who::operator(),
            _ => Who::system(),
        };
        node.propose(Command::Cluster(cmd), who, WAIT).await.unwrap().reply
    }
}
