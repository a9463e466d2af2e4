//! A node's life: open, listen, become a member if it is not one, serve, drain, stop.

use std::sync::Arc;

use clawhub_config::Config;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::admin::{self, AdminSocket};
use crate::data_dir::{DataDir, DataDirError};
use crate::error::NodeError;
use crate::facts::Facts;
use crate::node::{Boot, Node, Parts};
use crate::port::PeerPort;
use crate::stop::{End, Stop};
use crate::storage::Storage;
use crate::{becoming, budget, http, stores};

/// What follows a life that ended as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing: the node was told to stop.
    Nothing,
    /// Another life.
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
    let (node, listener, socket) = open(config, consensus_runtime, stop.clone(), life).await?;
    let operators = tokio::spawn(admin::serve(socket, node.clone()));
    let site = http::site(&node);
    let limits = http::limits(&node.config.limits);
    let told = stop.clone();
    let clients = tokio::spawn(clawhub_api_http::serve(listener, site, limits, async move {
        told.told().await;
    }));

    let resumed = match node.owner() {
        Some(owner) => becoming::resume(&node, owner).await,
        None => {
            tracing::info!("waiting for `clawhub cluster init` or `clawhub cluster join`");
            Ok(())
        }
    };
    if let Err(error) = &resumed {
        stop.fault(error.to_string());
    }
    stop.told().await;

    // Clients first: their requests need everything else.
    if let Ok(drained) = clients.await {
        tracing::info!(cut = drained.cut, "clients are gone");
    }
    if let Some(stack) = node.stack() {
        stack.stop().await;
    }
    operators.abort();
    // Until the socket file is gone with it.
    let _ = operators.await;
    resumed?;
    match stop.end() {
        Some(End::Fault(reason)) => Err(NodeError::Fault(reason)),
        Some(End::Damaged(reason)) => Err(NodeError::Damaged(reason)),
        Some(End::Removed) => Err(NodeError::Removed),
        Some(End::Again) => Ok(Then::Again),
        None => Ok(Then::Nothing),
    }
}

/// Opens what a node needs from its first moment. Nothing is changed before the data directory has been
/// found to be this node's, and no port is asked for twice.
async fn open(
    config: Config,
    consensus_runtime: Handle,
    stop: Stop,
    life: u32,
) -> Result<(Arc<Node>, TcpListener, AdminSocket), NodeError> {
    let dir = DataDir::open(&config.node.data)?;
    budget::log(&config);
    let refused = |what, at: String| move |source| NodeError::Listen { what, at, source };
    let listen = config.http.listen;
    let listener = TcpListener::bind(listen).await.map_err(refused("clients at", listen.to_string()))?;
    let http = listener.local_addr().map_err(refused("clients at", listen.to_string()))?;
    let peers = config.peer.listen;
    let peer_port = PeerPort::hold(peers).map_err(refused("peers at", peers.to_string()))?;
    let local = stores::local(&dir)?;
    let facts = Facts::new(local.clone());
    if dir.owner().is_some() && facts.epoch()?.is_none() {
        // It is known before `FORMAT` names an owner.
        return Err(DataDirError::Unmarked(dir.local()).into());
    }
    if let Some(reason) = facts.refused()? {
        return Err(NodeError::Refused(reason));
    }
    let count = facts.count_boot()?;
    let path = dir.admin_socket();
    let socket = AdminSocket::bind(&path).map_err(refused("operators at", path.display().to_string()))?;
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
    let storage = Storage::open(&dir, config.raft.ballast, life);
    let storage = storage.map_err(|source| NodeError::Io { path: dir.root().to_owned(), source })?;
    let node =
        Node::new(Parts { config, dir, local, boot, http, peer_port, consensus_runtime, stop, storage });
    Ok((node, listener, socket))
}
