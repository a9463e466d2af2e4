//! A node's life: open, listen, become a member if it is not one, serve, drain, stop.

use std::net::SocketAddr;
use std::sync::Arc;

use clawhub_api_operator::{self as operator, AdminSocket};
use clawhub_cluster::{Bootstrap, Requests};
use clawhub_config::Config;
use clawhub_devices::{Devices, Folders};
use clawhub_types::Durability;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::base::{Base, Boot};
use crate::data_dir::{DataDir, DataDirError};
use crate::error::NodeError;
use crate::health::Health;
use crate::metrics::{Metrics, Sources};
use crate::node::{Doors, Node};
use crate::node_store::NodeStore;
use crate::port::PeerPort;
use crate::stack;
use crate::stop::{End, Stop};
use crate::{budget, http, stores};

/// What follows a life that ended as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing: the node was told to stop.
    Nothing,
    Again,
}

/// Runs a node until it is told to stop, begins anew, or cannot go on. `life` counts its lives in this process,
/// from 0.
///
/// # Errors
/// [`NodeError`]: why it could not start, or not go on.
pub(crate) async fn run(
    config: Config,
    consensus_runtime: Handle,
    stop: Stop,
    life: u32,
) -> Result<Then, NodeError> {
    let Opened { base, listener, socket, devices } = open(config, consensus_runtime, life).await?;
    let (bootstrap, mut requests) = Bootstrap::new(base.dir.owner());
    let doors = Doors::closed();
    let member = doors.member.clone();
    let health = Health {
        bootstrap: bootstrap.clone(),
        member,
        devices: devices.clone(),
        stop: stop.clone(),
        way: stack::profile(base.config.raft.profile).round_trip(),
    };
    // Operators and clients are served before the node is a member: the former make it one, and the latter are told
    // to try again instead of finding the port closed.
    let operators = tokio::spawn(serve_operators(socket, operators(&base, &doors, &health), stop.clone()));
    let counters = Arc::new(Metrics::new());
    let sources = Sources { counters, member: doors.member.clone(), devices: devices.clone() };
    let site = http::site(&doors.gates, health, sources);
    let limits = http::limits(&base.config.limits);
    let told = stop.clone();
    let clients = tokio::spawn(clawhub_api_http::serve(listener, site, limits, async move {
        told.told().await;
    }));

    let mut node = Node::new(base, bootstrap, devices, doors, stop.clone());
    let resumed = node.resume().await;
    if let Err(error) = &resumed {
        stop.fault(error.to_string());
    }
    fulfil(&mut node, &mut requests, &stop).await;

    // Clients first: their requests need everything else.
    if let Ok(drained) = clients.await {
        tracing::info!(cut = drained.cut, "clients are gone");
    }
    node.stop().await;
    operators.abort();
    // Until the socket file is gone with it.
    let _ = operators.await;
    resumed?;
    after(stop.end())
}

/// Does what operators ask for, one after the other, until the node is told to stop.
async fn fulfil(node: &mut Node, requests: &mut Requests, stop: &Stop) {
    loop {
        let pending = tokio::select! {
            () = stop.told() => return,
            pending = requests.next() => pending,
        };
        // Whether or not the operator still waits for the answer.
        let _ = pending.answer.send(node.fulfil(pending.request).await);
    }
}

/// What follows a life that ended so.
fn after(end: Option<End>) -> Result<Then, NodeError> {
    match end {
        Some(End::Fault(reason)) => Err(NodeError::Fault(reason)),
        Some(End::Damaged(reason)) => Err(NodeError::Damaged(reason)),
        Some(End::Removed) => Err(NodeError::Removed),
        Some(End::Again) => Ok(Then::Again),
        None => Ok(Then::Nothing),
    }
}

/// What an operator may ask of this node.
fn operators(base: &Base, doors: &Doors, health: &Health) -> operator::NodeHandle {
    let config = &base.config;
    let asked = health.clone();
    operator::NodeHandle {
        name: config.node.name.clone(),
        durability: config.storage.durability.unwrap_or(Durability::Zone),
        bootstrap: health.bootstrap.clone(),
        member: doors.operators.clone(),
        health: Arc::new(move || {
            let health = asked.clone();
            Box::pin(async move {
                operator::Health {
                    not_ready: health.not_ready().await,
                    warnings: health.warnings(),
                    storage: health.storage(),
                }
            })
        }),
    }
}

async fn serve_operators(socket: AdminSocket, node: operator::NodeHandle, stop: Stop) {
    if let Err(error) = operator::serve(socket, node).await {
        stop.fault(format!("the administration socket failed: {error}"));
    }
}

/// What a node has from its first moment.
struct Opened {
    base: Base,
    listener: TcpListener,
    socket: AdminSocket,
    devices: Arc<Devices>,
}

/// Opens what a node needs from its first moment. Nothing is changed before the data directory has been
/// found to be this node's, and no port is asked for twice.
async fn open(config: Config, consensus_runtime: Handle, life: u32) -> Result<Opened, NodeError> {
    let dir = DataDir::open(&config.node.data)?;
    budget::log(&config);
    let refused = |what, at: String| move |source| NodeError::Listen { what, at, source };
    let listen = config.http.listen;
    let listener = TcpListener::bind(listen).await.map_err(refused("clients", listen.to_string()))?;
    let http = listener.local_addr().map_err(refused("clients", listen.to_string()))?;
    let peers = config.peer.listen;
    let peer_port = PeerPort::hold(peers).map_err(refused("peers", peers.to_string()))?;
    let local = stores::local(&dir)?;
    let store = NodeStore::new(local.clone());
    if dir.owner().is_some() && store.epoch()?.is_none() {
        // It is known before `FORMAT` names an owner.
        return Err(DataDirError::Unmarked(dir.local()).into());
    }
    if let Some(reason) = store.refused()? {
        return Err(NodeError::Refused(reason));
    }
    let count = store.count_boot()?;
    let path = dir.admin_socket();
    let socket = AdminSocket::bind(&path).map_err(refused("operators", path.display().to_string()))?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        name = %config.node.name,
        location = %config.node.location,
        data = %config.node.data.display(),
        %http,
        peers = %peer_port.addr(),
        boot = count,
        life,
        "started"
    );
    let boot = Boot { count, nonce: rand::random() };
    let folders =
        Folders { log: dir.raft(), state: dir.state(), local: dir.local(), blobs: dir.root().to_owned() };
    let devices = Devices::open(folders, config.raft.ballast, life);
    let devices = devices.map_err(|source| NodeError::Io { path: dir.root().to_owned(), source })?;
    let http_addr = config.http.advertise.clone().unwrap_or_else(|| client_address(&config, http));
    let base = Base { config, dir, local, store, boot, http_addr, peer_port, consensus_runtime };
    Ok(Opened { base, listener, socket, devices: Arc::new(devices) })
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
