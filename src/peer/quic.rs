//! QUIC: connections pooled per member and class, and the streams that members open here.
//!
//! Owns the pool, in memory. A connection serves streams in one direction only: whoever made it opens
//! them. Its first stream carries the Hellos.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clawhub_types::NodeId;
use parking_lot::Mutex;
use quinn::{ConnectionError, RecvStream, SendStream, TokioRuntime, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authenticate::Authenticator;
use crate::connections::{Connection, Transport};
use crate::handshakes::Handshakes;
use crate::identity::Caller;
use crate::limits::{DRAIN, HANDSHAKE, LINGER, OPEN, STREAMS, STREAMS_OWN};
use crate::quic_config::{configs, endpoint_config, failed};
use crate::tls::{NO_NAME, Tls};
use crate::traffic::{Class, StreamHandler};
use crate::{NodeKey, PeerError};

/// Close codes; the peer's log shows them.
const DONE: VarInt = VarInt::from_u32(0);
const NOT_ADMITTED: VarInt = VarInt::from_u32(1);
const REMOVED: VarInt = VarInt::from_u32(2);
const OUTDATED: VarInt = VarInt::from_u32(3);

type Slots = HashMap<(NodeId, Class), Arc<tokio::sync::Mutex<Slot>>>;

/// A place in the pool. Its lock is held while connecting, so that there is one attempt at a time and all callers
/// wait for it.
#[derive(Default)]
struct Slot {
    live: Option<quinn::Connection>,
    failed: Option<(Instant, PeerError)>,
}

/// The UDP half of an endpoint.
pub(crate) struct Quic {
    endpoint: quinn::Endpoint,
    client: Mutex<quinn::ClientConfig>,
    authenticator: Arc<Authenticator>,
    slots: Mutex<Slots>,
}

impl Quic {
    /// Takes over a bound socket. Must be called within a Tokio runtime.
    pub(crate) fn new(
        socket: UdpSocket,
        tls: &Tls,
        key: &NodeKey,
        authenticator: Arc<Authenticator>,
    ) -> Result<Quic, PeerError> {
        let (server, client) = configs(tls)?;
        let endpoint =
            quinn::Endpoint::new(endpoint_config(key)?, Some(server), socket, Arc::new(TokioRuntime))
                .map_err(failed)?;
        Ok(Quic { endpoint, client: Mutex::new(client), authenticator, slots: Mutex::default() })
    }

    /// Makes and takes connections so from now on.
    pub(crate) fn renew(&self, tls: &Tls) -> Result<(), PeerError> {
        let (server, client) = configs(tls)?;
        self.endpoint.set_server_config(Some(server));
        *self.client.lock() = client;
        Ok(())
    }

    /// Streams that are opened from now on go over new connections.
    pub(crate) fn forget(&self) {
        self.slots.lock().clear();
    }

    /// Opens a stream to a member, connecting first if need be. Nothing is sent before the first write.
    pub(crate) async fn open(
        self: &Arc<Self>,
        node: NodeId,
        class: Class,
    ) -> Result<(SendStream, RecvStream), PeerError> {
        // A pooled connection may have died unnoticed; a new one that dies at once is an answer.
        for last in [false, true] {
            let connection = self.connection(node, class).await?;
            match timeout(OPEN, connection.open_bi()).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) if last => return Err(failed(e)),
                Ok(Err(_)) => {}
                Err(_) => return Err(PeerError::Timeout("waiting for the peer to allow another stream")),
            }
        }
        Err(PeerError::Quic("the connection broke".into()))
    }

    /// The pooled connection, or a new one. Connecting goes on if the caller gives up: over a long way it takes
    /// longer than some callers wait, and the next one finds it done.
    async fn connection(
        self: &Arc<Self>,
        node: NodeId,
        class: Class,
    ) -> Result<quinn::Connection, PeerError> {
        let asked = Instant::now();
        let slot = self.slots.lock().entry((node, class)).or_default().clone();
        let mut slot = slot.lock_owned().await;
        if let Some(live) = slot.live.as_ref().filter(|c| c.close_reason().is_none()) {
            return Ok(live.clone());
        }
        if let Some((_, why)) = slot.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(why.shared());
        }
        let this = self.clone();
        let connecting = tokio::spawn(async move {
            let attempt = timeout(HANDSHAKE, this.connect(node)).await;
            match attempt.unwrap_or(Err(PeerError::Timeout("connecting to a peer"))) {
                Ok(connection) => {
                    *slot = Slot { live: Some(connection.clone()), failed: None };
                    Ok(connection)
                }
                Err(e) => {
                    this.authenticator.connections().failed(node);
                    *slot = Slot { live: None, failed: Some((Instant::now(), e.shared())) };
                    Err(e)
                }
            }
        });
        // It ends before its time only with the runtime.
        connecting.await.unwrap_or(Err(PeerError::Closed))
    }

    /// The round trip to a member, as the connection for control has measured it; `None` if there is none.
    pub(crate) fn round_trip(&self, node: NodeId) -> Option<Duration> {
        let slot = self.slots.lock().get(&(node, Class::Control))?.clone();
        // Held only while connecting, and then there is nothing to tell.
        let slot = slot.try_lock().ok()?;
        slot.live.as_ref().filter(|c| c.close_reason().is_none()).map(quinn::Connection::rtt)
    }

    async fn connect(&self, node: NodeId) -> Result<quinn::Connection, PeerError> {
        let info = self.authenticator.lookup(node)?;
        let addr = self.resolve(&info.addr).await?;
        let client = self.client.lock().clone();
        let connecting = self.endpoint.connect_with(client, addr, NO_NAME).map_err(failed)?;
        let connection = connecting.await.map_err(failed)?;
        match self.introduce(&connection, node).await {
            Ok(row) => {
                self.authenticator.known().note(connection.remote_address().ip());
                tokio::spawn(watch(connection.clone(), row));
                Ok(connection)
            }
            Err(e) => {
                connection.close(NOT_ADMITTED, b"");
                Err(e)
            }
        }
    }

    async fn introduce(&self, to: &quinn::Connection, node: NodeId) -> Result<Connection, PeerError> {
        let (mut send, mut recv) = to.open_bi().await.map_err(failed)?;
        let mut stream = tokio::io::join(&mut recv, &mut send);
        self.authenticator.introduce(&chain(to), &mut stream, node, Transport::Quic).await
    }

    /// The first address that this socket can send to.
    async fn resolve(&self, addr: &str) -> Result<SocketAddr, PeerError> {
        let v4_only = self.endpoint.local_addr().is_ok_and(|local| local.is_ipv4());
        let found = tokio::net::lookup_host(addr).await.map_err(PeerError::io("resolving an address"))?;
        let none = || std::io::Error::new(std::io::ErrorKind::NotFound, "no address of a usable kind");
        let usable = found.into_iter().find(|a| a.is_ipv4() || !v4_only);
        usable.ok_or_else(none).map_err(PeerError::io("resolving an address"))
    }

    /// Ends everything and waits, for a while, until the peers know.
    pub(crate) async fn close(&self, wait: Duration) {
        self.endpoint.close(DONE, b"");
        let _ = timeout(wait, self.endpoint.wait_idle()).await;
    }
}

fn chain(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let identity = connection.peer_identity().map(|any| any.downcast::<Vec<CertificateDer<'static>>>());
    identity.and_then(Result::ok).map(|chain| *chain).unwrap_or_default()
}

/// Keeps a row of the table for as long as its connection lives, and closes the connection when told.
async fn watch(connection: quinn::Connection, row: Connection) {
    tokio::select! {
        () = row.closed().cancelled() => connection.close(REMOVED, b""),
        // The called side knows which streams run, and is the first to close it.
        () = lingered(&row) => connection.close(OUTDATED, b""),
        _ = connection.closed() => {}
    }
}

/// Completes when an outdated connection has had its time.
async fn lingered(row: &Connection) {
    row.outdated().cancelled().await;
    tokio::time::sleep(LINGER).await;
}

/// Completes when a connection is outdated, and the streams that run over it have ended or had their time.
async fn last_streams(connection: &quinn::Connection, row: &Connection, running: &TaskTracker) {
    row.outdated().cancelled().await;
    running.close();
    if timeout(LINGER, running.wait()).await.is_err() {
        tracing::info!(node = %row.node(), "streams from before the keys were replaced are cut off");
    }
    // What the last of them wrote is on its way: the peer closes the connection once it has read all.
    let _ = timeout(DRAIN, connection.closed()).await;
}

/// Takes connections and hands their streams on.
pub(crate) struct Acceptor {
    authenticator: Arc<Authenticator>,
    handshakes: Arc<Handshakes>,
    handler: Arc<dyn StreamHandler>,
    /// Places for streams being served, beyond those that each connection has of its own.
    places: Arc<Semaphore>,
    /// Streams being served; a stop waits for them.
    serving: TaskTracker,
}

impl Acceptor {
    /// `serving` gets a task for every stream.
    pub(crate) fn new(
        authenticator: Arc<Authenticator>,
        handler: Arc<dyn StreamHandler>,
        serving: TaskTracker,
    ) -> Acceptor {
        let handshakes = Handshakes::new(authenticator.known().clone());
        let places = Arc::new(Semaphore::new(STREAMS));
        Acceptor { authenticator, handshakes, handler, places, serving }
    }

    /// Accepts until told to stop; then streams that are being served go on, and no other begins.
    pub(crate) async fn run(self, quic: Arc<Quic>, stop: CancellationToken) {
        let this = Arc::new(self);
        loop {
            let incoming = tokio::select! {
                () = stop.cancelled() => return,
                incoming = quic.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            this.begin(incoming, &stop);
        }
    }

    fn begin(self: &Arc<Self>, incoming: quinn::Incoming, stop: &CancellationToken) {
        let from = incoming.remote_address();
        // Source addresses are easily forged. When it matters, the caller first shows that it gets answers.
        if self.handshakes.is_busy() && !incoming.remote_address_validated() {
            if incoming.retry().is_err() {
                tracing::debug!(%from, "cannot ask the caller to prove its address");
            }
            return;
        }
        let Some(pass) = self.handshakes.enter(from.ip()) else {
            incoming.refuse();
            return;
        };
        let this = self.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = timeout(HANDSHAKE, this.handshake(incoming)) => outcome,
            };
            drop(pass);
            match outcome.unwrap_or(Err(PeerError::Timeout("handshake"))) {
                Ok((connection, row)) => this.serve(connection, row, stop).await,
                Err(e) => tracing::debug!(%from, "handshake failed: {e}"),
            }
        });
    }

    async fn handshake(
        &self,
        incoming: quinn::Incoming,
    ) -> Result<(quinn::Connection, Connection), PeerError> {
        let connection = incoming.accept().map_err(failed)?.await.map_err(failed)?;
        let (mut send, mut recv) = connection.accept_bi().await.map_err(failed)?;
        let mut stream = tokio::io::join(&mut recv, &mut send);
        match self.authenticator.answer(&chain(&connection), &mut stream, Transport::Quic).await {
            Ok(row) => {
                self.authenticator.known().note(connection.remote_address().ip());
                Ok((connection, row))
            }
            Err(e) => {
                // The reason is delivered once the peer has it all, or hung up.
                if send.finish().is_ok() {
                    let _ = send.stopped().await;
                }
                connection.close(NOT_ADMITTED, b"");
                Err(e)
            }
        }
    }

    async fn serve(&self, connection: quinn::Connection, row: Connection, stop: CancellationToken) {
        let from = row.node();
        let running = TaskTracker::new();
        let end = tokio::select! {
            () = row.closed().cancelled() => None,
            () = stop.cancelled() => None,
            () = last_streams(&connection, &row, &running) => {
                connection.close(OUTDATED, b"");
                return;
            }
            end = self.dispatch(&connection, from, &row, &running) => Some(end),
        };
        if let Some(end) = end {
            tracing::debug!(node = %from, "connection ended: {end}");
        } else {
            // Stopping leaves it open for the streams being served, until the endpoint closes it.
            watch(connection, row).await;
        }
    }

    /// Serves the streams that the peer opens; none any more when the connection is outdated.
    async fn dispatch(
        &self,
        connection: &quinn::Connection,
        from: NodeId,
        row: &Connection,
        running: &TaskTracker,
    ) -> ConnectionError {
        let own = Arc::new(Semaphore::new(STREAMS_OWN));
        loop {
            let (mut send, mut recv) = match connection.accept_bi().await {
                Ok(stream) => stream,
                Err(end) => return end,
            };
            if row.outdated().is_cancelled() {
                // Either way it is over.
                let _ = (send.reset(OUTDATED), recv.stop(OUTDATED));
                continue;
            }
            // Waiting here leaves the connection's other streams unread at their sender.
            let place = tokio::select! {
                biased;
                place = own.clone().acquire_owned() => place,
                place = self.places.clone().acquire_owned() => place,
            };
            let Ok(place) = place else {
                return ConnectionError::LocallyClosed;
            };
            let handler = self.handler.clone();
            self.serving.spawn(running.track_future(async move {
                handler.handle(Caller::admitted(from), send, recv).await;
                drop(place);
            }));
        }
    }
}
