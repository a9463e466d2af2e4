//! The vocabulary every other crate speaks: names, digests, identifiers, actions.
//!
//! Everything here is parsed once, at the edge, and is valid by construction afterwards. No IO, no
//! async, no hashing. The serde forms of these types are part of the replicated log and of the
//! records on disk: a field may only be added by minting a new record shape.

mod access;
mod actor;
mod digest;
mod ids;
mod layout;
mod media;
mod name;
mod network;
mod point;
mod receipt;
mod round_trip;

pub use access::{AccessRevisions, Action, Resource, Touched};
pub use actor::{Actor, HttpRequestId, HttpRequestIdError, Origin, Principal};
pub use digest::{Algorithm, Digest, DigestError, Digests, Root};
pub use ids::{
    ClusterId, CredentialId, NodeId, PrincipalId, ProjectId, RepoId, RequestId, SessionId, UploadId,
    UploadIdError,
};
pub use layout::{Durability, LabelError, Location, Roles, label};
pub use media::{MediaType, MediaTypeError};
pub use name::{NameError, ProjectName, Reference, RepoName, Tag};
pub use network::Network;
pub use point::StatePoint;
pub use receipt::Receipt;
pub use round_trip::RoundTrip;
