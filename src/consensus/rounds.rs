//! When the rounds of a barrier begin, and who waits for which.
//!
//! Over a long way rounds overlap, up to four of them, so that who comes late waits for little more than one. In memory
//! only: a crash takes those who wait with it.

use std::time::Duration;

use futures::channel::oneshot;
use openraft::Instant;

/// What a round came to: an index, or why there is none.
pub(crate) type Answer = Result<u64, String>;
/// Who waits for one round.
pub(crate) type Waiting = Vec<oneshot::Sender<Answer>>;

/// So many rounds of one node are under way at most.
const ROUNDS: u32 = 4;
/// A round that is shorter is waited for: the next one, with everybody who came, is as soon.
const SHORT: Duration = Duration::from_millis(8);

/// Who waits for the next round, and which are under way. `I` is an instant.
pub(crate) struct Rounds<I> {
    running: u32,
    /// When the youngest of them began.
    began: Option<I>,
    /// How long the last one took that was answered.
    took: Duration,
    waiting: Waiting,
    /// Somebody looks again when the next one may begin.
    alarmed: bool,
}

/// What there is to do now.
pub(crate) enum Next<I> {
    /// Begin a round for these.
    Begin(Waiting),
    /// Look again then.
    Look(I),
    Nothing,
}

impl<I> Default for Rounds<I> {
    fn default() -> Self {
        Rounds { running: 0, began: None, took: Duration::ZERO, waiting: Vec::new(), alarmed: false }
    }
}

impl<I: Instant> Rounds<I> {
    /// Joins the next round; the second value is what the caller has to see to.
    pub(crate) fn join(&mut self, now: I) -> (oneshot::Receiver<Answer>, Next<I>) {
        let (tell, told) = oneshot::channel();
        self.waiting.push(tell);
        (told, self.next(now))
    }

    /// A round that was answered took so long; one that was not says nothing.
    pub(crate) fn ended(&mut self, took: Option<Duration>, now: I) -> Next<I> {
        self.running -= 1;
        self.took = took.unwrap_or(self.took);
        self.next(now)
    }

    pub(crate) fn look(&mut self, now: I) -> Next<I> {
        self.alarmed = false;
        self.next(now)
    }

    /// The first round begins at once, another one a quarter of a round after the last began: then four are under
    /// way at most, and nobody waits for a whole one that came too early. What has not been measured is taken to be
    /// short.
    fn next(&mut self, now: I) -> Next<I> {
        // Who gave up does not keep the rounds going.
        self.waiting.retain(|tell| !tell.is_canceled());
        if self.waiting.is_empty() || self.running >= ROUNDS {
            return Next::Nothing;
        }
        let from = self.began.map_or(now, |began| began + self.took / ROUNDS);
        let overlap = self.took >= SHORT;
        if self.running == 0 || (overlap && from <= now) {
            self.running += 1;
            self.began = Some(now);
            return Next::Begin(std::mem::take(&mut self.waiting));
        }
        if !overlap || std::mem::replace(&mut self.alarmed, true) {
            return Next::Nothing;
        }
        Next::Look(from)
    }
}
