//! What a member does besides serving: registers its start, keeps its list of peers, shows removed
//! members out, counts what it holds, and notices when it must stop itself.
//!
//! Every loop is idempotent and begins again after a crash with nothing lost.

use std::sync::Arc;
use std::time::Duration;

use clawhub_blobs::BlobStore;
use clawhub_consensus::{Failure, ProposeError, Who};
use clawhub_peer::{Class, RefusalCode, Standing};
use clawhub_state::cluster::ClusterCmd;
use clawhub_state::{Command, Rejected, View};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::error::NodeError;
use crate::node::Node;
use crate::stack::{Stack, Usage, keep_peers};
use crate::{membership, office, refusal, storage};

/// Between two looks at the members, however fast the log grows.
const LOOK: Duration = Duration::from_millis(200);
/// Silence after which a node asks whether it is still a member.
const EXILE: Duration = Duration::from_secs(3);
/// Between two counts of what the node holds.
const COUNT: Duration = Duration::from_secs(30);
/// Rows of the blob index read at once while counting.
const PAGE: usize = 1024;
/// After a registration that nobody answered.
const AGAIN: Duration = Duration::from_millis(500);

/// Starts the loops. They end with the life.
pub(crate) fn start(node: &Arc<Node>) {
    tokio::spawn(register(node.clone()));
    tokio::spawn(watch_members(node.clone()));
    tokio::spawn(watch_exile(node.clone()));
    tokio::spawn(watch_consensus(node.clone()));
    tokio::spawn(count(node.clone()));
    tokio::spawn(membership::run(node.clone()));
    tokio::spawn(office::run(node.clone()));
    tokio::spawn(storage::run(node.clone()));
}

/// Logs this start: its counter, and where the node is now.
async fn register(node: Arc<Node>) {
    let Some(stack) = node.stack() else { return };
    let boot = Command::Cluster(ClusterCmd::Boot {
        node: stack.me,
        boot: node.boot.count,
        nonce: node.boot.nonce,
        peer_addr: node.peer_addr(),
        http_addr: node.http_addr.clone(),
    });
    while !node.stop.is_told() {
        match stack.consensus.propose(boot.clone(), Who::system(), refusal::PATIENCE).await {
            Ok(_) => return tracing::info!(node = %stack.me, boot = node.boot.count, "registered"),
            Err(ProposeError::Rejected(rejected @ Rejected::StaleBoot { .. })) => {
                let why = "an old copy of its data directory, or a second process with the same one";
                return refused(&node, format!("{rejected}: {why}"));
            }
            Err(ProposeError::Rejected(Rejected::NodeUnknown(_))) => return node.stop.removed(),
            Err(error) => tracing::debug!(%error, "not registered yet"),
        }
        sleep(AGAIN).await;
    }
}

/// Ends a node whose data is not what the others rely on, and keeps it from starting again with it.
fn refused(node: &Node, reason: String) {
    if let Err(error) = node.facts.set_refused(&reason) {
        tracing::error!(%error, "it cannot be kept that the cluster refused this data");
    }
    node.stop.fault(reason);
}

/// Follows the members as the state changes.
async fn watch_members(node: Arc<Node>) {
    let Some(stack) = node.stack() else { return };
    let mut watcher = stack.consensus.watch();
    let mut applied = None;
    let mut followed = None;
    while let Some(status) = watcher.changed().await {
        let leader = (status.term, status.leader);
        if followed.replace(leader) != Some(leader) {
            let leader = status.leader.map_or(0, |id| id.0);
            tracing::info!(term = status.term, leader, "who leads has changed; 0 is nobody");
        }
        if applied.replace(status.applied) == Some(status.applied) {
            continue;
        }
        if let Err(error) = keep_peers(&node.facts, &stack.members) {
            tracing::warn!(%error, "the list of peers was not kept");
        }
        if let Err(error) = show_out(&node, stack) {
            tracing::error!(%error, "the members cannot be read");
        }
        sleep(LOOK).await;
    }
}

/// Closes what is still open with members that were removed. The directory refuses them from the same
/// entry on.
fn show_out(node: &Node, stack: &Stack) -> Result<(), NodeError> {
    let state = stack.consensus.state();
    for member in View::new(&*state).cluster().nodes()?.into_iter().filter(|member| member.removed) {
        if member.id == stack.me {
            node.stop.removed();
        } else if stack.endpoint.standing(member.id) == Standing::Connected {
            tracing::info!(node = %member.id, "closing connections with a removed node");
            stack.endpoint.disconnect(member.id);
        }
    }
    Ok(())
}

/// Asks the others why, when nobody speaks to this node any more: the entry that removed it may never
/// have reached it, nor the one that logged a later start of it.
async fn watch_exile(node: Arc<Node>) {
    let Some(stack) = node.stack() else { return };
    let mut every = interval(EXILE);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !node.stop.is_told() {
        every.tick().await;
        let status = stack.consensus.status();
        if status.cut_off.is_none_or(|age| age < EXILE) {
            continue;
        }
        for member in status.voters.into_iter().filter(|member| *member != stack.me) {
            let Err(error) = stack.endpoint.open(member, Class::Control).await else { continue };
            // Unreachable, or another reason: that is a failure, not an exile.
            match error.refusal().map(|refusal| refusal.code) {
                Some(RefusalCode::Removed) => return node.stop.removed(),
                Some(RefusalCode::StaleBoot) => return refused(&node, error.to_string()),
                _ => (),
            }
        }
    }
}

/// Consensus stops by itself when a store fails, or when it meets what it must not go on with. Which of the two
/// it was is for the watch over the devices to tell.
async fn watch_consensus(node: Arc<Node>) {
    let Some(stack) = node.stack() else { return };
    if let Some(Failure { reason, corrupt }) = stack.consensus.stopped().await {
        node.storage.report(Failure { reason: format!("consensus stopped: {reason}"), corrupt });
    }
}

async fn count(node: Arc<Node>) {
    let Some(stack) = node.stack() else { return };
    let mut every = interval(COUNT);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let blobs = stack.blobs.clone();
        match tokio::task::spawn_blocking(move || usage(&blobs)).await {
            Ok(usage) => stack.set_usage(usage),
            // The runtime is going down.
            Err(_) => return,
        }
    }
}

fn usage(blobs: &BlobStore) -> Usage {
    let mut usage = Usage::default();
    let mut after = None;
    loop {
        let page = blobs.inventory(after, PAGE);
        for (_, size) in &page {
            usage.blobs += 1;
            usage.bytes += size;
        }
        match page.last() {
            Some((root, _)) if page.len() == PAGE => after = Some(*root),
            _ => return usage,
        }
    }
}
