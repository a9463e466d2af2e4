//! Brings every region its copy: this node fetches each blob that belongs here and is not here.
//!
//! The first pass of a start compares what the log says is here with what is: a copy that is gone must not count
//! for longer than it takes to look, so nothing is copied before that is done.

use std::sync::Arc;
use std::time::Duration;

use clawhub_reconcile::{BackOff, Failure, Progress, Reconciler};
use clawhub_registry::Registry;
use clawhub_types::Root;
use parking_lot::Mutex;
use tokio::sync::watch;

/// A pass begins at most this often, however fast the log grows.
const QUIET: Duration = Duration::from_millis(500);
/// A pass reads every root, so one that took long is followed by so many times as long a pause.
const REST: u32 = 10;
/// A pass begins at least this often: a node that was away may be back.
const ALWAYS: Duration = Duration::from_secs(60);
/// After copies that failed, the next pass begins after this.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// What a pass over all roots found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Everything up to this log index was looked at.
    pub index: u64,
    /// Linked roots that had fewer copies than their projects ask for.
    pub under_replicated: u64,
}

pub(crate) struct Replicas {
    registry: Registry,
    applied: watch::Receiver<u64>,
    census: Arc<Mutex<Option<Census>>>,
    at: At,
    /// What the last pass is followed by.
    rest: Duration,
    /// Consensus has ended, and with it all that could be recorded.
    over: bool,
}

/// Where the pass under way goes on.
enum At {
    /// Comparing what should be here with what is, behind this root.
    Inventory(Option<Root>),
    /// Before a pass over all roots.
    Begin,
    /// Looking at the roots behind that of the walk.
    Walking(Walk),
}

/// How far a pass over all roots is.
struct Walk {
    index: u64,
    after: Option<Root>,
    under_replicated: u64,
    /// No copy that belongs here is missing so far.
    complete: bool,
    /// How long the looking took so far, without the copying.
    reading: Duration,
}

impl Replicas {
    /// `applied` changes whenever the node applies entries; what a complete pass finds goes to `census`.
    pub(crate) fn new(
        registry: Registry,
        applied: watch::Receiver<u64>,
        census: Arc<Mutex<Option<Census>>>,
    ) -> Replicas {
        Replicas { registry, applied, census, at: At::Inventory(None), rest: QUIET, over: false }
    }

    async fn verify(&mut self, after: Option<Root>) -> Result<Progress, Failure> {
        let next = self.registry.inventory().verify(after).await?;
        self.at = match next {
            Some(root) => At::Inventory(Some(root)),
            None => At::Begin,
        };
        Ok(Progress::Step)
    }

    async fn walk(&mut self, mut walk: Walk) -> Result<Progress, Failure> {
        let step = match self.registry.inventory().copy_missing(walk.after).await {
            Ok(step) => step,
            Err(error) => {
                self.rest = rest(walk.reading);
                return Err(error.into());
            }
        };
        walk.complete &= step.failed == 0;
        walk.reading += step.reading;
        walk.under_replicated += step.under_replicated;
        walk.after = step.next;
        if walk.after.is_some() {
            self.at = At::Walking(walk);
            return Ok(Progress::Step);
        }
        self.rest = rest(walk.reading);
        let census = Census { index: walk.index, under_replicated: walk.under_replicated };
        *self.census.lock() = Some(census);
        Ok(if walk.complete { Progress::Settled } else { Progress::Behind })
    }
}

/// How long to rest after a pass that read for `reading`.
fn rest(reading: Duration) -> Duration {
    (reading * REST).clamp(QUIET, ALWAYS)
}

impl Reconciler for Replicas {
    fn name(&self) -> &'static str {
        "replicas"
    }

    fn every(&self) -> Duration {
        ALWAYS
    }

    fn rest(&self) -> Duration {
        self.rest
    }

    fn back_off(&self) -> BackOff {
        BackOff::constant(AFTER_FAILURE)
    }

    async fn wake(&mut self) {
        self.over = self.applied.changed().await.is_err();
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        if self.over {
            return Ok(Progress::Over);
        }
        match std::mem::replace(&mut self.at, At::Begin) {
            At::Inventory(after) => {
                // Where it goes on, should this fail.
                self.at = At::Inventory(after);
                self.verify(after).await
            }
            At::Begin => {
                // Before the walk: it may miss what is applied while it goes on.
                let index = self.registry.applied();
                let none = Duration::ZERO;
                self.walk(Walk { index, after: None, under_replicated: 0, complete: true, reading: none })
                    .await
            }
            At::Walking(walk) => self.walk(walk).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_read_for_long_is_followed_by_a_long_rest() {
        assert_eq!(rest(Duration::from_millis(1)), QUIET);
        assert_eq!(rest(Duration::from_secs(2)), Duration::from_secs(20));
        assert_eq!(rest(Duration::from_secs(600)), ALWAYS);
    }
}
