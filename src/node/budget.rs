//! What the node may hold in memory at most, queue by queue, window by window; the sum is logged at
//! start. `docs/architecture.md` lists the same rows with their reasons.

use clawhub_config::Config;
use clawhub_peer::limits::{GRPC_WINDOW, QUIC_SEND_WINDOW, QUIC_WINDOW, STRANGER_BYTES, STRANGERS};

/// Connection classes that carry bulk: foreground and background.
const BULK_CLASSES: u64 = 2;

pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) bytes: u64,
}

/// The bounds that do not depend on the size of the cluster.
pub(crate) fn rows(config: &Config) -> Vec<Row> {
    let row = |what, bytes| Row { what, bytes };
    vec![
        row("metadata caches and memtables", crate::stores::MEMORY),
        row("proposals under way, own and forwarded", 2 * config.limits.proposals),
        row("client connections", config.limits.connections as u64 * crate::http::CONNECTION_MEMORY),
        row("log lines that wait to be written", crate::log_queue::MEMORY),
        row("connections of nodes that join", (STRANGERS * STRANGER_BYTES) as u64),
        row("pieces of blobs that are passed through", clawhub_replicate::RELAY_MEMORY),
        row("the table of cached copies", clawhub_blobs::CACHE_MEMORY),
    ]
}

/// The windows that each other member adds.
pub(crate) fn per_peer() -> u64 {
    BULK_CLASSES * (u64::from(QUIC_WINDOW) + QUIC_SEND_WINDOW) + u64::from(GRPC_WINDOW)
}

/// What each upload under way adds: pieces between receiving, hashing, writing and mirroring.
pub(crate) const PER_UPLOAD: u64 = 9 << 20;

/// Logs every row and the sum.
pub(crate) fn log(config: &Config) {
    let rows = rows(config);
    for row in &rows {
        tracing::debug!(bytes = row.bytes, what = row.what, "memory budget");
    }
    let sum: u64 = rows.iter().map(|row| row.bytes).sum();
    let mib = |bytes: u64| bytes >> 20;
    tracing::info!(
        sum_mib = mib(sum),
        per_peer_mib = mib(per_peer()),
        per_upload_mib = mib(PER_UPLOAD),
        "memory budgets"
    );
}
