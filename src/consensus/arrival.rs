//! Answers a leader that sends a snapshot.
//!
//! One at a time, in a task of its own: a caller that gives up takes nothing from under it. What is refused for a
//! reason that the leader must know is refused in its words ([`SnapshotRefusal`]).

use std::io;
use std::sync::Arc;

use futures::lock::{Mutex, MutexGuard};
use futures::stream::{BoxStream, StreamExt};
use openraft::async_runtime::{AsyncRuntime, WatchReceiver};
use openraft::storage::Snapshot;

use crate::announced::announced;
use crate::core::Core;
use crate::error::ServeError;
use crate::files;
use crate::install::{Unsound, make_ready};
use crate::receive::{self, Incoming, NotTaken, Received};
use crate::record::Manifest;
use crate::snapshot::{Arrived, SnapshotFiles, Snapshots};
use crate::store::StateStore;
use crate::transport::{SnapshotHeader, SnapshotPart, SnapshotRefusal, SnapshotReply};
use crate::types;

/// Takes in one snapshot at a time.
pub(crate) struct Arrivals<R: AsyncRuntime> {
    core: Arc<Core<R>>,
    store: StateStore,
    snapshots: Arc<Snapshots>,
    /// Held while a snapshot arrives.
    receiving: Arc<Mutex<()>>,
}

impl<R: AsyncRuntime> Arrivals<R> {
    pub(crate) fn new(core: Arc<Core<R>>, store: StateStore, snapshots: Arc<Snapshots>) -> Arc<Arrivals<R>> {
        Arc::new(Arrivals { core, store, snapshots, receiving: Arc::default() })
    }

    /// Keeps snapshots from arriving until the answer is dropped; `None` if one is.
    pub(crate) fn pause(&self) -> Option<MutexGuard<'_, ()>> {
        self.receiving.try_lock()
    }

    /// Says what this node has of a snapshot, or takes it in and installs it.
    ///
    /// # Errors
    /// [`ServeError`]; what has arrived is kept for the next attempt.
    pub(crate) async fn answer(
        &self,
        mut parts: BoxStream<'static, SnapshotPart>,
    ) -> Result<SnapshotReply, ServeError> {
        let first = R::timeout(self.core.settings.profile.wait(), parts.next()).await;
        let Ok(Some(SnapshotPart::Header(header))) = first else {
            return Err(ServeError::Refused("a snapshot begins with its header".to_owned()));
        };
        let Some(alone) = Arc::clone(&self.receiving).try_lock_owned() else {
            return Ok(SnapshotReply::refused(header.vote, SnapshotRefusal::Busy));
        };
        let mine = self.core.raft.metrics().borrow_watched().vote;
        if mine > types::vote(header.vote) {
            return Ok(SnapshotReply::new(types::ballot(&mine)));
        }
        let core = Arc::clone(&self.core);
        let snapshots = Arc::clone(&self.snapshots);
        let arrival = Arrival { core, store: self.store.clone(), snapshots, header };
        let taking = R::spawn(async move {
            let answer = arrival.take(parts).await;
            drop(alone);
            answer
        });
        taking.await.map_err(|e| ServeError::Stopped(e.to_string()))?
    }
}

/// A snapshot that a leader offers or sends.
struct Arrival<R: AsyncRuntime> {
    core: Arc<Core<R>>,
    store: StateStore,
    snapshots: Arc<Snapshots>,
    header: SnapshotHeader,
}

impl<R: AsyncRuntime> Arrival<R> {
    async fn take(self, parts: BoxStream<'static, SnapshotPart>) -> Result<SnapshotReply, ServeError> {
        let reply = SnapshotReply::new(self.header.vote);
        let manifest = announced(&self.header).map_err(|e| ServeError::Refused(e.to_string()))?;
        let applied = self.core.raft.metrics().borrow_watched().last_applied;
        if manifest.last.map(types::log_id) <= applied {
            self.forget().await;
            return Ok(SnapshotReply { installed: true, ..reply });
        }
        let taken = match self.open(manifest).await {
            Ok((_, held)) if !self.header.transfer => return Ok(SnapshotReply { held, ..reply }),
            Ok((incoming, _)) => self.receive(incoming, parts).await,
            Err(e) => Err(e),
        };
        match taken {
            Ok(arrived) => self.install(arrived).await,
            Err(e) => self.refuse(e).await,
        }
    }

    async fn open(&self, manifest: Manifest) -> Result<(Incoming, Vec<u32>), NotTaken> {
        let settings = &self.core.settings;
        let dir = self.store.dir().to_owned();
        let reserve = settings.snapshot_reserve;
        let open = move || {
            Ok(Incoming::open(&dir, manifest, reserve).map(|incoming| {
                let held = incoming.held();
                (incoming, held)
            }))
        };
        files::blocking::<R, _>(settings.execution, open).await?
    }

    /// Has all of it arrive, checks it, and makes it ready.
    async fn receive(
        &self,
        incoming: Incoming,
        parts: BoxStream<'static, SnapshotPart>,
    ) -> Result<Arrived, NotTaken> {
        let execution = self.core.settings.execution;
        let received: Received = incoming.receive::<R>(execution, parts).await?;
        let store = self.store.clone();
        let snapshots = Arc::clone(&self.snapshots);
        let ready = move || Ok(make_ready(&store, &snapshots, &received));
        let ready = files::blocking::<R, _>(execution, ready).await?;
        ready.map_err(|unsound| match unsound {
            // Whether it is the sender's fault, the sender finds out.
            Unsound::Damaged(what) | Unsound::Unclear(what) => NotTaken::Damaged(what),
            Unsound::Io(e) => NotTaken::Io(e),
        })
    }

    async fn install(&self, arrived: Arrived) -> Result<SnapshotReply, ServeError> {
        let vote = self.header.vote;
        let files = Arc::new(SnapshotFiles::arrived(arrived));
        let snapshot = Snapshot { meta: files.meta(), snapshot: files };
        let answer = self.core.raft.install_full_snapshot(types::vote(vote), snapshot).await;
        let answer = answer.map_err(|e| ServeError::Stopped(e.to_string()))?;
        let installed = answer.vote <= types::vote(vote);
        if installed {
            // It is in force, or was found not to be needed.
            self.forget().await;
        }
        Ok(SnapshotReply { installed, ..SnapshotReply::new(types::ballot(&answer.vote)) })
    }

    /// The answer to a leader whose snapshot was not taken in. What cannot be used makes room.
    async fn refuse(&self, why: NotTaken) -> Result<SnapshotReply, ServeError> {
        let refusal = match why {
            NotTaken::NoRoom { needed, room } => SnapshotRefusal::NoRoom { needed, room },
            NotTaken::Damaged(what) => {
                tracing::error!(what, "a snapshot of the leader's is damaged; none of it is kept");
                SnapshotRefusal::Damaged
            }
            NotTaken::Io(e) => match self.full(&e).await {
                Some(refusal) => refusal,
                None => return Err(ServeError::Refused(e.to_string())),
            },
        };
        if let SnapshotRefusal::NoRoom { needed, room } = refusal {
            tracing::warn!(needed, room, "there is no room for the leader's snapshot");
        }
        self.forget().await;
        Ok(SnapshotReply::refused(self.header.vote, refusal))
    }

    /// Whether an error came of a full device. Stores say no more than that their device refused.
    async fn full(&self, error: &io::Error) -> Option<SnapshotRefusal> {
        let settings = &self.core.settings;
        let dir = self.store.dir().to_owned();
        let room = files::blocking::<R, _>(settings.execution, move || files::room(&dir)).await.ok()?;
        let told = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let reserve = settings.snapshot_reserve;
        let sizes = self.header.files.iter().fold(reserve, |sum, file| sum.saturating_add(file.size));
        (told || room < reserve).then_some(SnapshotRefusal::NoRoom { needed: sizes, room })
    }

    /// Removes what has arrived.
    async fn forget(&self) {
        let dir = self.store.dir().to_owned();
        let execution = self.core.settings.execution;
        if let Err(e) = files::blocking::<R, _>(execution, move || receive::discard(&dir)).await {
            tracing::warn!(error = %e, "what arrived of a snapshot cannot be removed");
        }
    }
}
