//! Asking a member whom it knows: how a node that is behind learns that somebody of whom it has not heard is one. Nothing
//! is kept here.

use std::time::Duration;

use clawhub_types::NodeId;
use clawhub_wire::peer::ListMembersRequest;
use clawhub_wire::peer::members_client::MembersClient;
use tokio::time::timeout;

use crate::join::peer;
use crate::{Endpoint, PeerError, PeerInfo};

/// Whom a member knows, by its state when it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acquaintances {
    /// The members.
    pub members: Vec<(NodeId, PeerInfo)>,
    /// Those that were removed.
    pub removed: Vec<NodeId>,
}

/// Asks `node` whom it knows. It is recognised by the key that this node knows of it.
///
/// # Errors
/// [`PeerError::Call`] with its answer if it says no; otherwise why nothing was learnt within `patience`.
pub async fn acquaintances(
    endpoint: &Endpoint,
    node: NodeId,
    patience: Duration,
) -> Result<Acquaintances, PeerError> {
    let mut client = MembersClient::new(endpoint.channel(node));
    let answer = timeout(patience, client.list(ListMembersRequest {})).await;
    let answer = answer.map_err(|_| PeerError::Timeout("asking whom a member knows"))?;
    let reply = answer.map_err(|status| PeerError::Call(Box::new(status)))?.into_inner();
    let members = reply.members.into_iter().map(peer).collect::<Result<_, _>>();
    let members = members.map_err(|e| PeerError::Call(Box::new(e.into())))?;
    Ok(Acquaintances { members, removed: reply.removed.into_iter().map(NodeId).collect() })
}
