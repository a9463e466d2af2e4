//! Puts together everything that a member repeats, and starts it: the reconcilers of `jobs`, and the watch over
//! this node's devices, which is this crate's own. Their pace and their end are the supervisor's.

use std::sync::Arc;

use clawhub_cluster::{
    Acknowledgements, Comparison, Dismissal, Dismissed, FailureNotice, Following, Introductions, Leadership,
    Membership, Registration, RemovalWatch, Rotation,
};
use clawhub_devices::Devices;
use clawhub_jobs::{JobHandles, Jobs};

use crate::base::Base;
use crate::node_store::NodeStore;
use crate::stack::Stack;
use crate::stop::Stop;
use crate::storage::{Watch, Watched};

/// Starts all of it. Dropping it cuts it off.
pub(crate) fn start(
    base: &Base,
    stack: &Stack,
    rotation: Rotation,
    dismissal: &Dismissal,
    devices: &Arc<Devices>,
    stop: &Stop,
) -> Jobs {
    let consensus = &stack.consensus;
    let liveness = &stack.liveness;
    let failing = devices.clone();
    let failing = move || failing.condition().is_failing();
    let start = base.start(rotation.start_key());
    let mut jobs = Jobs::start(JobHandles {
        failure: FailureNotice::new(consensus.clone(), base.boot.count, failing),
        registration: Registration::new(consensus.clone(), start, dismissal.clone()),
        rotation,
        following: following(base, stack, dismissal.clone()),
        introductions: Introductions::new(
            consensus.node(),
            stack.endpoint.clone(),
            stack.members.clone(),
            liveness.round_trip(),
        ),
        removal: RemovalWatch::new(consensus.clone(), stack.endpoint.clone(), dismissal.clone()),
        membership: Membership::new(consensus.clone(), liveness.clone()),
        leadership: Leadership::new(consensus.clone(), liveness.clone()),
        acknowledgements: Acknowledgements::new(consensus.clone()),
        comparison: Comparison::new(consensus.clone(), liveness.clone()),
        consensus: consensus.clone(),
        liveness: liveness.clone(),
        blobs: stack.blobs.clone(),
        registry: stack.registry.clone(),
    });
    jobs.accompany(hear(dismissal.clone(), base.store.clone(), stop.clone()));
    jobs.add(Watch::new(devices.clone(), watched(base, stack), stop.clone()));
    jobs
}

/// Ends a node that the cluster has no place for, once that is told.
async fn hear(dismissal: Dismissal, store: NodeStore, stop: Stop) {
    let why = dismissal.told().await;
    keep_refusal(&dismissal, &store);
    match why {
        Dismissed::Removed => stop.removed(),
        Dismissed::Refused(reason) => stop.fault(reason),
    }
}

/// Keeps a node whose data is not what the others rely on from starting again with it. Called at once, and once more
/// when nothing runs any more that could tell so: the node may have been about to stop for another reason.
pub(crate) fn keep_refusal(dismissal: &Dismissal, store: &NodeStore) {
    if let Some(Dismissed::Refused(reason)) = dismissal.reason()
        && let Err(error) = store.set_refused(&reason)
    {
        tracing::error!(%error, "it cannot be kept that the cluster refused this data");
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

fn watched(base: &Base, stack: &Stack) -> Watched {
    Watched {
        local: base.local.clone(),
        raft: stack.raft.clone(),
        consensus: stack.consensus.clone(),
        blobs: stack.blobs.clone(),
        liveness: stack.liveness.clone(),
    }
}
