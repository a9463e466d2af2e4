//! An endpoint: this node's identity and its two sockets, and the connections made through them.
//!
//! Owns the sockets and, in memory, a gRPC channel per member and class. Nothing survives a crash, and
//! nothing needs to.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use clawhub_types::NodeId;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::{Channel, Server};

use crate::authenticate::Authenticator;
use crate::conn::Conn;
use crate::connections::{Connections, Standing};
use crate::handshakes::Handshakes;
use crate::keyring::{Certified, Keyring};
use crate::limits::{
    DRAIN, GRPC_BULK_TIMEOUT, GRPC_KEEPALIVE, GRPC_KEEPALIVE_TIMEOUT, GRPC_STREAM_WINDOW, GRPC_WINDOW,
    HANDSHAKE, REQUESTS, STRANGER_LIFETIME, STRANGERS,
};
use crate::quic::{self, Quic};
use crate::tcp::{self, Dialer};
use crate::tls::{CurrentTls, Tls};
use crate::trust::Believed;
use crate::{Class, Directory, Identity, PeerError, StreamHandler, socket};

/// Accepted connections waiting to be picked up by the server task.
const ACCEPTED: usize = 16;

struct Inner {
    addr: SocketAddr,
    tls: CurrentTls,
    dialer: Arc<Dialer>,
    quic: Arc<Quic>,
    listener: Mutex<Option<TcpListener>>,
    channels: Mutex<HashMap<(NodeId, Class), Channel>>,
    runtime: Handle,
    /// Closes every connection, for good.
    all: CancellationToken,
}

/// A node among its peers: the sockets it listens on and the connections it has. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

impl Endpoint {
    /// Listens on TCP and UDP on one port number (port 0: any that is free for both) and checks that the
    /// identity is whole. Connections can be made at once; they are accepted when [`serve`](Self::serve)
    /// runs. Must be called within the Tokio runtime that shall carry the connections.
    ///
    /// # Errors
    /// [`PeerError::Bind`], or [`PeerError::Identity`] if key, certificates and Hello do not belong together.
    #[expect(clippy::unused_async, reason = "the sockets register with the runtime that awaits this")]
    pub async fn bind(
        listen: SocketAddr,
        identity: Identity,
        directory: Arc<dyn Directory>,
    ) -> Result<Endpoint, PeerError> {
        let Identity { key, cert, ca_cert, hello } = identity;
        let reset_key = key.clone();
        let keyring = Keyring::of(Certified { key, cert, ca_cert });
        let tls = CurrentTls::new(Tls::new(&keyring, &hello)?);
        let (tcp, udp) = socket::bind(listen)?;
        let failed = |source| PeerError::Bind { addr: listen, source };
        let listener = TcpListener::from_std(tcp).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let all = CancellationToken::new();
        let connections = Connections::new(all.clone());
        let believed = Believed::new(&keyring);
        let authenticator = Arc::new(Authenticator::new(hello, directory, connections, believed));
        let quic = Quic::new(udp, &tls.get(), &reset_key, authenticator.clone())?;
        let dialer = Dialer {
            authenticator,
            tls: tls.clone(),
            from: Some(addr.ip()).filter(|ip| !ip.is_unspecified()),
            closed: all.clone(),
        };
        Ok(Endpoint(Arc::new(Inner {
            addr,
            tls,
            dialer: Arc::new(dialer),
            quic: Arc::new(quic),
            listener: Mutex::new(Some(listener)),
            channels: Mutex::default(),
            runtime: Handle::current(),
            all,
        })))
    }

    /// The address listened on, TCP and UDP.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// A channel for calls to a member over its control connection: see
    /// [`channel_of`](Self::channel_of).
    pub fn channel(&self, node: NodeId) -> Channel {
        self.channel_of(node, Class::Control)
    }

    /// A channel for calls to a member. It connects at its first call and again whenever the connection
    /// is gone, to the address the directory gives then; a call fails if that fails, within
    /// [`HANDSHAKE`](crate::limits::HANDSHAKE). The same channel is returned for the same member and class.
    pub fn channel_of(&self, node: NodeId, class: Class) -> Channel {
        let mut channels = self.0.channels.lock();
        channels.entry((node, class)).or_insert_with(|| self.new_channel(node, class)).clone()
    }

    fn new_channel(&self, node: NodeId, class: Class) -> Channel {
        let patience = match class {
            Class::Control => GRPC_KEEPALIVE_TIMEOUT,
            Class::Foreground | Class::Background => GRPC_BULK_TIMEOUT,
        };
        let dialer = self.0.dialer.clone();
        let runtime = self.0.runtime.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let dialer = dialer.clone();
            // The channel looks after it only while somebody waits; a task goes on.
            let dialing = runtime.spawn(async move { dialer.dial(node).await });
            async move { dialing.await.unwrap_or(Err(PeerError::Closed)).map(TokioIo::new) }
        });
        // The address is in the connector; HTTP wants some authority.
        tonic::transport::Endpoint::from_static("http://peer.invalid")
            .executor(OnRuntime(self.0.runtime.clone()))
            .initial_stream_window_size(GRPC_STREAM_WINDOW)
            .initial_connection_window_size(GRPC_WINDOW)
            .http2_keep_alive_interval(GRPC_KEEPALIVE)
            .keep_alive_timeout(patience)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }

    /// Opens a bidirectional QUIC stream to a member, over the pooled connection for this class. The peer
    /// learns of it with the first bytes written.
    ///
    /// # Errors
    /// [`PeerError`] if the member cannot be reached or refuses within
    /// [`HANDSHAKE`](crate::limits::HANDSHAKE), or allows no further stream within
    /// [`OPEN`](crate::limits::OPEN).
    pub async fn open(&self, node: NodeId, class: Class) -> Result<(SendStream, RecvStream), PeerError> {
        if self.0.all.is_cancelled() {
            return Err(PeerError::Closed);
        }
        self.0.quic.open(node, class).await
    }

    /// Asks the directory again about every live connection, in both directions: those that it would refuse now are
    /// closed, and who was let in for the log only and is known by now may do what members do. To be called when the
    /// directory's answers may have changed, because TLS looks at a certificate only once.
    pub fn review(&self) {
        self.0.dialer.authenticator.review();
    }

    /// Shows and believes this from now on, at connections that begin. With `anew` every call and stream that begins
    /// goes over a new connection; those that are under way end where they are.
    ///
    /// # Errors
    /// [`PeerError::Identity`] if the keyring is not whole, or not this node's; nothing has changed then.
    pub fn renew(&self, keyring: &Keyring, anew: bool) -> Result<(), PeerError> {
        let authenticator = &self.0.dialer.authenticator;
        let tls = Arc::new(Tls::new(keyring, authenticator.own())?);
        self.0.quic.renew(&tls)?;
        self.0.tls.set(tls);
        authenticator.believed().set(keyring);
        if anew {
            authenticator.connections().retire();
            self.0.channels.lock().clear();
            self.0.quic.forget();
        }
        Ok(())
    }

    /// The round trip to a member, smoothed, as measured on this node's own QUIC connection for control; `None`
    /// without one.
    pub fn round_trip(&self, node: NodeId) -> Option<Duration> {
        self.0.quic.round_trip(node)
    }

    /// How a member stands with this node, as far as its connections tell.
    pub fn standing(&self, node: NodeId) -> Standing {
        self.0.dialer.authenticator.connections().standing(node)
    }

    /// Accepts connections and serves them until `shutdown` completes: `peers` to members over gRPC,
    /// `streams` to members over QUIC, `join` to those without a client certificate. Then what is under
    /// way has [`DRAIN`](crate::limits::DRAIN) to finish, and the endpoint is closed for good. The UDP port
    /// is free a moment after the last clone is dropped.
    ///
    /// # Errors
    /// [`PeerError::Closed`] if it was called before.
    pub async fn serve(
        self,
        peers: Routes,
        join: Routes,
        streams: Arc<dyn StreamHandler>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), PeerError> {
        let inner = &self.0;
        let listener = inner.listener.lock().take().ok_or(PeerError::Closed)?;
        // Whatever becomes of this future, nothing outlives it.
        let _all = inner.all.clone().drop_guard();
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let serving = TaskTracker::new();
        let mut tasks = JoinSet::new();

        let (to_peers, from_peers) = mpsc::channel(ACCEPTED);
        let (to_join, from_join) = mpsc::channel(ACCEPTED);
        tasks.spawn(serve_grpc(peer_server(), peers, from_peers, stop.clone()));
        tasks.spawn(serve_grpc(join_server(), join, from_join, stop.clone()));
        let acceptor = tcp::Acceptor {
            authenticator: inner.dialer.authenticator.clone(),
            tls: inner.tls.clone(),
            handshakes: Handshakes::new(inner.dialer.authenticator.known().clone()),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            to_peers,
            to_join,
            all: inner.all.clone(),
        };
        tasks.spawn(acceptor.run(listener, stop.clone()));
        let acceptor = quic::Acceptor::new(inner.dialer.authenticator.clone(), streams, serving.clone());
        tasks.spawn(acceptor.run(inner.quic.clone(), stop.clone()));

        shutdown.await;
        stop.cancel();
        serving.close();
        let drained = async {
            serving.wait().await;
            while tasks.join_next().await.is_some() {}
        };
        if timeout(DRAIN, drained).await.is_err() {
            tracing::debug!("closing connections with calls or streams under way");
        }
        inner.all.cancel();
        inner.channels.lock().clear();
        inner.quic.close(DRAIN).await;
        Ok(())
    }
}

fn peer_server() -> Server {
    Server::builder()
        .max_concurrent_streams(REQUESTS)
        .initial_stream_window_size(GRPC_STREAM_WINDOW)
        .initial_connection_window_size(GRPC_WINDOW)
        .http2_keepalive_interval(Some(GRPC_KEEPALIVE))
        .http2_keepalive_timeout(Some(GRPC_KEEPALIVE_TIMEOUT))
}

/// One call at a time, and not for long: who is served here has shown nothing.
fn join_server() -> Server {
    Server::builder()
        .max_concurrent_streams(1)
        .timeout(STRANGER_LIFETIME)
        .http2_keepalive_interval(Some(HANDSHAKE))
        .http2_keepalive_timeout(Some(HANDSHAKE))
}

async fn serve_grpc<I: Clone + Send + Sync + Unpin + 'static>(
    mut server: Server,
    routes: Routes,
    accepted: mpsc::Receiver<Conn<I>>,
    stop: CancellationToken,
) {
    let incoming = ReceiverStream::new(accepted).map(Ok::<_, std::io::Error>);
    let served =
        server.add_routes(routes).serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await;
    if let Err(e) = served {
        tracing::error!("serving peers ended: {e}");
    }
}

/// Runs a channel's tasks on the endpoint's runtime, wherever the channel was made.
#[derive(Clone)]
struct OnRuntime(Handle);

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for OnRuntime {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(task);
    }
}
