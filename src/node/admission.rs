//! The join service: the one thing that a stranger may ask a member for.
//!
//! The token is the whole authority. It is consumed by the log entry that admits the node, so that it
//! lets in one node however many members are asked at once; the certificate is issued after that entry
//! was applied, for the id it gave.

use clawhub_consensus::{Consensus, Who};
use clawhub_peer::{Ca, ClusterKey, Csr, JoinSecret};
use clawhub_state::cluster::{ClusterCmd, NodeSpec};
use clawhub_state::{Command, Reply, View};
use clawhub_types::{NodeId, label};
use clawhub_wire::peer::join_server::{Join, JoinServer};
use clawhub_wire::peer::{JoinReply, JoinRequest, Peer};
use clawhub_wire::required;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::refusal;

/// See the [module](self).
pub(crate) struct Admission {
    consensus: Consensus,
    cluster_key: ClusterKey,
}

impl Admission {
    /// A service that admits to the cluster of `consensus`.
    pub(crate) fn new(consensus: Consensus, cluster_key: ClusterKey) -> Admission {
        Admission { consensus, cluster_key }
    }

    /// The service, to be served to connections without a certificate.
    pub(crate) fn routes(self) -> Routes {
        Routes::new(JoinServer::new(self).max_decoding_message_size(64 << 10))
    }

    /// The answer for an admitted node.
    fn welcome(&self, node: NodeId, csr: Csr) -> Result<JoinReply, Status> {
        let state = self.consensus.state();
        let view = View::new(&*state);
        let cluster = view.cluster().record().map_err(refusal::fault)?;
        let cluster = cluster.ok_or_else(|| Status::internal("the cluster's record is missing"))?;
        let ca = Ca::open(&cluster.ca_cert, &cluster.ca_key_sealed, &self.cluster_key);
        let certificate = ca.and_then(|ca| ca.issue(csr, node)).map_err(refusal::internal)?;
        let members =
            view.cluster().nodes().map_err(refusal::fault)?.into_iter().filter(|member| !member.removed);
        let peers = members.map(|member| Peer {
            node: member.id.0,
            addr: member.spec.peer_addr,
            spki: member.spec.spki.to_vec().into(),
        });
        Ok(JoinReply {
            node: node.0,
            cluster: cluster.id.0.to_vec().into(),
            epoch: cluster.epoch,
            certificate: certificate.into(),
            ca_certificate: cluster.ca_cert.into(),
            cluster_key: self.cluster_key.expose().to_vec().into(),
            peers: peers.collect(),
        })
    }
}

#[tonic::async_trait]
impl Join for Admission {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        let secret = JoinSecret::from_bytes(&request.token).map_err(refusal::invalid)?;
        let csr = Csr::parse(&request.csr).map_err(refusal::invalid)?;
        let spec = spec(request, csr.spki_sha256())?;
        let name = spec.name.clone();
        let cmd = ClusterCmd::Join { token: secret.hash(), node: spec };
        let committed = self.consensus.propose(Command::Cluster(cmd), Who::system(), refusal::PATIENCE).await;
        let committed = committed.map_err(refusal::proposal)?;
        let Reply::Joined(node) = committed.reply else {
            return Err(Status::internal("an unexpected answer to a join"));
        };
        // The leader has applied it; this node's own state may be a moment behind.
        if !self.consensus.wait_applied(committed.index, refusal::PATIENCE).await {
            return Err(Status::unavailable("this member lags behind; join again with the same token"));
        }
        tracing::info!(%node, %name, "a node was admitted");
        self.welcome(node, csr).map(Response::new)
    }
}

/// What the applicant says of itself, checked: it ends up in the log.
fn spec(request: JoinRequest, spki: [u8; 32]) -> Result<NodeSpec, Status> {
    let location = required("location", request.location)?.try_into()?;
    let roles = required("roles", request.roles)?.into();
    for addr in [&request.peer_addr, &request.http_addr] {
        // A name and a port; reaching it is tried later, again and again.
        let fits = addr.len() <= 300 && addr.contains(':') && addr.bytes().all(|b| b.is_ascii_graphic());
        if !fits {
            return Err(Status::invalid_argument("an address is host:port"));
        }
    }
    Ok(NodeSpec {
        name: label(&request.name).map_err(refusal::invalid)?,
        location,
        roles,
        peer_addr: request.peer_addr,
        http_addr: request.http_addr,
        spki,
    })
}

#[cfg(test)]
mod tests {
    use clawhub_wire::peer::{Location, Roles};

    use super::*;

    fn request() -> JoinRequest {
        JoinRequest {
            name: "n2".into(),
            location: Some(Location { region: "r1".into(), zone: "a".into() }),
            roles: Some(Roles { voter: true, storage: false }),
            peer_addr: "n2.example:7000".into(),
            http_addr: "n2.example:5000".into(),
            ..JoinRequest::default()
        }
    }

    #[test]
    fn what_an_applicant_says_is_checked_before_it_is_logged() {
        let good = spec(request(), [7; 32]).unwrap();
        assert_eq!((good.name.as_str(), good.roles.storage, good.spki), ("n2", false, [7; 32]));
        let spoilt: [fn(&mut JoinRequest); 7] = [
            |r| r.name = "N 2".into(),
            |r| r.location = None,
            |r| r.location = Some(Location { region: String::new(), zone: "a".into() }),
            |r| r.roles = None,
            |r| r.peer_addr = "nowhere".into(),
            |r| r.peer_addr = format!("{}:1", "x".repeat(400)),
            |r| r.http_addr = "a b:1\n".into(),
        ];
        for (at, spoil) in spoilt.into_iter().enumerate() {
            let mut bad = request();
            spoil(&mut bad);
            let code = spec(bad, [7; 32]).unwrap_err().code();
            assert_eq!(code, tonic::Code::InvalidArgument, "{at}");
        }
    }
}
