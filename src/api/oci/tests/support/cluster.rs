//! The one-node cluster, and a second voter for it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use clawhub_api_http::{Protocol, Site};
use clawhub_auth::{Authorizer, Principal};
use clawhub_blobs::{BlobStore, StoreConfig};
use clawhub_consensus::grpc::{GrpcTransport, service};
use clawhub_consensus::{Consensus, Profile, Settings, StateStore, Who};
use clawhub_kv::Kv;
use clawhub_kv::memory::MemoryKv;
use clawhub_liveness::{HEARTBEAT, Liveness};
use clawhub_peer::{
    Admission, Ca, Caller, Csr, Directory, Endpoint, Hello, Identity, NodeKey, PeerInfo, Proof, RecvStream,
    Refusal, RefusalCode, SendStream, StreamHandler,
};
use clawhub_registry::{Limits, Registry};
use clawhub_replicate::Replicate;
use clawhub_state::Command;
use clawhub_state::cluster::{ClusterCmd, NodeSpec};
use clawhub_types::{ClusterId, Durability, Location, NodeId, Roles, RoundTrip};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::service::Routes;

use super::Client;

static PROTOCOLS: &[&Protocol] = &[&clawhub_api_oci::PROTOCOL];
const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const CLUSTER: ClusterId = ClusterId([7; 16]);
/// How long an election and a first command may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a reconciler does on a real node.
async fn heartbeat(liveness: Liveness) {
    let mut every = tokio::time::interval(HEARTBEAT);
    loop {
        every.tick().await;
        liveness.refresh().await;
    }
}

/// Runs as long as it is kept.
pub(crate) struct Cluster {
    /// What this node holds.
    pub(crate) blobs: BlobStore,
    router: Router,
    consensus: Consensus,
    ca: Ca,
    members: Arc<Members>,
    dir: TempDir,
}

impl Cluster {
    pub(crate) async fn start(authorizer: Authorizer) -> Cluster {
        Cluster::start_in(TempDir::new().unwrap(), authorizer, PATIENCE).await
    }

    /// One that serves by digest for so long after it was cut off.
    pub(crate) async fn start_bounded(cut_off: Duration) -> Cluster {
        Cluster::start_in(TempDir::new().unwrap(), Authorizer::Open, cut_off).await
    }

    /// One whose blobs lie below `dir`, as everything else that is kept in files.
    pub(crate) async fn start_in(dir: TempDir, authorizer: Authorizer, cut_off: Duration) -> Cluster {
        let (ca, members) = (Ca::create(CLUSTER).unwrap(), Arc::<Members>::default());
        let (endpoint, spki) = members.endpoint(&ca, ME).await;
        let consensus = consensus(ME, &dir.path().join("state"), &endpoint).await;
        consensus.initialize().await.unwrap();
        consensus.propose(Command::Cluster(init(spki)), Who::system(), PATIENCE).await.unwrap();

        let store = StoreConfig::new(dir.path().join("blobs"), ME);
        std::fs::create_dir_all(&store.dir).unwrap();
        let blobs = BlobStore::open(store, Arc::new(MemoryKv::new())).await.unwrap();
        let store = blobs.clone();
        let liveness = Liveness::new(
            ME,
            RoundTrip::millis(50),
            endpoint.clone(),
            || vec![ME, OTHER],
            move || store.accepts(),
        );
        tokio::spawn(heartbeat(liveness.clone()));
        let source = consensus.clone();
        let replicate = Replicate::new(blobs.clone(), endpoint, liveness, Arc::new(move || source.state()));
        let limits = Limits { wait: PATIENCE, cut_off };
        let registry = Registry::new(consensus.clone(), replicate, authorizer, limits);
        let router = clawhub_api_oci::routes(registry);
        Cluster { blobs, router, consensus, ca, members, dir }
    }

    /// A second voter, which holds no blobs. Without it this node has no majority.
    pub(crate) async fn second(&self) -> Second {
        let (endpoint, spki) = self.members.endpoint(&self.ca, OTHER).await;
        let token = [2; 32];
        self.system(ClusterCmd::TokenCreate { hash: token, ttl: 60_000 }).await;
        self.system(ClusterCmd::Join { token, node: spec("second", false, spki) }).await;
        let consensus = consensus(OTHER, &self.dir.path().join("second"), &endpoint).await;
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let routes = Routes::new(service(consensus.clone()));
        let serving = endpoint.serve(routes, Routes::default(), Arc::new(NoStreams), stopped);
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        self.consensus.membership().add_learner(OTHER, PATIENCE).await.unwrap();
        self.consensus.membership().promote(OTHER, PATIENCE).await.unwrap();
        Second { consensus, stop, serving }
    }

    async fn system(&self, cmd: ClusterCmd) {
        self.consensus.propose(Command::Cluster(cmd), Who::system(), PATIENCE).await.unwrap();
    }

    /// Serves clients on a port of its own, until the process ends.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let site = Site::new(PROTOCOLS, self.router.clone(), Router::new());
        tokio::spawn(clawhub_api_http::serve(listener, site, Default::default(), std::future::pending()));
        addr
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

/// See [`Cluster::second`].
pub(crate) struct Second {
    consensus: Consensus,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Second {
    pub(crate) async fn stop(self) {
        self.consensus.shutdown().await;
        let _ = self.stop.send(());
        self.serving.await.unwrap();
    }
}

/// Where the nodes are.
#[derive(Default)]
struct Members(Mutex<HashMap<NodeId, PeerInfo>>);

impl Members {
    /// A new member's endpoint, and what its key is known by.
    async fn endpoint(self: &Arc<Self>, ca: &Ca, node: NodeId) -> (Endpoint, [u8; 32]) {
        let key = NodeKey::generate().unwrap();
        let spki = key.spki_sha256();
        let cert = ca.issue(Csr::parse(&key.csr().unwrap()).unwrap(), node).unwrap();
        let hello = Hello { cluster: CLUSTER, epoch: 1, node, boot: 1, nonce: 0 };
        let identity = Identity { key, cert, ca_cert: ca.cert_der().to_vec(), hello };
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = Endpoint::bind(here, identity, self.clone()).await.unwrap();
        self.0.lock().insert(node, PeerInfo { addr: endpoint.local_addr().to_string(), spki });
        (endpoint, spki)
    }
}

impl Directory for Members {
    fn lookup(&self, node: NodeId) -> Option<PeerInfo> {
        self.0.lock().get(&node).cloned()
    }

    fn admit(&self, hello: &Hello, proof: &Proof) -> Result<Admission, Refusal> {
        let known = self.lookup(hello.node).is_some_and(|info| info.spki == proof.spki);
        if known {
            Ok(Admission::Member)
        } else {
            Err(Refusal::new(RefusalCode::UnknownNode, "not a member"))
        }
    }
}

struct NoStreams;

impl StreamHandler for NoStreams {
    fn handle(&self, _: Caller, _: SendStream, _: RecvStream) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

async fn consensus(node: NodeId, dir: &Path, endpoint: &Endpoint) -> Consensus {
    let state = StateStore::open(dir, |_, _| Ok(Arc::new(MemoryKv::new()) as Arc<dyn Kv>));
    let settings = Settings::new(node, 1, 1, Profile::Lan);
    let transport = Arc::new(GrpcTransport::new(endpoint.clone()));
    Consensus::start(settings, Arc::new(MemoryKv::new()), state.unwrap(), transport).await.unwrap()
}

fn init(spki: [u8; 32]) -> ClusterCmd {
    ClusterCmd::Init {
        cluster: CLUSTER,
        ca_cert: vec![1],
        ca_key_sealed: vec![1],
        durability: Durability::Local,
        node: spec("only", true, spki),
    }
}

fn spec(name: &str, storage: bool, spki: [u8; 32]) -> NodeSpec {
    NodeSpec {
        name: name.into(),
        location: Location { region: "r".into(), zone: "z".into() },
        roles: Roles { voter: true, storage },
        peer_addr: "127.0.0.1:1".into(),
        http_addr: "127.0.0.1:2".into(),
        spki,
    }
}
