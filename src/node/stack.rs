//! Everything that runs once the node is a member, put together in one place: the only one that chooses
//! concrete types.
//!
//! stores → blobs → peers → consensus → replicate → registry; stopped in the opposite order.

use std::sync::Arc;
use std::time::Duration;

use clawhub_api_peer::Streams;
use clawhub_auth::Authorizer;
use clawhub_blobs::BlobStore;
use clawhub_cluster::{JoinService, MemberDirectory, Owner, Rotation};
use clawhub_config::RaftProfile;
use clawhub_consensus::{Consensus, Profile, Settings, StateStore};
use clawhub_kv::Kv;
use clawhub_liveness::Liveness;
use clawhub_peer::{Certified, Endpoint, Hello, Identity, KeyFiles, Routes, StartKey};
use clawhub_registry::Registry;
use clawhub_replicate::Replicate;
use clawhub_types::NodeId;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::base::{Base, Boot};
use crate::error::NodeError;
use crate::stop::Stop;
use crate::stores;

/// How long a node that is cut off goes on answering GET by digest.
const CUT_OFF: Duration = Duration::from_secs(15 * 60);
/// How long a stopping leader tries to hand over first, the way left out.
const HAND_OVER: Duration = Duration::from_millis(700);
/// Round trips of a hand-over: the word, the vote, the first word of the new leader.
const TRIPS: u32 = 3;
/// How long consensus may take to stop.
const CONSENSUS_STOP: Duration = Duration::from_secs(5);

/// The running parts of a member.
pub(crate) struct Stack {
    /// This node's keys and the cluster's.
    pub(crate) keys: Arc<KeyFiles>,
    pub(crate) members: Arc<MemberDirectory>,
    pub(crate) endpoint: Endpoint,
    pub(crate) consensus: Consensus,
    /// The store of its log, to be asked whether it still takes anything.
    pub(crate) raft: Arc<dyn Kv>,
    pub(crate) blobs: BlobStore,
    pub(crate) liveness: Liveness,
    pub(crate) registry: Registry,
    peers: Mutex<Option<JoinHandle<()>>>,
    stop_peers: CancellationToken,
}

impl Stack {
    /// Starts every part for the member that the data directory belongs to; beside them its part when keys are replaced.
    ///
    /// # Errors
    /// [`NodeError`]; what was started by then stops with the runtimes of this life.
    pub(crate) async fn start(
        base: &Base,
        owner: Owner,
        stop: &Stop,
    ) -> Result<(Stack, Rotation), NodeError> {
        stores::bind(base)?;
        let raft = stores::raft(&base.dir)?;
        let state = stores::state(&base.dir).map_err(io_at(base.dir.state()))?;
        stores::check_owner(&state, owner)?;
        let blobs = BlobStore::open(base.blob_store(owner.node), base.local.clone()).await?;
        let members = Arc::new(MemberDirectory::new(state.clone(), base.store.peers()?));
        let keys = Arc::new(KeyFiles::open(base.dir.root())?);
        let identity = identity(base, owner, keys.present().certified.clone())?;
        let endpoint = Endpoint::bind(base.peer_port.release(), identity, members.clone()).await?;
        let consensus = consensus(base, owner.node, raft.clone(), state, &endpoint).await?;
        let start = StartKey::generate()?;
        let mut rotation =
            Rotation::new(consensus.clone(), endpoint.clone(), keys.clone(), start, base.boot.count);
        rotation.resume().await?;
        let hearing = consensus.hearing();
        members.hear(move || hearing.is_behind());
        let profile = profile(base.config.raft.profile);
        let liveness = liveness(owner.node, profile, &endpoint, &members, &blobs);
        let source = consensus.clone();
        let state = Arc::new(move || source.state());
        let replicate = Replicate::new(blobs.clone(), endpoint.clone(), liveness.clone(), state);
        let limits = clawhub_registry::Limits { wait: profile.wait(), cut_off: CUT_OFF };
        let registry = Registry::new(consensus.clone(), replicate.clone(), Authorizer::Open, limits);
        let streams = Streams::new(replicate, registry.clone());
        let stack = Stack {
            keys,
            members,
            endpoint,
            consensus,
            raft,
            blobs,
            liveness,
            registry,
            peers: Mutex::new(None),
            stop_peers: CancellationToken::new(),
        };
        stack.serve_peers(streams, stop.clone());
        Ok((stack, rotation))
    }

    /// Lets the other members, and those who want to be, in.
    fn serve_peers(&self, streams: Streams, stop: Stop) {
        let consensus = Routes::new(clawhub_consensus::grpc::service(self.consensus.clone()));
        let calls = clawhub_api_peer::add_members(consensus, self.members.clone());
        let join = JoinService::new(self.consensus.clone(), self.keys.clone());
        let endpoint = self.endpoint.clone();
        let told = self.stop_peers.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            let served = endpoint.serve(calls, clawhub_api_peer::join_routes(join), Arc::new(streams), told);
            if let Err(error) = served.await {
                stop.fault(format!("the peer listener ended: {error}"));
            }
        });
        *self.peers.lock() = Some(serving);
    }

    /// Stops every part. Clients have been drained before.
    pub(crate) async fn stop(&self) {
        if self.consensus.status().leader == Some(self.consensus.node()) {
            let limit = self.liveness.round_trip().within(TRIPS, HAND_OVER);
            // A courtesy: without it the others wait for an election time-out.
            if let Err(error) = self.consensus.membership().transfer_leader(None, limit).await {
                tracing::debug!(%error, "leadership was not handed over");
            }
        }
        if tokio::time::timeout(CONSENSUS_STOP, self.consensus.shutdown()).await.is_err() {
            tracing::warn!("consensus did not stop in time");
        }
        // Not before: until consensus has stopped, the other members speak to it through this listener.
        self.stop_peers.cancel();
        let serving = self.peers.lock().take();
        if let Some(serving) = serving {
            // A panic in it has aborted the process already.
            let _ = serving.await;
        }
        // Last, when nothing writes any more: uploads and fetches resume from here.
        if let Err(error) = self.blobs.close().await {
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

/// Who this node is.
fn identity(base: &Base, owner: Owner, certified: Certified) -> Result<Identity, NodeError> {
    let missing = || NodeError::Inconsistent("FORMAT names a member, and local/ knows of no cluster".into());
    let epoch = base.store.epoch()?.ok_or_else(missing)?;
    let Certified { key, cert, ca_cert } = certified;
    let Boot { count: boot, nonce } = base.boot;
    let hello = Hello { cluster: owner.cluster, epoch, node: owner.node, boot, nonce };
    Ok(Identity { key, cert, ca_cert, hello })
}

async fn consensus(
    base: &Base,
    me: NodeId,
    log: Arc<dyn Kv>,
    state: StateStore,
    endpoint: &Endpoint,
) -> Result<Consensus, NodeError> {
    let mut settings = Settings::new(me, base.boot.count, base.boot.nonce, profile(base.config.raft.profile));
    settings.snapshot_interval = base.config.raft.snapshot_entries;
    settings.snapshot_rate = base.config.raft.snapshot_rate;
    // A snapshot may not make the node give it up.
    settings.snapshot_reserve = base.config.raft.ballast;
    settings.proposal_budget = usize::try_from(base.config.limits.proposals).unwrap_or(usize::MAX);
    let transport = Arc::new(clawhub_consensus::grpc::GrpcTransport::new(endpoint.clone()));
    let runtime = base.consensus_runtime.clone();
    // Entering the other runtime makes everything that consensus starts run there.
    let start = move || runtime.block_on(Consensus::start(settings, log, state, transport));
    match tokio::task::spawn_blocking(start).await {
        Ok(started) => Ok(started?),
        Err(error) => Err(NodeError::Fault(format!("starting consensus: {error}"))),
    }
}

fn liveness(
    me: NodeId,
    profile: Profile,
    endpoint: &Endpoint,
    members: &Arc<MemberDirectory>,
    blobs: &BlobStore,
) -> Liveness {
    let members = members.clone();
    let blobs = blobs.clone();
    Liveness::new(me, profile.round_trip(), endpoint.clone(), move || members.ids(), move || blobs.accepts())
}
