//! `/metrics`: counters that the node keeps, and gauges read at the moment of asking.
//!
//! Labels are few and fixed: a route class, a status. Nothing a client chooses becomes a label.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use clawhub_api_http::Protocol;
use clawhub_cluster::Agreement;
use clawhub_cluster::uncovered;
use clawhub_devices::Devices;
use clawhub_reconcile::Status;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::logging;
use crate::member::{Member, Slot};

/// The part of the interface that a path is for: the protocols name their own.
pub(crate) fn route(protocols: &[&Protocol], path: &str) -> &'static str {
    match protocols.iter().find(|protocol| protocol.owns(path)) {
        Some(protocol) => (protocol.label)(path),
        None if matches!(path, "/healthz" | "/readyz" | "/metrics") => "node",
        None => "other",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
}

pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
}

impl Metrics {
    /// Counters at zero.
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::with_prefix("clawhub");
        let requests = Family::default();
        registry.register("http_requests", "Requests answered, by part of the interface", requests.clone());
        Metrics { registry, requests }
    }

    pub(crate) fn count_request(&self, route: &'static str, status: u16) {
        self.requests.get_or_create(&RequestLabels { route, status }).inc();
    }

    /// The text of the OpenMetrics format.
    fn text(&self, gauges: &[Gauge], reconcilers: Vec<Status>) -> Result<String, fmt::Error> {
        let mut now = Registry::with_prefix("clawhub");
        for gauge in gauges {
            now.register(gauge.name, gauge.help, ConstGauge::new(gauge.value));
        }
        now.register_collector(Box::new(Reconcilers(reconcilers)));
        let mut counted = String::new();
        let mut text = String::new();
        encode(&mut text, &now)?;
        encode(&mut counted, &self.registry)?;
        // Each text ends in the mark of the end; one is enough.
        let gauges = text.strip_suffix("# EOF\n").unwrap_or(&text);
        Ok(format!("{gauges}{counted}"))
    }
}

/// How the reconcilers do, by name.
#[derive(Debug)]
struct Reconcilers(Vec<Status>);

impl Collector for Reconcilers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let count = |encoder: &mut DescriptorEncoder<'_>, name, help, of: fn(&Status) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for status in &self.0 {
                let labels = [("reconciler", status.name)];
                ConstCounter::new(of(status)).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        };
        let help = "Passes of a background loop that ended";
        count(&mut encoder, "reconciler_passes", help, |status| status.passes)?;
        let help = "Passes of a background loop that failed";
        count(&mut encoder, "reconciler_failures", help, |status| status.failures)?;
        let help = "Since a background loop last settled everything";
        let since = "reconciler_seconds_since_success";
        let mut family = encoder.encode_descriptor(since, help, None, MetricType::Gauge)?;
        for status in self.0.iter().filter(|status| status.is_active()) {
            if let Some(settled) = status.settled {
                let labels = [("reconciler", status.name)];
                let age = ConstGauge::new(settled.elapsed().as_secs_f64());
                age.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// A number read at the moment of asking.
struct Gauge {
    name: &'static str,
    help: &'static str,
    value: u64,
}

/// What the page is made of. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) counters: Arc<Metrics>,
    pub(crate) member: Slot,
    pub(crate) devices: Arc<Devices>,
}

pub(crate) async fn render(State(sources): State<Sources>) -> Response {
    let mut gauges = process();
    let mut reconcilers = Vec::new();
    if let Some(member) = sources.member.get() {
        gauges.extend(cluster(member));
        gauges.extend(storage(member));
        reconcilers = member.findings.statuses().all();
        let failing = u64::from(!sources.devices.condition().reasons().is_empty());
        gauges.push(Gauge {
            name: "storage_failing",
            help: "1 while a device of this node fails",
            value: failing,
        });
        gauges.push(Gauge {
            name: "ballast_bytes",
            help: "Room kept for metadata; 0 once it was given up",
            value: sources.devices.ballast(),
        });
    }
    match sources.counters.text(&gauges, reconcilers) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn process() -> Vec<Gauge> {
    let gauge = |name, help, value| Gauge { name, help, value };
    let memory = memory().unwrap_or_default();
    vec![
        gauge("process_resident_bytes", "Memory in use", memory.resident),
        gauge("process_resident_peak_bytes", "Most memory ever in use (VmHWM)", memory.peak),
        gauge("log_lines_dropped", "Log lines that nobody took in time", logging::dropped()),
    ]
}

fn cluster(member: &Member) -> Vec<Gauge> {
    let status = member.consensus.status();
    let gauge = |name, help, value| Gauge { name, help, value };
    let committed = status.committed.unwrap_or(0);
    vec![
        gauge("raft_term", "The present term", status.term),
        gauge(
            "raft_leader",
            "Id of the leader this node follows; 0 for none",
            status.leader.map_or(0, |id| id.0),
        ),
        gauge("raft_is_leader", "1 on the leader", u64::from(status.leader == Some(status.node))),
        gauge("raft_log_index", "Last entry in the log", status.last_log.unwrap_or(0)),
        gauge("raft_purged_index", "Last entry dropped from the log", status.purged.unwrap_or(0)),
        gauge("raft_committed_index", "Last entry known to be committed", committed),
        gauge("raft_applied_index", "Last entry applied", status.applied),
        gauge(
            "raft_apply_lag",
            "Entries committed and not applied",
            committed.saturating_sub(status.applied),
        ),
        gauge(
            "raft_snapshots_installed",
            "Snapshots of other nodes that replaced this node's state",
            member.consensus.snapshots_installed(),
        ),
        gauge(
            "state_differs",
            "1 if members have different states at equal index",
            u64::from(member.findings.agreement() != Agreement::Same),
        ),
        gauge("raft_voters", "Nodes that vote", status.voters.len() as u64),
        gauge(
            "votes_uncovered",
            "1 while no push is taken, for want of votes that outlive the loss of a zone or region",
            // What cannot be read shows as unready.
            u64::from(uncovered(&member.consensus).is_ok_and(|uncovered| uncovered.is_some())),
        ),
        gauge("raft_learners", "Nodes that follow without a vote", status.learners.len() as u64),
    ]
}

fn storage(member: &Member) -> Vec<Gauge> {
    let gauge = |name, help, value| Gauge { name, help, value };
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

#[cfg(test)]
mod tests {
    use clawhub_reconcile::{Phase, Scope};
    use tokio::time::Instant;

    use super::*;

    fn reconciler(passes: u64, failures: u64) -> Status {
        let now = Instant::now();
        Status {
            name: "copies",
            scope: Scope::EveryNode,
            phase: Phase::Waiting(now),
            passes,
            failures,
            unsettled: 0,
            last: None,
            settled: Some(now),
        }
    }

    #[test]
    fn the_end_of_a_path_names_its_class() {
        for (path, class) in [
            ("/v2", "base"),
            ("/v2/", "base"),
            ("/v2/_catalog", "catalog"),
            ("/v2/a/b/manifests/latest", "manifests"),
            ("/v2/blobs/uploads/manifests/x", "manifests"),
            ("/v2/a/blobs/sha256:00", "blobs"),
            ("/v2/a/blobs/uploads/", "uploads"),
            ("/v2/a/blobs/uploads", "uploads"),
            ("/v2/a/blobs/uploads/1-00", "uploads"),
            ("/v2/a/tags/list", "tags"),
            ("/v2/a/referrers/sha256:00", "referrers"),
            ("/v2x", "other"),
            ("/", "other"),
            ("/readyz", "node"),
        ] {
            assert_eq!(route(crate::http::PROTOCOLS, path), class, "{path}");
        }
    }

    #[test]
    fn the_text_has_counters_gauges_and_one_end() {
        let metrics = Metrics::new();
        metrics.count_request("blobs", 200);
        metrics.count_request("blobs", 200);
        let text = metrics.text(&process(), vec![reconciler(7, 3)]).unwrap();
        assert!(text.contains("clawhub_http_requests_total{route=\"blobs\",status=\"200\"} 2"), "{text}");
        assert!(text.contains("clawhub_process_resident_peak_bytes "), "{text}");
        assert!(text.contains("clawhub_reconciler_passes_total{reconciler=\"copies\"} 7\n"), "{text}");
        assert!(text.contains("clawhub_reconciler_failures_total{reconciler=\"copies\"} 3\n"), "{text}");
        assert!(text.contains("clawhub_reconciler_seconds_since_success{reconciler=\"copies\"} "), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("# EOF\n"));
        assert!(memory().unwrap().peak > 1 << 20);
    }
}
