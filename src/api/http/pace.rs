//! How slow a client may be.
//!
//! While this side waits for a client, in either direction, a clock runs; while the client waits for this side it
//! stands still. In each period of waiting a number of bytes must have moved, else the client is given up: one that
//! sends a byte a minute takes a connection's place like one that sends nothing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// The slowest that a client may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slowest {
    /// So much waiting makes a period.
    pub(crate) period: Duration,
    /// So many bytes must move in it; at least one.
    pub(crate) bytes: u64,
}

impl Slowest {
    /// At least `rate` bytes a second, on the average of a period.
    pub(crate) fn new(period: Duration, rate: u64) -> Slowest {
        let bytes = u128::from(rate) * period.as_millis() / 1000;
        Slowest { period, bytes: u64::try_from(bytes).unwrap_or(u64::MAX).max(1) }
    }
}

/// One direction of one client.
pub(crate) struct Pace {
    slowest: Slowest,
    timer: Pin<Box<Sleep>>,
    /// Since when this side waits, if it does.
    waiting: Option<Instant>,
    /// Waited in this period, before that.
    waited: Duration,
    moved: u64,
}

impl Pace {
    pub(crate) fn new(slowest: Slowest) -> Pace {
        let timer = Box::pin(sleep(slowest.period));
        Pace { slowest, timer, waiting: None, waited: Duration::ZERO, moved: 0 }
    }

    /// Notes that the client moved so many bytes. This side waits no more.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes as u64);
        if let Some(since) = self.waiting.take() {
            self.waited += since.elapsed();
        }
    }

    /// To be asked whenever there is nothing to do but to wait: ready if the client is too slow. `unseen` are
    /// bytes that moved in this period without being told of; it is asked at the end of one, and may look further.
    pub(crate) fn poll_too_slow(
        &mut self,
        cx: &mut Context<'_>,
        mut unseen: impl FnMut() -> u64,
    ) -> Poll<()> {
        let Slowest { period, bytes } = self.slowest;
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some(now);
            self.timer.as_mut().reset(now + period.saturating_sub(self.waited));
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.moved.saturating_add(unseen()) < bytes {
                return Poll::Ready(());
            }
            let now = Instant::now();
            (self.moved, self.waited, self.waiting) = (0, Duration::ZERO, Some(now));
            self.timer.as_mut().reset(now + period);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    /// Waits for `time`, and says whether the client was given up meanwhile.
    async fn wait(pace: &mut Pace, time: Duration) -> bool {
        timeout(time, poll_fn(|cx| pace.poll_too_slow(cx, || 0))).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_too_slow_and_a_thin_line_is_not() {
        let slowest = Slowest::new(PERIOD, 1024);
        let mut trickle = Pace::new(slowest);
        let mut waited = 0;
        while !wait(&mut trickle, Duration::from_secs(10)).await {
            trickle.moved(1);
            waited += 10;
        }
        assert_eq!(waited, 60 - 10);
        let mut thin = Pace::new(slowest);
        for _ in 0..600 {
            assert!(!wait(&mut thin, Duration::from_secs(4)).await);
            thin.moved(4 * 16 * 1024);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_client_waits_does_not_count() {
        let mut pace = Pace::new(Slowest::new(PERIOD, 1));
        for _ in 0..2 {
            assert!(!wait(&mut pace, PERIOD / 3).await);
            pace.moved(0);
            // Busy with what came.
            tokio::time::advance(10 * PERIOD).await;
        }
        assert!(!wait(&mut pace, PERIOD / 3 - Duration::from_secs(1)).await);
        assert!(wait(&mut pace, Duration::from_secs(2)).await, "three thirds of waiting");
    }

    #[tokio::test(start_paused = true)]
    async fn what_moved_unseen_counts() {
        let mut pace = Pace::new(Slowest::new(PERIOD, 1024));
        let mut left = 3;
        let start = Instant::now();
        let slow = poll_fn(|cx| {
            pace.poll_too_slow(cx, || {
                left -= 1;
                if left > 0 { 60 * 1024 } else { 0 }
            })
        });
        slow.await;
        assert_eq!(start.elapsed(), 3 * PERIOD);
    }
}
