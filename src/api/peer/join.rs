//! The join service as gRPC: a request is parsed and checked, the service asked once, its answer rendered.

use clawhub_cluster::{ClusterError, JoinService, Welcome};
use clawhub_peer::{Csr, JoinSecret};
use clawhub_state::cluster::{NodeRecord, NodeSpec};
use clawhub_types::label;
use clawhub_wire::peer::join_server::{Join, JoinServer};
use clawhub_wire::peer::{JoinReply, JoinRequest, Peer};
use clawhub_wire::required;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// The longest request, bytes: a name, two addresses and a certification request.
const MAX_REQUEST: usize = 64 << 10;

/// The service, to be served to connections without a certificate.
pub fn routes(service: JoinService) -> Routes {
    Routes::new(JoinServer::new(Edge(service)).max_decoding_message_size(MAX_REQUEST))
}

struct Edge(JoinService);

/// What an applicant is told that was not let in.
fn failed(error: ClusterError) -> Status {
    error.code().status(error.to_string())
}

fn invalid(reason: impl std::fmt::Display) -> Status {
    Status::invalid_argument(reason.to_string())
}

#[tonic::async_trait]
impl Join for Edge {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let from = clawhub_peer::stranger(&request)?.into();
        let request = request.into_inner();
        let secret = JoinSecret::from_bytes(&request.token).map_err(invalid)?;
        let csr = Csr::parse(&request.csr).map_err(invalid)?;
        let spec = spec(request, csr.spki_sha256())?;
        Ok(Response::new(reply(self.0.join(from, &secret, csr, spec).await.map_err(failed)?)))
    }
}

fn reply(welcome: Welcome) -> JoinReply {
    let peer = |member: NodeRecord| Peer {
        node: member.id.0,
        addr: member.spec.peer_addr,
        spki: member.spec.spki.to_vec().into(),
    };
    JoinReply {
        node: welcome.node.0,
        cluster: welcome.cluster.id.0.to_vec().into(),
        epoch: welcome.cluster.epoch,
        certificate: welcome.certificate.into(),
        ca_certificate: welcome.cluster.ca_cert.into(),
        cluster_key: welcome.cluster_key.expose().to_vec().into(),
        peers: welcome.members.into_iter().map(peer).collect(),
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
        name: label(&request.name).map_err(invalid)?,
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
