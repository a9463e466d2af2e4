//! Brings every region its copy: this node fetches each blob that belongs here and is not here.

use std::time::Duration;

use clawhub_registry::{Census, Registry};
use tokio::sync::watch;
use tokio::time::sleep;

/// A pass begins at most this often, however fast the log grows.
const QUIET: Duration = Duration::from_millis(500);
/// A pass begins at least this often: a node that was away may be back.
const ALWAYS: Duration = Duration::from_secs(60);
/// After copies that failed, the next pass begins after this.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Runs for ever.
pub(crate) async fn run(registry: Registry, mut applied: watch::Receiver<u64>) {
    loop {
        let complete = pass(&registry).await;
        sleep(QUIET).await;
        let again = if complete { ALWAYS } else { AFTER_FAILURE };
        // Either something was applied, or it is time.
        if let Ok(Err(_)) = tokio::time::timeout(again, applied.changed()).await {
            return;
        }
    }
}

/// Looks at every root once; false if copies are still missing.
async fn pass(registry: &Registry) -> bool {
    let index = registry.applied();
    let (mut after, mut complete, mut short) = (None, true, 0);
    loop {
        match registry.reconcile(after).await {
            Ok(step) => {
                complete &= step.failed == 0;
                short += step.short;
                after = step.next;
            }
            Err(error) => {
                tracing::warn!(%error, "replicas could not be reconciled");
                return false;
            }
        }
        if after.is_none() {
            registry.note_census(Census { index, short });
            return complete;
        }
    }
}
