//! What becomes of upload sessions that nobody uses: they close their files, and end after a while.
//!
//! Owns nothing: what a crash interrupts is done again when its time has come.

use std::sync::Arc;
use std::time::Duration;

use clawhub_durable::task::detached;
use clawhub_kv::Batch;

use crate::session::{Entered, Session, Work};
use crate::{BlobError, Uploads};

/// How long an unused session keeps its files open.
const REST: Duration = Duration::from_secs(600);

impl Uploads<'_> {
    /// Cancels the sessions that nobody touched for `older_than`, and answers how many. Those in use at this
    /// moment are left alone.
    pub(crate) async fn expire(self, older_than: Duration) -> usize {
        let mut count = self.store.shared.sessions.lock().expire_empty(older_than);
        let sessions = self.used();
        for session in sessions {
            let Ok(work) = session.work.clone().try_lock_owned() else { continue };
            let store = self.store.clone();
            let id = session.id;
            let idle = session.idle();
            let entered = Entered { session, work };
            let outcome = match *entered.work {
                Work::Hot(_) | Work::Cold(_) if idle >= older_than => {
                    detached(async move { store.uploads().discard(entered).await }).await.map(|()| 1)
                }
                Work::Hot(_) if idle >= REST => {
                    detached(async move { store.uploads().rest(entered).await }).await.map(|()| 0)
                }
                _ => Ok(0),
            };
            count += outcome.unwrap_or_else(|error| {
                tracing::warn!(upload = %id, %error, "ending an idle upload");
                0
            });
        }
        count
    }

    /// Forgets what became of sessions that ended long ago.
    pub(crate) fn forget_finished(self) {
        let mut more = true;
        while more {
            let mut batch = Batch::default();
            more = self.store.shared.finished.forget_old(&mut batch, self.store.shared.clock.now());
            if !batch.is_empty()
                && let Err(error) = self.store.shared.index.write(batch)
            {
                // They are read again at the next start.
                tracing::warn!(%error, "forgetting finished uploads");
                return;
            }
        }
    }

    /// Closes the files of the session that has not been used for longest, of those that are not in use.
    pub(crate) async fn rest_the_idlest(self) {
        let open = |session: &Arc<Session>| {
            let work = session.work.clone().try_lock_owned().ok()?;
            matches!(*work, Work::Hot(_)).then(|| Entered { session: session.clone(), work })
        };
        let idlest = {
            let sessions = self.store.shared.sessions.lock();
            sessions.used().filter_map(open).max_by_key(|entered| entered.session.idle())
        };
        let Some(entered) = idlest else { return };
        if let Err(error) = self.rest(entered).await {
            tracing::warn!(%error, "closing the files of an upload that is not used");
        }
    }

    /// Flushes every session in use.
    pub(crate) async fn flush_all(self) -> Result<(), BlobError> {
        let mut outcome = Ok(());
        for session in self.used() {
            let work = session.work.clone().lock_owned().await;
            if matches!(*work, Work::Hot(_)) {
                outcome = outcome.and(self.flush_entered(&mut Entered { session, work }).await.map(drop));
            }
        }
        outcome
    }
}
