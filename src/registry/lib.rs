//! The use cases of the registry: push, pull, mount, publish, list. The only place that sequences
//! blob stores, peers and consensus.
//!
//! # Who may do what
//! A use case is a method of a handle, and a handle is made from a permit that holds its repository: [`Reader`],
//! [`Repo`], [`Repositories`]. No use case is told a repository beside a permit. Whoever reads has one snapshot
//! of the state ([`At`]) for the decision and for everything that is read.
//!
//! # Order
//! Bytes first, metadata second: a blob's bytes are hashed and fsynced on the nodes that the project's
//! policy asks for before the command that names them is proposed, and a manifest is acknowledged only
//! after apply has found every reference linked, live and held. What apply decides, this crate only
//! translates.
//!
//! # State
//! In memory only: the mirrors of open uploads and the last finished ones (`upload`). A crash loses no
//! acknowledged byte and no upload beyond its last durable offset.

mod api;
mod body;
mod copies;
mod core;
mod error;
#[cfg(test)]
mod flows_test;
mod guard;
mod inventory;
mod lost;
mod manifest;
mod parts;
mod repo;
#[cfg(test)]
mod rights_test;
#[cfg(test)]
mod snapshot_test;
mod source;
#[cfg(test)]
mod testing;
mod upload;

use std::sync::Arc;

use clawhub_auth::{Act, Authorizer, Permit, Push};
use clawhub_blobs::BlobStore;
use clawhub_consensus::Consensus;
use clawhub_kv::Kv;
use clawhub_replicate::Replicate;
use clawhub_state::{Command, Reply};
use clawhub_types::{NodeId, RepoName};

pub use crate::core::Limits;
pub use api::{BlobView, Freshness, Intent, ManifestView, Page, PutManifest, PutView, Referrer};
pub use body::{BodyError, BodyStream, Chunk, UploadView};
pub use clawhub_blobs::DataFile;
pub use error::{Error, Invalid, Kind, What};
pub use inventory::Copied;
pub use manifest::MAX_MANIFEST;
pub use repo::{At, Reader, Repo, Repositories};
pub use upload::OwnUploads;

use crate::core::Core;
use crate::parts::Parts;

/// The use cases, over the parts they need. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Arc<Parts>,
}

impl Registry {
    /// Puts the parts together.
    pub fn new(consensus: Consensus, replicate: Replicate, authorizer: Authorizer, limits: Limits) -> Self {
        let parts = Arc::new(Parts::new(Core { consensus, replicate, authorizer, limits }));
        Registry { inner: Arc::new(Inner { parts }) }
    }

    /// The state as this node has applied it by now. Enough for a GET by digest, since content never changes,
    /// and to permit a write, since apply looks at the permit once more.
    pub fn now(&self) -> At {
        At::now(&self.inner.parts)
    }

    /// The state with everything in it that was acknowledged before the call.
    ///
    /// # Errors
    /// Unavailable while there is no majority to ask.
    pub async fn latest(&self) -> Result<At, Error> {
        At::latest(&self.inner.parts).await
    }

    /// What the permit allows to do to its repository.
    pub fn repo<A: Act<On = RepoName>>(&self, permit: Permit<A>) -> Repo<A> {
        Repo::new(self.inner.parts.clone(), permit)
    }

    /// The steps of uploads that this node owns, for a member that sends on what its client asked for.
    pub fn own_uploads(&self, permit: Permit<Push>) -> OwnUploads<'_> {
        self.inner.parts.uploads.own(permit)
    }

    fn core(&self) -> &Core {
        &self.inner.parts.core
    }

    fn me(&self) -> NodeId {
        self.core().me()
    }

    fn blobs(&self) -> &BlobStore {
        self.core().blobs()
    }

    fn state(&self) -> Arc<dyn Kv> {
        self.core().state()
    }

    async fn propose_system(&self, cmd: Command) -> Result<Reply, Error> {
        Ok(self.core().propose_system(cmd).await??)
    }
}
