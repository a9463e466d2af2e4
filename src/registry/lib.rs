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
mod orphans;
#[cfg(test)]
mod publish_test;
#[cfg(test)]
mod repeat_test;
mod repo;
#[cfg(test)]
mod rights_test;
#[cfg(test)]
mod slow_test;
#[cfg(test)]
mod snapshot_test;
mod source;
#[cfg(test)]
mod testing;
mod upload;
mod use_cases;

use std::sync::Arc;
use std::time::Duration;

use clawhub_auth::{Act, Authorizer, Permit, Push};
use clawhub_consensus::Consensus;
use clawhub_replicate::Replicate;
use clawhub_types::RepoName;

pub use crate::core::Limits;
pub use api::{
    BlobView, Freshness, Intent, ManifestBody, ManifestView, Page, PageBudget, PutManifest, PutView, Referrer,
};
pub use body::{BodyError, BodyStream, Chunk, UploadView};
pub use clawhub_blobs::DataFile;
pub use error::{Error, Invalid, Kind, What};
pub use inventory::{Copied, Inventory};
pub use lost::LostCopies;
pub use manifest::MAX_MANIFEST;
pub use orphans::Orphans;
pub use repo::{At, Reader, Repo, Repositories};
pub use upload::{GATHER_MEMORY, UploadOp};

use crate::core::Core;
use crate::use_cases::UseCases;

/// The use cases, over the parts they need. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    use_cases: Arc<UseCases>,
}

impl Registry {
    /// Puts the parts together.
    pub fn new(consensus: Consensus, replicate: Replicate, authorizer: Authorizer, limits: Limits) -> Self {
        Registry { use_cases: Arc::new(UseCases::new(Core { consensus, replicate, authorizer, limits })) }
    }

    /// The state as this node has applied it by now. Enough for a GET by digest, since content never changes,
    /// and to permit a write, since apply looks at the permit once more.
    pub fn now(&self) -> At {
        At::now(&self.use_cases)
    }

    /// The state with everything in it that was acknowledged before the call.
    ///
    /// # Errors
    /// Unavailable while there is no majority to ask.
    pub async fn latest(&self) -> Result<At, Error> {
        At::latest(&self.use_cases).await
    }

    /// What the permit allows to do to its repository.
    pub fn repo<A: Act<On = RepoName>>(&self, permit: Permit<A>) -> Repo<A> {
        Repo::new(self.use_cases.clone(), permit)
    }

    /// Does a step of an upload that this node owns, for a member that sends on what its client asked for. Answers
    /// where the session stands then, unless it ended.
    ///
    /// # Errors
    /// As the calls of [`Repo`] that are named like the steps; [`What::Upload`] is unknown if another node owns it.
    pub async fn upload_step(
        &self,
        permit: &Permit<Push>,
        op: UploadOp,
    ) -> Result<Option<UploadView>, Error> {
        self.use_cases.uploads.step_here(permit, op).await
    }

    /// What should be here, compared with what is.
    pub fn inventory(&self) -> Inventory {
        Inventory::new(self.use_cases.core.clone())
    }

    /// The copies here that readers found to be bad.
    pub fn lost_copies(&self) -> &LostCopies {
        &self.use_cases.lost
    }

    /// The copies here that nobody counts on.
    pub fn orphans(&self) -> &Orphans {
        &self.use_cases.orphans
    }

    /// The log index this node has applied; moves whenever there may be something new to reconcile.
    pub fn applied(&self) -> u64 {
        self.use_cases.core.consensus.status().applied
    }

    /// Forgets uploads that nobody has touched for `idle`, and ends the mirrors of those that no step has used
    /// since the last call. Answers how many are forgotten.
    pub async fn expire_uploads(&self, idle: Duration) -> usize {
        self.use_cases.uploads.expire(idle).await
    }
}
