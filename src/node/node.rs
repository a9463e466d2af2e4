//! What a node is from its first moment on, member of a cluster or not.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use clawhub_config::Config;
use clawhub_kv::Kv;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::data_dir::{DataDir, Owner};
use crate::facts::Facts;
use crate::http::Gate;
use crate::metrics::Metrics;
use crate::port::PeerPort;
use crate::stack::Stack;
use crate::stop::Stop;
use crate::storage::Storage;

/// One life of the node: a start of the process, or of the node in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boot {
    /// Counts the starts, durably.
    pub(crate) count: u64,
    /// Drawn at random: tells a repeated registration from a second process with the same data.
    pub(crate) nonce: u64,
}

/// A node. Shared by everything that runs in one life.
pub(crate) struct Node {
    /// What it was told.
    pub(crate) config: Config,
    /// What it alone knows.
    pub(crate) facts: Facts,
    /// The store of that, and of the blob index.
    pub(crate) local: Arc<dyn Kv>,
    /// This start.
    pub(crate) boot: Boot,
    /// Where clients reach it.
    pub(crate) http_addr: String,
    /// The peer port, held until the endpoint takes it.
    pub(crate) peer_port: PeerPort,
    /// Where consensus runs: apart from everything that hashes, copies and waits for disks.
    pub(crate) consensus_runtime: Handle,
    /// Lets clients in once there is a registry.
    pub(crate) gate: Gate,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Why and when to stop.
    pub(crate) stop: Stop,
    /// Whether its storage can be relied on.
    pub(crate) storage: Storage,
    /// Held while the node becomes a member: there is one way to become one at a time.
    pub(crate) becoming: tokio::sync::Mutex<()>,
    dir: Mutex<DataDir>,
    stack: OnceLock<Stack>,
}

/// The parts that a node is put together from.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) dir: DataDir,
    pub(crate) local: Arc<dyn Kv>,
    pub(crate) boot: Boot,
    pub(crate) http: SocketAddr,
    pub(crate) peer_port: PeerPort,
    pub(crate) consensus_runtime: Handle,
    pub(crate) stop: Stop,
    pub(crate) storage: Storage,
}

impl Node {
    /// Puts a node together. It is not a member of anything yet.
    pub(crate) fn new(parts: Parts) -> Arc<Node> {
        let Parts { config, dir, local, boot, http, peer_port, consensus_runtime, stop, storage } = parts;
        let http_addr = config.http.advertise.clone().unwrap_or_else(|| client_address(&config, http));
        Arc::new(Node {
            config,
            facts: Facts::new(local.clone()),
            local,
            boot,
            http_addr,
            peer_port,
            consensus_runtime,
            gate: Gate::default(),
            metrics: Arc::new(Metrics::new()),
            stop,
            storage,
            becoming: tokio::sync::Mutex::default(),
            dir: Mutex::new(dir),
            stack: OnceLock::new(),
        })
    }

    /// Which cluster and node the data is of, once it is of any.
    pub(crate) fn owner(&self) -> Option<Owner> {
        self.dir.lock().owner()
    }

    /// Does something with the data directory.
    pub(crate) fn with_dir<T>(&self, work: impl FnOnce(&mut DataDir) -> T) -> T {
        work(&mut self.dir.lock())
    }

    /// Everything that runs once the node is a member.
    pub(crate) fn stack(&self) -> Option<&Stack> {
        self.stack.get()
    }

    /// Puts the running parts in place and lets clients in.
    pub(crate) fn set_stack(&self, stack: Stack) {
        let routes = clawhub_api_oci::routes(stack.registry.clone());
        // `becoming` is held by the caller: nobody else sets it.
        if self.stack.set(stack).is_ok() {
            self.gate.open(routes);
        }
    }

    /// How far a node without running parts is.
    pub(crate) fn phase(&self) -> &'static str {
        match self.owner() {
            None => "the node is neither initialised nor joined",
            Some(_) => "the node is starting",
        }
    }

    /// Where peers reach this node.
    pub(crate) fn peer_addr(&self) -> String {
        self.config.peer.advertise.clone().unwrap_or_else(|| self.peer_port.addr().to_string())
    }
}

/// Where clients reach a node that does not say so: where it listens, or, if that is everywhere, at the
/// host that its peers know.
fn client_address(config: &Config, listening: SocketAddr) -> String {
    let host = config.peer.advertise.as_deref().and_then(|addr| addr.rsplit_once(':'));
    match host {
        Some((host, _)) if listening.ip().is_unspecified() => format!("{host}:{}", listening.port()),
        _ => listening.to_string(),
    }
}
