//! Members as they are outside of tests, on loopback: RocksDB, threads, TLS, gRPC.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use clawhub_consensus::grpc::{GrpcTransport, service};
use clawhub_consensus::{Consensus, Profile, Purpose, Settings, StateStore, Who};
use clawhub_kv::{Kv, RocksKv, RocksProfile};
use clawhub_peer::{
    Admission, Ca, Caller, Csr, Directory, Endpoint, Hello, Identity, NodeKey, PeerInfo, Proof, RecvStream,
    Refusal, RefusalCode, SendStream, StreamHandler,
};
use clawhub_relay::{Place, Relay, Shape};
use clawhub_state::artifact::{ArtifactCmd, Body, Condition, ManifestFacts};
use clawhub_state::cluster::{ClusterCmd, ClusterReply, NodeSpec};
use clawhub_state::{Command, Reply, View};
use clawhub_types::{
    AccessRevisions, Actor, ClusterId, Digest, Durability, Location, NodeId, RepoName, Roles, Tag,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::service::Routes;

/// Longer than anything here may take.
pub(crate) const SOON: Duration = Duration::from_secs(30);
const CLUSTER: ClusterId = ClusterId([5; 16]);

/// Who is a member; shared by all nodes of a test.
#[derive(Default)]
struct Members(Mutex<HashMap<NodeId, PeerInfo>>);

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

/// A client that showed no credentials.
pub(crate) fn client() -> Who {
    Who { actor: Actor::anonymous(), access: AccessRevisions::default() }
}

struct NoStreams;

impl StreamHandler for NoStreams {
    fn handle(&self, _: Caller, _: SendStream, _: RecvStream) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The nodes of each test have addresses of their own, by which the relay tells them apart.
static TESTS: AtomicU8 = AtomicU8::new(1);

/// What lies between the members.
struct Between {
    places: Vec<Place>,
    relay: Relay,
}

impl Between {
    fn new() -> Between {
        let test = TESTS.fetch_add(1, Ordering::Relaxed);
        let place = |id: u8| {
            let free = TcpListener::bind((std::net::Ipv4Addr::new(127, 76, test, id), 0)).unwrap();
            let node = free.local_addr().unwrap();
            let advertised = (std::net::Ipv4Addr::new(127, 77, test, id), node.port()).into();
            Place { advertised, node }
        };
        let places: Vec<_> = (1..=3).map(place).collect();
        let relay = Relay::start(&places, |_, _| Shape::default()).unwrap();
        Between { places, relay }
    }
}

pub(crate) struct Cluster {
    profile: Profile,
    between: Option<Between>,
    dir: TempDir,
    ca: Ca,
    members: Arc<Members>,
    snapshot_interval: u64,
    boot: Mutex<u64>,
}

pub(crate) struct Member {
    pub(crate) consensus: Consensus,
    pub(crate) endpoint: Endpoint,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

impl Member {
    /// Ends the member and frees its stores.
    pub(crate) async fn stop(self) {
        self.consensus.shutdown().await;
        let _ = self.stop.send(());
        self.serving.await.unwrap();
    }

    /// For a client, or an operator where the command is not a client's.
    pub(crate) async fn propose(&self, cmd: Command) -> u64 {
        let who = if cmd.action().is_some() { client() } else { Who::operator() };
        self.consensus.propose(cmd, who, SOON).await.unwrap().index
    }

    async fn system(&self, cmd: ClusterCmd) -> Reply {
        self.consensus.propose(Command::Cluster(cmd), Who::system(), SOON).await.unwrap().reply
    }

    /// The manifest a tag names in this node's own state.
    pub(crate) fn look(&self, tag: &str) -> Option<Digest> {
        let state = self.consensus.state();
        let view = View::new(&*state);
        let repo = view.project().repo(&repo()).unwrap()?;
        Some(view.artifact().tag(&repo, &tag.parse().unwrap()).unwrap()?.digest)
    }

    pub(crate) fn hash(&self) -> (u64, [u8; 32]) {
        View::new(&*self.consensus.state()).state_hash().unwrap()
    }
}

impl Cluster {
    pub(crate) fn new(snapshot_interval: u64) -> Cluster {
        Cluster {
            profile: Profile::Lan,
            between: None,
            dir: tempfile::tempdir().unwrap(),
            ca: Ca::create(CLUSTER).unwrap(),
            members: Arc::default(),
            snapshot_interval,
            boot: Mutex::new(0),
        }
    }

    /// With a relay between the members, which does nothing as yet.
    pub(crate) fn relayed(profile: Profile) -> Cluster {
        Cluster { profile, between: Some(Between::new()), ..Cluster::new(10_000) }
    }

    /// From now on everything between a node and the others passes such links.
    pub(crate) fn put_far(&self, id: u64, shape: Shape) {
        let Between { places, relay } = self.between.as_ref().unwrap();
        let node = usize::try_from(id).unwrap() - 1;
        for other in (0..places.len()).filter(|other| *other != node) {
            relay.set(node, other, shape);
            relay.set(other, node, shape);
        }
    }

    fn place(&self, id: u64) -> Option<Place> {
        self.between.as_ref().map(|between| between.places[usize::try_from(id).unwrap() - 1])
    }

    pub(crate) fn state_dir(&self, id: u64) -> std::path::PathBuf {
        self.dir.path().join(id.to_string()).join("state")
    }

    /// Starts a member, for the first time or again on what it left.
    pub(crate) async fn start(&self, id: u64) -> Member {
        let boot = {
            let mut boot = self.boot.lock();
            *boot += 1;
            *boot
        };
        let node = NodeId(id);
        let identity = self.identity(node, boot);
        let spki = identity.key.spki_sha256();
        let place = self.place(id);
        let listen: SocketAddr = place.map_or("127.0.0.1:0".parse().unwrap(), |place| place.node);
        free(listen).await;
        let endpoint = Endpoint::bind(listen, identity, self.members.clone()).await.unwrap();
        let addr = place.map_or(endpoint.local_addr(), |place| place.advertised).to_string();
        let info = PeerInfo { addr, spki };
        self.members.0.lock().insert(node, info);

        let dir = self.dir.path().join(id.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let log = reopen(&dir.join("raft"), RocksProfile::Raft).await;
        // What looks after it looks twice a second whether it is to end.
        if let Ok(current) = std::fs::read_to_string(dir.join("state/CURRENT")) {
            drop(reopen(&dir.join("state").join(current.trim()), RocksProfile::State).await);
        }
        let state = StateStore::open(dir.join("state"), |at, purpose| {
            let profile = match purpose {
                Purpose::Serve => RocksProfile::State,
                Purpose::Check => RocksProfile::Check,
            };
            RocksKv::open(at, profile).map(|kv| Arc::new(kv) as Arc<dyn Kv>)
        });
        let settings = Settings {
            snapshot_interval: self.snapshot_interval,
            ..Settings::new(node, boot, boot, self.profile)
        };
        let transport = Arc::new(GrpcTransport::new(endpoint.clone()));
        let consensus = Consensus::start(settings, log, state.unwrap(), transport).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let routes = Routes::new(service(consensus.clone()));
        let stopped = async {
            let _ = stopped.await;
        };
        let serve = endpoint.clone().serve(routes, Routes::default(), Arc::new(NoStreams), stopped);
        let serving = tokio::spawn(async move { serve.await.unwrap() });
        Member { consensus, endpoint, stop, serving }
    }

    /// Three voters, node 1 first.
    pub(crate) async fn form(&self) -> Vec<Member> {
        let first = self.start(1).await;
        first.consensus.initialize().await.unwrap();
        let init = ClusterCmd::Init {
            cluster: CLUSTER,
            ca_cert: vec![],
            ca_key_sealed: vec![],
            durability: Durability::Local,
            node: spec(1),
        };
        assert_eq!(first.system(init).await, Reply::Cluster(ClusterReply::Joined(NodeId(1))));
        let mut members = vec![first];
        for id in 2..=3 {
            let token = [u8::try_from(id).unwrap(); 32];
            members[0].system(ClusterCmd::TokenCreate { hash: token, ttl: 60_000 }).await;
            let joined = members[0].system(ClusterCmd::Join { token, node: spec(id) }).await;
            assert_eq!(joined, Reply::Cluster(ClusterReply::Joined(NodeId(id))));
            members.push(self.start(id).await);
            members[0].consensus.membership().add_learner(NodeId(id), SOON).await.unwrap();
            members[0].consensus.membership().promote(NodeId(id), SOON).await.unwrap();
        }
        members
    }

    fn identity(&self, node: NodeId, boot: u64) -> Identity {
        let key = NodeKey::generate().unwrap();
        let cert = self.ca.issue(Csr::parse(&key.csr().unwrap()).unwrap(), node).unwrap();
        let hello = Hello { cluster: CLUSTER, epoch: 1, node, boot, nonce: 0 };
        Identity { key, cert, ca_cert: self.ca.cert_der().to_vec(), hello }
    }
}

/// Waits until nobody has an address, TCP or UDP: a member's last life is about to let go of it.
async fn free(address: SocketAddr) {
    let until = tokio::time::Instant::now() + SOON;
    while TcpListener::bind(address).and(UdpSocket::bind(address)).is_err() {
        assert!(tokio::time::Instant::now() < until, "{address} stays in use");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Opens a store whose last user is about to let go of it.
async fn reopen(dir: &Path, profile: RocksProfile) -> Arc<dyn Kv> {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        match RocksKv::open(dir, profile) {
            Ok(kv) => return Arc::new(kv),
            Err(e) => assert!(tokio::time::Instant::now() < until, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn spec(id: u64) -> NodeSpec {
    NodeSpec {
        name: format!("n{id}"),
        location: Location { region: format!("r{id}"), zone: "a".into() },
        roles: Roles { voter: true, storage: true },
        peer_addr: "127.0.0.1:1".into(),
        http_addr: "127.0.0.1:1".into(),
        spki: [u8::try_from(id).unwrap(); 32],
    }
}

pub(crate) fn repo() -> RepoName {
    "team/app".parse().unwrap()
}

pub(crate) fn digest(version: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&version.to_be_bytes());
    Digest::Sha256(bytes)
}

/// Moves a tag to a manifest of its own for every version.
pub(crate) fn put(tag: &str, version: u64, body: usize) -> Command {
    Command::Artifact(ArtifactCmd::Put {
        repo: repo(),
        digest: digest(version),
        facts: ManifestFacts {
            media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
            size: body as u64,
            refs: vec![],
            parts: 0,
            subject: None,
            artifact_type: None,
            annotations: None,
        },
        body: Body::Inline(vec![0; body]),
        tags: vec![tag.parse::<Tag>().unwrap()],
        condition: Condition::Any,
    })
}
