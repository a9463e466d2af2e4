//! One upload session: what is known of it in memory, and who is using it.
//!
//! A session is its row in the index, its directory, and, while it is in use, an [`Ingest`]; one without bytes is
//! what is here and nothing else. A crash loses what is here; the row says where the session resumes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use clawhub_durable::now_millis;
use clawhub_types::{RepoName, UploadId};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::BlobError;
use crate::hashes::Hashes;
use crate::index::UploadRow;
use crate::ingest::Ingest;
use crate::uptime::StoreClock;

/// What a caller may know about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadStatus {
    /// The repository uploaded to.
    pub repo: RepoName,
    /// Whether SHA-512 is computed as the bytes come.
    pub sha512: bool,
    /// Bytes accepted: where the next append goes.
    pub offset: u64,
    /// Bytes that survive a crash of the machine.
    pub durable: u64,
    /// Where the client was last told that the upload ends; see [`crate::Uploads::acknowledge`].
    pub acknowledged: u64,
    /// When the session was opened.
    pub opened_at: SystemTime,
}

pub(crate) struct Session {
    /// Which of the empty ones it was; says nothing of one that had a row at the start.
    pub(crate) number: u64,
    pub(crate) id: UploadId,
    pub(crate) repo: RepoName,
    pub(crate) sha512: bool,
    pub(crate) opened_at: u64,
    /// Whether the index has its row.
    pub(crate) recorded: AtomicBool,
    pub(crate) progress: Mutex<Progress>,
    pub(crate) work: Arc<tokio::sync::Mutex<Work>>,
}

#[derive(Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) offset: u64,
    pub(crate) durable: u64,
    pub(crate) acknowledged: u64,
    /// When the session was last used, or read from its row, and how long it had been idle then, by the store's own
    /// clock: no clock that jumps or is wrong expires anything.
    touched: Instant,
    idle_before: Duration,
}

pub(crate) enum Work {
    /// Files closed; to be resumed at the durable offset. The hashes may be those of the bytes up to there.
    Cold(Option<Box<Hashes>>),
    Hot(Box<Ingest>),
    /// Kept or cancelled: callers that waited find nothing.
    Gone,
}

impl Session {
    /// One that was opened before.
    pub(crate) fn resumed(id: UploadId, row: UploadRow, clock: &StoreClock) -> Session {
        let idle = clock.since(row.touched_at);
        Session::from_row(id, row, idle)
    }

    /// One that is opened now, without bytes and without a row.
    pub(crate) fn empty(number: u64, id: UploadId, repo: RepoName, sha512: bool) -> Session {
        let row =
            UploadRow { repo, sha512, opened_at: now_millis(), touched_at: 0, durable: 0, acknowledged: 0 };
        let recorded = AtomicBool::new(false);
        Session { number, recorded, ..Session::from_row(id, row, Duration::ZERO) }
    }

    fn from_row(id: UploadId, row: UploadRow, idle_before: Duration) -> Session {
        let UploadRow { repo, sha512, opened_at, touched_at: _, durable, acknowledged } = row;
        let touched = Instant::now();
        let progress = Progress { offset: durable, durable, acknowledged, touched, idle_before };
        let progress = Mutex::new(progress);
        let work = Arc::new(tokio::sync::Mutex::new(Work::Cold(None)));
        Session {
            number: u64::MAX,
            id,
            repo,
            sha512,
            opened_at,
            recorded: AtomicBool::new(true),
            progress,
            work,
        }
    }

    /// Its row, as it is used now.
    pub(crate) fn row(&self, durable: u64, acknowledged: u64, clock: &StoreClock) -> UploadRow {
        UploadRow {
            repo: self.repo.clone(),
            sha512: self.sha512,
            opened_at: self.opened_at,
            touched_at: clock.now(),
            durable,
            acknowledged,
        }
    }

    /// Whether it has no row, and so no bytes and no files. A question alone does not change that.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.recorded.load(Ordering::Acquire)
    }

    pub(crate) fn touch(&self) {
        let mut progress = self.progress.lock();
        progress.touched = Instant::now();
        progress.idle_before = Duration::ZERO;
    }

    pub(crate) fn idle(&self) -> Duration {
        let progress = *self.progress.lock();
        progress.idle_before + progress.touched.elapsed()
    }
}

/// A session that this caller alone may use.
pub(crate) struct Entered {
    pub(crate) session: Arc<Session>,
    pub(crate) work: OwnedMutexGuard<Work>,
}

impl Entered {
    pub(crate) fn ingest(&mut self) -> Result<&mut Ingest, BlobError> {
        match &mut *self.work {
            Work::Hot(ingest) => Ok(ingest),
            Work::Cold(_) | Work::Gone => Err(BlobError::UploadUnknown(self.session.id)),
        }
    }

    /// Passes a result on. After a failure the files are closed and the session falls back to its
    /// durable offset: what the disk did not confirm is given up.
    pub(crate) async fn settled<T>(&mut self, result: Result<T, BlobError>) -> Result<T, BlobError> {
        if result.is_err() {
            self.close().await;
        }
        result
    }

    /// Closes the files when no thread writes to them any more: the next ones to open them would write
    /// to the same places.
    pub(crate) async fn close(&mut self) {
        if let Work::Hot(ingest) = &*self.work {
            ingest.quiesce().await;
            *self.work = Work::Cold(None);
        }
        let mut progress = self.session.progress.lock();
        progress.offset = progress.durable;
    }

    /// The same, and keeps hashes for the next ones.
    pub(crate) async fn close_with(&mut self, hashes: Option<Box<Hashes>>) {
        self.close().await;
        if let (Work::Cold(known), Some(hashes)) = (&mut *self.work, hashes) {
            *known = Some(hashes);
        }
    }
}
