//! What consensus does beside its work, all the time: files that nobody needs any more go, and doubts are settled.

use std::time::Duration;

use openraft::async_runtime::{AsyncRuntime, WatchReceiver};

use crate::{Consensus, files, receive};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);

impl<R: AsyncRuntime> Consensus<R> {
    /// Until the node stops.
    pub(crate) async fn upkeep(self) {
        loop {
            R::sleep(EVERY).await;
            if self.shared.raft.metrics().borrow_watched().running_state.is_err() {
                return;
            }
            if let Err(e) = self.tidy().await {
                tracing::warn!(error = %e, "what nobody needs any more cannot be removed");
            }
            self.settle_doubt().await;
        }
    }

    /// Removes replaced states that nobody reads any more, and what arrived of a snapshot that is not needed.
    async fn tidy(&self) -> std::io::Result<()> {
        let applied = self.status().applied;
        let store = self.shared.store.clone();
        // Not under a snapshot that is arriving.
        let alone = self.shared.receiving.try_lock();
        let arriving = alone.is_none();
        files::blocking::<R, _>(self.shared.settings.execution, move || {
            store.sweep();
            if arriving { Ok(()) } else { receive::sweep(store.dir(), applied) }
        })
        .await
    }
}
