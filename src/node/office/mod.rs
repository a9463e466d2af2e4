//! Whether this node is the one to lead, while it does. Two things that Raft does not look at make it hand
//! over: a wall clock that cannot be believed ([`clock`]), and members that it cannot reach while another voter
//! can ([`reach`]). Nothing is kept; a crash is an election.

mod clock;
mod reach;

use std::sync::Arc;
use std::time::Duration;

use clawhub_types::NodeId;
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Node;
use crate::stack::Stack;

/// Between two looks, and so between two attempts to hand over.
const EVERY: Duration = Duration::from_secs(2);
/// How long handing over may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let Some(stack) = node.stack() else { return };
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen_before = None;
    while !node.stop.is_told() {
        every.tick().await;
        let status = stack.consensus.status();
        if status.leader != Some(stack.me) {
            seen_before = None;
            continue;
        }
        if let Some(clock::Verdict { off_ms, better }) =
            clock::judge(&stack.replicate.clocks(), &status.voters)
        {
            tracing::error!(off_ms, to = %better, "the wall clock is off the others': handing over leadership");
            hand_over(stack, better).await;
            continue;
        }
        let better = reach::judge(&stack.replicate.reached(), &stack.replicate.reaches(), &status.voters);
        // A member that just died may seem to be reached by the one who heard of it last.
        if let Some(better) = better
            && seen_before.replace(better) == Some(better)
        {
            tracing::warn!(to = %better, "another voter reaches members that this node does not: handing over");
            hand_over(stack, better).await;
        } else if better.is_none() {
            seen_before = None;
        }
    }
}

async fn hand_over(stack: &Stack, better: NodeId) {
    if let Err(error) = stack.consensus.transfer_leader(Some(better), PATIENCE).await {
        tracing::warn!(%error, "leadership could not be handed over yet");
    }
}
