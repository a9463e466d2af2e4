//! Background reconcilers: one file each, a thin adapter from the supervisor to one function of the crate that
//! owns the work.
//!
//! They own no durable state. Each compares what is with what the replicated state says should be; a
//! crash loses the pass, and the next one finds the same work.

mod acknowledgements;
mod agreement;
mod cache;
mod failure;
mod following;
mod heartbeat;
mod introduction;
mod leadership;
mod lost_copies;
mod membership;
mod orphans;
mod registration;
mod removal;
mod replicas;
mod rotation;
mod uploads;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use clawhub_blobs::BlobStore;
use clawhub_cluster::{
    Acknowledgements, Agreement, Comparison, FailureNotice, Following, Introductions, Leadership, Membership,
    Registration, RemovalWatch, Rotation,
};
use clawhub_consensus::Consensus;
use clawhub_liveness::Liveness;
use clawhub_reconcile::{Reconciler, Statuses, Supervisor};
use clawhub_registry::Registry;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use replicas::Census;
pub use usage::Usage;

/// How long a step under way may take when the node stops.
const STOP: Duration = Duration::from_secs(1);

/// What the reconcilers work with.
pub struct JobHandles {
    /// The log, and who leads.
    pub consensus: Consensus,
    /// Who is alive.
    pub liveness: Liveness,
    /// The local store.
    pub blobs: BlobStore,
    /// The use cases of content.
    pub registry: Registry,
    /// How this start is registered.
    pub registration: Registration,
    /// How the members are followed.
    pub following: Following,
    /// How the node learns of members of which it has not heard.
    pub introductions: Introductions,
    /// How the node notices that it was removed.
    pub removal: RemovalWatch,
    /// How the keys are replaced.
    pub rotation: Rotation,
    /// What the others are told when the storage fails.
    pub failure: FailureNotice,
    /// Who votes.
    pub membership: Membership,
    /// Who leads.
    pub leadership: Leadership,
    /// What the log knows of what members acknowledged.
    pub acknowledgements: Acknowledgements,
    /// Whether the members' states are the same.
    pub comparison: Comparison,
}

/// The running reconcilers of a node. Dropping them cuts them off.
pub struct Jobs {
    supervisor: Supervisor,
    findings: Findings,
}

/// What the reconcilers found last. Cheap to clone; the copies are the same.
#[derive(Clone, Default)]
pub struct Findings {
    census: Arc<Mutex<Option<Census>>>,
    usage: Arc<Mutex<Usage>>,
    agreement: Arc<Mutex<Agreement>>,
    statuses: Statuses,
}

impl Jobs {
    /// Starts every reconciler whose work lies below this crate.
    pub fn start(handles: JobHandles) -> Jobs {
        let (lead, leading) = watch::channel(false);
        let (apply, applied) = watch::channel(0);
        let mut supervisor = Supervisor::new(leading);
        let statuses = supervisor.statuses();
        let findings = Findings { statuses, ..Findings::default() };
        supervisor.accompany(follow(handles.consensus, lead, apply));
        supervisor.start(heartbeat::Heartbeat { liveness: handles.liveness });
        let found = findings.agreement.clone();
        supervisor.start(agreement::Compare { comparison: handles.comparison, found });
        supervisor.start(registration::Registration { registration: handles.registration });
        supervisor.start(following::Following::new(handles.following));
        supervisor.start(introduction::Introductions { introductions: handles.introductions });
        supervisor.start(removal::RemovalWatch { watch: handles.removal });
        supervisor.start(rotation::Rotation::new(handles.rotation));
        supervisor.start(failure::FailureNotice { notice: handles.failure });
        supervisor.start(membership::Membership { membership: handles.membership });
        supervisor.start(leadership::Leadership { leadership: handles.leadership });
        supervisor.start(acknowledgements::Acknowledgements { acknowledgements: handles.acknowledgements });
        let registry = handles.registry;
        supervisor.start(replicas::Replicas::new(registry.clone(), applied, findings.census.clone()));
        supervisor.start(lost_copies::LostCopies { registry: registry.clone() });
        supervisor.start(orphans::Orphans { registry: registry.clone() });
        supervisor.start(uploads::Uploads { registry });
        supervisor.start(cache::Cache { blobs: handles.blobs.clone() });
        supervisor.start(usage::Count { blobs: handles.blobs, counted: findings.usage.clone() });
        Jobs { supervisor, findings }
    }

    /// Starts one whose work lies elsewhere.
    pub fn add(&mut self, reconciler: impl Reconciler) {
        self.supervisor.start(reconciler);
    }

    /// Runs work that has no passes beside them, until it ends or they are stopped.
    pub fn accompany(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.supervisor.accompany(work);
    }

    /// What they found last.
    pub fn findings(&self) -> Findings {
        self.findings.clone()
    }

    /// Stops all of them: no pass begins any more, and what takes longer than a moment is cut off.
    pub async fn stop(self) {
        self.supervisor.stop(STOP).await;
    }
}

impl Findings {
    /// What the last complete pass over all roots found.
    pub fn census(&self) -> Option<Census> {
        *self.census.lock()
    }

    /// How much this node holds, as last counted.
    pub fn usage(&self) -> Usage {
        *self.usage.lock()
    }

    /// Whether the members' states are the same, as last compared.
    pub fn agreement(&self) -> Agreement {
        self.agreement.lock().clone()
    }

    /// How the reconcilers do.
    pub fn statuses(&self) -> &Statuses {
        &self.statuses
    }
}

/// Tells the reconcilers whether this node leads and how far it has applied, until consensus ends.
async fn follow(consensus: Consensus, lead: watch::Sender<bool>, apply: watch::Sender<u64>) {
    let mut watcher = consensus.watch();
    while let Some(status) = watcher.changed().await {
        let leads = status.leader == Some(status.node);
        lead.send_if_modified(|last| std::mem::replace(last, leads) != leads);
        apply.send_if_modified(|last| std::mem::replace(last, status.applied) != status.applied);
    }
    // What only a leader may do must not go on without consensus.
    lead.send_replace(false);
}
