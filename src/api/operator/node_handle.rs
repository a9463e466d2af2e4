//! What the node hands to its operators' service: how to become a member, how the node is, and, once it is a
//! member, the use cases of the cluster.

use std::sync::{Arc, OnceLock};

use clawhub_blobs::BlobStore;
use clawhub_cluster::{Bootstrap, Cluster};
use clawhub_jobs::Findings;
use clawhub_types::Durability;
use futures::future::BoxFuture;

/// The node, as far as its operators ask for it.
#[derive(Clone)]
pub struct NodeHandle {
    /// The node's name.
    pub name: String,
    /// The default policy of a cluster that is founded here, where the operator names none.
    pub durability: Durability,
    /// How the node becomes a member.
    pub bootstrap: Bootstrap,
    /// What the node is a member of, once it runs as one.
    pub member: Arc<OnceLock<Member>>,
    /// How the node is now.
    pub health: Arc<dyn Fn() -> BoxFuture<'static, Health> + Send + Sync>,
}

/// What can be asked of a member only.
pub struct Member {
    /// Its cluster.
    pub cluster: Cluster,
    /// Its blobs.
    pub blobs: BlobStore,
    /// What its reconcilers found last.
    pub findings: Findings,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Why it should get no requests now; empty if it should.
    pub not_ready: Vec<String>,
    /// Why the cluster takes fewer requests than it should, this node and the others alike.
    pub warnings: Vec<String>,
    /// What is wrong with its storage; `sound` if nothing is.
    pub storage: String,
}
