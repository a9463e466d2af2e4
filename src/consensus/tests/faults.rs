//! A device that fails: the node stops, says why, and acknowledges nothing more.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clawhub_consensus::grpc::GrpcTransport;
use clawhub_consensus::{Consensus, Profile, Role, Settings, StateStore, Who};
use clawhub_kv::{Batch, Kv, KvError, KvRead, MemoryKv, Pair};
use clawhub_state::Command;
use clawhub_state::cluster::{ClusterCmd, NodeSpec};
use clawhub_types::{ClusterId, Durability, Location, NodeId, Roles};
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use tonic::transport::Channel;

const SOON: Duration = Duration::from_secs(10);

/// Works until it breaks.
#[derive(Default)]
struct Device {
    kv: MemoryKv,
    writes_fail: AtomicBool,
    syncs_fail: AtomicBool,
}

fn failure(flag: &AtomicBool) -> Result<(), KvError> {
    if flag.load(Ordering::SeqCst) {
        return Err(KvError { context: "device".into(), message: "input/output error".into() });
    }
    Ok(())
}

impl KvRead for Device {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.kv.get(key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        self.kv.scan(start, end, limit)
    }
    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        self.kv.last(start, end)
    }
}

impl Kv for Device {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        failure(&self.writes_fail)?;
        self.kv.write(batch)
    }
    fn sync(&self) -> Result<(), KvError> {
        failure(&self.syncs_fail)?;
        self.kv.sync()
    }
    fn snapshot(&self) -> Box<dyn KvRead + '_> {
        self.kv.snapshot()
    }
    fn checkpoint(&self, dir: &Path) -> Result<(), KvError> {
        self.kv.checkpoint(dir)
    }
}

fn init() -> Command {
    Command::Cluster(ClusterCmd::Init {
        cluster: ClusterId([1; 16]),
        ca_cert: vec![],
        ca_key_sealed: vec![],
        durability: Durability::Local,
        node: NodeSpec {
            name: "n1".into(),
            location: Location { region: "r".into(), zone: "z".into() },
            roles: Roles { voter: true, storage: true },
            peer_addr: String::new(),
            http_addr: String::new(),
            spki: [1; 32],
        },
    })
}

fn token(n: u8) -> Command {
    Command::Cluster(ClusterCmd::TokenCreate { hash: [n; 32], ttl: 1_000 })
}

async fn breaks(how: impl FnOnce(&Device, &Device)) {
    let dir = tempfile::tempdir().unwrap();
    let (log, state) = (Arc::new(Device::default()), Arc::new(Device::default()));
    let live = Arc::clone(&state);
    let store = StateStore::open(dir.path(), move |at| {
        std::fs::create_dir_all(at).unwrap();
        Ok(Arc::clone(&live) as Arc<dyn Kv>)
    });
    let nobody = GrpcTransport::over(|_, _| Channel::from_static("http://127.0.0.1:1").connect_lazy());
    let settings = Settings::new(NodeId(1), 1, 1, Profile::Lan);
    let node = Consensus::<TokioRuntime>::start(
        settings,
        Arc::clone(&log) as Arc<dyn Kv>,
        store.unwrap(),
        Arc::new(nobody),
    );
    let node = node.await.unwrap();
    node.initialize().await.unwrap();
    node.propose(init(), Who::system(), SOON).await.unwrap();
    node.propose(token(1), Who::system(), SOON).await.unwrap();

    how(&log, &state);
    let wait = Duration::from_millis(500);
    assert!(node.propose(token(2), Who::system(), wait).await.is_err());
    let reason = TokioRuntime::timeout(SOON, node.stopped()).await.unwrap().unwrap();
    assert!(reason.contains("input/output error"), "{reason}");
    let status = node.status();
    assert_eq!((status.role, status.fault), (Role::Stopped, Some(reason)));
    assert!(node.barrier().await.is_err() || cfg!(feature = "unsafe-local-reads"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_synced_stops_the_node() {
    breaks(|log, _| log.syncs_fail.store(true, Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_stops_the_node() {
    breaks(|log, _| log.writes_fail.store(true, Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_written_stops_the_node() {
    breaks(|_, state| state.writes_fail.store(true, Ordering::SeqCst)).await;
}
