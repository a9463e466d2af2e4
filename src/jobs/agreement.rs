//! Compares this node's state with the others', as often as they are heard.

use std::sync::Arc;
use std::time::Duration;

use clawhub_cluster::{Agreement, Comparison};
use clawhub_reconcile::{Failure, Progress, Reconciler};
use parking_lot::Mutex;

/// The reconciler. What it finds goes to `found`.
pub(crate) struct Compare {
    pub(crate) comparison: Comparison,
    pub(crate) found: Arc<Mutex<Agreement>>,
}

impl Reconciler for Compare {
    fn name(&self) -> &'static str {
        "state_comparison"
    }

    fn every(&self) -> Duration {
        Comparison::EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        let found = self.comparison.pass().await;
        *self.found.lock() = found;
        Ok(Progress::Settled)
    }
}
