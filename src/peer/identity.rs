//! Who a node is: its key and certificate, and the one name in the certificate,
//! `clawhub://<cluster>/node/<id>`.

use clawhub_types::{ClusterId, NodeId};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::connections::Reach;
use crate::key::sha256;
use crate::{Admission, Hello, KeyError, NodeKey, PeerError};

/// Who this node is.
#[derive(Debug)]
pub struct Identity {
    /// Its key.
    pub key: NodeKey,
    /// Its certificate, DER.
    pub cert: Vec<u8>,
    /// The certificate of the cluster's CA, DER.
    pub ca_cert: Vec<u8>,
    /// What it says of itself.
    pub hello: Hello,
}

/// In the extensions of every gRPC request over an admitted connection: who sent it, and what it may ask for.
#[derive(Clone, Debug)]
pub(crate) struct PeerId {
    pub(crate) node: NodeId,
    pub(crate) reach: Reach,
}

/// A member that opened a stream here, proved by certificate, handshake and membership. Only this crate makes
/// one, of a connection that it has admitted, so that whoever is given one need not ask again.
#[derive(Debug, PartialEq, Eq)]
pub struct Caller(NodeId);

impl Caller {
    /// The member that was admitted.
    pub(crate) fn admitted(node: NodeId) -> Caller {
        Caller(node)
    }

    /// Which member.
    pub fn node(&self) -> NodeId {
        self.0
    }
}

/// The member that sent a request.
///
/// # Errors
/// `UNAUTHENTICATED` if the request came over a connection without a client certificate; `PERMISSION_DENIED` if its
/// sender was let in for the log only.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<NodeId, tonic::Status> {
    let peer = sender(request)?;
    match peer.reach.get() {
        Admission::Member => Ok(peer.node),
        Admission::LogOnly => Err(tonic::Status::permission_denied("only a member may ask for this")),
    }
}

/// The sender of a request that is about the log: a member, or a node that this one cannot know yet
/// ([`Admission::LogOnly`]).
///
/// # Errors
/// `UNAUTHENTICATED` if the request came over a connection without a client certificate.
pub fn log_caller<T>(request: &tonic::Request<T>) -> Result<LogCaller, tonic::Status> {
    sender(request).map(|peer| LogCaller(peer.clone()))
}

/// The sender of a request that is about the log.
#[derive(Clone, Debug)]
pub struct LogCaller(PeerId);

impl LogCaller {
    /// Which node.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// What it may ask for now: one that was let in for the log may have become known since.
    pub fn admission(&self) -> Admission {
        self.0.reach.get()
    }
}

fn sender<T>(request: &tonic::Request<T>) -> Result<&PeerId, tonic::Status> {
    let unknown = || tonic::Status::unauthenticated("the caller is not a member");
    request.extensions().get::<PeerId>().ok_or_else(unknown)
}

/// The name in the CA's certificate.
pub(crate) fn ca_uri(cluster: ClusterId) -> String {
    format!("clawhub://{cluster}")
}

/// The name in a node's certificate.
pub(crate) fn node_uri(cluster: ClusterId, node: NodeId) -> String {
    format!("clawhub://{cluster}/node/{node}")
}

/// What a node's certificate proves, once its signature was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub(crate) spki: [u8; 32],
}

/// Reads the subject of a TLS peer's chain. TLS has checked that the first certificate is signed by the
/// CA and that the peer owns its key; the others are not looked at.
pub(crate) fn subject(chain: &[CertificateDer<'_>]) -> Result<Subject, PeerError> {
    let bad = |what: &str| PeerError::Certificate(what.to_owned());
    let leaf = chain.first().ok_or_else(|| bad("none was presented"))?;
    let parsed = parse(leaf).map_err(|e| bad(&e.to_string()))?;
    let uri = only_uri(&parsed).ok_or_else(|| bad("it does not hold exactly one name"))?;
    let (cluster, node) = parse_node_uri(uri).ok_or_else(|| bad("its name is not a node's"))?;
    Ok(Subject { cluster, node, spki: sha256(parsed.public_key().raw) })
}

/// Reads the cluster of a CA's certificate and the SHA-256 of its SubjectPublicKeyInfo.
pub(crate) fn ca_subject(cert: &[u8]) -> Result<(ClusterId, [u8; 32]), KeyError> {
    let bad = |what: &str| KeyError::Certificate(what.to_owned());
    let parsed = parse(cert)?;
    if !parsed.is_ca() {
        return Err(bad("it is not a certificate authority's"));
    }
    let uri = only_uri(&parsed).ok_or_else(|| bad("it does not hold exactly one name"))?;
    let cluster = uri.strip_prefix("clawhub://").and_then(|s| s.parse().ok());
    let cluster = cluster.ok_or_else(|| bad("its name is not a cluster's"))?;
    if ca_uri(cluster) != uri {
        return Err(bad("its name is not in canonical form"));
    }
    Ok((cluster, sha256(parsed.public_key().raw)))
}

/// SHA-256 of the SubjectPublicKeyInfo of any certificate.
pub(crate) fn spki_of(cert: &[u8]) -> Result<[u8; 32], KeyError> {
    Ok(sha256(parse(cert)?.public_key().raw))
}

fn parse(cert: &[u8]) -> Result<X509Certificate<'_>, KeyError> {
    match X509Certificate::from_der(cert) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(KeyError::Certificate("bytes follow the certificate".into())),
        Err(e) => Err(KeyError::Certificate(e.to_string())),
    }
}

/// The alternative name, if there is exactly one and it is a URI.
fn only_uri<'a>(cert: &X509Certificate<'a>) -> Option<&'a str> {
    let names = cert.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Some(uri),
        _ => None,
    }
}

fn parse_node_uri(uri: &str) -> Option<(ClusterId, NodeId)> {
    let (cluster, node) = uri.strip_prefix("clawhub://")?.split_once("/node/")?;
    let cluster = cluster.parse().ok()?;
    let node = NodeId(node.parse().ok()?);
    // One identity, one spelling.
    (node_uri(cluster, node) == uri).then_some((cluster, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        let cluster = ClusterId([0xA0; 16]);
        let uri = node_uri(cluster, NodeId(12));
        assert_eq!(parse_node_uri(&uri), Some((cluster, NodeId(12))));
        for bad in [
            "",
            "clawhub://",
            "clawhub:///node/1",
            &uri.to_uppercase(),
            &uri.replace("12", "012"),
            &uri.replace("12", "+12"),
            &uri.replace("12", ""),
            &uri.replace("12", "-1"),
            &uri.replace("12", "12/"),
            &uri.replace("a0", "A0"),
            &uri.replace("clawhub", "https"),
            &ca_uri(cluster),
        ] {
            assert_eq!(parse_node_uri(bad), None, "{bad}");
        }
    }
}
