//! How a node becomes a member: the one call that is made without a certificate. Nothing is kept here; a call
//! whose answer was lost is made again with the same token and key.

use std::sync::Arc;

use clawhub_types::{ClusterId, Location, NodeId, Roles};
use clawhub_wire::peer::join_client::JoinClient;
use clawhub_wire::peer::{JoinReply, JoinRequest, Peer};
use clawhub_wire::{Invalid, array};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::identity::{ca_subject, subject};
use crate::limits::{HANDSHAKE, STRANGER_LIFETIME};
use crate::{ClusterKey, JoinToken, NodeKey, PeerError, PeerInfo, tcp, tls, trust};

/// What a node says of itself when it asks to be a member.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// Unique among members.
    pub name: String,
    /// Its failure domains.
    pub location: Location,
    /// Its roles.
    pub roles: Roles,
    /// Where peers will reach it, `host:port`, TCP and UDP.
    pub peer_addr: String,
    /// Where clients will reach it, `host:port`.
    pub http_addr: String,
}

/// What a new member was given, checked against the token and against its own key.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Its id.
    pub node: NodeId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's epoch.
    pub epoch: u64,
    /// Its certificate, DER.
    pub cert: Vec<u8>,
    /// The CA's certificate, DER.
    pub ca_cert: Vec<u8>,
    /// The cluster key.
    pub cluster_key: ClusterKey,
    /// The members.
    pub peers: Vec<(NodeId, PeerInfo)>,
}

/// Asks the member at `addr` to admit this node. The member must be certified by the CA that the token
/// pins, or it is told nothing. Calling again with the same token and key is safe: it gets the same id.
///
/// # Errors
/// [`PeerError::Call`] with the member's answer if it says no; otherwise what kept the call from being
/// made, or what is wrong with the reply.
pub async fn join(
    addr: &str,
    token: &JoinToken,
    key: &NodeKey,
    applicant: Applicant,
) -> Result<Joined, PeerError> {
    let csr = key.csr().map_err(|e| PeerError::Identity(e.to_string()))?;
    let request = JoinRequest {
        token: token.secret().expose().to_vec().into(),
        name: applicant.name,
        location: Some(applicant.location.into()),
        roles: Some(applicant.roles.into()),
        peer_addr: applicant.peer_addr,
        http_addr: applicant.http_addr,
        csr: csr.into(),
    };
    let call = async {
        let mut client = JoinClient::new(connect(addr, *token.ca()).await?);
        client.join(request).await.map_err(|status| PeerError::Call(Box::new(status)))
    };
    let reply = timeout(STRANGER_LIFETIME, call).await.map_err(|_| PeerError::Timeout("joining"))??;
    check(reply.into_inner(), token, key)
}

/// One connection; it is not made again.
async fn connect(addr: &str, ca_pin: [u8; 32]) -> Result<tonic::transport::Channel, PeerError> {
    let tls = TlsConnector::from(tls::join_client(ca_pin)?);
    let handshake = timeout(HANDSHAKE, tcp::connect(&tls, None, addr));
    let stream = handshake.await.map_err(|_| PeerError::Timeout("connecting to a member"))??;
    let once = Arc::new(parking_lot::Mutex::new(Some(TokioIo::new(stream))));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = once.lock().take().ok_or(PeerError::Closed);
        async move { stream }
    });
    tonic::transport::Endpoint::from_static("http://peer.invalid")
        .connect_timeout(HANDSHAKE)
        .connect_with_connector(connector)
        .await
        .map_err(|e| PeerError::Call(Box::new(tonic::Status::from_error(Box::new(e)))))
}

/// The reply came from a member. It is checked all the same: a node that starts with an identity its
/// peers refuse is hard to understand later.
fn check(reply: JoinReply, token: &JoinToken, key: &NodeKey) -> Result<Joined, PeerError> {
    let bad = |e: &dyn std::fmt::Display| PeerError::Certificate(format!("in the join reply: {e}"));
    let (cluster, spki) = ca_subject(&reply.ca_certificate).map_err(|e| bad(&e))?;
    if spki != *token.ca() {
        return Err(bad(&"the CA is not the one that the token pins"));
    }
    trust::check_issued(&reply.certificate, &reply.ca_certificate).map_err(|e| bad(&e))?;
    let proved = subject(&[CertificateDer::from(reply.certificate.as_ref())])?;
    let claimed = reply.cluster_id().map_err(|e| bad(&e))?;
    if (proved.cluster, proved.node.0) != (claimed, reply.node) || proved.cluster != cluster {
        return Err(bad(&"the certificate is not for this node of this cluster"));
    }
    if proved.spki != key.spki_sha256() {
        return Err(bad(&"the certificate is for another key"));
    }
    let peers: Result<Vec<_>, Invalid> = reply.peers.into_iter().map(peer).collect();
    Ok(Joined {
        node: proved.node,
        cluster,
        epoch: reply.epoch,
        cert: reply.certificate.to_vec(),
        ca_cert: reply.ca_certificate.to_vec(),
        cluster_key: ClusterKey::from_bytes(&reply.cluster_key).map_err(|e| bad(&e))?,
        peers: peers.map_err(|e| bad(&e))?,
    })
}

pub(crate) fn peer(p: Peer) -> Result<(NodeId, PeerInfo), Invalid> {
    Ok((NodeId(p.node), PeerInfo { spki: array("spki", &p.spki)?, addr: p.addr }))
}
