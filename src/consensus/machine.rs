//! The state machine as openraft sees it: [`clawhub_state::Machine`] on the live store.
//!
//! It owns the only writer of the applied state. Every write batch carries the position it ends at, so
//! a crash leaves the state of some position; the log from there on is applied again. Answers leave
//! after the batch that they are part of. A storage fault ends the worker, and with it the node.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use clawhub_state::{LogItem, Machine, Payload, View, decode_entry};
use clawhub_types::StatePoint;
use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::async_runtime::AsyncRuntime;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};

use crate::Execution;
use crate::files;
use crate::install::install;
use crate::log::MAX_BATCH_BYTES;
use crate::points::{self, Points};
use crate::position::{applied, fault, position};
use crate::snapshot::{SnapshotFiles, Snapshots, Staged};
use crate::store::StateStore;
use crate::types::{self, Applied, LogId, Proposal, RaftEntry, SnapshotMeta, StoredMembership, Types};

/// Entries that go into one write batch at most; [`MAX_BATCH_BYTES`] bounds their bytes.
const MAX_BATCH_ITEMS: usize = 1024;

/// What openraft drives; see the module.
pub struct StateMachine<R> {
    machine: Machine,
    store: StateStore,
    snapshots: Arc<Snapshots>,
    points: Points,
    execution: Execution,
    runtime: PhantomData<fn() -> R>,
}

impl<R: AsyncRuntime> StateMachine<R> {
    /// Opens the live state and finds its snapshot.
    ///
    /// # Errors
    /// If either cannot be read.
    pub fn open(store: StateStore, execution: Execution) -> io::Result<Self> {
        let machine = Machine::open(store.kv()).map_err(fault)?;
        let snapshots = Arc::new(Snapshots::open(store.dir())?);
        let points = Points::default();
        Ok(StateMachine { machine, store, snapshots, points, execution, runtime: PhantomData })
    }

    /// Its snapshots, which the rest of consensus looks after, too.
    pub(crate) fn snapshots(&self) -> Arc<Snapshots> {
        Arc::clone(&self.snapshots)
    }

    /// Where it notes what its state is.
    pub(crate) fn points(&self) -> Points {
        self.points.clone()
    }

    /// What is applied, and the membership in force there.
    pub(crate) fn position(&self) -> io::Result<(Option<LogId>, StoredMembership)> {
        position(&self.machine)
    }

    /// Applies entries in one batch, then answers.
    fn apply_batch(&mut self, batch: &mut Batch<R>) -> io::Result<()> {
        if batch.items.is_empty() {
            return Ok(());
        }
        let outcomes = self.machine.apply(&batch.items).map_err(fault)?;
        if batch.ends_at_a_point() {
            let (index, hash) = View::new(&**self.machine.kv()).state_hash().map_err(fault)?;
            self.points.note(StatePoint { index, hash });
        }
        for (outcome, responder) in outcomes.into_iter().zip(batch.responders.drain(..)) {
            if let Some(responder) = responder {
                responder.send(Applied(outcome));
            }
        }
        batch.items.clear();
        batch.bytes = 0;
        Ok(())
    }

    async fn stage(&mut self) -> io::Result<Staged> {
        let (last, membership) = applied(&self.machine)?;
        let snapshots = Arc::clone(&self.snapshots);
        let kv = self.store.kv();
        files::blocking::<R, _>(self.execution, move || snapshots.stage(&*kv, last, membership)).await
    }
}

/// Entries on their way into one write batch.
struct Batch<R: AsyncRuntime> {
    items: Vec<LogItem>,
    responders: Vec<Option<ApplyResponder<Types<R>>>>,
    bytes: usize,
}

impl<R: AsyncRuntime> Batch<R> {
    fn push(&mut self, entry: RaftEntry, responder: Option<ApplyResponder<Types<R>>>) -> io::Result<()> {
        let payload = match entry.payload {
            EntryPayload::Blank => Payload::Blank,
            EntryPayload::Normal(Proposal(bytes)) => {
                self.bytes += bytes.len();
                Payload::Entry(decode_entry(&bytes).map_err(fault)?)
            }
            EntryPayload::Membership(m) => Payload::Membership(types::members(&m)),
        };
        self.items.push(LogItem { pos: types::log_pos(&entry.log_id), payload });
        self.responders.push(responder);
        Ok(())
    }

    fn ends_at_a_point(&self) -> bool {
        self.items.last().is_some_and(|item| points::is_at(item.pos.index))
    }

    fn is_full(&self) -> bool {
        self.items.len() >= MAX_BATCH_ITEMS || self.bytes >= MAX_BATCH_BYTES
    }
}

impl<R: AsyncRuntime> RaftStateMachine<Types<R>> for StateMachine<R> {
    type SnapshotData = Arc<SnapshotFiles>;
    type SnapshotBuilder = Builder<R>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.position()
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types<R>>>> + Unpin + Send,
    {
        let mut batch = Batch { items: Vec::new(), responders: Vec::new(), bytes: 0 };
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            batch.push(entry, responder)?;
            // A call may span a whole log; a batch stays small. It ends where all nodes look at their states.
            if batch.is_full() || batch.ends_at_a_point() {
                self.apply_batch(&mut batch)?;
            }
        }
        self.apply_batch(&mut batch)
    }

    /// Takes the checkpoint here, where nothing is applied meanwhile; hashing its files waits for the
    /// builder, beside which applying goes on.
    async fn get_snapshot_builder(&mut self) -> Builder<R> {
        let staged = self.stage().await;
        let snapshots = Arc::clone(&self.snapshots);
        Builder { staged: Some(staged), snapshots, execution: self.execution, runtime: PhantomData }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Arc<SnapshotFiles>,
    ) -> io::Result<()> {
        let store = self.store.clone();
        let snapshots = Arc::clone(&self.snapshots);
        let expected = meta.clone();
        let work = move || install(&store, &snapshots, &expected, &snapshot);
        self.machine = files::blocking::<R, _>(self.execution, work).await?;
        // The machine before was the last to need the state before, but for those who are reading.
        let store = self.store.clone();
        let sweep = move || {
            store.sweep();
            Ok(())
        };
        files::blocking::<R, _>(self.execution, sweep).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<types::LeaderId, u64, openraft::EmptyNode, Arc<SnapshotFiles>>>> {
        Ok(self.snapshots.current().map(|files| Snapshot { meta: files.meta(), snapshot: files }))
    }
}

/// Finishes a snapshot whose checkpoint was taken.
pub struct Builder<R> {
    staged: Option<io::Result<Staged>>,
    snapshots: Arc<Snapshots>,
    execution: Execution,
    runtime: PhantomData<fn() -> R>,
}

impl<R: AsyncRuntime> RaftSnapshotBuilder<Types<R>> for Builder<R> {
    type SnapshotData = Arc<SnapshotFiles>;

    async fn build_snapshot(
        &mut self,
    ) -> io::Result<Snapshot<types::LeaderId, u64, openraft::EmptyNode, Arc<SnapshotFiles>>> {
        let staged = self.staged.take().ok_or_else(|| io::Error::other("a builder builds once"))??;
        let snapshots = Arc::clone(&self.snapshots);
        let files = files::blocking::<R, _>(self.execution, move || {
            snapshots.publish(snapshots.seal(staged, None)?, false)
        })
        .await?;
        Ok(Snapshot { meta: files.meta(), snapshot: files })
    }
}
