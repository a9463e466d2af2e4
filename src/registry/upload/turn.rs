//! Whose turn it is: one step of a session at a time, and one whose client is silent gives way to a newer one.
//!
//! A client has one request of an upload under way. A second one means that the first is lost to it: the connection
//! died in a way that this node has not noticed, or a proxy gave up waiting. So the step of the first one ends as
//! soon as it would have to wait for its client, and keeps what has come. While its bytes still come, the newer one
//! waits: a question is no reason to break off an upload that goes on, and of two equal requests that a proxy sent
//! one after the other both are to succeed.
//!
//! Owns the right to run a step. In memory: a crash ends all steps.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::Error;
use crate::error::RETRY;

/// How long a step waits for an earlier one of the same session.
const TURN: Duration = Duration::from_secs(20);
/// A client that sends nothing for so long is silent: longer than a pause of one that sends, and less than a person
/// or a proxy notices.
const SILENCE: Duration = Duration::from_millis(500);

/// A session that steps take turns at, each of which has what belongs to the session meanwhile. Cheap to clone.
pub(super) struct Session<T> {
    state: Arc<tokio::sync::Mutex<T>>,
    /// How many steps wait for their turn.
    waiting: Arc<watch::Sender<usize>>,
}

impl<T> Clone for Session<T> {
    fn clone(&self) -> Self {
        Session { state: self.state.clone(), waiting: self.waiting.clone() }
    }
}

impl<T: Default> Default for Session<T> {
    fn default() -> Self {
        Session { state: Arc::default(), waiting: Arc::new(watch::Sender::new(0)) }
    }
}

/// The right to run a step.
pub(super) struct Turn<T> {
    pub(super) state: OwnedMutexGuard<T>,
    waiting: watch::Receiver<usize>,
}

/// A step that waits for its turn.
struct Waiting<'s>(&'s watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl<T> Session<T> {
    /// Waits for the right to run a step; the one that runs is told to give way.
    ///
    /// # Errors
    /// 503 if it goes on for too long.
    pub(super) async fn turn(&self) -> Result<Turn<T>, Error> {
        let free = self.state.clone().try_lock_owned();
        let state = match free {
            Ok(state) => state,
            Err(_) => {
                self.waiting.send_modify(|waiting| *waiting += 1);
                let _waiting = Waiting(&self.waiting);
                timeout(TURN, self.state.clone().lock_owned()).await.map_err(late)?
            }
        };
        Ok(Turn { state, waiting: self.waiting.subscribe() })
    }

    /// Waits for the end of the step that runs and of those that wait for it, and hurries none.
    ///
    /// # Errors
    /// 503 if they go on for too long.
    pub(super) async fn quiet(&self) -> Result<(), Error> {
        // Locks come in the order in which they are asked for.
        timeout(TURN, self.state.lock()).await.map(drop).map_err(late)
    }

    /// What the session has, unless a step uses it.
    pub(super) fn unused(&self) -> Option<OwnedMutexGuard<T>> {
        self.state.clone().try_lock_owned().ok()
    }
}

impl<T> Turn<T> {
    /// Completes when this step is to give way, whose client has been silent since then.
    pub(super) async fn give_way(&self, silent_since: Instant) {
        let mut waiting = self.waiting.clone();
        loop {
            // The sender lives as long as the session, which its owner keeps.
            if waiting.wait_for(|waiting| *waiting > 0).await.is_err() {
                return std::future::pending().await;
            }
            sleep_until(silent_since + SILENCE).await;
            if *waiting.borrow() > 0 {
                return;
            }
        }
    }
}

fn late(_: tokio::time::error::Elapsed) -> Error {
    Error::unavailable(RETRY, "another step of this upload is still running")
}
