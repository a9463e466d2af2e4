//! Puts together everything that a member repeats, and starts it: the reconcilers of `jobs`, and the watch over
//! this node's devices, which is this crate's own. Their pace and their end are the supervisor's.

use std::sync::Arc;

use clawhub_cluster::{
    Dismissal, Dismissed, FailureNotice, Following, Leadership, Membership, Registration, RemovalWatch,
};
use clawhub_devices::Devices;
use clawhub_jobs::{Jobs, Parts};

use crate::base::Base;
use crate::node_store::NodeStore;
use crate::stack::Stack;
use crate::stop::Stop;
use crate::storage::{self, Watch};

/// Starts all of it. Dropping it cuts it off.
pub(crate) fn start(base: &Base, stack: &Stack, devices: &Arc<Devices>, stop: &Stop) -> Jobs {
    let dismissal = Dismissal::default();
    let consensus = &stack.consensus;
    let liveness = &stack.liveness;
    let failing = devices.clone();
    let failing = move || failing.condition().is_failing();
    let mut jobs = Jobs::start(Parts {
        failure: FailureNotice::new(consensus.clone(), base.boot.count, failing),
        registration: Registration::new(consensus.clone(), base.start(), dismissal.clone()),
        following: following(base, stack, dismissal.clone()),
        removal: RemovalWatch::new(consensus.clone(), stack.endpoint.clone(), dismissal.clone()),
        membership: Membership::new(consensus.clone(), liveness.clone()),
        leadership: Leadership::new(consensus.clone(), liveness.clone()),
        consensus: consensus.clone(),
        liveness: liveness.clone(),
        blobs: stack.blobs.clone(),
        registry: stack.registry.clone(),
    });
    jobs.accompany(hear(dismissal, base.store.clone(), stop.clone()));
    jobs.add(Watch::new(devices.clone(), watched(base, stack), stop.clone()));
    jobs
}

/// Ends a node that the cluster has no place for. One whose data is not what the others rely on is kept from
/// starting again with it.
async fn hear(dismissal: Dismissal, store: NodeStore, stop: Stop) {
    match dismissal.told().await {
        Dismissed::Removed => stop.removed(),
        Dismissed::Refused(reason) => {
            if let Err(error) = store.set_refused(&reason) {
                tracing::error!(%error, "it cannot be kept that the cluster refused this data");
            }
            stop.fault(reason);
        }
    }
}

fn following(base: &Base, stack: &Stack, dismissal: Dismissal) -> Following {
    let store = base.store.clone();
    Following::new(
        stack.consensus.clone(),
        stack.endpoint.clone(),
        stack.members.clone(),
        dismissal,
        move |peers| Ok(store.set_peers(peers)?),
    )
}

fn watched(base: &Base, stack: &Stack) -> storage::Parts {
    storage::Parts {
        local: base.local.clone(),
        raft: stack.raft.clone(),
        consensus: stack.consensus.clone(),
        blobs: stack.blobs.clone(),
        liveness: stack.liveness.clone(),
    }
}
