//! A device that fails: the node stops, says why, and acknowledges nothing more.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clawhub_consensus::grpc::GrpcTransport;
use clawhub_consensus::{Consensus, Profile, Role, Settings, StateStore, Who};
use clawhub_kv::{Batch, Kv, KvError, KvErrorKind, KvRead, MemoryKv, Pair};
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
    /// How it fails: damaged, or out of reach.
    corrupt: AtomicBool,
}

impl Device {
    fn failure(&self, flag: &AtomicBool) -> Result<(), KvError> {
        if !flag.load(Ordering::SeqCst) {
            return Ok(());
        }
        let kind = match self.corrupt.load(Ordering::SeqCst) {
            true => KvErrorKind::Corrupt,
            false => KvErrorKind::Io,
        };
        Err(KvError { kind, context: "device".into(), message: "input/output error".into() })
    }
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
        self.failure(&self.writes_fail)?;
        self.kv.write(batch)
    }
    fn sync(&self) -> Result<(), KvError> {
        self.failure(&self.syncs_fail)?;
        self.kv.sync()
    }
    fn snapshot(&self) -> Box<dyn KvRead + '_> {
        self.kv.snapshot()
    }
    fn owned_snapshot(self: Arc<Self>) -> Arc<dyn KvRead> {
        self.kv.frozen()
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
    let store = StateStore::open(dir.path(), move |at, _| {
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
    assert!(reason.to_string().contains("input/output error"), "{reason}");
    let corrupt = [&log, &state].iter().any(|device| device.corrupt.load(Ordering::SeqCst));
    assert_eq!(reason.corrupt, corrupt, "{reason}");
    let status = node.status();
    assert_eq!((status.role, status.fault), (Role::Stopped, Some(reason)));
    assert!(node.barrier().await.is_err());
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

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_apart_from_a_device_that_fails() {
    breaks(|log, _| {
        log.corrupt.store(true, Ordering::SeqCst);
        log.syncs_fail.store(true, Ordering::SeqCst);
    })
    .await;
    breaks(|log, _| {
        log.corrupt.store(true, Ordering::SeqCst);
        log.writes_fail.store(true, Ordering::SeqCst);
    })
    .await;
    breaks(|_, state| {
        state.corrupt.store(true, Ordering::SeqCst);
        state.writes_fail.store(true, Ordering::SeqCst);
    })
    .await;
}
