//! TCP connections, made and accepted, from the first byte up to the point where HTTP/2 takes over.
//!
//! Owns no connection beyond that point; handshakes that are under way when the process ends are made again by
//! whoever wanted them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clawhub_types::NodeId;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, server};
use tokio_util::sync::CancellationToken;

use crate::authenticate::Authenticator;
use crate::conn::{Conn, Stranger};
use crate::connections::Transport;
use crate::handshakes::Handshakes;
use crate::identity::PeerId;
use crate::limits::HANDSHAKE;
use crate::tls::{self, CurrentTls, JOIN, PEER};
use crate::{PeerError, Refusal, RefusalCode, socket};

/// How long accepting pauses when the process is out of file descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Dialer {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) tls: CurrentTls,
    /// The address that connections leave from: the one that this node listens at, if that is one. So do its
    /// datagrams, and whoever filters or counts by address sees one node.
    pub(crate) from: Option<IpAddr>,
    /// Cancelled when the endpoint is closed, for good.
    pub(crate) closed: CancellationToken,
}

impl Dialer {
    /// Connects to a member, wherever the directory says it is now.
    pub(crate) async fn dial(&self, node: NodeId) -> Result<Conn<PeerId>, PeerError> {
        if self.closed.is_cancelled() {
            return Err(PeerError::Closed);
        }
        let attempt = timeout(HANDSHAKE, self.attempt(node)).await;
        let outcome = attempt.unwrap_or(Err(PeerError::Timeout("connecting to a peer")));
        if outcome.is_err() {
            self.authenticator.connections().failed(node);
        }
        outcome
    }

    async fn attempt(&self, node: NodeId) -> Result<Conn<PeerId>, PeerError> {
        let info = self.authenticator.lookup(node)?;
        let tls = TlsConnector::from(self.tls.get().tcp_client.clone());
        let mut stream = connect(&tls, self.from, &info.addr).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let connection = self.authenticator.introduce(&chain, &mut stream, node, Transport::Tcp).await?;
        note(&self.authenticator, stream.get_ref().0);
        Ok(Conn::peer(stream.into(), connection))
    }
}

/// TCP and TLS, for members and for those who join, from this address or from any. The caller limits the time.
pub(crate) async fn connect(
    tls: &TlsConnector,
    from: Option<IpAddr>,
    addr: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, PeerError> {
    let tcp = reach(from, addr).await.map_err(PeerError::io("connecting"))?;
    socket::prepare(&tcp).map_err(PeerError::io("connecting"))?;
    let wanted = tls.config().alpn_protocols.first().cloned();
    let stream = tls.connect(tls::no_name(), tcp).await.map_err(PeerError::io("TLS handshake"))?;
    if stream.get_ref().1.alpn_protocol() != wanted.as_deref() {
        return Err(PeerError::Protocol("the peer does not speak this protocol"));
    }
    Ok(stream)
}

/// The first address behind a name that answers.
async fn reach(from: Option<IpAddr>, addr: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for to in tokio::net::lookup_host(addr).await? {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(from) = from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
            socket.bind((from, 0).into())?;
        }
        match socket.connect(to).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Takes connections, and sorts them into members' and strangers'.
pub(crate) struct Acceptor {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) tls: CurrentTls,
    pub(crate) handshakes: Arc<Handshakes>,
    /// Places for connections without a client certificate.
    pub(crate) strangers: Arc<Semaphore>,
    pub(crate) to_peers: mpsc::Sender<Conn<PeerId>>,
    /// Where the other ones go.
    pub(crate) to_join: mpsc::Sender<Conn<Stranger>>,
    /// Closes every connection.
    pub(crate) all: CancellationToken,
}

impl Acceptor {
    /// Accepts until told to stop. Handshakes that are under way then are given up.
    pub(crate) async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let this = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, from)) => this.clone().begin(tcp, from, stop.clone()),
                Err(e) if is_about_one_connection(&e) => {}
                Err(e) => {
                    tracing::warn!("cannot accept connections: {e}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn begin(self: Arc<Self>, tcp: TcpStream, from: SocketAddr, stop: CancellationToken) {
        let Some(pass) = self.handshakes.enter(from.ip()) else {
            tracing::debug!(%from, "dropped: too many handshakes");
            return;
        };
        tokio::spawn(async move {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = timeout(HANDSHAKE, self.handshake(tcp)) => outcome,
            };
            if let Err(e) = outcome.unwrap_or(Err(PeerError::Timeout("handshake"))) {
                tracing::debug!(%from, "handshake failed: {e}");
            }
            drop(pass);
        });
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<(), PeerError> {
        socket::prepare(&tcp).map_err(PeerError::io("accepting"))?;
        let tls = TlsAcceptor::from(self.tls.get().tcp_server.clone());
        let stream = tls.accept(tcp).await.map_err(PeerError::io("TLS handshake"))?;
        match stream.get_ref().1.alpn_protocol() {
            Some(PEER) => self.member(stream).await,
            Some(JOIN) => self.stranger(stream).await,
            _ => Err(PeerError::Protocol("the caller asks for no known protocol")),
        }
    }

    async fn member(&self, mut stream: server::TlsStream<TcpStream>) -> Result<(), PeerError> {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        match self.authenticator.answer(&chain, &mut stream, Transport::Tcp).await {
            Ok(connection) => {
                note(&self.authenticator, stream.get_ref().0);
                let conn = Conn::peer(stream.into(), connection);
                self.to_peers.send(conn).await.map_err(|_| PeerError::Closed)
            }
            Err(e) => {
                // So that the reason arrives; that it does is no condition for anything.
                let _ = stream.shutdown().await;
                Err(e)
            }
        }
    }

    async fn stranger(&self, stream: server::TlsStream<TcpStream>) -> Result<(), PeerError> {
        let refused = |_| {
            PeerError::Refused(Refusal::new(RefusalCode::Busy, "too many connections without a certificate"))
        };
        let place = self.strangers.clone().try_acquire_owned().map_err(refused)?;
        let from = stream.get_ref().0.peer_addr().map_err(PeerError::io("accepting"))?;
        let conn = Conn::stranger(stream.into(), from.ip(), place, self.all.clone());
        self.to_join.send(conn).await.map_err(|_| PeerError::Closed)
    }
}

/// Remembers where a member is.
fn note(authenticator: &Authenticator, stream: &TcpStream) {
    if let Ok(there) = stream.peer_addr() {
        authenticator.known().note(there.ip());
    }
}

/// The connection was gone before it was accepted; the next one is fine.
fn is_about_one_connection(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
