//! Agreement: one log, replicated by openraft, applied by [`clawhub_state`].
//!
//! A [`Consensus`] is a node's part in the cluster. It proposes ([`Consensus::propose`]), waits until
//! reads are safe ([`Consensus::barrier`]), changes who takes part, and tells what it knows
//! ([`Consensus::status`], [`Consensus::watch`]).
//!
//! **State.** The log ([`LogStore`]): votes and entries, durable before anybody is told of them; a crash
//! loses what nobody was told. The applied state ([`StateStore`]): durable up to some position, from
//! which the log is applied again. Snapshots: files below the applied state's directory. In memory
//! only, and begun anew at each start: the proposer session, the leader's clock, rounds of reads.
//!
//! **Runtime.** Everything but [`grpc`] is generic over openraft's [`AsyncRuntime`], so that the
//! simulation runs the same code. The node should give consensus an executor of its own: applying and
//! reading the log block for as long as the store takes.
//!
//! **Limits.** Entries [`MAX_ENTRY_BYTES`]; batches [`MAX_BATCH_BYTES`]; proposals under way
//! [`Settings::proposal_budget`], once for this node's clients and once, as leader, for the others';
//! entries on their way to one follower 4 MiB; pieces of snapshots 256 KiB, one snapshot at a time
//! arriving. Every wait ends with the caller's time
//! or the profile's.

mod acknowledged;
mod answers;
mod arrival;
mod barrier;
mod budget;
mod clock;
mod doubt;
mod fatal;
mod files;
pub mod grpc;
mod hearing;
mod heartbeat;
mod install;
mod log;
mod machine;
mod membership;
mod network;
mod participation;
mod points;
mod profile;
mod propose;
mod purge;
mod receive;
mod record;
mod send;
mod serve;
mod session;
mod snapshot;
mod status;
mod store;
mod tables;
pub mod transport;
mod types;
mod upkeep;
mod window;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clawhub_kv::{Kv, KvError};
use clawhub_state::LogMark;
use clawhub_types::NodeId;
use openraft::Instant;
use openraft::async_runtime::{AsyncRuntime, Select2, WatchReceiver};
use openraft::errors::Fatal;
use openraft_rt_tokio::TokioRuntime;
use parking_lot::Mutex;

pub use fatal::{Cause, Failure};
pub use hearing::Hearing;
pub use log::{LogReader, LogStore, MAX_BATCH_BYTES};
pub use machine::{Builder, StateMachine};
pub use membership::{ChangeError, Membership};
pub use points::Points;
pub use profile::{Execution, Profile, Settings, WallClock};
pub use propose::{Committed, MAX_ENTRY_BYTES, ProposeError, Who};
pub use serve::{Rpc, ServeError};
pub use snapshot::SnapshotFiles;
pub use status::{Role, Status, Watcher};
pub use store::{OpenKv, Purpose, StateStore};
pub use types::{Applied, Proposal, Types};
pub use window::LIMIT as IN_FLIGHT_BYTES;

use transport::Transport;

/// Nothing was done; trying again later may help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// How long to stay away: about one election.
    pub retry_after: Duration,
    /// For people.
    pub reason: String,
}

/// A node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// Its settings contradict each other.
    #[error("settings: {0}")]
    Settings(String),
    /// The log or the state cannot be read, or is damaged. Nothing was changed or repaired.
    #[error("storage: {0}")]
    Storage(#[from] std::io::Error),
    /// Consensus ended while it started.
    #[error("raft: {0}")]
    Failed(Failure),
    /// openraft refused to start.
    #[error("raft: {0}")]
    Raft(String),
}

impl ConsensusError {
    /// Whether the log or the state is damaged rather than out of reach.
    pub fn is_corrupt(&self) -> bool {
        match self {
            ConsensusError::Storage(error) => {
                error.kind() == std::io::ErrorKind::InvalidData
                    || KvError::within(error).is_some_and(KvError::is_corrupt)
            }
            ConsensusError::Failed(failure) => failure.corrupt,
            ConsensusError::Settings(_) | ConsensusError::Raft(_) => false,
        }
    }

    fn fatal<R: AsyncRuntime>(fatal: &Fatal<types::Types<R>>) -> ConsensusError {
        match Failure::of(fatal) {
            Some(failure) => ConsensusError::Failed(failure),
            None => ConsensusError::Raft(fatal.to_string()),
        }
    }
}

/// A node's part in the cluster. Clones share it.
pub struct Consensus<R: AsyncRuntime = TokioRuntime> {
    shared: Arc<Shared<R>>,
}

impl<R: AsyncRuntime> Clone for Consensus<R> {
    fn clone(&self) -> Self {
        Consensus { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<R: AsyncRuntime> {
    settings: Settings,
    raft: types::Raft<R>,
    log: LogStore,
    store: StateStore,
    snapshots: Arc<snapshot::Snapshots>,
    points: Points,
    transport: Arc<dyn Transport>,
    clock: Arc<clock::Clock<R>>,
    sessions: Arc<session::Sessions>,
    barrier: barrier::Barrier<R::Instant>,
    transfers: Arc<purge::Transfers<R::Instant>>,
    /// What peers have acknowledged to this node.
    acknowledged: Arc<acknowledged::Acknowledged>,
    /// Its own vote and log as they were when it started.
    found: LogMark,
    /// For proposals of this node's clients.
    budget: budget::Budget,
    /// For proposals that others forward to this node.
    forwarded: budget::Budget,
    /// Held while membership changes.
    changes: futures::lock::Mutex<()>,
    /// Held while a snapshot arrives.
    receiving: Arc<futures::lock::Mutex<()>>,
    /// Raised by whoever is told that this node's state is not sound.
    doubt: Arc<doubt::Doubt>,
    /// Why this node stopped, if that was not openraft's to say.
    gave_up: Mutex<Option<Failure>>,
    /// When leaders spoke to this node.
    heard: Arc<Mutex<hearing::Heard<R>>>,
    stopping: AtomicBool,
}

/// Says at start which rule this process breaks, if it is a mutant.
fn confess() {
    if let Some(mutant) = clawhub_mutant::named() {
        tracing::error!(
            mutant = mutant.name(),
            "this is a mutant: it breaks a promise, and is for tests alone"
        );
    }
}

/// How far the vote and the log of a node have come. A state that came as a snapshot may be ahead of its log.
fn found<R: AsyncRuntime>(log: &LogStore, machine: &StateMachine<R>) -> std::io::Result<LogMark> {
    let applied = machine.position()?.0.map_or(0, |id| id.index);
    let index = log.last().map_or(0, |id| id.index).max(applied);
    Ok(LogMark { term: log.vote().map_or(0, |vote| vote.leader_id.term), index })
}

impl<R: AsyncRuntime> Consensus<R> {
    /// Starts the node on its log and its state. It takes part at once: before this is called, its
    /// [`grpc::service`] or simulated equivalent need not be reachable, but should be soon after.
    ///
    /// # Errors
    /// [`ConsensusError`].
    pub async fn start(
        settings: Settings,
        log: Arc<dyn Kv>,
        state: StateStore,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, ConsensusError> {
        confess();
        let config = settings.config().map_err(|e| ConsensusError::Settings(e.to_string()))?;
        let execution = settings.execution;
        let log = files::blocking::<R, _>(execution, move || LogStore::open(log, execution)).await?;
        let opened = state.clone();
        let machine =
            files::blocking::<R, _>(execution, move || StateMachine::open(opened, execution)).await?;
        let transfers = Arc::new(purge::Transfers::new());
        let found = found(&log, &machine)?;
        let acknowledged = Arc::<acknowledged::Acknowledged>::default();
        let doubt = Arc::<doubt::Doubt>::default();
        let snapshots = machine.snapshots();
        let points = machine.points();
        let clock = Arc::new(clock::Clock::new());
        let network = network::Factory {
            acknowledged: Arc::clone(&acknowledged),
            clock: Arc::clone(&clock),
            doubt: Arc::clone(&doubt),
            transfers: Arc::clone(&transfers),
            node: settings.node,
            profile: settings.profile,
            execution,
            snapshot_rate: settings.snapshot_rate,
            transport: Arc::clone(&transport),
            runtime: PhantomData,
        };
        let raft =
            types::Raft::<R>::new(settings.node.0, Arc::new(config), network, log.clone(), machine).await;
        let raft = raft.map_err(|fatal| ConsensusError::fatal::<R>(&fatal))?;
        let budget = budget::Budget::new(settings.proposal_budget);
        let forwarded = budget::Budget::new(settings.proposal_budget);
        let shared = Shared {
            settings,
            raft,
            log,
            store: state,
            snapshots,
            points,
            transport,
            clock,
            sessions: Arc::default(),
            barrier: barrier::Barrier::default(),
            transfers,
            acknowledged,
            found,
            budget,
            forwarded,
            changes: futures::lock::Mutex::default(),
            receiving: Arc::default(),
            doubt,
            gave_up: Mutex::default(),
            heard: hearing::Heard::new(),
            stopping: AtomicBool::default(),
        };
        let consensus = Consensus { shared: Arc::new(shared) };
        drop(R::spawn(consensus.clone().reconcile()));
        drop(R::spawn(consensus.clone().purge()));
        drop(R::spawn(consensus.clone().upkeep()));
        drop(R::spawn(consensus.clone().beat()));
        Ok(consensus)
    }

    /// Makes this node the first and only voter of a new cluster. On a node that takes part in one
    /// already it changes nothing.
    ///
    /// # Errors
    /// [`ConsensusError::Raft`] if the node was stopped, [`ConsensusError::Failed`] if it stopped by itself.
    pub async fn initialize(&self) -> Result<(), ConsensusError> {
        use openraft::errors::{InitializeError, RaftError};
        let first = std::collections::BTreeMap::from([(self.node().0, record::node())]);
        match self.shared.raft.initialize(first).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::Fatal(fatal)) => Err(ConsensusError::fatal::<R>(&fatal)),
            Err(e) => Err(ConsensusError::Raft(e.to_string())),
        }
    }

    /// The applied state as it is now. Taken anew for each request, since a snapshot replaces the store.
    pub fn state(&self) -> Arc<dyn Kv> {
        self.shared.store.kv()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.shared.settings.node
    }

    /// Makes a snapshot now instead of when it is due.
    ///
    /// # Errors
    /// [`ConsensusError::Raft`] if the node has stopped.
    pub async fn snapshot(&self) -> Result<(), ConsensusError> {
        let asked = self.shared.raft.trigger().snapshot().await;
        asked.map_err(|fatal| ConsensusError::fatal::<R>(&fatal))
    }

    /// Its own state at the indices at which all nodes note theirs.
    pub fn points(&self) -> &Points {
        &self.shared.points
    }

    /// How many snapshots of other nodes have replaced this node's state since it was made.
    pub fn snapshots_installed(&self) -> u64 {
        self.shared.store.replaced()
    }

    /// Waits until an index is applied here, for at most `wait`. `false` if it was not.
    pub async fn wait_applied(&self, index: u64, wait: Duration) -> bool {
        matches!(R::timeout(wait, self.applied(index)).await, Ok(Some(_)))
    }

    /// Stops taking part. What was acknowledged is durable; a leader should hand over first.
    pub async fn shutdown(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Err(e) = self.shared.raft.shutdown().await {
            tracing::error!(error = %e, "raft did not stop cleanly");
        }
    }

    /// Who leads, as far as this node knows.
    fn leader(&self) -> Option<NodeId> {
        self.shared.raft.server_metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// Waits until somebody leads who is not `old`.
    async fn leader_other_than(&self, old: Option<NodeId>) {
        let mut metrics = self.shared.raft.server_metrics();
        let old = old.map(|node| node.0);
        loop {
            let now = metrics.borrow_and_update().current_leader;
            if now.is_some() && now != old {
                return;
            }
            if metrics.changed().await.is_err() {
                // The node is stopping; whoever waits has a limit of their own.
                return std::future::pending().await;
            }
        }
    }

    /// A moment between two attempts, cut short when leadership moves.
    async fn pause(&self, leader: Option<NodeId>, deadline: R::Instant) {
        let until = (R::Instant::now() + self.shared.settings.profile.pause()).min(deadline);
        match R::select2(self.leader_other_than(leader), R::sleep_until(until)).await {
            Select2::First(()) | Select2::Second(()) => {}
        }
    }

    fn unavailable(&self, reason: String) -> Unavailable {
        Unavailable { retry_after: self.shared.settings.profile.retry_after(), reason }
    }
}
