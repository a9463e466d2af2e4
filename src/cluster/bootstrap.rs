//! Becoming a member: founding a cluster, or joining one. Also going on with it after a crash.
//!
//! [`init`] and [`join`] give the [`Credentials`] of a member; the node keeps them durably, the owner last, and
//! only then acts as that member. Cut off earlier, the node is still nobody and begins again; later, its next start
//! goes on ([`finish_init`]). A join that is asked for again with the same token and key gets the same id, so that
//! an answer that was lost costs nothing.

use std::time::Duration;

use clawhub_consensus::{Consensus, ConsensusError, ProposeError, Who};
use clawhub_peer::{Applicant, Ca, CallCode, ClusterKey, Csr, JoinToken, Joined, NodeKey};
use clawhub_state::cluster::{ClusterCmd, NodeSpec};
use clawhub_state::{Command, View};
use clawhub_types::{ClusterId, Durability, Location, NodeId, Roles};
use tokio::time::sleep;

use crate::proposal::PATIENCE;
use crate::{ClusterError, Owner, Seed};

/// The first node of a cluster has this id.
const FIRST: NodeId = NodeId(1);
/// The epoch of a cluster that was never recovered by force.
const FIRST_EPOCH: u64 = 1;
/// Between two attempts to found the cluster.
const AGAIN: Duration = Duration::from_millis(500);

/// What a node says of itself to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Unique among members.
    pub name: String,
    /// Its failure domains.
    pub location: Location,
    /// Its roles.
    pub roles: Roles,
    /// Where peers reach it, `host:port`.
    pub peer_addr: String,
    /// Where clients reach it, `host:port`.
    pub http_addr: String,
}

impl Profile {
    fn spec(self, spki: [u8; 32]) -> NodeSpec {
        NodeSpec {
            name: self.name,
            location: self.location,
            roles: self.roles,
            peer_addr: self.peer_addr,
            http_addr: self.http_addr,
            spki,
        }
    }

    fn applicant(self) -> Applicant {
        Applicant {
            name: self.name,
            location: self.location,
            roles: self.roles,
            peer_addr: self.peer_addr,
            http_addr: self.http_addr,
        }
    }
}

/// What makes a node a member. It is kept durably before the node acts as that member.
pub struct Credentials {
    /// Which member.
    pub owner: Owner,
    /// The cluster's epoch.
    pub epoch: u64,
    /// The node's certificate, DER.
    pub certificate: Vec<u8>,
    /// The certificate of the cluster's CA, DER.
    pub ca_certificate: Vec<u8>,
    /// The key that seals secrets in the state.
    pub cluster_key: ClusterKey,
    /// The other members, where to go while this node's state is still empty.
    pub peers: Vec<Seed>,
    /// The first command of a new cluster, which this node is to propose.
    pub init: Option<ClusterCmd>,
}

/// Makes the credentials of the first member of a new cluster. Nothing outside of this node learns of it.
///
/// # Errors
/// [`ClusterError::Internal`] if keys or certificates cannot be made.
pub fn init(profile: Profile, key: &NodeKey, durability: Durability) -> Result<Credentials, ClusterError> {
    let owner = Owner { cluster: ClusterId(rand::random()), node: FIRST };
    let cluster_key = ClusterKey::generate();
    let ca = Ca::create(owner.cluster)?;
    let certificate = ca.issue(Csr::parse(&key.csr()?)?, owner.node)?;
    let ca_certificate = ca.cert_der().to_vec();
    let init = ClusterCmd::Init {
        cluster: owner.cluster,
        ca_cert: ca_certificate.clone(),
        ca_key_sealed: ca.seal_key(&cluster_key),
        durability,
        node: profile.spec(key.spki_sha256()),
    };
    Ok(Credentials {
        owner,
        epoch: FIRST_EPOCH,
        certificate,
        ca_certificate,
        cluster_key,
        peers: Vec::new(),
        init: Some(init),
    })
}

/// Asks the members at `addresses` one after the other to let this node in. A refusal is the cluster's and ends
/// it; anything else may be that member's alone.
///
/// # Errors
/// The members' refusal; [`ClusterError::Unavailable`] if none of them answers.
pub async fn join(
    profile: Profile,
    key: &NodeKey,
    addresses: &[String],
    token: &JoinToken,
) -> Result<Credentials, ClusterError> {
    let mut last = ClusterError::invalid("no address to join at");
    for addr in addresses {
        match clawhub_peer::join(addr, token, key, profile.clone().applicant()).await {
            Ok(joined) => return Ok(joined.into()),
            Err(error) => match error.answer() {
                Some((code, text)) if code != CallCode::Unavailable => {
                    return Err(ClusterError::Member { code, text: text.to_owned() });
                }
                Some(_) => last = ClusterError::Unavailable(format!("{addr}: {error}")),
                None => {
                    last = ClusterError::Unavailable(format!(
                        "{addr}: {error}; does a member of the cluster that gave the token listen for peers there?"
                    ))
                }
            },
        }
    }
    Err(last)
}

impl From<Joined> for Credentials {
    fn from(joined: Joined) -> Credentials {
        let owner = Owner { cluster: joined.cluster, node: joined.node };
        let others = joined.peers.into_iter().filter(|(id, _)| *id != owner.node);
        Credentials {
            owner,
            epoch: joined.epoch,
            certificate: joined.cert,
            ca_certificate: joined.ca_cert,
            cluster_key: joined.cluster_key,
            peers: others.map(|(id, info)| Seed { node: id, addr: info.addr, spki: info.spki }).collect(),
            init: None,
        }
    }
}

/// Proposes the first command of a cluster until it is applied. It may be in the log already, from a start before
/// this one.
///
/// # Errors
/// [`ClusterError::Rejected`] if the cluster cannot be founded, [`ClusterError::Consensus`] if consensus ends before
/// it is; a fault of this node.
pub async fn finish_init(
    consensus: &Consensus,
    cluster: ClusterId,
    init: &ClusterCmd,
) -> Result<(), ClusterError> {
    consensus.initialize().await?;
    tokio::select! {
        done = propose_init(consensus, cluster, init) => done,
        ended = consensus.stopped() => Err(match ended {
            Some(failure) => ConsensusError::Failed(failure).into(),
            None => ClusterError::Unavailable("consensus was told to stop".to_owned()),
        }),
    }
}

async fn propose_init(
    consensus: &Consensus,
    cluster: ClusterId,
    init: &ClusterCmd,
) -> Result<(), ClusterError> {
    loop {
        let proposed = consensus.propose(Command::Cluster(init.clone()), Who::system(), PATIENCE);
        let refused = proposed.await.err();
        let state = consensus.state();
        // Whatever the answer: an attempt before a crash may have done it.
        if View::new(&*state).cluster().record()?.is_some_and(|record| record.id == cluster) {
            return Ok(());
        }
        match refused {
            Some(ProposeError::Rejected(rejected)) => return Err(ClusterError::Rejected(rejected)),
            Some(error) => tracing::warn!(%error, "founding the cluster takes another attempt"),
            None => (),
        }
        // A proposal that cannot even be made is refused at once.
        sleep(AGAIN).await;
    }
}
