//! Noticing that the others go on without this node: the entry that removed it may never have reached it, nor the
//! one that logged a later start of it.

use std::time::Duration;

use clawhub_consensus::Consensus;
use clawhub_peer::{Class, Endpoint, RefusalCode};

use crate::{Dismissal, Dismissed};

/// Asks the others why, when nobody speaks to this node any more. Keeps nothing.
pub struct RemovalWatch {
    consensus: Consensus,
    endpoint: Endpoint,
    dismissal: Dismissal,
}

impl RemovalWatch {
    /// Silence after which a node asks whether it is still a member, and the time between two questions.
    pub const EVERY: Duration = Duration::from_secs(3);

    /// Asks over `endpoint`, for the node whose part in the cluster `consensus` is.
    pub fn new(consensus: Consensus, endpoint: Endpoint, dismissal: Dismissal) -> RemovalWatch {
        RemovalWatch { consensus, endpoint, dismissal }
    }

    /// Asks every voter, if there has been silence for long. A member that refuses this node for good ends it.
    pub async fn pass(&mut self) {
        let status = self.consensus.status();
        if status.cut_off.is_none_or(|age| age < Self::EVERY) {
            return;
        }
        for member in status.voters.into_iter().filter(|member| *member != status.node) {
            let Err(error) = self.endpoint.open(member, Class::Control).await else { continue };
            // Unreachable, or another reason: that is a failure, not a removal.
            match error.refusal().map(|refusal| refusal.code) {
                Some(RefusalCode::Removed) => return self.dismissal.tell(Dismissed::Removed),
                Some(RefusalCode::StaleBoot) => {
                    return self.dismissal.tell(Dismissed::Refused(error.to_string()));
                }
                _ => (),
            }
        }
    }
}
