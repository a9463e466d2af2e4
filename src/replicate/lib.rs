//! Bytes between peers: mirroring uploads as they arrive, fetching blobs while serving them, and making
//! copies where a policy asks for them.
//!
//! # State
//! Nothing here is durable. A [`fetch`](Replicate::fetch) in progress owns a partial file of the blob
//! store, which survives a restart; a [`Mirror`] owns an upload session on its partner. A crash loses only work
//! that is started again. Which peers are alive it asks [`Liveness`].
//!
//! This crate returns receipts and never proposes: what a copy means is for the layers above.

mod ensure;
mod failure;
mod fetch;
mod handover;
mod mirror;
mod progress;
mod relay;
mod serve;
mod step;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use clawhub_blobs::{BlobError, BlobStore};
use clawhub_kv::Kv;
use clawhub_liveness::Liveness;
use clawhub_peer::{Endpoint, PeerError};
use clawhub_policy::Layout;
use clawhub_state::View;
use clawhub_types::{Digests, NodeId, Root};
use clawhub_wire::blob as pb;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use clawhub_peer::frame::{
    BodyFrame, FrameError, read_body, read_message, write_body, write_body_end, write_message,
};
pub use failure::CopyFailure;
pub use fetch::{Fetch, MEMORY as FETCH_MEMORY};
pub use mirror::Mirror;
pub use relay::{MEMORY as RELAY_MEMORY, Relay};
pub use serve::STREAM_MEMORY;
pub use step::{Asked, Refused, StepAnswer, StepBody, StepError, StepOp, UploadStep, Vouched};

/// Why bytes could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum ReplicateError {
    /// The peer cannot be reached or stopped talking.
    #[error("node {node} is unreachable: {reason}")]
    Unreachable {
        /// The peer.
        node: NodeId,
        /// What happened.
        reason: String,
    },
    /// The peer does not hold the blob although the state says so.
    #[error("node {0} does not hold the blob")]
    NotHeld(NodeId),
    /// The peer answered that it cannot do what was asked.
    #[error("node {node} refused: {reason}")]
    Refused {
        /// The peer.
        node: NodeId,
        /// What the asker decides by.
        failure: CopyFailure,
        /// Its words.
        reason: String,
    },
    /// Every holder was tried.
    #[error("no holder could supply the blob: {0}")]
    Exhausted(String),
    /// The local store failed.
    #[error(transparent)]
    Local(#[from] BlobError),
}

impl ReplicateError {
    fn unreachable(node: NodeId, reason: impl ToString) -> Self {
        ReplicateError::Unreachable { node, reason: reason.to_string() }
    }

    /// What the peer said that does not make a copy, or does not go on with one.
    fn refused(node: NodeId, failed: pb::CopyFailed) -> Self {
        let failure = CopyFailure::from(failed.kind());
        if failure == CopyFailure::OtherBytes {
            // The bytes changed on their way or on its disk, or its owner sends others under the same name.
            tracing::error!(%node, reason = failed.text, "a peer's copy is not of the bytes that it should be of");
        }
        ReplicateError::Refused { node, failure, reason: failed.text }
    }

    fn peer(node: NodeId, error: PeerError) -> Self {
        Self::unreachable(node, error)
    }
}

/// A blob as the state knows it: what a copy must turn out to be.
#[derive(Clone, Debug)]
pub struct ReplicaSpec {
    /// The BLAKE3 root.
    pub root: Root,
    /// Length in bytes.
    pub size: u64,
    /// The root's generation, for the receipt.
    pub generation: u64,
    /// Client digests that a full copy must reproduce.
    pub digests: Digests,
    /// Nodes that hold it, in any order.
    pub holders: Vec<NodeId>,
}

/// Gives the current state store; it changes when a snapshot is installed.
pub type StateSource = Arc<dyn Fn() -> Arc<dyn Kv> + Send + Sync>;

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Replicate {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    blobs: BlobStore,
    endpoint: Endpoint,
    state: StateSource,
    liveness: Liveness,
    /// One fetch per root; an entry leaves when its fetch ends.
    fetches: Mutex<HashMap<Root, Fetch>>,
    /// Memory for blobs that are passed through.
    relays: relay::Places,
    /// Memory for copies that are received.
    receiving: Semaphore,
    limits: Limits,
}

/// How long peers may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A partner may take so long to fsync what it has of a mirror, or to hash it again. While more of it comes, that
    /// does not count.
    pub fsync: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { fsync: Duration::from_secs(60) }
    }
}

impl Replicate {
    /// Moves bytes between `blobs` and the peers that `endpoint` reaches. The cache of `blobs` looks at this state
    /// before it deletes anything.
    pub fn new(blobs: BlobStore, endpoint: Endpoint, liveness: Liveness, state: StateSource) -> Self {
        Replicate::with_limits(blobs, endpoint, liveness, state, Limits::default())
    }

    /// The same with other limits.
    pub fn with_limits(
        blobs: BlobStore,
        endpoint: Endpoint,
        liveness: Liveness,
        state: StateSource,
        limits: Limits,
    ) -> Self {
        let me = liveness.me();
        let record = state.clone();
        blobs.cache().decide_by(move |root| is_holder(&*record(), me, root));
        let inner = Inner {
            me,
            blobs,
            endpoint,
            state,
            liveness,
            fetches: Mutex::default(),
            relays: relay::Places::default(),
            receiving: Semaphore::new(fetch::RECEIVING),
            limits,
        };
        Replicate { inner: Arc::new(inner) }
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.inner.me
    }

    /// Which peers are alive.
    pub fn liveness(&self) -> &Liveness {
        &self.inner.liveness
    }

    /// The local store.
    pub fn blobs(&self) -> &BlobStore {
        &self.inner.blobs
    }

    /// The peer endpoint, for streams that other layers open.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// The members and where they stand; empty if the state cannot be read.
    fn layout(&self) -> Layout {
        let state = (self.inner.state)();
        View::new(&*state).cluster().layout().unwrap_or_else(|error| {
            tracing::error!(%error, "the state cannot be read");
            Layout { nodes: Vec::new() }
        })
    }

    /// Runs what depends on a peer until it is done or the peer is taken for dead.
    ///
    /// # Errors
    /// [`ReplicateError::Unreachable`] if the peer died first.
    async fn while_alive<T>(
        &self,
        node: NodeId,
        work: impl Future<Output = Result<T, ReplicateError>>,
    ) -> Result<T, ReplicateError> {
        tokio::select! {
            done = work => done,
            () = self.inner.liveness.lost(node) => Err(ReplicateError::unreachable(node, "it stopped answering")),
        }
    }
}

/// Whether the state names a node as holder of a root; nothing if it cannot be read.
fn is_holder(state: &dyn Kv, node: NodeId, root: &Root) -> Option<bool> {
    let record = View::new(state).blob().root(root);
    let record =
        record.inspect_err(|error| tracing::error!(%root, %error, "the state cannot be read")).ok()?;
    Some(record.is_some_and(|record| record.holders.contains(&node)))
}
