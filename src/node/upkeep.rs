//! Has everything run that a member repeats, each at its pace, until the node stops.
//!
//! Every round is idempotent: a crash loses one, and the next one finds the same work.

use std::sync::Arc;
use std::time::Duration;

use clawhub_cluster::{
    Dismissal, Dismissed, FailureNotice, Following, Leadership, Membership, Registration, RemovalWatch,
};
use clawhub_devices::Devices;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::base::Base;
use crate::holdings::Holdings;
use crate::node_store::NodeStore;
use crate::stack::Stack;
use crate::stop::Stop;
use crate::storage::{self, Watch};

/// Starts all of it. Dropping the set ends it.
pub(crate) fn start(
    base: &Base,
    stack: &Stack,
    devices: &Arc<Devices>,
    holdings: &Holdings,
    stop: &Stop,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let dismissal = Dismissal::default();
    tasks.spawn(hear(dismissal.clone(), base.store.clone(), stop.clone()));
    let registration = Registration::new(stack.consensus.clone(), base.start(), dismissal.clone());
    tasks.spawn(register(registration, stop.clone()));
    tasks.spawn(follow(following(base, stack, dismissal.clone()), stop.clone()));
    let removal = RemovalWatch::new(stack.consensus.clone(), stack.endpoint.clone(), dismissal);
    tasks.spawn(watch_removal(removal, stop.clone()));
    let membership = Membership::new(stack.consensus.clone(), stack.liveness.clone());
    tasks.spawn(change_members(membership, stop.clone()));
    let leadership = Leadership::new(stack.consensus.clone(), stack.liveness.clone());
    tasks.spawn(lead(leadership, stop.clone()));
    tasks.spawn(count(holdings.clone(), stop.clone()));
    let watch = Watch::new(devices.clone(), watched(base, stack), stop.clone());
    tasks.spawn(watch_storage(watch, stop.clone()));
    let failing = devices.clone();
    let failing = move || failing.condition().is_failing();
    let notice = FailureNotice::new(stack.consensus.clone(), base.boot.count, failing);
    tasks.spawn(tell_of_failure(notice, stop.clone()));
    tasks
}

/// The pace of a round.
fn every(pace: Duration) -> Interval {
    let mut every = interval(pace);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every
}

/// Whether there is a next round: waits until it is due, or the node stops.
async fn next(every: &mut Interval, stop: &Stop) -> bool {
    tokio::select! {
        _ = every.tick() => !stop.is_told(),
        () = stop.told() => false,
    }
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

async fn register(mut registration: Registration, stop: Stop) {
    let mut every = every(Registration::EVERY);
    while !registration.is_done() && next(&mut every, &stop).await {
        // It has said itself what went wrong; so have the others below.
        let _ = registration.pass().await;
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

async fn follow(mut following: Following, stop: Stop) {
    while following.wake().await && !stop.is_told() {
        following.pass();
        sleep(Following::EVERY).await;
    }
}

async fn watch_removal(mut watch: RemovalWatch, stop: Stop) {
    let mut every = every(RemovalWatch::EVERY);
    while next(&mut every, &stop).await {
        watch.pass().await;
    }
}

async fn change_members(mut membership: Membership, stop: Stop) {
    let mut every = every(Membership::EVERY);
    while next(&mut every, &stop).await {
        let _ = membership.pass().await;
    }
}

async fn lead(mut leadership: Leadership, stop: Stop) {
    let mut every = every(Leadership::EVERY);
    while next(&mut every, &stop).await {
        let _ = leadership.pass().await;
    }
}

async fn count(holdings: Holdings, stop: Stop) {
    let mut every = every(Holdings::EVERY);
    while next(&mut every, &stop).await {
        holdings.pass().await;
    }
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

async fn watch_storage(mut watch: Watch, stop: Stop) {
    let mut every = every(Watch::EVERY);
    while !stop.is_told() {
        tokio::select! {
            _ = every.tick() => (),
            () = watch.wake() => (),
            () = stop.told() => return,
        }
        watch.pass().await;
    }
}

async fn tell_of_failure(mut notice: FailureNotice, stop: Stop) {
    let mut every = every(FailureNotice::EVERY);
    while next(&mut every, &stop).await {
        let _ = notice.pass().await;
    }
}
