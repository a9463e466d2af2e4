//! Members of a cluster, to each other: who a peer is, and the connections to it.
//!
//! **Identity.** A node owns a key ([`NodeKey`]) and a certificate that the cluster's [`Ca`] issued when
//! it joined; the certificate names cluster and node. TLS 1.3 proves the key and the signature. Then both
//! sides exchange a [`Hello`], and one function (`Authenticator::authenticate`) decides, for TCP and QUIC, for
//! callers and called alike, whether the certificate, the Hello and the replicated state
//! ([`Directory`]) agree. Nothing else in the product asks who a peer is.
//!
//! **Connections.** An [`Endpoint`] listens on one port number: TCP carries gRPC ([`Endpoint::channel`]),
//! UDP carries QUIC streams ([`Endpoint::open`]). Traffic of different [`Class`]es never shares a
//! connection. A connection without a client certificate reaches the routes for joining and nothing
//! else. Removal of a member closes its live connections ([`Endpoint::review`]), because TLS looks at
//! a certificate only once.
//!
//! **State.** The files of [`KeyFiles`], written durably before they are used. Everything else is in memory; a crash
//! loses connections, which are made again on the next use.
//!
//! **Replacing keys.** What is shown and believed at new connections ([`Keyring`]) may change while the endpoint
//! serves ([`Endpoint::renew`]). Calls that begin then go over new connections; those that are under way end where
//! they are.
//!
//! **Limits.** [`limits`] holds every bound of this crate in one place.

mod authenticate;
mod ca;
mod call;
mod conn;
mod connections;
mod directory;
mod endpoint;
mod error;
pub mod frame;
mod handshakes;
mod hello;
mod identity;
mod join;
mod key;
mod key_files;
mod keyring;
pub mod limits;
mod members;
mod port;
mod private_file;
mod quic;
mod quic_config;
mod refusal;
mod shown;
mod socket;
mod start_key;
mod tcp;
mod tls;
mod token;
mod traffic;
mod trust;

pub use ca::{Ca, Csr};
pub use call::CallCode;
pub use conn::stranger;
pub use connections::Standing;
pub use directory::{Admission, Directory, PeerInfo, Proof, certificate_sha256};
pub use endpoint::Endpoint;
pub use error::{KeyError, PeerError};
pub use hello::Hello;
pub use identity::{Caller, Identity, LogCaller, caller, log_caller};
pub use join::{Applicant, Joined, join};
pub use key::{ClusterKey, NodeKey};
pub use key_files::{KeyFiles, Keys};
pub use keyring::{Certified, Keyring};
pub use members::{Acquaintances, acquaintances};
pub use port::PeerPort;
pub use quinn::{RecvStream, SendStream};
pub use refusal::{Refusal, RefusalCode};
pub use start_key::StartKey;
pub use token::{JoinSecret, JoinToken, TokenError};
pub use tonic::service::Routes;
pub use traffic::{Class, StreamHandler};
