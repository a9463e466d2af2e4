//! Whether a member can serve: it sees what was acknowledged anywhere, and the others know its start.
//!
//! Owns nothing; what it says holds for the moment of asking.

use std::time::Duration;

use clawhub_consensus::Consensus;
use clawhub_state::View;
use tokio::time::timeout;

/// Why this member cannot serve, if it cannot; it waits so long for the cluster. `boot` is the count of this start.
pub async fn not_ready(consensus: &Consensus, boot: u64, patience: Duration) -> Option<String> {
    // The one test that means it: whatever was acknowledged anywhere before now is visible here.
    match timeout(patience, consensus.barrier()).await {
        Ok(Ok(_)) => unregistered(consensus, boot),
        Ok(Err(unavailable)) => Some(unavailable.reason),
        Err(_) => Some(behind(consensus)),
    }
}

/// A node whose boot is not logged yet may still be at its old address for the others.
fn unregistered(consensus: &Consensus, boot: u64) -> Option<String> {
    let state = consensus.state();
    match View::new(&*state).cluster().node(consensus.node()) {
        Ok(Some(record)) if record.boot == boot => None,
        Ok(_) => Some("the node has not registered this start yet".into()),
        Err(fault) => Some(fault.to_string()),
    }
}

/// Why a barrier takes so long, as far as the node can tell.
fn behind(consensus: &Consensus) -> String {
    let status = consensus.status();
    if let Some(age) = status.cut_off {
        return format!("cut off: no word from a majority of the voters for {} ms", age.as_millis());
    }
    match status.leader {
        None => "there is no leader".into(),
        Some(_) if status.committed.unwrap_or(0) > status.applied => {
            format!("catching up: applied {} of {}", status.applied, status.committed.unwrap_or(0))
        }
        Some(leader) => format!("node {leader}, the leader, does not confirm in time"),
    }
}
