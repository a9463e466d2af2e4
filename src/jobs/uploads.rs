//! Forgets upload sessions that their clients have abandoned, and has those rest whose clients pause.

use std::time::Duration;

use clawhub_registry::Registry;

/// Also what closes files that nobody reads any more. A mirror is ended within twice this after its upload's
/// last step.
const EVERY: Duration = Duration::from_secs(60);
/// A session lives this long after its last step.
const IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs for ever.
pub(crate) async fn run(registry: Registry) {
    let mut every = tokio::time::interval(EVERY);
    loop {
        every.tick().await;
        let expired = registry.expire_uploads(IDLE).await;
        if expired > 0 {
            tracing::info!(expired, "abandoned uploads were forgotten");
        }
    }
}
