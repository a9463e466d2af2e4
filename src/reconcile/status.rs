//! What the supervisor knows of each reconciler, for metrics and for people. Only memory; a restart counts anew.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Scope;

/// What a reconciler does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A pass has been under way since then.
    Running(Instant),
    /// The next pass begins then at the latest.
    Waiting(Instant),
    /// Another node leads, and this reconciler runs on the leader alone.
    NotLeading,
    /// It said that there is nothing left to do, or the node stops.
    Over,
    /// A pass panicked. There will be no other.
    Panicked,
}

/// What became of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was as it should be in the end.
    Settled,
    /// Something could not be done yet.
    Behind,
    /// It failed, for this reason.
    Failed(String),
}

/// The last pass that came to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastPass {
    /// When it ended.
    pub ended: Instant,
    /// How long it took, all of its steps together.
    pub took: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

/// One reconciler's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The reconciler's name.
    pub name: &'static str,
    /// Where it runs.
    pub scope: Scope,
    /// What it does now.
    pub phase: Phase,
    /// Passes that came to an end, failed ones among them.
    pub passes: u64,
    /// Passes that failed.
    pub failures: u64,
    /// Passes in a row, the last one among them, that failed or left something over.
    pub unsettled: u32,
    /// The last pass; `None` before the first one ends.
    pub last: Option<LastPass>,
    /// When the last pass ended that settled everything.
    pub settled: Option<Instant>,
}

impl Status {
    /// Whether it has anything to do on this node: it runs here, and is not over.
    pub fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Running(_) | Phase::Waiting(_))
    }
}

/// The statuses of all reconcilers of a supervisor. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Statuses(Arc<Mutex<Vec<Status>>>);

impl Statuses {
    /// All of them as they are now, in the order in which they were started.
    pub fn all(&self) -> Vec<Status> {
        self.0.lock().clone()
    }

    /// A place for another reconciler.
    pub(crate) fn add(&self, name: &'static str, scope: Scope) -> Entry {
        let phase = Phase::Waiting(Instant::now());
        let status =
            Status { name, scope, phase, passes: 0, failures: 0, unsettled: 0, last: None, settled: None };
        let mut all = self.0.lock();
        all.push(status);
        Entry { all: self.clone(), at: all.len() - 1 }
    }
}

/// The place of one reconciler. If its loop unwinds, the status says so.
pub(crate) struct Entry {
    all: Statuses,
    at: usize,
}

impl Entry {
    pub(crate) fn phase(&self, phase: Phase) {
        self.all.0.lock()[self.at].phase = phase;
    }

    /// Notes a pass that began at this time; answers how many in a row have not settled by now.
    pub(crate) fn ended(&self, began: Instant, outcome: Outcome) -> u32 {
        let ended = Instant::now();
        let status = &mut self.all.0.lock()[self.at];
        status.passes += 1;
        status.failures += u64::from(matches!(outcome, Outcome::Failed(_)));
        if outcome == Outcome::Settled {
            status.unsettled = 0;
            status.settled = Some(ended);
        } else {
            status.unsettled = status.unsettled.saturating_add(1);
        }
        status.last = Some(LastPass { ended, took: ended - began, outcome });
        status.unsettled
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.phase(if std::thread::panicking() { Phase::Panicked } else { Phase::Over });
    }
}
