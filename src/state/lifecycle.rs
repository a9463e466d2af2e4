//! What crosses domains: the end of a node, and later of a project.
//!
//! It owns no keys. Each domain undoes its own part, and a refusal of one undoes them all.

use clawhub_types::{Action, NodeId, Resource, Touched};
use serde::{Deserialize, Serialize};

use crate::proposers::Proposers;
use crate::reply::Reply;
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};
use crate::{blob, cluster};

/// A command that ends something in several domains at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LifecycleCmd {
    /// A node leaves for good; its id is never used again, its copies no longer count and its sessions
    /// are closed. `BlobRejected::RootShort` while that would leave a root without the copies its projects ask
    /// for, unless forced; `ClusterRejected::LastMember` in any case.
    RemoveNode {
        /// The node.
        node: NodeId,
        /// Remove although copies are lost.
        force: bool,
    },
}

impl LifecycleCmd {
    pub(crate) fn resource(&self) -> Touched {
        Resource::Cluster.into()
    }

    /// None: only operators end a node, on no permit.
    pub(crate) fn action(&self) -> Option<Action> {
        None
    }

    /// Who proposes it.
    pub(crate) fn proposers(&self) -> Proposers {
        let LifecycleCmd::RemoveNode { .. } = self;
        Proposers::OPERATORS
    }

    /// Whether it may not be applied twice.
    pub(crate) fn needs_identity(&self) -> bool {
        true
    }

    pub(crate) fn apply(&self, tx: &mut Tx<'_>, cx: &mut ApplyContext) -> Result<Reply, Stop> {
        let LifecycleCmd::RemoveNode { node, force } = self;
        blob::forget_holder(tx, cx, *node, *force)?;
        cluster::remove(tx, cx, *node, *force)
    }
}
