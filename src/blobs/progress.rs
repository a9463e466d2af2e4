//! How far an upload session is: in the file, on the disk, and as far as its client knows.
//!
//! The row in the index says the last two. A step makes bytes durable first and records them afterwards; a crash
//! in between loses what was not recorded.

use clawhub_durable::promised::sync_blob_dir;
use clawhub_durable::task::{blocking, detached};
use clawhub_kv::Batch;
use clawhub_types::UploadId;

use crate::index::put_upload;
use crate::session::{Entered, Progress, Session, Work};
use crate::{BlobError, Uploads};

impl Uploads<'_> {
    /// Makes what was appended durable and records it, so that a restart resumes there. Answers the
    /// durable offset.
    ///
    /// # Errors
    /// [`BlobError::UploadUnknown`]; after [`BlobError::Io`] the session stands at its durable offset.
    pub async fn flush(self, id: UploadId) -> Result<u64, BlobError> {
        let store = self.store.clone();
        detached(async move {
            if store.uploads().session(id)?.is_untouched() {
                return Ok(0);
            }
            // Opens the files: a partner finds out by this whether they still have what is durable.
            let mut entered = store.uploads().enter(id).await?;
            store.uploads().flush_entered(&mut entered).await
        })
        .await
    }

    /// Makes what was appended durable, as [`Uploads::flush`] does, and says how much that is, but leaves it to a
    /// later step to record it: until then a restart does not count it.
    ///
    /// # Errors
    /// As those of [`Uploads::flush`].
    pub async fn sync(self, id: UploadId) -> Result<u64, BlobError> {
        let store = self.store.clone();
        detached(async move { store.uploads().synced(id).await.map(|(_, end)| end) }).await
    }

    /// Flushes, and records that the client is told now that the session ends at `to`. What comes beyond it is, until
    /// the client is told more, of requests that the client may send again.
    ///
    /// # Errors
    /// As those of [`Uploads::flush`].
    pub async fn acknowledge(self, id: UploadId, to: u64) -> Result<(), BlobError> {
        let store = self.store.clone();
        detached(async move {
            let (mut entered, end) = store.uploads().synced(id).await?;
            if let Work::Hot(ingest) = &mut *entered.work
                && ingest.end() == to
            {
                ingest.tell().await;
            }
            store.uploads().note_progress(&entered.session, end, to.min(end)).await
        })
        .await
    }

    /// Gives up everything from `to` on, durably, so that other bytes may take its place. The files are opened anew
    /// by the next step, which reads what is left unless the client was told of just that much.
    ///
    /// # Errors
    /// As those of [`Uploads::flush`].
    pub async fn cut_back(self, id: UploadId, to: u64) -> Result<(), BlobError> {
        let store = self.store.clone();
        detached(async move {
            let mut entered = store.uploads().enter_as_it_is(id).await?;
            let told = match &mut *entered.work {
                Work::Hot(ingest) => ingest.told().filter(|hashes| hashes.end == to),
                Work::Cold(_) | Work::Gone => None,
            };
            entered.close_with(told).await;
            let Progress { durable, acknowledged, .. } = *entered.session.progress.lock();
            let to = to.min(durable);
            // Before the first byte is overwritten: a restart must not take a mixture for what was there.
            store.uploads().note_progress(&entered.session, to, acknowledged.min(to)).await?;
            entered.session.progress.lock().offset = to;
            Ok(())
        })
        .await
    }

    /// Waits for the session, whether its files are open or closed.
    async fn enter_as_it_is(self, id: UploadId) -> Result<Entered, BlobError> {
        let session = self.session(id)?;
        let work = session.work.clone().lock_owned().await;
        if matches!(*work, Work::Gone) {
            return Err(BlobError::UploadUnknown(id));
        }
        session.touch();
        Ok(Entered { session, work })
    }

    /// Enters a session and fsyncs it. What files that are closed have is durable.
    async fn synced(self, id: UploadId) -> Result<(Entered, u64), BlobError> {
        let mut entered = self.enter_as_it_is(id).await?;
        let end = match &mut *entered.work {
            Work::Hot(ingest) => {
                let flushed = ingest.flush().await;
                entered.settled(flushed).await?
            }
            Work::Cold(_) | Work::Gone => entered.session.progress.lock().durable,
        };
        Ok((entered, end))
    }

    /// Flushes a session that this caller has entered.
    pub(crate) async fn flush_entered(self, entered: &mut Entered) -> Result<u64, BlobError> {
        let flushed = entered.ingest()?.flush().await;
        let end = entered.settled(flushed).await?;
        let acknowledged = entered.session.progress.lock().acknowledged;
        self.note_progress(&entered.session, end, acknowledged).await?;
        Ok(end)
    }

    /// Records how far a session is on the disk, and how far its client knows.
    async fn note_progress(self, session: &Session, end: u64, acknowledged: u64) -> Result<(), BlobError> {
        let Progress { durable: before, acknowledged: told, .. } = *session.progress.lock();
        if (before, told) == (end, acknowledged) {
            return Ok(());
        }
        if before == 0 && end > 0 {
            // The first durable bytes need durable names.
            let dir = self.store.shared.paths.upload(&session.id);
            let parent = self.store.shared.paths.uploads();
            let named = move || sync_blob_dir(&dir).and_then(|()| sync_blob_dir(&parent));
            blocking(move || named().map_err(BlobError::io("fsyncing an upload's directory"))).await?;
        }
        let mut batch = Batch::default();
        put_upload(&mut batch, &session.id, &session.row(end, acknowledged, &self.store.shared.clock));
        self.store.shared.index.commit(batch).await?;
        let mut progress = session.progress.lock();
        progress.durable = end;
        progress.acknowledged = acknowledged;
        Ok(())
    }
}
