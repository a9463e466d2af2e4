//! Tells a member whom this node knows, as gRPC.

use std::sync::Arc;

use clawhub_cluster::MemberDirectory;
use clawhub_peer::{CallCode, PeerInfo, caller};
use clawhub_types::NodeId;
use clawhub_wire::peer::members_server::{Members, MembersServer};
use clawhub_wire::peer::{ListMembersReply, ListMembersRequest, Peer};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// Adds the service to what members may ask for.
pub fn add(routes: Routes, members: Arc<MemberDirectory>) -> Routes {
    routes.add_service(MembersServer::new(Edge(members)))
}

struct Edge(Arc<MemberDirectory>);

#[tonic::async_trait]
impl Members for Edge {
    async fn list(&self, request: Request<ListMembersRequest>) -> Result<Response<ListMembersReply>, Status> {
        caller(&request)?;
        let known = self.0.acquaintances().map_err(|fault| CallCode::Internal.status(fault.to_string()))?;
        Ok(Response::new(ListMembersReply {
            members: known.members.into_iter().map(peer).collect(),
            removed: known.removed.into_iter().map(|node| node.0).collect(),
        }))
    }
}

/// A member, as it is told of.
fn peer((node, info): (NodeId, PeerInfo)) -> Peer {
    Peer { node: node.0, addr: info.addr, spki: info.spki.to_vec().into() }
}
