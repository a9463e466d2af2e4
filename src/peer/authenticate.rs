//! The one place that decides whether a peer is who it says it is, and whether it may be here.
//!
//! It compares three things: what TLS has proved (the certificate), what the peer says of itself (its Hello), and
//! what the replicated state says about members. Owns nothing durable; a crash loses the open connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clawhub_types::NodeId;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connections::{Connection, Connections, Transport};
use crate::handshakes::KnownAddresses;
use crate::hello::{self, Frame};
use crate::identity::subject;
use crate::trust::Believed;
use crate::{Admission, Directory, Hello, PeerError, PeerInfo, Proof, Refusal, RefusalCode};

/// A peer that is refused tries again and again; one line in this time tells of it.
const WARN_EVERY: Duration = Duration::from_secs(10);

pub(crate) struct Authenticator {
    own: Hello,
    directory: Arc<dyn Directory>,
    connections: Arc<Connections>,
    believed: Believed,
    known: Arc<KnownAddresses>,
    warned: Mutex<Option<Instant>>,
}

impl Authenticator {
    pub(crate) fn new(
        own: Hello,
        directory: Arc<dyn Directory>,
        connections: Arc<Connections>,
        believed: Believed,
    ) -> Authenticator {
        Authenticator {
            own,
            directory,
            connections,
            believed,
            known: Arc::default(),
            warned: Mutex::new(None),
        }
    }

    /// What this node says of itself.
    pub(crate) fn own(&self) -> &Hello {
        &self.own
    }

    /// The CAs that are believed now.
    pub(crate) fn believed(&self) -> &Believed {
        &self.believed
    }

    /// The table of live connections.
    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Where members are.
    pub(crate) fn known(&self) -> &Arc<KnownAddresses> {
        &self.known
    }

    pub(crate) fn lookup(&self, node: NodeId) -> Result<PeerInfo, PeerError> {
        self.directory.lookup(node).ok_or(PeerError::UnknownNode(node))
    }

    /// The handshake of the side that was called. The caller limits the time.
    pub(crate) async fn answer(
        &self,
        chain: &[CertificateDer<'_>],
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        transport: Transport,
    ) -> Result<Connection, PeerError> {
        let Frame::Hello(hello) = hello::read(stream).await? else {
            return Err(PeerError::Protocol("the caller did not say hello"));
        };
        match self.authenticate(chain, &hello, None, transport) {
            Ok(admitted) => {
                hello::write(stream, &self.own).await?;
                Ok(admitted)
            }
            Err(e) => {
                let refusal = match &e {
                    PeerError::Refused(refusal) => refusal.clone(),
                    other => Refusal::new(RefusalCode::Other, other.to_string()),
                };
                self.warn(&hello, &refusal);
                hello::refuse(stream, &refusal).await;
                Err(e)
            }
        }
    }

    /// The handshake of the side that calls a member. The caller limits the time.
    pub(crate) async fn introduce(
        &self,
        chain: &[CertificateDer<'_>],
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        called: NodeId,
        transport: Transport,
    ) -> Result<Connection, PeerError> {
        hello::write(stream, &self.own).await?;
        match hello::read(stream).await? {
            Frame::Hello(hello) => self.authenticate(chain, &hello, Some(called), transport),
            Frame::Refusal(refusal) => Err(PeerError::RefusedBy(refusal)),
        }
    }

    fn warn(&self, hello: &Hello, refusal: &Refusal) {
        let mut warned = self.warned.lock();
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(node = %hello.node, boot = hello.boot, "a peer was refused: {refusal}");
        }
    }

    /// Admits a peer whose chain TLS has verified against a CA of the cluster. `called` is the member that
    /// this node meant to reach, if it is the caller.
    fn authenticate(
        &self,
        chain: &[CertificateDer<'_>],
        hello: &Hello,
        called: Option<NodeId>,
        transport: Transport,
    ) -> Result<Connection, PeerError> {
        use RefusalCode::{Busy, OtherCluster, OtherEpoch, Superseded, WrongIdentity};
        let refused = |code, why: &str| PeerError::Refused(Refusal::new(code, why));
        let proved = subject(chain)?;
        if proved.cluster != self.own.cluster || hello.cluster != self.own.cluster {
            return Err(refused(OtherCluster, "it belongs to another cluster"));
        }
        if hello.epoch != self.own.epoch {
            return Err(refused(OtherEpoch, "it belongs to another epoch of the cluster"));
        }
        if hello.node != proved.node {
            return Err(refused(WrongIdentity, "its certificate is another node's"));
        }
        if hello.node == self.own.node {
            return Err(refused(WrongIdentity, "it has this node's own identity"));
        }
        if called.is_some_and(|node| node != proved.node) {
            return Err(refused(WrongIdentity, "it is not the node that was called"));
        }
        // Not the word of TLS, which may have believed a CA at the beginning of the handshake that is not one any more.
        let issuer = chain.first().and_then(|cert| self.believed.issuer(cert));
        let (ca, followed_by) =
            issuer.ok_or_else(|| PeerError::Certificate("it is of a CA that is not the cluster's".into()))?;
        let proof = Proof { spki: proved.spki, ca, followed_by };
        let connection = self
            .connections
            .enter(*hello, proof, transport)
            .ok_or_else(|| refused(Busy, "it has too many connections"))?;
        // After it was entered: a removal that is applied from here on closes the connection.
        let admission = self.judge(hello, &proof, transport).map_err(|refusal| match called {
            Some(_) if refusal.code == WrongIdentity => {
                refused(WrongIdentity, "it is not the node that was called")
            }
            _ => PeerError::Refused(refusal),
        })?;
        if !connection.admitted(admission) {
            return Err(refused(Superseded, "a later start of it is here already"));
        }
        Ok(connection)
    }

    /// What the directory says now, and what it means for a connection of this kind: streams carry no log.
    fn judge(&self, hello: &Hello, proof: &Proof, transport: Transport) -> Result<Admission, Refusal> {
        match (self.directory.admit(hello, proof)?, transport) {
            (Admission::LogOnly, Transport::Quic) => {
                Err(Refusal::new(RefusalCode::UnknownNode, "not a member as far as this node knows"))
            }
            (admission, _) => Ok(admission),
        }
    }

    /// Asks the directory again about every live connection; see [`Endpoint::review`](crate::Endpoint::review).
    pub(crate) fn review(&self) {
        for (node, refusal) in self.connections.review(|hello, proof, on| self.judge(hello, proof, on)) {
            tracing::info!(%node, "closing a connection: {refusal}");
        }
    }
}
