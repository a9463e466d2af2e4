//! Background reconcilers: idempotent loops without input, run on a signal and on a timer.
//!
//! They own no durable state. Each compares what is with what the replicated state says should be; a
//! crash loses the pass, and the next one finds the same work.

mod replicas;
mod uploads;

use clawhub_registry::Registry;
use tokio::task::JoinSet;

/// The running reconcilers of a node. Dropping them stops them.
pub struct Jobs {
    _tasks: JoinSet<()>,
}

impl Jobs {
    /// Starts every reconciler. `applied` changes whenever the node applies entries.
    pub fn start(registry: &Registry, applied: tokio::sync::watch::Receiver<u64>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(replicas::run(registry.clone(), applied));
        tasks.spawn(uploads::run(registry.clone()));
        Jobs { _tasks: tasks }
    }
}
