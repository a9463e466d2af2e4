//! A cluster in one process: a store and an endpoint for each node, real streams between them, and one log, of which
//! the first node's end is shared by all. The nodes stand in zones of their own, in one region; two more only vote.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clawhub_auth::{Act, Authorizer, Permit, Principal, Push};
use clawhub_blobs::{BlobStore, StoreConfig};
use clawhub_consensus::grpc::GrpcTransport;
use clawhub_consensus::{Consensus, Profile, Settings, StateStore, Who};
use clawhub_kv::{Kv, MemoryKv};
use clawhub_liveness::{HEARTBEAT, Liveness};
use clawhub_peer::{
    Admission, Ca, Caller, Csr, Directory, Endpoint, Hello, Identity, NodeKey, PeerInfo, Proof, RecvStream,
    Refusal, SendStream, StreamHandler,
};
use clawhub_relay::{Place, Relay, Shape};
use clawhub_replicate::{Replicate, StepAnswer, StepOp, UploadStep};
use clawhub_state::blob::{BlobCmd, RootRecord};
use clawhub_state::cluster::{ClusterCmd, ClusterReply, NodeSpec};
use clawhub_state::{Command, Reply, View};
use clawhub_types::{
    ClusterId, Digest, Durability, Location, NodeId, RepoName, Roles, Root, RoundTrip, UploadId,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream;
use parking_lot::Mutex;
use sha2::Digest as _;
use tempfile::TempDir;
use tonic::service::Routes;

use crate::{
    BodyError, BodyStream, Chunk, Intent, Limits, ManifestBody, ManifestView, PageBudget, Reader, Registry,
    Repo, UploadOp,
};

/// Nodes that vote beside the first one: with fewer than three votes nothing is durable as `zone` has it.
const ELECTORS: usize = 2;
const CLUSTER: ClusterId = ClusterId([7; 16]);
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A manifest's bytes, wherever they are.
pub(crate) async fn whole(view: &ManifestView) -> Bytes {
    match view.body.as_ref().unwrap() {
        ManifestBody::Whole(bytes) => bytes.clone(),
        ManifestBody::Stored(blob) => {
            let pieces: Vec<_> = blob.read(0..blob.size).map(|piece| piece.unwrap()).collect().await;
            pieces.concat().into()
        }
    }
}

/// All of a list in one page.
pub(crate) const UNBOUNDED: PageBudget<'static> = PageBudget { bytes: usize::MAX, length: &|_| 0 };

#[derive(Default)]
struct Members(Mutex<HashMap<NodeId, PeerInfo>>);

impl Directory for Members {
    fn lookup(&self, node: NodeId) -> Option<PeerInfo> {
        self.0.lock().get(&node).cloned()
    }

    fn admit(&self, _: &Hello, _: &Proof) -> Result<Admission, Refusal> {
        Ok(Admission::Member)
    }
}

/// What a reconciler does on a real node.
async fn heartbeat(liveness: Liveness) {
    let mut every = tokio::time::interval(HEARTBEAT);
    loop {
        every.tick().await;
        liveness.refresh().await;
    }
}

/// What another does.
async fn report_lost_copies(registry: Registry) {
    loop {
        registry.lost_copies().noted().await;
        while registry.lost_copies().report().await.unwrap() {}
    }
}

/// Runs as long as it is kept.
pub(crate) struct World {
    /// The registries of nodes 1, 2, …
    nodes: Vec<Registry>,
    consensus: Consensus,
    electors: Vec<Consensus>,
    _dir: TempDir,
    _relay: Option<Relay>,
}

/// What is not as usual.
struct Setup {
    set: fn(StoreConfig) -> StoreConfig,
    /// Between every two nodes.
    link: Option<Shape>,
    limits: clawhub_replicate::Limits,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { set: |store| store, link: None, limits: clawhub_replicate::Limits::default() }
    }
}

/// The nodes of each test that has a relay are at addresses of their own.
static TESTS: AtomicU8 = AtomicU8::new(1);

/// Has the nodes reach each other through a relay.
fn put_apart(endpoints: &[Endpoint], members: &Members, link: Shape) -> Relay {
    let place = |endpoint: &Endpoint| {
        let node = endpoint.local_addr();
        let SocketAddr::V4(at) = node else { unreachable!("it was given an IPv4 address") };
        let [a, b, test, id] = at.ip().octets();
        Place { advertised: (Ipv4Addr::new(a, b + 1, test, id), node.port()).into(), node }
    };
    let places: Vec<_> = endpoints.iter().map(place).collect();
    for info in members.0.lock().values_mut() {
        let place = places.iter().find(|place| place.node.to_string() == info.addr).unwrap();
        info.addr = place.advertised.to_string();
    }
    Relay::start(&places, |from, to| if from.max(to) < 2 { link } else { Shape::default() }).unwrap()
}

impl World {
    /// One node for each role: whether it stores blobs. The first one does.
    pub(crate) async fn start(storage: &[bool]) -> World {
        World::with_stores(storage, |store| store).await
    }

    /// The same with stores that are `set` up in some way of the test's.
    pub(crate) async fn with_stores(storage: &[bool], set: fn(StoreConfig) -> StoreConfig) -> World {
        World::build(storage, Setup { set, ..Setup::default() }).await
    }

    /// Two nodes that store blobs, with such a link between them.
    pub(crate) async fn apart(link: Shape, limits: clawhub_replicate::Limits) -> World {
        World::build(&[true, true], Setup { link: Some(link), limits, ..Setup::default() }).await
    }

    async fn build(storage: &[bool], setup: Setup) -> World {
        let dir = TempDir::new().unwrap();
        let (ca, members) = (Ca::create(CLUSTER).unwrap(), Arc::new(Members::default()));
        let mut endpoints = Vec::new();
        let ip = setup.link.map(|_| [127, 80, TESTS.fetch_add(1, Ordering::Relaxed)]);
        for id in (1..).map(NodeId).take(storage.len() + ELECTORS) {
            endpoints.push(endpoint(&ca, id, &members, ip).await);
        }
        let relay = setup.link.map(|link| put_apart(&endpoints, &members, link));
        let electors = endpoints.split_off(storage.len());
        let consensus = consensus(&dir, NodeId(1), &endpoints[0]).await;
        consensus.initialize().await.unwrap();
        let mut world =
            World { nodes: Vec::new(), consensus, electors: Vec::new(), _dir: dir, _relay: relay };
        for (endpoint, storage) in endpoints.into_iter().zip(storage) {
            let id = NodeId(world.nodes.len() as u64 + 1);
            world.admit(id, *storage).await;
            let registry = world.registry(id, endpoint.clone(), &setup).await;
            let log = if id == NodeId(1) { served(&world.consensus) } else { Routes::default() };
            let streams = Arc::new(Streams(registry.clone()));
            tokio::spawn(endpoint.serve(log, Routes::default(), streams, std::future::pending()));
            tokio::spawn(report_lost_copies(registry.clone()));
            world.nodes.push(registry);
        }
        for (id, endpoint) in (storage.len() as u64 + 1..).map(NodeId).zip(electors) {
            world.elect(id, endpoint).await;
        }
        let all = world.nodes.len();
        for node in &world.nodes {
            eventually("all nodes see each other", || {
                let liveness = node.use_cases.core.replicate.liveness();
                liveness.reachable().len() == all
            })
            .await;
        }
        world
    }

    /// Adds a node that votes, and is nothing else. It does not campaign, so that the first node goes on to lead.
    async fn elect(&mut self, id: NodeId, endpoint: Endpoint) {
        self.admit(id, false).await;
        let consensus = consensus(&self._dir, id, &endpoint).await;
        consensus.campaign(false);
        let streams = Arc::new(NoStreams);
        tokio::spawn(endpoint.serve(served(&consensus), Routes::default(), streams, std::future::pending()));
        self.consensus.membership().add_learner(id, PATIENCE).await.unwrap();
        self.consensus.membership().promote(id, PATIENCE).await.unwrap();
        self.electors.push(consensus);
    }

    async fn admit(&self, id: NodeId, storage: bool) {
        let node = NodeSpec {
            name: format!("n{id}"),
            location: Location { region: "r".into(), zone: format!("z{id}") },
            roles: Roles { voter: true, storage },
            peer_addr: "127.0.0.1:1".into(),
            http_addr: "127.0.0.1:2".into(),
            spki: [id.0 as u8; 32],
        };
        if id == NodeId(1) {
            let (ca_cert, ca_key_sealed, durability) = (vec![1], vec![1], Durability::Zone);
            let init = ClusterCmd::Init { cluster: CLUSTER, ca_cert, ca_key_sealed, durability, node };
            self.system(Command::Cluster(init)).await;
        } else {
            let token = [id.0 as u8; 32];
            let create = ClusterCmd::TokenCreate { hash: token, ttl: 1_000_000 };
            self.system(Command::Cluster(create)).await;
            let joined = self.system(Command::Cluster(ClusterCmd::Join { token, node })).await;
            assert_eq!(joined, Reply::Cluster(ClusterReply::Joined(id)));
        }
    }

    async fn registry(&self, id: NodeId, endpoint: Endpoint, setup: &Setup) -> Registry {
        let dir = self._dir.path().join(format!("n{id}"));
        std::fs::create_dir(&dir).unwrap();
        let config = (setup.set)(StoreConfig::new(dir, id));
        let blobs = BlobStore::open(config, Arc::new(MemoryKv::new())).await.unwrap();
        let source = self.consensus.clone();
        let members = move || {
            let layout = View::new(&*source.state()).cluster().layout().unwrap();
            layout.nodes.into_iter().map(|node| node.id).collect()
        };
        let store = blobs.clone();
        let liveness =
            Liveness::new(id, RoundTrip::millis(50), endpoint.clone(), members, move || store.accepts());
        tokio::spawn(heartbeat(liveness.clone()));
        let source = self.consensus.clone();
        let state = Arc::new(move || source.state());
        let replicate = Replicate::with_limits(blobs, endpoint, liveness, state, setup.limits);
        let limits = Limits { wait: PATIENCE, cut_off: PATIENCE };
        Registry::new(self.consensus.clone(), replicate, Authorizer::Open, limits)
    }

    /// The registry of a node.
    pub(crate) fn node(&self, id: u64) -> &Registry {
        &self.nodes[id as usize - 1]
    }

    /// The registry of a node as it would be if nobody might do anything.
    pub(crate) fn denying(&self, id: u64) -> Registry {
        let replicate = self.node(id).use_cases.core.replicate.clone();
        let limits = Limits { wait: PATIENCE, cut_off: PATIENCE };
        Registry::new(self.consensus.clone(), replicate, Authorizer::DenyAll, limits)
    }

    /// Leaves the first node as the only one that votes.
    pub(crate) async fn lose_electors(&mut self) {
        while let Some(elector) = self.electors.pop() {
            self.consensus.membership().remove_member(elector.node(), PATIENCE).await.unwrap();
            elector.shutdown().await;
        }
    }

    /// Has the cluster do something.
    pub(crate) async fn system(&self, cmd: Command) -> Reply {
        self.consensus.propose(cmd, Who::system(), PATIENCE).await.unwrap().reply
    }

    /// The same for what may be refused, with the words of the refusal.
    pub(crate) async fn propose(&self, cmd: Command) -> Result<Reply, String> {
        let proposed = self.consensus.propose(cmd, Who::system(), PATIENCE).await;
        proposed.map(|committed| committed.reply).map_err(|error| error.to_string())
    }

    /// Has the log forget a node's copy.
    pub(crate) async fn lose(&self, node: u64, root: Root) {
        self.system(Command::Blob(BlobCmd::Lost { node: NodeId(node), roots: vec![root] })).await;
    }

    /// What the log knows of a blob.
    pub(crate) fn record(&self, digest: &Digest) -> (Root, RootRecord) {
        let state = self.consensus.state();
        let view = View::new(&*state);
        let root = view.blob().root_of(digest).unwrap().unwrap();
        (root, view.blob().root(&root).unwrap().unwrap())
    }

    /// When the one repository's link to a blob ends, in ticks.
    pub(crate) fn lease(&self, digest: &Digest) -> u64 {
        let state = self.consensus.state();
        let view = View::new(&*state);
        let at = view.project().repo(&repo()).unwrap().unwrap();
        view.blob().link(&at, digest).unwrap().unwrap().lease_until.unwrap()
    }

    /// The nodes that the log says hold a blob.
    pub(crate) fn holders(&self, digest: &Digest) -> Vec<u64> {
        self.record(digest).1.holders.iter().map(|node| node.0).collect()
    }

    /// Where the policies want a blob's copies.
    pub(crate) fn targets(&self, root: &Root) -> Vec<u64> {
        let state = self.consensus.state();
        let view = View::new(&*state);
        let policies = view.blob().policies(root).unwrap();
        let target = clawhub_policy::target(&policies, &view.cluster().layout().unwrap(), root);
        target.into_iter().map(|node| node.0).collect()
    }
}

/// What the members' edge does, as far as a test of this crate can: the edge itself is built on it.
struct Streams(Registry);

impl Streams {
    async fn step(
        &self,
        from: &Caller,
        step: UploadStep,
        body: BodyStream,
    ) -> Result<StepAnswer, crate::Error> {
        let UploadStep { repo, by, op } = step;
        let permit = Permit::<Push>::vouched(from, by.actor, repo, by.access);
        let chunk = |range, length| Chunk { range, length, body };
        let op = match op {
            StepOp::Begin { sha512 } => UploadOp::Begin { sha512 },
            StepOp::Append { upload, range, length } => UploadOp::Append(upload, chunk(range, length)),
            StepOp::Finish { upload, digest, range, length } => {
                UploadOp::Finish(upload, digest, chunk(range, length))
            }
            StepOp::Status { upload } => UploadOp::Status(upload),
            StepOp::Cancel { upload } => UploadOp::Cancel(upload),
        };
        let stands = self.0.upload_step(&permit, op).await?;
        Ok(stands
            .map_or(StepAnswer::Done, |view| StepAnswer::Position { upload: view.id, offset: view.offset }))
    }
}

impl StreamHandler for Streams {
    fn handle(&self, from: Caller, send: SendStream, recv: RecvStream) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // A stream that broke off is the peer's to notice.
            if let Ok(Some(mut asked)) = self.0.use_cases.core.replicate.serve(send, recv).await {
                let step = asked.step.clone();
                let body = asked.body().map(|piece| piece.map_err(BodyError::Broken)).boxed();
                let done = async {
                    let done = self.step(&from, step, body).await;
                    done.map_err(|error| (error.refused(), error.message))
                };
                let _ = asked.answer(done).await;
            }
        })
    }
}

async fn endpoint(ca: &Ca, id: NodeId, members: &Arc<Members>, ip: Option<[u8; 3]>) -> Endpoint {
    let key = NodeKey::generate().unwrap();
    let spki = key.spki_sha256();
    let cert = ca.issue(Csr::parse(&key.csr().unwrap()).unwrap(), id).unwrap();
    let hello = Hello { cluster: CLUSTER, epoch: 1, node: id, boot: 1, nonce: 0 };
    let identity = Identity { key, cert, ca_cert: ca.cert_der().to_vec(), hello };
    let ip = ip.map_or(Ipv4Addr::LOCALHOST, |[a, b, c]| Ipv4Addr::new(a, b, c, id.0 as u8));
    let any = SocketAddr::from((ip, 0));
    let endpoint = Endpoint::bind(any, identity, members.clone()).await.unwrap();
    let addr = endpoint.local_addr().to_string();
    members.0.lock().insert(id, PeerInfo { addr, spki });
    endpoint
}

async fn consensus(dir: &TempDir, node: NodeId, endpoint: &Endpoint) -> Consensus {
    let dir = dir.path().join(format!("state-{node}"));
    let state = StateStore::open(dir, |_, _| Ok(Arc::new(MemoryKv::new()) as Arc<dyn Kv>));
    let settings = Settings::new(node, 1, 1, Profile::Lan);
    let transport = Arc::new(GrpcTransport::new(endpoint.clone()));
    Consensus::start(settings, Arc::new(MemoryKv::new()), state.unwrap(), transport).await.unwrap()
}

/// What peers may ask of a node's end of the log.
fn served(consensus: &Consensus) -> Routes {
    Routes::new(clawhub_consensus::grpc::service(consensus.clone()))
}

struct NoStreams;

impl StreamHandler for NoStreams {
    fn handle(&self, _: Caller, _: SendStream, _: RecvStream) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, check: impl Fn() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !check() {
        assert!(tokio::time::Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The one repository.
pub(crate) fn repo() -> RepoName {
    "library/test".parse().unwrap()
}

/// The right to do something to it.
pub(crate) fn permit<A: Act<On = RepoName>>(registry: &Registry) -> Permit<A> {
    permit_for(registry, &repo())
}

/// The right to do something to a repository.
pub(crate) fn permit_for<A: Act<On = RepoName>>(registry: &Registry, repo: &RepoName) -> Permit<A> {
    registry.now().authorize(&Principal::Anonymous, repo).unwrap()
}

/// It, for somebody who may push to it.
pub(crate) fn target(registry: &Registry) -> Repo<Push> {
    registry.repo(permit(registry))
}

/// It, to be read as it is now.
pub(crate) fn reader(registry: &Registry) -> Reader {
    registry.now().reader(permit(registry))
}

/// A chunk that says nothing of itself.
pub(crate) fn chunk(bytes: &Bytes) -> Chunk {
    Chunk { range: None, length: None, body: body(bytes) }
}

/// Bytes that no other seed gives.
pub(crate) fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::Sha256(sha2::Sha256::digest(bytes).into())
}

/// The body of a request.
pub(crate) fn body(bytes: &Bytes) -> BodyStream {
    Box::pin(stream::iter([Ok(bytes.clone())]))
}

/// Pushes a blob in three steps.
pub(crate) async fn push(registry: &Registry, bytes: &Bytes) -> (UploadId, Digest) {
    let target = target(registry);
    let digest = digest(bytes);
    let id = target.begin_upload(None).await.unwrap().id;
    target.append(id, chunk(bytes)).await.unwrap();
    target.finish(id, &digest, chunk(&Bytes::new())).await.unwrap();
    (id, digest)
}

/// Pulls a blob.
pub(crate) async fn pull(registry: &Registry, digest: &Digest) -> Bytes {
    let blob = reader(registry).blob(digest, Intent::Read).await.unwrap();
    let mut pieces = blob.read(0..blob.size);
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    bytes.into()
}
