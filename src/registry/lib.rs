//! The use cases of the registry: push, pull, mount, publish, list. The only place that sequences
//! blob stores, peers and consensus.
//!
//! # Order
//! Bytes first, metadata second: a blob's bytes are hashed and fsynced on the nodes that the project's
//! policy asks for before the command that names them is proposed, and a manifest is acknowledged only
//! after apply has found every reference linked, live and held. What apply decides, this crate only
//! translates.
//!
//! # State
//! In memory only: the mirrors of open uploads and the last finished ones ([`session`]). A crash loses
//! no acknowledged byte and no upload beyond its last durable offset.

mod api;
mod error;
#[cfg(test)]
mod flows_test;
mod forward;
mod list;
mod manifest;
mod mirroring;
mod publish;
mod pull;
mod push;
mod reconcile;
mod serve;
mod session;
mod source;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use clawhub_auth::{Authorizer, Permit, Principal};
use clawhub_blobs::BlobStore;
use clawhub_consensus::{Committed, Consensus, ProposeError, Who};
use clawhub_kv::Kv;
use clawhub_policy::{Layout, Policy};
use clawhub_replicate::Replicate;
use clawhub_state::{Command, View};
use clawhub_types::{AccessRevisions, Action, Actor, NodeId, RepoName, Resource};
use futures::future::BoxFuture;

pub use api::{
    Access, BlobView, BodyError, BodyStream, Freshness, ManifestView, Page, PutManifest, PutView, Referrer,
    UploadView,
};
pub use clawhub_blobs::DataFile;
pub use error::{Error, Invalid, Kind, What};
pub use manifest::MAX_MANIFEST;
pub use reconcile::{Census, Reconciled};

/// The use cases, over the parts they need. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    consensus: Consensus,
    replicate: Replicate,
    authorizer: Authorizer,
    limits: Limits,
    sessions: session::Sessions,
    census: parking_lot::Mutex<Option<Census>>,
}

/// Bounds of what one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a write or a read barrier may wait for the cluster before it answers 503.
    pub wait: std::time::Duration,
    /// How long a node that is cut off goes on answering GET by digest.
    pub cut_off: std::time::Duration,
}

impl Registry {
    /// Puts the parts together.
    pub fn new(consensus: Consensus, replicate: Replicate, authorizer: Authorizer, limits: Limits) -> Self {
        let (sessions, census) = (session::Sessions::default(), parking_lot::Mutex::default());
        let inner = Inner { consensus, replicate, authorizer, limits, sessions, census };
        Registry { inner: Arc::new(inner) }
    }

    /// Decides whether `principal` may do `action` on `scope`.
    ///
    /// # Errors
    /// [`Kind::Unauthenticated`] or [`Kind::Denied`].
    pub fn authorize(
        &self,
        principal: &Principal,
        action: Action,
        scope: &Resource,
    ) -> Result<Permit, Error> {
        let state = self.state();
        Ok(self.inner.authorizer.authorize(principal, action, scope, &View::new(&*state))?)
    }

    fn me(&self) -> NodeId {
        self.inner.replicate.me()
    }

    fn blobs(&self) -> &BlobStore {
        self.inner.replicate.blobs()
    }

    fn state(&self) -> Arc<dyn Kv> {
        self.inner.consensus.state()
    }

    /// Waits until this node has applied everything that was acknowledged before the call.
    async fn barrier(&self) -> Result<u64, Error> {
        Ok(self.inner.consensus.barrier().await?)
    }

    /// Proposes what a client asked for, under the rights it was permitted with.
    async fn propose(&self, permit: &Permit, cmd: impl Into<Command>) -> Result<Committed, ProposeError> {
        self.propose_as(Who { actor: permit.actor().clone(), access: permit.access() }, cmd.into()).await
    }

    /// Proposes what the cluster itself wants.
    async fn propose_system(&self, cmd: impl Into<Command>) -> Result<Committed, ProposeError> {
        self.propose_as(Who { actor: Actor::system(), access: AccessRevisions::default() }, cmd.into()).await
    }

    /// Boxed: the compiler cannot prove the generic future `Send` once it is nested in others.
    fn propose_as(&self, who: Who, cmd: Command) -> BoxFuture<'_, Result<Committed, ProposeError>> {
        Box::pin(self.inner.consensus.propose(cmd, who, self.inner.limits.wait))
    }

    /// The policy that binds a repository's blobs, and the nodes it is to be met with.
    fn placement(&self, repo: &RepoName) -> Result<(Policy, Layout), Error> {
        let state = self.state();
        let view = View::new(&*state);
        Ok((view.project().policy_of(repo)?, view.cluster().layout()?))
    }
}
