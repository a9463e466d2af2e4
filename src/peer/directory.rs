//! What this crate asks about members: who is one, where it is, and what may be asked by whoever connects. The answers
//! are the replicated state's; nothing is kept here.

use clawhub_types::NodeId;

use crate::key::sha256;
use crate::{Hello, Refusal};

/// How to reach and recognise a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// `host:port`, TCP and UDP.
    pub addr: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its key.
    pub spki: [u8; 32],
}

/// What a peer has proved by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// SHA-256 of the SubjectPublicKeyInfo of its key.
    pub spki: [u8; 32],
    /// SHA-256 of the certificate of the CA, one of those believed here, that issued it one for this key.
    pub ca: [u8; 32],
    /// The same of the CA that is to follow that one, by this node's own files.
    pub followed_by: Option<[u8; 32]>,
}

impl Proof {
    /// Whether the CA that has this certificate, DER, issued it.
    pub fn is_of(&self, ca_cert: &[u8]) -> bool {
        self.ca == certificate_sha256(ca_cert)
    }

    /// Whether the CA that has this certificate, DER, follows the one that issued it.
    pub fn is_before(&self, ca_cert: &[u8]) -> bool {
        self.followed_by == Some(certificate_sha256(ca_cert))
    }
}

/// SHA-256 of a certificate, DER: what a [`Proof`] names a CA by.
pub fn certificate_sha256(cert: &[u8]) -> [u8; 32] {
    sha256(cert)
}

/// What a node that is let in may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is a member: whatever members ask of each other.
    Member,
    /// This node is behind and knows only from other members that it is one: it may bring the log (votes, entries,
    /// snapshots), by which this node learns it itself, and nothing else.
    LogOnly,
}

/// What the replicated state says about members. Asked on every connection, and again about those that live whenever
/// its answers may have changed ([`Endpoint::review`](crate::Endpoint::review)).
pub trait Directory: Send + Sync + 'static {
    /// Where a member is; `None` if there is no such member.
    fn lookup(&self, node: NodeId) -> Option<PeerInfo>;

    /// Whether a node that has proved this and says this of itself may connect, or be connected to, and what for.
    /// Cluster, epoch, and that the certificate is the named node's were checked before.
    ///
    /// # Errors
    /// The reason, which the peer is told: not a member, another key, a boot counter that is not new.
    fn admit(&self, hello: &Hello, proof: &Proof) -> Result<Admission, Refusal>;
}
