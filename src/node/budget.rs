//! What the node may hold in memory at most, queue by queue, window by window; the sum is logged at start.
//! `docs/architecture.md` lists the same rows with their reasons, and a test compares the two.

use clawhub_config::Config;
use clawhub_peer::limits::{
    GRPC_WINDOW, HANDSHAKE_BYTES, HANDSHAKES, MEMBERS_HANDSHAKES, QUIC_PENDING_BYTES, QUIC_SEND_WINDOW,
    QUIC_WINDOW, STRANGER_BYTES, STRANGERS, STREAMS,
};

/// Connection classes that carry bulk: foreground and background.
const BULK_CLASSES: u64 = 2;
/// Program, threads, and what an allocator keeps of what was freed.
const PROCESS: u64 = 192 << 20;

pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) bytes: u64,
}

/// The bounds that do not depend on the size of the cluster.
pub(crate) fn rows(config: &Config) -> Vec<Row> {
    let row = |what, bytes| Row { what, bytes };
    let handshakes = 2 * (HANDSHAKES + MEMBERS_HANDSHAKES) as u64 * HANDSHAKE_BYTES as u64;
    vec![
        row("the process", PROCESS),
        row("metadata caches and memtables", crate::stores::MEMORY),
        row("proposals, own and forwarded", 2 * config.limits.proposals),
        row("client connections", config.limits.connections as u64 * clawhub_api_http::H1_MEMORY),
        row("those that speak HTTP/2, beside that", clawhub_api_http::H2_MEMORY),
        row("connections that wait for a place", clawhub_api_http::WAITING_MEMORY),
        row("bodies that are held whole", clawhub_api_http::BODY_MEMORY),
        row("upload sessions", clawhub_blobs::SESSION_MEMORY),
        row("pieces of uploads that are gathered", clawhub_registry::GATHER_MEMORY),
        row("uploads between hashing and disk", clawhub_blobs::UPLOAD_MEMORY),
        row("copies that are received", clawhub_replicate::FETCH_MEMORY),
        row("blobs that are passed through", clawhub_replicate::RELAY_MEMORY),
        row("open files and read buffers", clawhub_blobs::READ_MEMORY),
        row("streams that members have served", STREAMS as u64 * clawhub_replicate::STREAM_MEMORY),
        row("handshakes of peers and strangers", handshakes + QUIC_PENDING_BYTES),
        row("nodes that join", (STRANGERS * STRANGER_BYTES) as u64),
        row("log lines that wait to be written", clawhub_log_queue::MEMORY),
        row("the table of cached copies", clawhub_blobs::CACHE_MEMORY),
    ]
}

/// What each other member adds: windows, and entries that are on their way to it.
pub(crate) fn per_peer() -> u64 {
    BULK_CLASSES * (u64::from(QUIC_WINDOW) + QUIC_SEND_WINDOW)
        + u64::from(GRPC_WINDOW)
        + clawhub_consensus::IN_FLIGHT_BYTES as u64
}

/// Logs every row and the sum.
pub(crate) fn log(config: &Config) {
    let rows = rows(config);
    for row in &rows {
        tracing::debug!(bytes = row.bytes, what = row.what, "memory budget");
    }
    let sum: u64 = rows.iter().map(|row| row.bytes).sum();
    tracing::info!(sum_mib = mib(sum), per_peer_mib = mib(per_peer()), "memory budgets");
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table that operators read is the one that the node adds up.
    #[test]
    fn the_table_in_the_documentation_has_these_rows() {
        let text = "[node]\nname = \"n\"\nregion = \"r\"\nzone = \"a\"\ndata = \"d\"\n[peer]\nlisten = \"127.0.0.1:0\"\n";
        let rows = rows(&Config::parse(text).unwrap());
        let sum: u64 = rows.iter().map(|row| row.bytes).sum();
        let mut expected: Vec<String> =
            rows.iter().map(|row| format!("| Σ | {} | {} MiB |", row.what, mib(row.bytes))).collect();
        expected.push(format!("| P | each other member | {} MiB |", mib(per_peer())));
        expected.push(format!("| | the sum of Σ | {} MiB |", mib(sum)));
        let docs = include_str!("../../docs/architecture.md");
        let missing: Vec<_> = expected.iter().filter(|row| !docs.contains(row.as_str())).collect();
        assert!(missing.is_empty(), "docs/architecture.md lacks: {missing:#?}");
        let listed = docs.lines().filter(|line| line.starts_with("| Σ |")).count();
        assert_eq!(listed, rows.len(), "docs/architecture.md has rows that are not counted");
    }
}
