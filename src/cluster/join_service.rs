//! The join service: the one thing that a stranger may ask a member for.
//!
//! The token is the whole authority. It is consumed by the log entry that makes the node a member, so that it
//! lets in one node however many members are asked at once; the certificate is issued after that entry
//! was applied, for the id it gave.

use clawhub_consensus::{Consensus, Who};
use clawhub_peer::{Ca, ClusterKey, Csr, JoinSecret};
use clawhub_state::cluster::{ClusterCmd, ClusterRecord, ClusterReply, NodeRecord, NodeSpec};
use clawhub_state::{Command, Reply, View};
use clawhub_types::NodeId;

use crate::ClusterError;
use crate::proposal::PATIENCE;

/// Lets nodes in that show a good token.
pub struct JoinService {
    consensus: Consensus,
    cluster_key: ClusterKey,
}

/// What a node is given that joined.
pub struct Welcome {
    /// Its id.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterRecord,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The key that seals secrets in the state.
    pub cluster_key: ClusterKey,
    /// The members, itself among them.
    pub members: Vec<NodeRecord>,
}

impl JoinService {
    /// A service that lets nodes into the cluster of `consensus`.
    pub fn new(consensus: Consensus, cluster_key: ClusterKey) -> JoinService {
        JoinService { consensus, cluster_key }
    }

    /// Makes the holder of the token a member, as a node that says `spec` of itself.
    ///
    /// # Errors
    /// [`ClusterError::Rejected`] if the token is not good for it, [`ClusterError::Unavailable`] if the cluster does
    /// not answer; then the same token may be shown again.
    pub async fn join(&self, secret: &JoinSecret, csr: Csr, spec: NodeSpec) -> Result<Welcome, ClusterError> {
        let name = spec.name.clone();
        let cmd = ClusterCmd::Join { token: secret.hash(), node: spec };
        let committed = self.consensus.propose(Command::Cluster(cmd), Who::system(), PATIENCE).await?;
        let Reply::Cluster(ClusterReply::Joined(node)) = committed.reply else {
            return Err(ClusterError::internal("an unexpected answer to a join"));
        };
        // The leader has applied it; this node's own state may be a moment behind.
        if !self.consensus.wait_applied(committed.index, PATIENCE).await {
            let behind = "this member lags behind; join again with the same token";
            return Err(ClusterError::Unavailable(behind.to_owned()));
        }
        tracing::info!(%node, %name, "a node joined");
        self.welcome(node, csr)
    }

    fn welcome(&self, node: NodeId, csr: Csr) -> Result<Welcome, ClusterError> {
        let state = self.consensus.state();
        let snapshot = state.snapshot();
        let view = View::new(&*snapshot).cluster();
        let missing = || ClusterError::internal("the cluster's record is missing");
        let cluster = view.record()?.ok_or_else(missing)?;
        let ca = Ca::open(&cluster.ca_cert, &cluster.ca_key_sealed, &self.cluster_key)?;
        let certificate = ca.issue(csr, node)?;
        let members = view.nodes()?.into_iter().filter(|member| !member.removed).collect();
        Ok(Welcome { node, cluster, certificate, cluster_key: self.cluster_key.clone(), members })
    }
}
