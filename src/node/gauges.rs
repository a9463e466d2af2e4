//! Numbers of `/metrics` that are read at the moment of asking, part by part.

use clawhub_cluster::{Agreement, uncovered};
use clawhub_devices::Devices;

use crate::logging;
use crate::member::Member;

/// A number read at the moment of asking.
pub(crate) struct Gauge {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) value: u64,
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Gauge {
    Gauge { name, help, value }
}

pub(crate) fn process() -> Vec<Gauge> {
    let memory = memory().unwrap_or_default();
    vec![
        gauge("process_resident_bytes", "Memory in use", memory.resident),
        gauge("process_resident_peak_bytes", "Most memory ever in use (VmHWM)", memory.peak),
        gauge("log_lines_dropped", "Log lines that nobody took in time", logging::dropped()),
    ]
}

pub(crate) fn consensus(member: &Member) -> Vec<Gauge> {
    let status = member.consensus.status();
    let leader = status.leader.map_or(0, |id| id.0);
    let committed = status.committed.unwrap_or(0);
    let lag = committed.saturating_sub(status.applied);
    let installed = member.consensus.snapshots_installed();
    let differs = u64::from(member.findings.agreement() != Agreement::Same);
    vec![
        gauge("raft_term", "The present term", status.term),
        gauge("raft_leader", "Id of the leader this node follows; 0 for none", leader),
        gauge("raft_is_leader", "1 on the leader", u64::from(status.leader == Some(status.node))),
        gauge("raft_log_index", "Last entry in the log", status.last_log.unwrap_or(0)),
        gauge("raft_purged_index", "Last entry dropped from the log", status.purged.unwrap_or(0)),
        gauge("raft_committed_index", "Last entry known to be committed", committed),
        gauge("raft_applied_index", "Last entry applied", status.applied),
        gauge("raft_apply_lag", "Entries committed and not applied", lag),
        gauge(
            "raft_snapshots_installed",
            "Snapshots of other nodes that replaced this node's state",
            installed,
        ),
        gauge("state_differs", "1 if members have different states at equal index", differs),
    ]
}

pub(crate) fn votes(member: &Member) -> Vec<Gauge> {
    let status = member.consensus.status();
    // What cannot be read shows as unready.
    let uncovered = uncovered(&member.consensus).is_ok_and(|uncovered| uncovered.is_some());
    vec![
        gauge("raft_voters", "Nodes that vote", status.voters.len() as u64),
        gauge(
            "votes_uncovered",
            "1 while no push is taken, for want of votes that outlive the loss of a zone or region",
            u64::from(uncovered),
        ),
        gauge("raft_learners", "Nodes that follow without a vote", status.learners.len() as u64),
    ]
}

pub(crate) fn devices(devices: &Devices) -> Vec<Gauge> {
    let failing = u64::from(!devices.condition().reasons().is_empty());
    vec![
        gauge("storage_failing", "1 while a device of this node fails", failing),
        gauge("ballast_bytes", "Room kept for metadata; 0 once it was given up", devices.ballast()),
    ]
}

pub(crate) fn storage(member: &Member) -> Vec<Gauge> {
    let usage = member.findings.usage();
    let cache = member.blobs.cache().usage();
    let mut gauges = vec![
        gauge("blobs_held", "Blobs with a durable copy here", usage.blobs),
        gauge("blobs_held_bytes", "Their bytes", usage.bytes),
        gauge("cache_copies", "Copies that came for readers and may go", cache.copies),
        gauge("cache_bytes", "Their bytes", cache.bytes),
        gauge("cache_limit_bytes", "Most bytes that they may have", cache.limit),
        gauge("cache_evicted_copies", "Copies that made way since the start", cache.evicted),
        gauge("cache_evicted_bytes", "Their bytes", cache.evicted_bytes),
    ];
    if let Some(census) = member.findings.census() {
        let help =
            "Blobs with fewer copies than their projects ask for, cluster-wide, as this node last counted";
        gauges.push(gauge("blobs_under_target", help, census.under_replicated));
    }
    match member.blobs.free_space() {
        Ok(free) => gauges.push(gauge("storage_free_bytes", "Room on the data directory's device", free)),
        Err(error) => tracing::warn!(%error, "free space cannot be read"),
    }
    gauges
}

#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    resident: u64,
    peak: u64,
}

fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(Memory { resident: kib("VmRSS:")? << 10, peak: kib("VmHWM:")? << 10 })
}
