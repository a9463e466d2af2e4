//! Agreement: one log, replicated by openraft, applied by [`clawhub_state`].
//!
//! A [`Consensus`] is a node's part in the cluster. It proposes ([`Consensus::propose`]), waits until
//! reads are safe ([`Consensus::barrier`]), changes who takes part ([`Consensus::membership`]), and tells what it
//! knows ([`Consensus::status`], [`Consensus::watch`]). Each of these is a part with a file of its own; what all of them
//! ask of openraft is one more. This file puts them together.
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
//! arriving. Every wait ends with the caller's time or the profile's.

mod acknowledged;
mod announced;
mod answers;
mod arrival;
mod barrier;
mod budget;
mod clock;
mod core;
mod doubt;
mod error;
mod fatal;
mod files;
pub mod grpc;
mod hearing;
mod heartbeat;
mod install;
mod leader;
mod log;
mod machine;
mod membership;
mod network;
mod points;
mod position;
mod profile;
mod propose;
mod purge;
mod receive;
mod record;
mod rounds;
mod send;
mod serve;
mod session;
mod snapshot;
mod status;
mod store;
mod tables;
mod ticks;
pub mod transport;
mod types;
mod upkeep;
mod window;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use clawhub_kv::Kv;
use clawhub_state::cluster::ClusterCmd;
use clawhub_state::{Command, LogMark};
use clawhub_types::NodeId;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use parking_lot::Mutex;

pub use acknowledged::LogMarks;
pub use error::{ConsensusError, ServeError, Unavailable};
pub use fatal::{Cause, Failure};
pub use hearing::Hearing;
pub use leader::MAX_ENTRY_BYTES;
pub use log::{LogReader, LogStore, MAX_BATCH_BYTES};
pub use machine::{Builder, StateMachine};
pub use membership::{ChangeError, Membership};
pub use points::Points;
pub use profile::{Execution, Profile, Settings, WallClock};
pub use propose::{Committed, ProposeError, Who};
pub use serve::Rpc;
pub use snapshot::SnapshotFiles;
pub use status::{Role, Status, Watcher};
pub use store::{OpenKv, Purpose, StateStore};
pub use types::{Applied, Proposal, Types};
pub use window::LIMIT as IN_FLIGHT_BYTES;

use crate::core::{Core, Raft};
use acknowledged::Acknowledged;
use arrival::Arrivals;
use barrier::Barrier;
use clock::Clock;
use doubt::{Doubt, Examiner};
use hearing::Heard;
use leader::Leader;
use propose::Proposer;
use purge::Transfers;
use snapshot::Snapshots;
use ticks::Ticks;
use transport::Transport;
use upkeep::Upkeep;

/// A node's part in the cluster. Clones share it.
pub struct Consensus<R: AsyncRuntime = TokioRuntime> {
    shared: Arc<Shared<R>>,
}

impl<R: AsyncRuntime> Clone for Consensus<R> {
    fn clone(&self) -> Self {
        Consensus { shared: Arc::clone(&self.shared) }
    }
}

/// The parts, each with what it needs of the others.
struct Shared<R: AsyncRuntime> {
    core: Arc<Core<R>>,
    store: StateStore,
    points: Points,
    ticks: Arc<Ticks<R>>,
    /// When leaders spoke to this node.
    heard: Arc<Mutex<Heard<R>>>,
    marks: Arc<LogMarks<R>>,
    leader: Arc<Leader<R>>,
    proposer: Arc<Proposer<R>>,
    barrier: Arc<Barrier<R>>,
    membership: Arc<Membership<R>>,
    arrivals: Arc<Arrivals<R>>,
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

/// What the network shares with other parts.
struct Links<R: AsyncRuntime> {
    acknowledged: Arc<Acknowledged>,
    clock: Arc<Clock<R>>,
    /// Raised when a peer finds this node's state to be damaged.
    doubt: Arc<Doubt>,
    transfers: Arc<Transfers<R::Instant>>,
    transport: Arc<dyn Transport>,
}

impl<R: AsyncRuntime> Links<R> {
    fn new(transport: Arc<dyn Transport>) -> Links<R> {
        let clock = Arc::new(Clock::new());
        let transfers = Arc::new(Transfers::new());
        Links { acknowledged: Arc::default(), clock, doubt: Arc::default(), transfers, transport }
    }

    fn network(&self, settings: &Settings) -> network::Factory<R> {
        network::Factory {
            acknowledged: Arc::clone(&self.acknowledged),
            clock: Arc::clone(&self.clock),
            doubt: Arc::clone(&self.doubt),
            transfers: Arc::clone(&self.transfers),
            node: settings.node,
            profile: settings.profile,
            execution: settings.execution,
            snapshot_rate: settings.snapshot_rate,
            transport: Arc::clone(&self.transport),
            runtime: PhantomData,
        }
    }
}

/// What a node has on its own disks.
struct Local {
    log: LogStore,
    store: StateStore,
    snapshots: Arc<Snapshots>,
    points: Points,
    found: LogMark,
}

impl Local {
    /// Puts the parts together, and sets those to work that wait for nobody's question.
    fn begin<R: AsyncRuntime>(self, core: &Arc<Core<R>>, links: Links<R>) -> Shared<R> {
        let Local { log, store, snapshots, points, found } = self;
        let Links { acknowledged, clock, doubt, transfers, transport } = links;
        let own = || Arc::clone(core);
        let ticks = Arc::new(Ticks { core: own(), clock, store: store.clone() });
        let marks = Arc::new(LogMarks { core: own(), acknowledged, found });
        let leader = Leader::new(own(), Arc::clone(&ticks), store.clone(), Arc::clone(&marks));
        let proposer = Proposer::new(own(), Arc::clone(&ticks), Arc::clone(&leader), Arc::clone(&transport));
        let barrier = Barrier::new(own(), log, Arc::clone(&ticks), Arc::clone(&transport));
        let membership = Membership::new(own(), transport);
        let arrivals = Arrivals::new(own(), store.clone(), Arc::clone(&snapshots));
        let examiner = Examiner { core: own(), doubt, store: store.clone(), snapshots };
        let upkeep = Upkeep { core: own(), store: store.clone(), arrivals: Arc::clone(&arrivals), examiner };
        drop(R::spawn(Arc::clone(&ticks).follow_elections()));
        drop(R::spawn(Arc::clone(&membership).end_interrupted()));
        drop(R::spawn(purge::purge(own(), transfers)));
        drop(R::spawn(upkeep.run()));
        drop(R::spawn(heartbeat::beat(own())));
        let core = own();
        let heard = Heard::new();
        Shared { core, store, points, ticks, heard, marks, leader, proposer, barrier, membership, arrivals }
    }
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
        let store = state.clone();
        let machine =
            files::blocking::<R, _>(execution, move || StateMachine::open(state, execution)).await?;
        let found = found(&log, &machine)?;
        let snapshots = machine.snapshots();
        let points = machine.points();
        let links = Links::new(transport);
        let network = links.network(&settings);
        let raft = Raft::<R>::new(settings.node.0, Arc::new(config), network, log.clone(), machine).await;
        let raft = raft.map_err(|fatal| ConsensusError::fatal::<R>(&fatal))?;
        let core = Arc::new(Core::new(settings, raft));
        let local = Local { log, store, snapshots, points, found };
        Ok(Consensus { shared: Arc::new(local.begin(&core, links)) })
    }

    /// Makes this node the first and only voter of a new cluster. On a node that takes part in one
    /// already it changes nothing.
    ///
    /// # Errors
    /// [`ConsensusError::Raft`] if the node was stopped, [`ConsensusError::Failed`] if it stopped by itself.
    pub async fn initialize(&self) -> Result<(), ConsensusError> {
        use openraft::errors::{InitializeError, RaftError};
        let first = std::collections::BTreeMap::from([(self.node().0, record::node())]);
        match self.shared.core.raft.initialize(first).await {
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
        self.shared.core.node()
    }

    /// Proposes a command and waits for its replicated answer, for at most `wait`.
    ///
    /// # Errors
    /// See [`ProposeError`]. A caller that drops the future does not learn the outcome either; the
    /// command may still be applied, once.
    pub async fn propose(&self, cmd: Command, who: Who, wait: Duration) -> Result<Committed, ProposeError> {
        self.shared.proposer.propose(cmd, who, wait).await
    }

    /// Has a command of the cluster itself applied, also if this node takes no part any more: the others are
    /// asked in turn until one of them leads. The command must be one that may be applied twice.
    ///
    /// # Errors
    /// [`ProposeError::Rejected`]; [`ProposeError::Unknown`] if nobody had it applied within `wait`.
    pub async fn propose_via_peers(&self, cmd: ClusterCmd, wait: Duration) -> Result<(), ProposeError> {
        self.shared.proposer.propose_via_peers(cmd, wait).await
    }

    /// Waits until this node has applied every write that was acknowledged, anywhere, before the call.
    /// Returns the index applied. The mutant `local-reads` returns at once without asking anybody.
    ///
    /// # Errors
    /// [`Unavailable`] if there is no quorum, or this node is too far behind, for as long as the profile
    /// waits.
    pub async fn barrier(&self) -> Result<u64, Unavailable> {
        self.shared.barrier.wait().await
    }

    /// Waits until an index is applied here, for at most `wait`. `false` if it was not.
    pub async fn wait_applied(&self, index: u64, wait: Duration) -> bool {
        matches!(R::timeout(wait, self.shared.core.reached(index)).await, Ok(Some(_)))
    }

    /// The cluster's clock now, if this node leads.
    pub fn leading_tick(&self) -> Option<u64> {
        self.shared.ticks.leading()
    }

    /// A look at the node now.
    pub fn status(&self) -> Status {
        self.watch().status()
    }

    /// A handle that tells of changes.
    pub fn watch(&self) -> Watcher<R> {
        Watcher::new(&self.shared.core, &self.shared.heard)
    }

    /// A handle that tells whether this node may lack what the others know.
    pub fn hearing(&self) -> Hearing<R> {
        Hearing::new(&self.shared.core, &self.shared.heard)
    }

    /// How far logs have come: this node's when it started, and the members' as they acknowledge it to this node.
    pub fn log_marks(&self) -> &LogMarks<R> {
        &self.shared.marks
    }

    /// Its own state at the indices at which all nodes note theirs.
    pub fn points(&self) -> &Points {
        &self.shared.points
    }

    /// Who takes part.
    pub fn membership(&self) -> &Membership<R> {
        &self.shared.membership
    }

    /// Whether this node campaigns when nobody leads. It votes and follows all the same.
    pub fn campaign(&self, on: bool) {
        self.shared.core.raft.runtime_config().elect(on);
    }

    /// Makes a snapshot now instead of when it is due.
    ///
    /// # Errors
    /// [`ConsensusError::Raft`] if the node has stopped.
    pub async fn snapshot(&self) -> Result<(), ConsensusError> {
        let asked = self.shared.core.raft.trigger().snapshot().await;
        asked.map_err(|fatal| ConsensusError::fatal::<R>(&fatal))
    }

    /// How many snapshots of other nodes have replaced this node's state since it was made.
    pub fn snapshots_installed(&self) -> u64 {
        self.shared.store.replaced()
    }

    /// Answers a message of another member.
    pub fn rpc(&self) -> Rpc<'_, R> {
        Rpc { shared: &self.shared }
    }

    /// Returns when the node has stopped: `None` if it was told to, else why. A stopped node takes part
    /// in nothing; its owner should close it.
    pub async fn stopped(&self) -> Option<Failure> {
        self.shared.core.stopped().await
    }

    /// Ends this node's part for good, because its state is not what it should be.
    pub async fn condemn(&self, reason: String) {
        self.shared.core.give_up(Failure { reason, corrupt: true, device: false }).await;
    }

    /// Stops taking part. What was acknowledged is durable; a leader should hand over first.
    pub async fn shutdown(&self) {
        self.shared.core.shutdown().await;
    }
}
