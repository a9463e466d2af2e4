//! Runs reconcilers, each as a task of its own, and ends them.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::status::Entry;
use crate::{Failure, Outcome, Phase, Progress, Reconciler, Scope, Statuses};

/// The running reconcilers. Dropping it cuts all of them off where they are.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<()>,
    statuses: Statuses,
    leading: watch::Receiver<bool>,
    stopping: CancellationToken,
}

impl Supervisor {
    /// One without reconcilers. `leading` says whether this node leads; if its sender goes, what it said last
    /// holds.
    pub fn new(leading: watch::Receiver<bool>) -> Supervisor {
        Supervisor {
            tasks: JoinSet::new(),
            statuses: Statuses::default(),
            leading,
            stopping: CancellationToken::new(),
        }
    }

    /// Starts a reconciler with a pass, on the current runtime.
    pub fn start(&mut self, reconciler: impl Reconciler) {
        let entry = self.statuses.add(reconciler.name(), reconciler.scope());
        let running = Running { reconciler, entry, leading: self.leading.clone() };
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            // Between two passes it ends at once; a pass ends by itself, or with the task.
            running.run(&stopping).await;
        });
    }

    /// Runs work that has no passes, such as passing on a signal, until it ends or the supervisor stops.
    pub fn accompany(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            stopping.run_until_cancelled(work).await;
        });
    }

    /// How the reconcilers do. The handle may outlive the supervisor.
    pub fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }

    /// Ends all reconcilers. No pass begins any more, one that is under way may end its step, and what takes
    /// longer than `limit` is cut off.
    ///
    /// # Panics
    /// If a reconciler did.
    pub async fn stop(mut self, limit: Duration) {
        self.stopping.cancel();
        let ended = timeout(limit, async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        });
        if ended.await.is_err() {
            tracing::debug!(cut_off = self.tasks.len(), "reconcilers did not end in time");
            self.tasks.shutdown().await;
        }
    }
}

struct Running<R> {
    reconciler: R,
    entry: Entry,
    leading: watch::Receiver<bool>,
}

impl<R: Reconciler> Running<R> {
    async fn run(mut self, stopping: &CancellationToken) {
        loop {
            if stopping.run_until_cancelled(self.may_run()).await.is_none() {
                return;
            }
            let began = Instant::now();
            self.entry.phase(Phase::Running(began));
            let Some(passed) = self.pass(stopping).await else { return };
            let Some(due) = self.note(began, passed) else { return };
            if stopping.run_until_cancelled(self.wait(due)).await.is_none() {
                return;
            }
        }
    }

    /// Waits until this node leads, if it must.
    async fn may_run(&mut self) {
        if self.reconciler.scope() == Scope::EveryNode || *self.leading.borrow_and_update() {
            return;
        }
        self.entry.phase(Phase::NotLeading);
        if self.leading.wait_for(|leading| *leading).await.is_err() {
            // Nobody will ever say that it leads.
            std::future::pending().await
        }
    }

    /// All steps of a pass; `None` if the supervisor stops between two of them.
    async fn pass(&mut self, stopping: &CancellationToken) -> Option<Result<Progress, Failure>> {
        loop {
            match self.reconciler.pass().await {
                Ok(Progress::Step) if stopping.is_cancelled() => return None,
                // A step that never waits for anything must not keep its worker from the others.
                Ok(Progress::Step) => tokio::task::yield_now().await,
                passed => return Some(passed),
            }
        }
    }

    /// Notes what became of a pass, and answers when the next one is due; `None` if never.
    fn note(&self, began: Instant, passed: Result<Progress, Failure>) -> Option<Instant> {
        let over = matches!(passed, Ok(Progress::Over));
        let outcome = match passed {
            Ok(Progress::Behind) => Outcome::Behind,
            Ok(_) => Outcome::Settled,
            Err(failure) => Outcome::Failed(failure.to_string()),
        };
        let name = self.reconciler.name();
        let failure = match &outcome {
            Outcome::Failed(reason) => Some(reason.clone()),
            _ => None,
        };
        let unsettled = self.entry.ended(began, outcome);
        if let Some(reason) = failure {
            // What fails for hours is worth a line now and then, not one every second.
            if unsettled.is_power_of_two() {
                tracing::warn!(reconciler = name, error = reason, in_a_row = unsettled, "a pass failed");
            } else {
                tracing::debug!(reconciler = name, error = reason, in_a_row = unsettled, "a pass failed");
            }
        }
        match unsettled {
            _ if over => None,
            0 => Some(began + self.reconciler.every()),
            _ => Some(Instant::now() + self.reconciler.back_off().after(unsettled)),
        }
    }

    /// Waits for the next pass: until it is due, or something wakes the reconciler after its rest.
    async fn wait(&mut self, due: Instant) {
        let rested = Instant::now() + self.reconciler.rest();
        let due = due.max(rested);
        self.entry.phase(Phase::Waiting(due));
        sleep_until(rested).await;
        tokio::select! {
            () = sleep_until(due) => (),
            () = self.reconciler.wake() => (),
        }
    }
}

#[cfg(test)]
#[path = "supervisor_test.rs"]
mod tests;
