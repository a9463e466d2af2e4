//! Reconcilers, and the supervisor that runs them.
//!
//! A reconciler compares what is with what should be and does what is missing, again and again. It takes no
//! input but what it finds, so a pass that was cut off, failed, or done twice does no harm: the next one finds
//! what is left. The supervisor decides when a pass begins, one at a time for each reconciler; it waits longer
//! after failures, lets some of them run on the leader alone, stops them in time, and can say of each how it does.
//!
//! Nothing is kept. A crash loses the passes under way and the counts; the next start begins every reconciler
//! with a pass.

mod back_off;
mod status;
mod supervisor;

use std::future::Future;
use std::time::Duration;

pub use back_off::BackOff;
pub use status::{LastPass, Outcome, Phase, Status, Statuses};
pub use supervisor::Supervisor;

/// Why a pass failed. Any error becomes one with `?`.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where a reconciler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On every node, at any time.
    EveryNode,
    /// Only while this node leads. A pass that is under way when another node takes over goes on to its end:
    /// what it proposes then is refused or forwarded.
    Leader,
}

/// How far a pass came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A step is done, and the same pass goes on with the next one at once, unless the node stops.
    Step,
    /// Everything is as it should be. The next pass begins on its cadence, or when something wakes it.
    Settled,
    /// Something is missing that could not be done yet, though nothing broke. The next pass begins after the
    /// back-off.
    Behind,
    /// There is nothing left to do in this life of the node, ever.
    Over,
}

/// A loop that brings what is to what should be.
///
/// The supervisor asks for the times after each pass, so that they may depend on what it found.
pub trait Reconciler: Send + 'static {
    /// Its name in logs, metrics and the status: lower case, with underscores.
    fn name(&self) -> &'static str;

    /// Where it runs.
    fn scope(&self) -> Scope {
        Scope::EveryNode
    }

    /// Its cadence: from the beginning of one pass to that of the next. A pass that took longer is followed by
    /// the next at once, after the [`rest`](Self::rest).
    fn every(&self) -> Duration;

    /// What a pass is followed by at least, however often something wakes the reconciler.
    fn rest(&self) -> Duration {
        Duration::ZERO
    }

    /// How long to wait after passes that failed or left something over. By default a second, and twice as long
    /// each time up to the cadence.
    fn back_off(&self) -> BackOff {
        BackOff { first: self.every().min(Duration::from_secs(1)), most: self.every() }
    }

    /// Completes when there may be something to do before it is time; never, by default. It is dropped and called
    /// anew around each pass, and must complete for what happened while nobody waited.
    fn wake(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// One pass, or one step of a long one.
    ///
    /// # Errors
    /// Whatever kept it from going on. The supervisor logs it and begins another pass after the back-off.
    fn pass(&mut self) -> impl Future<Output = Result<Progress, Failure>> + Send;
}
