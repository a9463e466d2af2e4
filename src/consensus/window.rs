//! How much of the log is on its way to one follower and not answered yet, and how long its next answer may take.
//!
//! A slow follower costs memory for one window and no more. A slow link is not taken for a dead one: what is on its
//! way behind other bytes is not late before those have had their time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

/// Bytes of entries sent and not answered, of one stream. One piece always fits.
pub const LIMIT: usize = 4 << 20;

/// Bytes of entries in one piece, or one entry. Each is answered, so that over a slow link something is heard while a
/// whole batch is on its way.
pub(crate) const PIECE: usize = 64 << 10;

/// What a link that is slow and works carries in a second, bytes.
const SLOWEST: usize = 64 << 10;

/// Of what an abandoned stream had on its way, so many bytes may still be ahead of the next one: what lies in sockets
/// and in the network cannot be called back.
const AHEAD: usize = 256 << 10;

/// What one stream learns for the next one to the same follower.
#[derive(Clone)]
pub(crate) struct Lessons(Arc<Mutex<Learnt>>);

#[derive(Clone, Copy)]
struct Learnt {
    /// How many bytes may be on their way.
    limit: usize,
    /// How many may lie before the first piece.
    ahead: usize,
}

impl Lessons {
    pub(crate) fn new() -> Self {
        Lessons(Arc::new(Mutex::new(Learnt { limit: LIMIT, ahead: 0 })))
    }
}

/// The pieces of one stream that wait for their answers. `I` is an instant.
pub(crate) struct Window<I> {
    lessons: Lessons,
    state: Mutex<State<I>>,
}

struct State<I> {
    under_way: VecDeque<Sent<I>>,
    bytes: usize,
    /// When the last answer came.
    heard: Option<I>,
    /// Whoever sends, while there is nothing to send.
    waiting: Option<Waker>,
    /// Nobody waits for answers any more.
    closed: bool,
}

#[derive(Clone, Copy)]
struct Sent<I> {
    at: I,
    bytes: usize,
    /// It ends a batch.
    last: bool,
}

impl<I: Copy + Ord> Window<I> {
    pub(crate) fn new(lessons: Lessons) -> Self {
        let state = State { under_way: VecDeque::new(), bytes: 0, heard: None, waiting: None, closed: false };
        Window { lessons, state: Mutex::new(state) }
    }

    /// Ready when another piece may be sent; with `false` if none may any more.
    pub(crate) fn poll_open(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let limit = self.lessons.0.lock().limit;
        let mut state = self.state.lock();
        // Also while it is open: what waits for something to send has to hear that the window was closed.
        state.waiting = Some(cx.waker().clone());
        if state.closed {
            return Poll::Ready(false);
        }
        if state.bytes < limit { Poll::Ready(true) } else { Poll::Pending }
    }

    /// Nothing is sent any more: nobody waits for the answers.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        if let Some(waiting) = state.waiting.take() {
            waiting.wake();
        }
    }

    /// A piece of so many bytes is sent; the last one of its batch, or not.
    pub(crate) fn sent(&self, at: I, bytes: usize, last: bool) {
        let mut state = self.state.lock();
        state.under_way.push_back(Sent { at, bytes, last });
        state.bytes += bytes;
    }

    /// The oldest piece was answered. Whether its batch ends with it.
    pub(crate) fn answered(&self, at: I) -> bool {
        let mut state = self.state.lock();
        state.heard = Some(at);
        let oldest = state.under_way.pop_front();
        if let Some(Sent { bytes, .. }) = oldest {
            state.bytes -= bytes;
            let mut learnt = self.lessons.0.lock();
            // After a stream that was given up: twice as much with each window that is answered.
            *learnt = Learnt { limit: LIMIT.min(learnt.limit + bytes), ahead: 0 };
        }
        if let Some(waiting) = state.waiting.take() {
            waiting.wake();
        }
        oldest.is_none_or(|sent| sent.last)
    }

    /// Since when the next answer is waited for, and how much longer than usual that may take because of the bytes that
    /// have to come before it; `None` if nothing is unanswered.
    pub(crate) fn waits(&self) -> Option<(I, Duration)> {
        let state = self.state.lock();
        let oldest = state.under_way.front()?;
        let ahead = self.lessons.0.lock().ahead;
        let since = state.heard.map_or(oldest.at, |heard| heard.max(oldest.at));
        Some((since, time_of(oldest.bytes + ahead)))
    }

    /// The stream is given up because nothing was heard. The next one begins with a piece.
    pub(crate) fn give_up(&self) {
        let bytes = self.state.lock().bytes;
        *self.lessons.0.lock() = Learnt { limit: PIECE, ahead: bytes.min(AHEAD) };
    }
}

/// How long a slow link takes for so many bytes.
fn time_of(bytes: usize) -> Duration {
    Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / SLOWEST as u32
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;

    use super::*;

    fn is_open(window: &Window<u32>) -> bool {
        poll_fn(|cx| window.poll_open(cx)).now_or_never().is_some()
    }

    #[test]
    fn a_full_window_opens_with_the_answers_oldest_first() {
        let window = Window::new(Lessons::new());
        window.sent(1, LIMIT - 1, false);
        assert!(is_open(&window));
        window.sent(2, 1, true);
        assert!(!is_open(&window));
        assert!(!window.answered(5), "the batch goes on");
        assert!(is_open(&window));
        window.sent(3, 2 * LIMIT, true);
        assert!(window.answered(6));
        assert!(!is_open(&window));
        assert!(window.answered(7));
        assert!(is_open(&window));
        assert!(window.answered(8), "an answer to nothing");
    }

    #[test]
    fn who_sends_hears_that_nobody_waits_for_answers_any_more() {
        let window = Window::new(Lessons::new());
        window.sent(1, LIMIT, true);
        let mut sender = sender_of(&window);
        assert!(sender.as_mut().now_or_never().is_none());
        window.close();
        assert_eq!(sender.now_or_never(), Some(false));
    }

    fn sender_of(window: &Window<u32>) -> std::pin::Pin<Box<dyn Future<Output = bool> + '_>> {
        Box::pin(poll_fn(|cx| window.poll_open(cx)))
    }

    #[test]
    fn what_waits_behind_others_waits_from_their_answer_on() {
        let window = Window::new(Lessons::new());
        assert_eq!(window.waits(), None);
        window.sent(1, SLOWEST, false);
        window.sent(2, 0, true);
        assert_eq!(window.waits(), Some((1, Duration::from_secs(1))));
        window.answered(9);
        assert_eq!(window.waits(), Some((9, Duration::ZERO)));
        window.answered(10);
        assert_eq!(window.waits(), None);
        window.sent(20, 0, true);
        assert_eq!(window.waits(), Some((20, Duration::ZERO)), "a stream with nothing to send is not late");
    }

    #[test]
    fn after_silence_a_stream_begins_with_a_piece_and_grows_with_the_answers() {
        let lessons = Lessons::new();
        let first = Window::new(lessons.clone());
        first.sent(1, 3 * PIECE, true);
        first.give_up();
        let window = Window::new(lessons);
        window.sent(2, PIECE, false);
        assert!(!is_open(&window));
        assert_eq!(window.waits(), Some((2, time_of(4 * PIECE))), "what was sent before lies ahead");
        window.answered(3);
        window.sent(4, PIECE, false);
        assert!(is_open(&window));
        window.sent(4, PIECE, true);
        assert!(!is_open(&window));
        assert_eq!(window.waits(), Some((4, time_of(PIECE))));
    }
}
