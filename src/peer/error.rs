//! What can go wrong between peers.

use std::io;
use std::path::PathBuf;

use clawhub_types::NodeId;

use crate::{CallCode, Refusal};

/// A connection or call that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The address asked for.
        addr: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// This node's own key, certificate and handshake do not belong together.
    #[error("unusable identity: {0}")]
    Identity(String),
    /// The directory knows no such member.
    #[error("node {0} is not a member")]
    UnknownNode(NodeId),
    /// The peer could not be reached, or the connection broke.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It took too long.
    #[error("timed out: {0}")]
    Timeout(&'static str),
    /// A QUIC connection could not be made, or broke.
    #[error("quic: {0}")]
    Quic(String),
    /// The peer's certificate is not one of this cluster's nodes'.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The peer broke the protocol.
    #[error("protocol: {0}")]
    Protocol(&'static str),
    /// The peer refused this node; its reason.
    #[error("the peer refused: {0}")]
    RefusedBy(Refusal),
    /// This node refused the peer; its reason.
    #[error("refused the peer: {0}")]
    Refused(Refusal),
    /// An earlier caller just failed to connect; the same answer for those who waited with it.
    #[error("{0}")]
    Shared(String),
    /// The endpoint is closed, or serves already.
    #[error("the endpoint is closed or serves already")]
    Closed,
    /// A call of the join service was answered with an error.
    #[error("{}", .0.message())]
    Call(Box<tonic::Status>),
}

impl PeerError {
    /// Why the peer did not let this node in, if that is what went wrong.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            PeerError::RefusedBy(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// What kind of failure a call was answered with, and the answer's words.
    pub fn answer(&self) -> Option<(CallCode, &str)> {
        match self {
            PeerError::Call(status) => Some((status.code().into(), status.message())),
            _ => None,
        }
    }

    /// The same answer for those who waited with the caller that got this one.
    pub(crate) fn shared(&self) -> PeerError {
        match self {
            PeerError::RefusedBy(refusal) => PeerError::RefusedBy(refusal.clone()),
            other => PeerError::Shared(other.to_string()),
        }
    }

    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> PeerError {
        move |source| PeerError::Io { what, source }
    }
}

/// A key or certificate that cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file can be read or written by others than its owner.
    #[error("{}: mode {mode:04o} lets others in; it must be 0600", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not a key of the expected form.
    #[error("not a usable key: {0}")]
    Key(String),
    /// A certificate or certification request is malformed or does not belong here.
    #[error("not a usable certificate: {0}")]
    Certificate(String),
    /// Something sealed does not open: another key, another purpose, or it was changed.
    #[error("sealed value does not open under this key")]
    Sealed,
}
