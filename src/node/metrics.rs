//! `/metrics`: counters that the node keeps, and [`gauges`] read at the moment of asking.
//!
//! Labels are few and fixed: a route class, a status. Nothing a client chooses becomes a label.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use clawhub_api_http::Protocol;
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

use crate::gauges::{self, Gauge};
use crate::member::Slot;

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

/// What the page is made of. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) counters: Arc<Metrics>,
    pub(crate) member: Slot,
    pub(crate) devices: Arc<Devices>,
}

pub(crate) async fn render(State(sources): State<Sources>) -> Response {
    let mut gauges = gauges::process();
    let mut reconcilers = Vec::new();
    if let Some(member) = sources.member.get() {
        gauges.extend(gauges::consensus(member));
        gauges.extend(gauges::votes(member));
        gauges.extend(gauges::storage(member));
        gauges.extend(gauges::devices(&sources.devices));
        reconcilers = member.findings.statuses().all();
    }
    match sources.counters.text(&gauges, reconcilers) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
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
    fn a_protocol_names_the_class_of_its_paths_and_the_node_that_of_its_own() {
        for (path, class) in
            [("/v2/a/blobs/sha256:00", "blobs"), ("/v2x", "other"), ("/", "other"), ("/readyz", "node")]
        {
            assert_eq!(route(crate::http::PROTOCOLS, path), class, "{path}");
        }
    }

    #[test]
    fn the_text_has_counters_gauges_and_one_end() {
        let metrics = Metrics::new();
        metrics.count_request("blobs", 200);
        metrics.count_request("blobs", 200);
        let text = metrics.text(&gauges::process(), vec![reconciler(7, 3)]).unwrap();
        assert!(text.contains("clawhub_http_requests_total{route=\"blobs\",status=\"200\"} 2"), "{text}");
        assert!(text.contains("clawhub_process_resident_peak_bytes "), "{text}");
        assert!(text.contains("clawhub_reconciler_passes_total{reconciler=\"copies\"} 7\n"), "{text}");
        assert!(text.contains("clawhub_reconciler_failures_total{reconciler=\"copies\"} 3\n"), "{text}");
        assert!(text.contains("clawhub_reconciler_seconds_since_success{reconciler=\"copies\"} "), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains("clawhub_process_resident_peak_bytes 0\n"), "{text}");
    }
}
