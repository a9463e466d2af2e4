//! Queries about the cluster, its nodes, tokens and sessions.

use clawhub_policy::{Layout, NodeFacts, Uncovered, covered};
use clawhub_types::{Durability, NodeId, SessionId};

use super::keys;
use super::records::{ClusterRecord, KeysRecord, NodeRecord, SessionRecord, TokenRecord};
use crate::fault::Fault;
use crate::meta::{self, TickRecord};
use crate::read::Reader;

/// What a join token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStanding {
    /// It was never made, or is long forgotten.
    Unknown,
    /// It lets one node in.
    Good,
    /// It let this node in. The same key gets the same answer once more.
    Used(NodeId),
    /// Nobody used it in time.
    Expired,
}

/// What the state says of the cluster, its nodes, tokens and sessions.
#[derive(Clone, Copy)]
pub struct ClusterView<'a>(Reader<'a>);

impl<'a> From<Reader<'a>> for ClusterView<'a> {
    fn from(read: Reader<'a>) -> Self {
        ClusterView(read)
    }
}

impl ClusterView<'_> {
    /// The cluster, once it is initialised.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read; so for every query.
    pub fn record(&self) -> Result<Option<ClusterRecord>, Fault> {
        self.0.get(&keys::cluster())
    }

    /// Which keys are in force, and the rotation under way.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn keys(&self) -> Result<KeysRecord, Fault> {
        Ok(self.0.get(&keys::keys())?.unwrap_or_default())
    }

    /// The cluster clock, in milliseconds, as of the last entry.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn tick(&self) -> Result<u64, Fault> {
        Ok(self.0.get::<TickRecord>(&meta::tick_key())?.map_or(0, |tick| tick.0))
    }

    /// A node, member or removed.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn node(&self, id: NodeId) -> Result<Option<NodeRecord>, Fault> {
        self.0.get(&keys::node(id))
    }

    /// Every node that ever joined, removed ones too, ascending by id.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn nodes(&self) -> Result<Vec<NodeRecord>, Fault> {
        self.0.all(&keys::nodes())?.iter().map(|row| row.record()).collect()
    }

    /// The members as the placement rules see them.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn layout(&self) -> Result<Layout, Fault> {
        let members = self.nodes()?.into_iter().filter(|node| !node.removed);
        let nodes = members.map(|node| NodeFacts {
            id: node.id,
            storage: node.spec.roles.storage && !node.draining && !node.is_failing(),
            location: node.spec.location,
            voter: node.spec.roles.voter,
            weight: 1,
        });
        Ok(Layout { nodes: nodes.collect() })
    }

    /// Whether those who vote outlive the loss of any one failure domain that a durability is about.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read; the inner error says why they do not.
    pub fn votes(&self, durability: Durability) -> Result<Result<(), Uncovered>, Fault> {
        let membership = meta::membership(self.0.kv())?.map(|record| record.membership).unwrap_or_default();
        Ok(covered(durability, &membership.configs, &self.layout()?))
    }

    /// What a join token, known by the SHA-256 of its secret, is good for as of the last tick.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn token(&self, hash: &[u8; 32]) -> Result<TokenStanding, Fault> {
        let Some(token) = self.0.get::<TokenRecord>(&keys::token(hash))? else {
            return Ok(TokenStanding::Unknown);
        };
        Ok(match token.used {
            Some(node) => TokenStanding::Used(node),
            None if self.tick()? < token.expires => TokenStanding::Good,
            None => TokenStanding::Expired,
        })
    }

    /// An open proposer session.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn session(&self, id: SessionId) -> Result<Option<SessionRecord>, Fault> {
        self.0.get(&keys::session(id))
    }

    /// Every open proposer session, oldest first.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn sessions(&self) -> Result<Vec<(SessionId, SessionRecord)>, Fault> {
        let rows = self.0.all(&keys::sessions())?;
        rows.iter().map(|row| Ok((SessionId(row.parts()?.number()?), row.record()?))).collect()
    }
}
