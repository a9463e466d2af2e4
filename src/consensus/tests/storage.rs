//! openraft's own suite for log stores and state machines, on RocksDB with the flush thread and on
//! memory in place.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use clawhub_consensus::{
    Builder, Cause, Execution, LogStore, SnapshotFiles, StateMachine, StateStore, Types,
};
use clawhub_kv::{Kv, KvError, MemoryKv, RocksKv, RocksProfile};
use futures::{Stream, StreamExt};
use openraft::StorageError;
use openraft::async_runtime::AsyncRuntime;
use openraft::entry::RaftEntry;
use openraft::errors::ErrorSource;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft_rt_sim::SimRuntime;
use openraft_rt_tokio::TokioRuntime;
use tempfile::TempDir;

/// The suite applies entries with gaps between their indices, which no log has and the machine refuses:
/// this puts blank entries in the gaps.
struct WithoutGaps<R: AsyncRuntime>(StateMachine<R>);

impl<R: AsyncRuntime> RaftStateMachine<Types<R>> for WithoutGaps<R> {
    type SnapshotData = Arc<SnapshotFiles>;
    type SnapshotBuilder = Builder<R>;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogIdOf<Types<R>>>, StoredMembershipOf<Types<R>>)> {
        self.0.applied_state().await
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types<R>>>> + Unpin + Send,
    {
        let mut last = self.0.applied_state().await?.0;
        let mut filled = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let id = entry.log_id();
            while let Some(before) = last.filter(|l| l.index() + 1 < id.index()) {
                let blank = LogIdOf::<Types<R>>::new(*id.committed_leader_id(), before.index() + 1);
                filled.push(Ok((EntryOf::<Types<R>>::new_blank(blank), None)));
                last = Some(blank);
            }
            last = Some(id);
            filled.push(Ok((entry, responder)));
        }
        self.0.apply(futures::stream::iter(filled)).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder<R> {
        self.0.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types<R>>,
        snapshot: Arc<SnapshotFiles>,
    ) -> io::Result<()> {
        self.0.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types<R>, Arc<SnapshotFiles>>>> {
        self.0.get_current_snapshot().await
    }
}

/// Opens the store of a kind in a directory.
type Open = fn(&Path, RocksProfile) -> Result<Arc<dyn Kv>, KvError>;

struct Stores<R> {
    open: Open,
    execution: Execution,
    runtime: PhantomData<fn() -> R>,
}

impl<R: AsyncRuntime> StoreBuilder<Types<R>, LogStore, WithoutGaps<R>, TempDir> for Stores<R> {
    async fn build(&self) -> Result<(TempDir, LogStore, WithoutGaps<R>), StorageError<Types<R>>> {
        let (open, dir) = (self.open, tempfile::tempdir().unwrap());
        let build = || -> io::Result<(LogStore, StateMachine<R>)> {
            let log = open(&dir.path().join("raft"), RocksProfile::Raft).map_err(io::Error::other)?;
            let state =
                StateStore::open(dir.path().join("state"), move |at, _| open(at, RocksProfile::State))?;
            Ok((LogStore::open(log, self.execution)?, StateMachine::open(state, self.execution)?))
        };
        let (log, machine) = build().map_err(|e| StorageError::read(Cause::from_error(&e)))?;
        Ok((dir, log, WithoutGaps(machine)))
    }
}

fn rocks(dir: &Path, profile: RocksProfile) -> Result<Arc<dyn Kv>, KvError> {
    Ok(Arc::new(RocksKv::open(dir, profile)?))
}

fn memory(dir: &Path, _: RocksProfile) -> Result<Arc<dyn Kv>, KvError> {
    Ok(Arc::new(if dir.exists() { MemoryKv::open_checkpoint(dir)? } else { MemoryKv::new() }))
}

#[test]
fn the_suite_passes_on_rocksdb() {
    let stores = Stores { open: rocks, execution: Execution::Threads, runtime: PhantomData };
    TokioRuntime::run(async { Suite::<Types<TokioRuntime>, _, _, _, _>::test_all(stores).await }).unwrap();
}

#[test]
fn the_suite_passes_on_memory_in_simulation() {
    let stores = Stores { open: memory, execution: Execution::Inline, runtime: PhantomData };
    SimRuntime::run(async { Suite::<Types<SimRuntime>, _, _, _, _>::test_all(stores).await }).unwrap();
}
