//! The join service: the one thing that a stranger may ask a member for.
//!
//! The token is the whole authority. It is consumed by the log entry that makes the node a member, so that it
//! lets in one node however many members are asked at once; the certificate is issued after that entry
//! was applied, for the id it gave. A token is judged by this node's own state first, since whoever reaches the port
//! can show one: nothing is proposed for one that is no good.

use std::sync::Arc;

use clawhub_consensus::{Consensus, Who};
use clawhub_peer::{ClusterKey, Csr, JoinSecret, KeyFiles};
use clawhub_state::cluster::{
    ClusterCmd, ClusterRecord, ClusterRejected, ClusterReply, NodeRecord, NodeSpec, TokenStanding,
};
use clawhub_state::{Command, Reply, View};
use clawhub_types::{Network, NodeId};

use crate::attempts::Attempts;
use crate::proposal::PATIENCE;
use crate::{ClusterError, authority};

/// Lets nodes in that show a good token.
pub struct JoinService {
    consensus: Consensus,
    keys: Arc<KeyFiles>,
    attempts: Attempts,
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
    pub fn new(consensus: Consensus, keys: Arc<KeyFiles>) -> JoinService {
        JoinService { consensus, keys, attempts: Attempts::default() }
    }

    /// Makes the holder of the token, who calls from `from`, a member, as a node that says `spec` of itself.
    ///
    /// # Errors
    /// [`ClusterError::Rejected`] if the token is not good for it, [`ClusterError::Unavailable`] if the cluster does
    /// not answer, or that network has shown too many unknown tokens; then the same token may be shown again.
    pub async fn join(
        &self,
        from: Network,
        secret: &JoinSecret,
        csr: Csr,
        spec: NodeSpec,
    ) -> Result<Welcome, ClusterError> {
        if let Some(node) = self.judge(from, &secret.hash(), &spec).await? {
            return self.welcome(node, csr);
        }
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

    /// The member that the holder of a used token is already; `None` if the token lets it become one, as far as can be
    /// told before the log decides.
    async fn judge(
        &self,
        from: Network,
        token: &[u8; 32],
        spec: &NodeSpec,
    ) -> Result<Option<NodeId>, ClusterError> {
        let mut standing = self.standing(token)?;
        if standing == TokenStanding::Unknown {
            // It may have been made a moment ago, elsewhere. Who asks for that again and again waits.
            if !self.attempts.allow(from) {
                let text = "too many unknown join tokens from there; try again later".to_owned();
                return Err(ClusterError::Unavailable(text));
            }
            self.consensus.barrier().await?;
            standing = self.standing(token)?;
        }
        match standing {
            TokenStanding::Good => Ok(None),
            // The answer to the first attempt may have been lost; only the same key may ask for it again.
            TokenStanding::Used(node) if self.has_key(node, spec)? => Ok(Some(node)),
            TokenStanding::Used(_) | TokenStanding::Unknown | TokenStanding::Expired => {
                Err(ClusterError::Rejected(ClusterRejected::TokenInvalid.into()))
            }
        }
    }

    fn standing(&self, token: &[u8; 32]) -> Result<TokenStanding, ClusterError> {
        let state = self.consensus.state();
        Ok(View::new(&*state.snapshot()).cluster().token(token)?)
    }

    fn has_key(&self, node: NodeId, spec: &NodeSpec) -> Result<bool, ClusterError> {
        let state = self.consensus.state();
        let member = View::new(&*state).cluster().node(node)?;
        Ok(member.is_some_and(|member| !member.removed && member.spec.spki == spec.spki))
    }

    fn welcome(&self, node: NodeId, csr: Csr) -> Result<Welcome, ClusterError> {
        let state = self.consensus.state();
        let snapshot = state.snapshot();
        let view = View::new(&*snapshot).cluster();
        let missing = || ClusterError::internal("the cluster's record is missing");
        let cluster = view.record()?.ok_or_else(missing)?;
        let (ca, cluster_key) = authority::open(&cluster, &self.keys)?;
        let certificate = ca.issue(csr, node)?;
        let members = view.nodes()?.into_iter().filter(|member| !member.removed).collect();
        Ok(Welcome { node, cluster, certificate, cluster_key, members })
    }
}
