//! The one-node cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use clawhub_auth::{Authorizer, Principal};
use clawhub_blobs::{BlobStore, StoreConfig};
use clawhub_consensus::grpc::GrpcTransport;
use clawhub_consensus::{Consensus, Profile, Settings, StateStore, Who};
use clawhub_kv::Kv;
use clawhub_kv::memory::MemoryKv;
use clawhub_peer::{Ca, Csr, Directory, Endpoint, Hello, Identity, NodeKey, PeerInfo};
use clawhub_registry::{Limits, Registry};
use clawhub_replicate::Replicate;
use clawhub_state::Command;
use clawhub_state::cluster::{ClusterCmd, NodeSpec};
use clawhub_types::{ClusterId, Durability, Location, NodeId, Roles};
use tempfile::TempDir;

use super::Client;

const ME: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId([7; 16]);
/// How long an election and a first command may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs as long as it is kept.
pub(crate) struct Cluster {
    router: Router,
    _consensus: Consensus,
    _dir: TempDir,
}

impl Cluster {
    pub(crate) async fn start(authorizer: Authorizer) -> Cluster {
        let dir = TempDir::new().unwrap();
        let key = NodeKey::generate().unwrap();
        let spki = key.spki_sha256();
        let endpoint = endpoint(key).await;
        let consensus = consensus(&dir, &endpoint).await;
        consensus.initialize().await.unwrap();
        consensus.propose(Command::Cluster(init(spki)), Who::system(), PATIENCE).await.unwrap();

        let store = StoreConfig { dir: dir.path().join("blobs"), min_free: 0, node: ME };
        std::fs::create_dir(&store.dir).unwrap();
        let blobs = BlobStore::open(store, Arc::new(MemoryKv::new())).await.unwrap();
        let source = consensus.clone();
        let replicate = Replicate::start(ME, blobs, endpoint, Arc::new(move || source.state()));
        let limits = Limits { wait: PATIENCE, cut_off: PATIENCE };
        let registry = Registry::new(consensus.clone(), replicate, authorizer, limits);
        Cluster { router: clawhub_api_oci::routes(registry), _consensus: consensus, _dir: dir }
    }

    /// A client like any other.
    pub(crate) fn client(&self) -> Client {
        self.client_as(Principal::Anonymous)
    }

    /// A client whom an outer layer has recognised.
    pub(crate) fn client_as(&self, principal: Principal) -> Client {
        Client::new(self.router.clone(), principal)
    }
}

async fn endpoint(key: NodeKey) -> Endpoint {
    struct Nobody;
    impl Directory for Nobody {
        fn lookup(&self, _: NodeId) -> Option<PeerInfo> {
            None
        }
        fn admit(&self, _: &Hello, _: &[u8; 32]) -> Result<(), String> {
            Err("there is no other node".into())
        }
    }
    let ca = Ca::create(CLUSTER).unwrap();
    let cert = ca.issue(Csr::parse(&key.csr().unwrap()).unwrap(), ME).unwrap();
    let hello = Hello { cluster: CLUSTER, epoch: 1, node: ME, boot: 1, nonce: 0 };
    let identity = Identity { key, cert, ca_cert: ca.cert_der().to_vec(), hello };
    Endpoint::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), identity, Arc::new(Nobody)).await.unwrap()
}

async fn consensus(dir: &TempDir, endpoint: &Endpoint) -> Consensus {
    let state = StateStore::open(dir.path().join("state"), |_| Ok(Arc::new(MemoryKv::new()) as Arc<dyn Kv>));
    let settings = Settings::new(ME, 1, 1, Profile::Lan);
    let transport = Arc::new(GrpcTransport::new(endpoint.clone()));
    Consensus::start(settings, Arc::new(MemoryKv::new()), state.unwrap(), transport).await.unwrap()
}

fn init(spki: [u8; 32]) -> ClusterCmd {
    ClusterCmd::Init {
        cluster: CLUSTER,
        ca_cert: vec![1],
        ca_key_sealed: vec![1],
        durability: Durability::Local,
        node: NodeSpec {
            name: "only".into(),
            location: Location { region: "r".into(), zone: "z".into() },
            roles: Roles { voter: true, storage: true },
            peer_addr: "127.0.0.1:1".into(),
            http_addr: "127.0.0.1:2".into(),
            spki,
        },
    }
}
