//! What consensus does beside its work, all the time: files that nobody needs any more go, and doubts are settled.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;

use crate::arrival::Arrivals;
use crate::core::Core;
use crate::doubt::Examiner;
use crate::store::StateStore;
use crate::{files, receive};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Upkeep<R: AsyncRuntime> {
    pub(crate) core: Arc<Core<R>>,
    pub(crate) store: StateStore,
    pub(crate) arrivals: Arc<Arrivals<R>>,
    pub(crate) examiner: Examiner<R>,
}

impl<R: AsyncRuntime> Upkeep<R> {
    /// Until the node stops.
    pub(crate) async fn run(self) {
        loop {
            R::sleep(EVERY).await;
            if !self.core.runs() {
                return;
            }
            if let Err(e) = self.tidy().await {
                tracing::warn!(error = %e, "what nobody needs any more cannot be removed");
            }
            self.examiner.settle().await;
        }
    }

    /// Removes replaced states that nobody reads any more, and what arrived of a snapshot that is not needed.
    async fn tidy(&self) -> std::io::Result<()> {
        let applied = self.core.applied();
        let store = self.store.clone();
        // Not under a snapshot that is arriving.
        let alone = self.arrivals.pause();
        let arriving = alone.is_none();
        files::blocking::<R, _>(self.core.settings.execution, move || {
            store.sweep();
            if arriving { Ok(()) } else { receive::sweep(store.dir(), applied) }
        })
        .await
    }
}
