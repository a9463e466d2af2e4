//! Everything that runs once the node is a member, put together in one place: the only one that chooses
//! concrete types.
//!
//! stores → blobs → peers → consensus → replicate → registry → jobs; stopped in the opposite order.

use std::sync::Arc;
use std::time::Duration;

use clawhub_auth::Authorizer;
use clawhub_blobs::{BlobStore, StoreConfig};
use clawhub_config::RaftProfile;
use clawhub_consensus::{Consensus, Profile, Settings, StateStore};
use clawhub_jobs::Jobs;
use clawhub_kv::Kv;
use clawhub_liveness::Liveness;
use clawhub_peer::{ClusterKey, Endpoint, Hello, Identity, NodeKey};
use clawhub_registry::Registry;
use clawhub_replicate::Replicate;
use clawhub_state::View;
use clawhub_types::{ClusterId, NodeId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::admission::Admission;
use crate::data_dir::Owner;
use crate::directory::Members;
use crate::error::NodeError;
use crate::facts::Facts;
use crate::node::{Boot, Node};
use crate::stores;

/// How long a node that is cut off goes on answering GET by digest.
const CUT_OFF: Duration = Duration::from_secs(15 * 60);
/// How long a stopping leader tries to hand over first.
const HAND_OVER: Duration = Duration::from_secs(1);
/// How long consensus may take to stop.
const CONSENSUS_STOP: Duration = Duration::from_secs(5);

/// What the node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Blobs with a durable copy.
    pub(crate) blobs: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// The running parts of a member.
pub(crate) struct Stack {
    /// This node.
    pub(crate) me: NodeId,
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// The key that seals secrets in the state.
    pub(crate) cluster_key: ClusterKey,
    pub(crate) members: Arc<Members>,
    pub(crate) endpoint: Endpoint,
    pub(crate) consensus: Consensus,
    /// The store of its log, to be asked whether it still takes anything.
    pub(crate) raft: Arc<dyn Kv>,
    pub(crate) blobs: BlobStore,
    pub(crate) liveness: Liveness,
    pub(crate) replicate: Replicate,
    pub(crate) registry: Registry,
    usage: Mutex<Usage>,
    jobs: Mutex<Option<Jobs>>,
    peers: Mutex<Option<JoinHandle<()>>>,
    stop_peers: CancellationToken,
}

impl Stack {
    /// Starts every part for the member that the data directory belongs to.
    ///
    /// # Errors
    /// [`NodeError`]; what was started by then stops with the runtimes of this life.
    pub(crate) async fn start(node: &Node, owner: Owner) -> Result<Stack, NodeError> {
        bind_stores(node)?;
        let (raft, state) = node.with_dir(|dir| {
            Ok::<_, NodeError>((stores::raft(dir)?, stores::state(dir).map_err(io_at(dir.state()))?))
        })?;
        check_owner(&state, owner)?;
        let store = StoreConfig {
            dir: node.with_dir(|dir| dir.root().to_owned()),
            min_free: node.config.storage.min_free,
            node: owner.node,
        };
        let blobs = BlobStore::open(store, node.local.clone()).await?;
        let members = Arc::new(Members::new(state.clone(), node.facts.peers()?));
        let (identity, cluster_key) = identity(node, owner)?;
        let endpoint = Endpoint::bind(node.peer_port.release(), identity, members.clone()).await?;
        let consensus = consensus(node, owner.node, raft.clone(), state, &endpoint).await?;
        let source = consensus.clone();
        let liveness = liveness(owner.node, &endpoint, &members, &blobs);
        let state = Arc::new(move || source.state());
        let replicate = Replicate::new(blobs.clone(), endpoint.clone(), liveness.clone(), state);
        let profile = profile(node.config.raft.profile);
        let limits = clawhub_registry::Limits { wait: profile.wait(), cut_off: CUT_OFF };
        let registry = Registry::new(consensus.clone(), replicate.clone(), Authorizer::Open, limits);
        let stack = Stack {
            me: owner.node,
            cluster: owner.cluster,
            cluster_key,
            members,
            endpoint,
            jobs: Mutex::new(Some(Jobs::start(&registry, applied(&consensus)))),
            consensus,
            raft,
            blobs,
            liveness,
            replicate,
            registry,
            usage: Mutex::default(),
            peers: Mutex::new(None),
            stop_peers: CancellationToken::new(),
        };
        stack.serve_peers(node);
        Ok(stack)
    }

    /// Lets the other members, and those who want to be, in.
    fn serve_peers(&self, node: &Node) {
        let consensus = Routes::new(clawhub_consensus::grpc::service(self.consensus.clone()));
        let admission = Admission::new(self.consensus.clone(), self.cluster_key.clone()).routes();
        let (endpoint, streams) = (self.endpoint.clone(), Arc::new(self.registry.clone()));
        let (told, stop) = (self.stop_peers.clone().cancelled_owned(), node.stop.clone());
        let serving = tokio::spawn(async move {
            if let Err(error) = endpoint.serve(consensus, admission, streams, told).await {
                stop.fault(format!("the peer listener ended: {error}"));
            }
        });
        *self.peers.lock() = Some(serving);
    }

    /// How much this node holds, as last counted.
    pub(crate) fn usage(&self) -> Usage {
        *self.usage.lock()
    }

    /// Notes how much this node holds.
    pub(crate) fn set_usage(&self, usage: Usage) {
        *self.usage.lock() = usage;
    }

    /// Stops every part. Clients have been drained before.
    pub(crate) async fn stop(&self) {
        drop(self.jobs.lock().take());
        if self.consensus.status().leader == Some(self.me) {
            // A courtesy: without it the others wait for an election time-out.
            if let Err(error) = self.consensus.transfer_leader(None, HAND_OVER).await {
                tracing::debug!(%error, "leadership was not handed over");
            }
        }
        if tokio::time::timeout(CONSENSUS_STOP, self.consensus.shutdown()).await.is_err() {
            tracing::warn!("consensus did not stop in time");
        }
        self.stop_peers.cancel();
        let serving = self.peers.lock().take();
        if let Some(serving) = serving {
            // A panic in it has aborted the process already.
            let _ = serving.await;
        }
        // Last, when nothing writes any more: uploads and fetches resume from here.
        if let Err(error) = self.replicate.blobs().close().await {
            tracing::error!(%error, "the blob store did not close cleanly; it recovers at the next start");
        }
    }
}

/// What consensus is told of the network.
pub(crate) fn profile(profile: RaftProfile) -> Profile {
    match profile {
        RaftProfile::Lan => Profile::Lan,
        RaftProfile::Wan => Profile::Wan,
    }
}

fn io_at(path: std::path::PathBuf) -> impl FnOnce(std::io::Error) -> NodeError {
    move |source| NodeError::Io { path, source }
}

/// Makes sure that the folders of the stores are this node's. One that is empty because its device is not mounted
/// would otherwise be taken for new, and the node would have forgotten its votes.
fn bind_stores(node: &Node) -> Result<(), NodeError> {
    match node.facts.stores()? {
        Some(mark) => Ok(node.with_dir(|dir| dir.check_marks(mark))?),
        None => {
            // The folders first: cut off between the two, the next start draws another one.
            let mark = rand::random();
            node.with_dir(|dir| dir.mark(mark))?;
            Ok(node.facts.set_stores(mark)?)
        }
    }
}

/// Refuses a state that is another cluster's, for example one restored from the wrong backup.
fn check_owner(state: &StateStore, owner: Owner) -> Result<(), NodeError> {
    let kv = state.kv();
    match View::new(&*kv).cluster().record()? {
        Some(cluster) if cluster.id != owner.cluster => Err(NodeError::Inconsistent(format!(
            "FORMAT names {owner}, the state is cluster {}'s",
            cluster.id
        ))),
        _ => Ok(()),
    }
}

/// The node's keys and certificate, as they were when it became a member.
fn identity(node: &Node, owner: Owner) -> Result<(Identity, ClusterKey), NodeError> {
    let missing = || NodeError::Inconsistent("FORMAT names a member, and local/ knows of no cluster".into());
    let epoch = node.facts.epoch()?.ok_or_else(missing)?;
    let (cert, ca_cert) = node.with_dir(|dir| dir.certificates())?;
    let (key, cluster_key) = node.with_dir(|dir| (dir.node_key(), dir.cluster_key()));
    let Boot { count: boot, nonce } = node.boot;
    let hello = Hello { cluster: owner.cluster, epoch, node: owner.node, boot, nonce };
    let identity = Identity { key: NodeKey::load_or_create(&key)?, cert, ca_cert, hello };
    Ok((identity, ClusterKey::load(&cluster_key)?))
}

async fn consensus(
    node: &Node,
    me: NodeId,
    log: Arc<dyn Kv>,
    state: StateStore,
    endpoint: &Endpoint,
) -> Result<Consensus, NodeError> {
    let mut settings = Settings::new(me, node.boot.count, node.boot.nonce, profile(node.config.raft.profile));
    settings.snapshot_interval = node.config.raft.snapshot_entries;
    settings.snapshot_rate = node.config.raft.snapshot_rate;
    settings.proposal_budget = usize::try_from(node.config.limits.proposals).unwrap_or(usize::MAX);
    let transport = Arc::new(clawhub_consensus::grpc::GrpcTransport::new(endpoint.clone()));
    let runtime = node.consensus_runtime.clone();
    // Entering the other runtime makes everything that consensus starts run there.
    let start = move || runtime.block_on(Consensus::start(settings, log, state, transport));
    match tokio::task::spawn_blocking(start).await {
        Ok(started) => Ok(started?),
        Err(error) => Err(NodeError::Fault(format!("starting consensus: {error}"))),
    }
}

fn liveness(me: NodeId, endpoint: &Endpoint, members: &Arc<Members>, blobs: &BlobStore) -> Liveness {
    let members = members.clone();
    let blobs = blobs.clone();
    Liveness::start(me, endpoint.clone(), move || members.ids(), move || blobs.accepts())
}

/// Tells of every change of the applied index.
fn applied(consensus: &Consensus) -> watch::Receiver<u64> {
    let mut watcher = consensus.watch();
    let (tell, told) = watch::channel(0);
    tokio::spawn(async move {
        while let Some(status) = watcher.changed().await {
            tell.send_if_modified(|last| std::mem::replace(last, status.applied) != status.applied);
        }
    });
    told
}

/// The peers to start from next time: kept whenever they change.
pub(crate) fn keep_peers(facts: &Facts, members: &Members) -> Result<(), NodeError> {
    let now = members.current()?;
    if !now.is_empty() && now != facts.peers()? {
        facts.set_peers(&now)?;
        members.set_seeds(now);
    }
    Ok(())
}
