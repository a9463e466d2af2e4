//! Code generated from `proto/` and the conversions between it and the vocabulary of
//! [`clawhub_types`]. Protobuf types stop here: a crate that receives one converts it at once, and
//! what does not convert is an [`Invalid`] message, never a default.
//!
//! The crate owns no state. Messages tolerate unknown fields; nothing here is ever written to disk.

mod access;
mod convert;
mod receipt;
mod secret;

pub use convert::{Invalid, array, required};

/// The most that one received message may take, bytes. It is what generated services enforce when they
/// are not told otherwise.
pub const MESSAGE_LIMIT: usize = 4 << 20;

/// Messages and services between members: [`raft_client`](peer::raft_client),
/// [`raft_server`](peer::raft_server), [`join_client`](peer::join_client),
/// [`join_server`](peer::join_server).
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; what is documented is documented in proto/clawhub/peer/v1"
)]
pub mod peer {
    tonic::include_proto!("clawhub.peer.v1");
}

/// Messages on the QUIC streams that carry blobs.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; what is documented is documented in proto/clawhub/blob/v1"
)]
pub mod blob {
    tonic::include_proto!("clawhub.blob.v1");
}

/// Messages and service of a node's administration socket; all of them serialize to JSON.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; what is documented is documented in proto/clawhub/admin/v1"
)]
pub mod admin {
    tonic::include_proto!("clawhub.admin.v1");
}
