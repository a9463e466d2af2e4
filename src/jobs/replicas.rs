//! Brings every region its copy: this node fetches each blob that belongs here and is not here.

use std::time::Duration;

use clawhub_registry::{Census, Registry};
use tokio::sync::watch;
use tokio::time::sleep;

/// A pass begins at most this often, however fast the log grows.
const QUIET: Duration = Duration::from_millis(500);
/// A pass reads every root, so one that took long is followed by so many times as long a pause.
const REST: u32 = 10;
/// A pass begins at least this often: a node that was away may be back.
const ALWAYS: Duration = Duration::from_secs(60);
/// After copies that failed, the next pass begins after this.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Runs for ever.
pub(crate) async fn run(registry: Registry, mut applied: watch::Receiver<u64>) {
    let mut stock = None;
    loop {
        match registry.take_stock(stock).await {
            Ok(None) => break,
            Ok(next) => stock = next,
            Err(error) => {
                tracing::debug!(%error, "what is here could not be compared with the log yet");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
    loop {
        let Pass { complete, reading } = pass(&registry).await;
        sleep((reading * REST).clamp(QUIET, ALWAYS)).await;
        let again = if complete { ALWAYS } else { AFTER_FAILURE };
        // Either something was applied, or it is time.
        if let Ok(Err(_)) = tokio::time::timeout(again, applied.changed()).await {
            return;
        }
    }
}

/// What came of looking at every root once.
struct Pass {
    /// No copy that belongs here is missing any more.
    complete: bool,
    /// How long the looking took, without the copying.
    reading: Duration,
}

async fn pass(registry: &Registry) -> Pass {
    let index = registry.applied();
    let (mut after, mut short) = (None, 0);
    let mut pass = Pass { complete: true, reading: Duration::ZERO };
    loop {
        match registry.reconcile(after).await {
            Ok(step) => {
                pass.complete &= step.failed == 0;
                pass.reading += step.reading;
                short += step.short;
                after = step.next;
            }
            Err(error) => {
                tracing::warn!(%error, "replicas could not be reconciled");
                return Pass { complete: false, ..pass };
            }
        }
        if after.is_none() {
            registry.note_census(Census { index, short });
            return pass;
        }
    }
}
